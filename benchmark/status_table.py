"""What `chxbench status` prints: a table that folds names and cuts nothing, then the commands that go on."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from .status import Standing
from .text import plain

STYLES = {"running": "green", "finished": "", "interrupted": "yellow", "failed": "red", "broken": "bold red"}
AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def show_standings(standings: Sequence[Standing], others: int, folder: Path) -> None:
    """Print how the runs in this folder stand, and how many other things lie there."""
    console = Console(markup=False, emoji=False, highlight=False)
    if standings:
        console.print(_table(standings), crop=False)
    else:
        console.print(f"There are no runs in {folder}: `chxbench run --method ma` makes one.", soft_wrap=True)
    for standing in standings:
        if standing.state in ("interrupted", "failed"):
            console.print(f"to go on with {_shown(standing.run)}:", soft_wrap=True)
            command = standing.command or "the command that began it (its log does not hold it)"
            console.print(f"  {_shown(command)}", soft_wrap=True)
    if others:
        console.print(f"{others:,} other files or folders in {folder} are no runs.", soft_wrap=True)


def _table(standings: Sequence[Standing]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("State", no_wrap=True)
    table.add_column("Run, and where it stands", overflow="fold")
    table.add_column("Wrote", justify="right", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    for standing in standings:
        where = _shown(": ".join(filter(None, (standing.what, standing.told))))
        state = Text(standing.state, STYLES[standing.state])
        wrote = age(time.time() - standing.written)
        table.add_row(state, f"{_shown(standing.run)}\n{where}", wrote, decimal(standing.size))
    return table


def _shown(text: str) -> str:
    """Text from a file that may be damaged, harmless on a terminal."""
    return plain(text.encode(errors="replace").decode())


def age(seconds: float) -> str:
    """How long ago, in the largest unit that is full: `3 min ago`."""
    length, unit = next(((length, unit) for length, unit in AGES if seconds >= length), (1, "s"))
    return f"{max(seconds, 0) // length:.0f} {unit} ago"
