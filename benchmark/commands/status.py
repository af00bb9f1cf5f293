"""The runs in `runs/`, and what became of them: running, interrupted, failed, finished or broken. No torch."""

import os
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ..utils.errors import UserError
from ..utils.files import CHECKPOINT_FILE, is_intact, previous_version
from ..utils.run_log import LOG_FILE, Entry, read_log
from ..utils.text import plain

REACHED = {
    "started": "begun",
    "stage": "stage {stage} begins",
    "step": "stage {stage}, epoch {epoch}, step {step} of {steps}",
    "epoch": "stage {stage}, epoch {epoch} of {epochs} done",
    "progress": "{doing}, {done} of {of} {unit}",
    "scoring": "scoring",
}


class RunStatus(NamedTuple):
    """How a run stands.

    Attributes:
        run: its id.
        what: method and dataset, as far as they are known.
        state: "running", "interrupted", "failed" (by an error that it told), "finished" or "broken".
        told: where it stands; the mean AUC of a finished one; why it failed or is broken.
        written: when it last wrote, in seconds since 1970.
        size: of its files, in bytes.
        command: what goes on with it, from any folder; None where it is not known or not needed.
    """

    run: str
    what: str
    state: str
    told: str
    written: float
    size: int
    command: str | None


def read_statuses(folder: Path) -> tuple[list[RunStatus], int]:
    """Every run in the folder, the one that wrote last at the end, and how many other things lie there."""
    things = [path for path in folder.iterdir() if _counts(path)] if folder.exists() else []
    runs = [path for path in things if _is_run(path)]
    return sorted(map(read_status, runs), key=lambda standing: standing.written), len(things) - len(runs)


def read_status(folder: Path) -> RunStatus:
    """How the run in this folder stands; whatever lies there, it is told and nothing is raised."""
    entries: list[Entry] = []
    written, size = _extent(folder)
    started: Entry = {}
    try:
        entries = read_log(folder / LOG_FILE) if (folder / LOG_FILE).exists() else []
        started = next((entry for entry in reversed(entries) if entry["event"] == "started"), {})
        state, told = _state(folder, entries)
    except (UserError, OSError) as error:
        state, told = "broken", str(error)
    what = f"{started['method']} on {started['dataset']}" if {"method", "dataset"} <= started.keys() else ""
    command = _resume_command(started) if state in ("interrupted", "failed") else None
    return RunStatus(folder.name, what, state, told, written, size, command)


def _state(folder: Path, entries: Sequence[Entry]) -> tuple[str, str]:
    """State, and what to say of it. Raises UserError or OSError where it is broken."""
    if _is_held(_lock(folder)):
        return "running", _reached(entries)
    if (folder / "run.json").exists():
        return "finished", _outcome(folder)
    if entries and entries[-1]["event"] == "failed":
        return "failed", str(entries[-1].get("why")) + _damage(folder)
    return "interrupted", _reached(entries) + _damage(folder)


def _outcome(folder: Path) -> str:
    from ..records import record as records  # a second that other runs need not wait

    try:
        value = records.read(folder).mean_auc.value
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{folder / 'run.json'} cannot be read ({error}): start over with --fresh") from error
    return "mean AUC undefined" if value is None else f"mean AUC {value:.3f}"


def _damage(folder: Path) -> str:
    """Which stages have a last checkpoint that is damaged, and what the same command then does; empty without."""
    damaged = [path for path in sorted(folder.glob(f"stage*/{CHECKPOINT_FILE}")) if not is_intact(path)]
    kept = all(is_intact(previous_version(path)) for path in damaged)
    then = "the previous one is used" if kept else "that stage starts over"
    return "".join(f"; {path.relative_to(folder)} is damaged: {then}" for path in damaged)


def _reached(entries: Sequence[Entry]) -> str:
    """How far it has come, in words."""
    last = next((entry for entry in reversed(entries) if entry["event"] in REACHED), None)
    return REACHED[last["event"]].format_map(_Defaults(last)) if last else "its log says nothing"


class _Defaults(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def _resume_command(started: Entry) -> str | None:
    words, folder = started.get("command"), started.get("folder")
    if not isinstance(words, list) or not words:
        return None
    command = shlex.join(map(str, words))
    elsewhere = isinstance(folder, str) and folder != str(Path.cwd())
    return f"cd {shlex.quote(folder)} && {command}" if elsewhere else command


def _is_held(lock: Path) -> bool:
    """Whether a process works on the run: it holds the lock until it ends, however it ends."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _counts(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix != ".lock"


def _is_run(path: Path) -> bool:
    there = any((path / name).exists() for name in (LOG_FILE, "run.json", "stage1"))
    return path.is_dir() and (there or _lock(path).exists())


def _extent(folder: Path) -> tuple[float, int]:
    """When something was last written there, in seconds since 1970, and the bytes of all files."""
    written, size = 0.0, 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a run that goes on replaces its files
                found = Path(place, name).lstat()
                written, size = max(written, found.st_mtime), size + found.st_size
    return written or folder.stat().st_mtime, size


STYLES = {"running": "green", "finished": "", "interrupted": "yellow", "failed": "red", "broken": "bold red"}
AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def show_statuses(standings: Sequence[RunStatus], others: int, folder: Path) -> None:
    """Print how the runs in this folder stand, and how many other things lie there."""
    console = Console(markup=False, emoji=False, highlight=False)
    if standings:
        console.print(_table(standings), crop=False)
    else:
        console.print(f"There are no runs in {folder}: `chxbench run --method ma` makes one.", soft_wrap=True)
    for standing in standings:
        if standing.state in ("interrupted", "failed"):
            console.print(f"to go on with {_harmless(standing.run)}:", soft_wrap=True)
            command = standing.command or "the command that began it (its log does not hold it)"
            console.print(f"  {_harmless(command)}", soft_wrap=True)
    if others:
        console.print(f"{others:,} other files or folders in {folder} are no runs.", soft_wrap=True)


def _table(standings: Sequence[RunStatus]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("State", no_wrap=True)
    table.add_column("Run, and where it stands", overflow="fold")
    table.add_column("Wrote", justify="right", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    for standing in standings:
        where = _harmless(": ".join(filter(None, (standing.what, standing.told))))
        state = Text(standing.state, STYLES[standing.state])
        wrote = age(time.time() - standing.written)
        table.add_row(state, f"{_harmless(standing.run)}\n{where}", wrote, decimal(standing.size))
    return table


def _harmless(text: str) -> str:
    """Text from a file that may be damaged, harmless on a terminal."""
    return plain(text.encode(errors="replace").decode())


def age(seconds: float) -> str:
    """How long ago, in the largest unit that is full: `3 min ago`."""
    length, unit = next(((length, unit) for length, unit in AGES if seconds >= length), (1, "s"))
    return f"{max(seconds, 0) // length:.0f} {unit} ago"
