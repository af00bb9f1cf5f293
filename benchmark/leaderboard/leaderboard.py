"""Records to leaderboard.md: recomputed from the scores, never trusted, never edited by hand.

board/boards.py says which runs may be ranked with each other, its neighbours write their tables and figures.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..records import record as records
from ..records import speed_record
from ..records.record import RecordError
from ..records.speed_record import SpeedRecord
from ..utils.environment import cache_folder, cores
from ..utils.errors import UserError
from ..utils.files import write_atomic
from ..utils.workspace import LEADERBOARD_MARK, check_not_overwriting
from .boards import Board, make_boards
from .figures import FigureSpec, required_figures
from .markdown import board_markdown, contents, introduction, literature_sections
from .tables import Run
from .verification import verify_cached


def write_leaderboard(results: Path, path: Path) -> None:
    """Regenerate the leaderboard from all records, and figures that do not show theirs.

    What was computed from a record whose files have not changed since is taken from the cache folder.

    Raises:
        UserError: a record that lies, a figure that cannot be drawn again, or a file that is not ours.
    """
    check_not_overwriting(path)
    runs, speeds = read_runs(results, path.parent, cache_folder() / "verified"), read_speeds(results)
    boards = make_boards(runs)
    figures = required_figures(runs, boards, speeds, results)
    text = render(boards, speeds)
    for figure in figures:
        if figure.is_stale:
            _redraw(figure)
    write_atomic(path, text.encode())


def check_leaderboard(results: Path, path: Path) -> int:
    """Verify every record and figure, nothing taken from a cache, and compare the leaderboard; the number of records.

    Raises:
        RecordError: for the first record, figure or line that does not follow from the scores.
    """
    runs, speeds = read_runs(results, path.parent), read_speeds(results)
    boards = make_boards(runs)
    figures = required_figures(runs, boards, speeds, results)
    for figure in figures:
        if figure.is_stale:
            raise RecordError(_problem(figure))
    there = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    wanted = render(boards, speeds).splitlines()
    for number, (is_there, line) in enumerate(_side_by_side(there, wanted), start=1):
        if is_there != line:
            raise RecordError(
                f"{path}, line {number} is {is_there!r}, the records give {line!r}: run `chxbench leaderboard` again"
            )
    return len(runs)


def read_runs(results: Path, base: Path, kept: Path | None = None) -> list[Run]:
    """All records under `results`, each verified against its evidence.

    Args:
        results: the folder of published records.
        base: what their places are relative to.
        kept: the folder of what was verified before; None computes everything.

    Raises:
        UserError: there is no such folder. RecordError: the first record that lies.
    """
    if not results.is_dir():
        raise UserError(f"there is no results folder {results}: say where the records lie with --results DIR")
    with ThreadPoolExecutor(cores()) as pool:  # in order, so that the first record that lies is the one that is named
        return list(pool.map(lambda folder: _read_run(folder, base, kept), records.find(results.resolve())))


def read_speeds(results: Path) -> list[SpeedRecord]:
    """All speed records under `results`. Raises RecordError for one that was changed or lies in a wrong place."""
    return [speed_record.read(path) for path in speed_record.find(results.resolve())]


def render(boards: Sequence[Board], speeds: Sequence[SpeedRecord] = ()) -> str:
    """The whole leaderboard as Markdown."""
    count = sum(len(row.runs) for board in boards for row in board.rows)
    sections = [LEADERBOARD_MARK, "# Leaderboard", introduction(count), *contents(boards)]
    for board in boards:
        sections += board_markdown(board, speeds)
    return "\n\n".join([*sections, *literature_sections()]) + "\n"


def _read_run(folder: Path, base: Path, kept: Path | None) -> Run:
    record = records.read(folder)
    records.check_place(folder, record)
    return Run(record, folder.relative_to(base.resolve()).as_posix(), verify_cached(folder, record, kept))


def _redraw(figure: FigureSpec) -> None:
    """Draw it again, or remove it where nothing is left to show."""
    if figure.sha256 is None:
        figure.path.unlink()
    elif figure.draw is None:
        raise RecordError(_problem(figure))
    else:
        figure.draw(figure.path)


def _problem(figure: FigureSpec) -> str:
    if figure.sha256 is None:
        return f"{figure.path} shows a board that is gone: run `chxbench leaderboard` again"
    if figure.draw is None:  # because it needs the images
        return f"{figure.path} does not show this record's heatmaps: restore it, or run again"
    return f"{figure.path} does not show its numbers: run `chxbench leaderboard` again"


def _side_by_side(there: list[str], wanted: list[str]) -> Iterable[tuple[str | None, str | None]]:
    for k in range(max(len(there), len(wanted))):
        yield there[k] if k < len(there) else None, wanted[k] if k < len(wanted) else None
