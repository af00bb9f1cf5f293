"""The leaderboard in the terminal: each board's ranking and what its steps add. Text from records is only text."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ..utils.text import plain
from .ablation import paired_differences, summarize
from .boards import Board, heading, make_boards, ranked_by
from .tables import Row, Run, ranks, seeds, with_interval

NAME = 16  # columns of a method's name at least; a longer one is folded


def show_boards(runs: Sequence[Run]) -> None:
    """Print every board of these runs."""
    console = Console(markup=False, emoji=False, highlight=False)
    boards = make_boards(runs)
    for board in boards:
        _show_board(console, board)
    if not boards:
        console.print("There are no records yet: `chxbench run --method ma` makes one.")


def _show_board(console: Console, board: Board) -> None:
    console.print(plain(heading(board)), style="bold")
    console.print(
        f"{plain(ranked_by(board))} Brackets hold 95 % intervals from resampled patients; controls have no rank."
    )
    console.print(_ranking(board.rows), crop=False)
    if steps := paired_differences(board.rows):
        sentence = summarize(steps, plain(board.first.dataset.caveat), lambda row: row.name)
        console.print(f"What each step adds: {sentence}")
    console.print()


def _ranking(rows: Sequence[Row]) -> Table:
    """Names are folded on a narrow screen, numbers never."""
    cells = [
        (
            rank.replace("control", "–"),
            row.name,
            with_interval(row, "mean_auc"),
            with_interval(row, "mean_auc_without_rare").split(" ")[0],
            "" if row.first.seed is None else seeds(row),
        )
        for rank, row in zip(ranks(rows), rows, strict=True)
    ]
    headings = ("#", "right"), ("Method", "left"), ("Mean AUC", "left"), ("without\nHernia", "right"), ("Seeds", "left")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for (title, side), column in zip(headings, zip(*cells, strict=True), strict=True):
        least = NAME if title == "Method" else max(map(len, (*column, *title.split("\n"))))
        table.add_column(title, justify=side, overflow="fold", min_width=least)
    for row in cells:
        table.add_row(*row)
    return table
