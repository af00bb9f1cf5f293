"""Every figure that records and boards have: where it lies, what it has to show, and how it is drawn.

A figure carries the hash of what it shows (figures.py), so that one that shows something else is found and drawn again.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from . import record as records
from .boards import Board
from .figures import draw_roc, drawn_from
from .speed_board import speed_sections
from .speed_record import SpeedRecord
from .tables import Run

BOARD_FIGURES = ("*/speed-*.png", "*/auc-*.png")  # below results/: those that are named after a board


class Wanted(NamedTuple):
    """A figure that has to be there.

    Attributes:
        path: where it lies.
        sha256: the hash that it carries when it shows what it has to; None for a figure that has to go.
        draw: draws it; None for what cannot be drawn again from the records.
    """

    path: Path
    sha256: str | None
    draw: Callable[[Path], None] | None

    @property
    def is_stale(self) -> bool:
        return self.sha256 is None or drawn_from(self.path) != self.sha256


def wanted_figures(
    runs: Sequence[Run], boards: Sequence[Board], speeds: Sequence[SpeedRecord], results: Path
) -> list[Wanted]:
    """All figures below `results`; those that show a board which is gone come last."""
    base = results.resolve().parent
    wanted = [figure for run in runs for figure in _of_run(run, base / run.place)]
    wanted += [figure for board in boards for figure in _of_board(board, speeds, base)]
    shown = {figure.path for figure in wanted}
    left = sorted(path for pattern in BOARD_FIGURES for path in results.resolve().glob(pattern))
    return wanted + [Wanted(path, None, None) for path in left if path not in shown]


def _of_run(run: Run, folder: Path) -> Iterator[Wanted]:
    record = run.record

    def curves(path: Path) -> None:
        draw_roc(record, records.read_scores(folder, record), path)

    yield Wanted(folder / "roc.png", record.scores.sha256, curves)
    if record.localization is not None:
        yield Wanted(folder / "heatmaps.png", record.localization.sha256, None)


def _of_board(board: Board, speeds: Sequence[SpeedRecord], base: Path) -> Iterator[Wanted]:
    for section in speed_sections(board.rows, board.key, speeds):
        if section.dots:
            yield Wanted(base / section.figure, section.sha256, section.draw)
