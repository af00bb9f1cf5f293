"""Print the result of `chxbench compare` within 80 columns, with A and B for the two methods."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ...leaderboard.tables import EMPTY
from ...records.speed_record import setup_label
from ...utils.text import count, plain
from .compare import FILES
from .pair import ComparedPair
from .tables import MEAN, cells, rows, summarize, timing_notes, timing_rows


def report_comparison(compared: ComparedPair, folder: Path) -> None:
    """Print both methods, their differences, a summary, other differences, and the files written."""
    console = Console(highlight=False)
    for letter, run in zip("AB", (compared.first, compared.second), strict=True):
        console.print(f"{letter}  {run.title}: {run.folder}", markup=False, soft_wrap=True)
    table = compared.first.first.table
    console.print(f"{count(len(table), 'test image')} of {count(table['patient_id'].nunique(), 'patient')}")
    console.print(_differences(compared))
    for sentence in summarize(compared):
        console.print(sentence, markup=False)
    console.print("*: p at most 0.05 after Holm's correction")
    if compared.facts:
        console.print(_table("Other differences", compared.facts))
    for pair in compared.timings:
        console.print(_table(f"Speed on {setup_label(pair.first.setup)}", timing_rows(pair)))
        for sentence in timing_notes(pair):
            console.print(plain(sentence), markup=False)
    for name in FILES:
        console.print(f"wrote {folder / name}", markup=False, soft_wrap=True)


def _differences(compared: ComparedPair) -> Table:
    table = _new_table("Finding")
    for heading in ("A", "B", "A - B", "95 % interval", "p", "p, Holm"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, difference in rows(compared):
        if name == MEAN:
            table.add_section()
        table.add_row(plain(name), *cells(difference))
    return table


def _table(title: str, lines: Sequence[tuple[str, str | None, str | None]]) -> Table:
    table = _new_table(plain(title), "A", "B")
    for column in table.columns:
        column.overflow = "fold"
    for line in lines:
        table.add_row(*(EMPTY if text is None else plain(text) for text in line))
    return table


def _new_table(*headings: str) -> Table:
    return Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
