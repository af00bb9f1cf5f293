"""Print the leaderboard to the terminal: the ranking and paired differences of each board, as text without markup."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ..utils.text import plain, rare_label
from .ablation import null_sentence, paired_differences, ranked_rows, summary_list
from .boards import Board, heading, higher_floor, make_boards, ranked_by
from .rows import Run
from .tables import decimals, seeds, with_interval

MIN_NAME = 16  # minimum width of the method column; longer names are wrapped


def show_boards(runs: Sequence[Run]) -> None:
    """Print all boards of the runs."""
    console = Console(markup=False, emoji=False, highlight=False)
    boards = make_boards(runs)
    for board in boards:
        _show_board(console, board)
    if not boards:
        console.print("No records yet: `chxbench run --method ma` creates one.")


def _show_board(console: Console, board: Board) -> None:
    console.print(plain(heading(board)), style="bold")
    first = f"{higher_floor(board)} {plain(ranked_by(board))}".strip()
    console.print(
        f"{first} Brackets: 95 % intervals over test patients and, with two seeds of any method, training seeds. Rank: "
        "among methods of equal training budget; ties share ranks."
    )
    console.print(_ranking(board), crop=False)
    if pairs := paired_differences(board.rows):
        summary = summary_list(pairs, plain(board.first.dataset.caveat), lambda row: row.name)
        console.print(f"Paired differences (ablation):\n{summary}")
        console.print(null_sentence(board.rows) or None)
    console.print()


def _ranking(board: Board) -> Table:
    """Format the ranking with the floors; on a narrow screen, names are wrapped but numbers are not."""
    ranked = ranked_rows(board.rows, board.floors)
    rows = [row for row, _ in ranked]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Rank", no_wrap=True)
    table.add_column("Method", overflow="fold", min_width=MIN_NAME)
    columns = [("Mean AUC", [with_interval(row.interval("mean_auc")) for row in rows])]
    if rare := rare_label(rows[0].first.dataset.rare):
        means = [decimals(row.interval("mean_auc_without_rare").value) for row in rows]
        columns.append((rare.replace(" ", "\n", 1), means))
    columns.append(("Seeds", ["" if row.first.seed is None else seeds(row) for row in rows]))
    for title, cells in columns:
        width = max(map(len, (*cells, *title.split("\n"))))
        table.add_column(title, justify="right" if "\n" in title else "left", overflow="fold", min_width=width)
    for (row, rank), *cells in zip(ranked, *(cells for _, cells in columns), strict=True):
        table.add_row(rank, row.name, *cells)
    return table
