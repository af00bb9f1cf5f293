"""List the figures that records and boards require, with their expected hashes and how to draw them.

Each figure embeds the hash of the data shown (records/figures/style.py); a figure with a different hash is redrawn.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..records import record as records
from ..records.figures.roc import draw_roc
from ..records.figures.style import drawn_from
from ..records.schema import Record
from ..records.speed_record import SpeedRecord
from .boards import Board, figure_path, heading
from .plots import AucLine, auc_sha256, draw_auc
from .rows import Row, Run
from .speed import speed_sections

BOARD_FIGURES = ("*/speed-*.png", "*/auc-*.png")  # patterns in results/ of figures that belong to a board


class FigureSpec(NamedTuple):
    """A required figure, or an obsolete figure to remove.

    Attributes:
        path: path of the PNG file.
        sha256: expected hash; None for an obsolete figure.
        draw: function that draws the figure to a path; None if it cannot be redrawn from the records.
    """

    path: Path
    sha256: str | None
    draw: Callable[[Path], None] | None

    @property
    def is_stale(self) -> bool:
        """Whether the file is missing, has a different hash, or is obsolete."""
        return self.sha256 is None or drawn_from(self.path) != self.sha256


def required_figures(
    runs: Sequence[Run], boards: Sequence[Board], speeds: Sequence[SpeedRecord], results: Path
) -> list[FigureSpec]:
    """List all required figures in `results`, followed by the obsolete ones."""
    base = results.resolve().parent
    required = [figure for run in runs for figure in _of_run(run, base / run.folder)]
    required += [figure for board in boards for figure in _of_board(board, speeds, base)]
    paths = {figure.path for figure in required}
    existing = sorted(path for pattern in BOARD_FIGURES for path in results.resolve().glob(pattern))
    return required + [FigureSpec(path, None, None) for path in existing if path not in paths]


def draw_run(record: Record, table: pd.DataFrame, folder: Path) -> None:
    """Draw the figures of a record's scores to its folder."""
    draw_roc(record, table, folder / "roc.png")


def auc_figure(board: Board) -> str:
    """Return the path of the figure of AUCs of a board, relative to the leaderboard."""
    return figure_path(board.rows, "auc", board.key)


def _of_run(run: Run, folder: Path) -> Iterator[FigureSpec]:
    record = run.record

    def roc(path: Path) -> None:
        draw_roc(record, records.read_scores(folder, record), path)

    yield FigureSpec(folder / "roc.png", record.scores.sha256, roc)
    if record.localization is not None:  # drawn on the images, which are not part of a record
        yield FigureSpec(folder / "heatmaps.png", record.localization.sha256, None)


def _of_board(board: Board, speeds: Sequence[SpeedRecord], base: Path) -> Iterator[FigureSpec]:
    lines, title = [_line(row) for row in (*board.rows, *board.floors)], heading(board)
    yield FigureSpec(base / auc_figure(board), auc_sha256(lines, title), lambda path: draw_auc(lines, title, path))
    for section in speed_sections(board, speeds):
        if section.dots:
            yield FigureSpec(base / section.figure, section.sha256, section.draw)


def _line(row: Row) -> AucLine:
    mean = row.interval("mean_auc")
    paper = row.reported
    reported = paper.mean_auc if paper is not None and row.same_protocol(paper) else None
    seeds = [statistic.value for statistic in row.statistics("mean_auc")]
    return AucLine(row.name, *mean, seeds, row.is_control, reported, row.first.method.floor)
