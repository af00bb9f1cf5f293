"""Records to leaderboard.md: recomputed from the scores, never trusted, never edited by hand.

board/boards.py says which runs may be ranked with each other, its neighbours write their tables and figures.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import record as records
from . import speed_record
from .board.boards import Board, make_boards
from .board.markdown import board_markdown, introduction
from .board.pictures import Wanted, wanted_figures
from .board.tables import Run
from .board.tables_literature import literature_sections
from .environment import cache_folder, cores
from .errors import UserError
from .files import write_whole
from .record import RecordError
from .speed_record import SpeedRecord
from .verified import verified

MARK = "<!-- Written by `chxbench leaderboard` from the records under results/. Do not edit. -->"


def leaderboard_path(results: Path) -> Path:
    """leaderboard.md lies beside the results folder."""
    return results.resolve().parent / "leaderboard.md"


def write_leaderboard(results: Path, path: Path) -> None:
    """Regenerate the leaderboard from all records, and figures that do not show theirs.

    What was computed from a record whose files have not changed since is taken from the cache folder.

    Raises:
        UserError: a record that lies, a figure that cannot be drawn again, or a file that is not ours.
    """
    refuse_foreign(path)
    runs, speeds = read_runs(results, path.parent, cache_folder() / "verified"), read_speeds(results)
    boards = make_boards(runs)
    figures = wanted_figures(runs, boards, speeds, results)
    text = render(boards, speeds)
    for figure in figures:
        if figure.is_stale:
            _mend(figure)
    write_whole(path, text.encode())


def refuse_no_folder(results: Path) -> None:
    """Raises UserError if records could not be published there: found out before anything costs time."""
    there = next(path for path in (results.resolve(), *results.resolve().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--results {results}: {there} is a file, records need a folder: choose another")


def refuse_foreign(path: Path) -> None:
    """Raises UserError if there is a file at `path` that was not generated: it would be overwritten."""
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise UserError(f"{path} was not written by chxbench leaderboard: move it away, or choose another --results")


def check_leaderboard(results: Path, path: Path) -> int:
    """Verify every record and figure, nothing taken from a cache, and compare the leaderboard; the number of records.

    Raises:
        RecordError: for the first record, figure or line that does not follow from the scores.
    """
    runs, speeds = read_runs(results, path.parent), read_speeds(results)
    boards = make_boards(runs)
    figures = wanted_figures(runs, boards, speeds, results)
    for figure in figures:
        if figure.is_stale:
            raise RecordError(_complaint(figure))
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
    sections = [MARK, "# Leaderboard", introduction(count)]
    for board in boards:
        sections += board_markdown(board, speeds)
    return "\n\n".join([*sections, *literature_sections()]) + "\n"


def _read_run(folder: Path, base: Path, kept: Path | None) -> Run:
    record = records.read(folder)
    records.check_place(folder, record)
    return Run(record, folder.relative_to(base.resolve()).as_posix(), verified(folder, record, kept))


def _mend(figure: Wanted) -> None:
    """Draw it again, or remove it where nothing is left to show."""
    if figure.sha256 is None:
        figure.path.unlink()
    elif figure.draw is None:
        raise RecordError(_complaint(figure))
    else:
        figure.draw(figure.path)


def _complaint(figure: Wanted) -> str:
    if figure.sha256 is None:
        return f"{figure.path} shows a board that is gone: run `chxbench leaderboard` again"
    if figure.draw is None:  # because it needs the images
        return f"{figure.path} does not show this record's heatmaps: restore it, or run again"
    return f"{figure.path} does not show its numbers: run `chxbench leaderboard` again"


def _side_by_side(there: list[str], wanted: list[str]) -> Iterable[tuple[str | None, str | None]]:
    for k in range(max(len(there), len(wanted))):
        yield there[k] if k < len(there) else None, wanted[k] if k < len(wanted) else None
