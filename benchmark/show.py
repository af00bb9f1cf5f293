"""The leaderboard in the terminal: each board's ranking and what its steps add. Text from records is only text."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from .leaderboard import Board, make_boards
from .schema import Record
from .tables import NOTHING, Row, Run, in_words, make_steps
from .text import escape, plain

NAME = 16  # columns of a method's name at least; a longer one is folded


def show_boards(runs: Sequence[Run]) -> None:
    """Print every board of these runs."""
    console = Console(markup=False, emoji=False, highlight=False)
    boards = make_boards(runs)
    for board in boards:
        _show(console, board)
    if not boards:
        console.print("There are no records yet: `chxbench run --method ma` makes one.")


def _show(console: Console, board: Board) -> None:
    first = board.rows[0].first
    console.print(_heading(first), style="bold")
    console.print(
        "Ranked by the mean test AUC over the findings; brackets hold 95 % intervals from resampled patients. "
        f"Weights are those of {plain(first.selection)}."
    )
    console.print(_ranking(board.rows), crop=False)
    if added := _what_steps_add(board.rows):
        console.print(added)
    console.print()


def _heading(first: Record) -> str:
    changed = ", ".join(f"{key} = {value}" for key, value in first.recipe["changed"].items())
    recipe = Path(first.recipe["name"]).name + (f" with {changed}" if changed else "")
    absent = any(counts.absent for counts in first.dataset.counts.values())
    trial = "Trial, not a benchmark result: " if absent else ""
    return plain(f"{trial}{first.dataset.title}, recipe {recipe}")


def _ranking(rows: Sequence[Row]) -> Table:
    """Names are folded on a narrow screen, numbers never."""
    cells = [(str(rank), row.name, _mean(row), _without_hernia(row), _seeds(row)) for rank, row in enumerate(rows, 1)]
    headings = ("#", "right"), ("Method", "left"), ("Mean AUC", "left"), ("without\nHernia", "right"), ("Seeds", "left")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for (heading, side), column in zip(headings, zip(*cells, strict=True), strict=True):
        least = NAME if heading == "Method" else max(map(len, (*column, *heading.split("\n"))))
        table.add_column(heading, justify=side, overflow="fold", min_width=least)
    for row in cells:
        table.add_row(*row)
    return table


def _mean(row: Row) -> str:
    if np.isnan(row.mean("mean_auc")):
        return NOTHING
    low, high = row.bounds("mean_auc")
    return f"{row.mean('mean_auc'):.3f} [{low:.3f}, {high:.3f}]"


def _without_hernia(row: Row) -> str:
    value = row.mean("mean_auc_without_hernia")
    return NOTHING if np.isnan(value) else f"{value:.3f}"


def _seeds(row: Row) -> str:
    values = row.values("mean_auc")
    known = values[~np.isnan(values)]
    return f"{len(values)}" + (f" ({known.min():.3f} to {known.max():.3f})" if len(known) > 1 else "")


def _what_steps_add(rows: Sequence[Row]) -> str:
    """The leaderboard's sentence, without its Markdown; empty where no method claims to better another."""
    steps = make_steps([row._replace(label=escape(row.name)) for row in rows])
    if not steps:
        return ""
    sentence = in_words(steps, rows[0].first.dataset.caveat).removeprefix("**In one sentence:** ")
    return f"What each step adds: {_unescape(sentence)}"


def _unescape(text: str) -> str:
    """What `escape` was given."""
    return html.unescape(re.sub(r"\\([\\`*_\[\]|~#!])", r"\1", text))
