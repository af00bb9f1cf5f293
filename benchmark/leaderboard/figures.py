"""Every figure that records and boards have: where it lies, what it has to show, and how it is drawn.

A figure carries the hash of what it shows (figures/style.py): one that shows something else is found and drawn again.
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
from ..utils.files import json_sha256
from .boards import Board, heading
from .plots import AucLine, auc_sha256, draw_auc
from .speed import speed_sections
from .tables import Row, Run

BOARD_FIGURES = ("*/speed-*.png", "*/auc-*.png")  # below results/: those that are named after a board


class FigureSpec(NamedTuple):
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


def required_figures(
    runs: Sequence[Run], boards: Sequence[Board], speeds: Sequence[SpeedRecord], results: Path
) -> list[FigureSpec]:
    """All figures below `results`; those that show a board which is gone come last."""
    base = results.resolve().parent
    wanted = [figure for run in runs for figure in _of_run(run, base / run.place)]
    wanted += [figure for board in boards for figure in _of_board(board, speeds, base)]
    shown = {figure.path for figure in wanted}
    left = sorted(path for pattern in BOARD_FIGURES for path in results.resolve().glob(pattern))
    return wanted + [FigureSpec(path, None, None) for path in left if path not in shown]


def draw_run(record: Record, table: pd.DataFrame, folder: Path) -> None:
    """The figures of a record's scores, into its folder."""
    draw_roc(record, table, folder / "roc.png")


def auc_figure(board: Board) -> str:
    """The place of a board's figure of AUCs, relative to the leaderboard."""
    digest = json_sha256(board.key)[:10]
    return (Path(board.rows[0].runs[0].place).parents[1] / f"auc-{digest}.png").as_posix()


def _of_run(run: Run, folder: Path) -> Iterator[FigureSpec]:
    record = run.record

    def curves(path: Path) -> None:
        draw_roc(record, records.read_scores(folder, record), path)

    yield FigureSpec(folder / "roc.png", record.scores.sha256, curves)
    if record.localization is not None:
        yield FigureSpec(folder / "heatmaps.png", record.localization.sha256, None)


def _of_board(board: Board, speeds: Sequence[SpeedRecord], base: Path) -> Iterator[FigureSpec]:
    lines, title = [_line(row) for row in board.rows], heading(board)
    yield FigureSpec(base / auc_figure(board), auc_sha256(lines, title), lambda path: draw_auc(lines, title, path))
    for section in speed_sections(board.rows, board.key, speeds):
        if section.dots:
            yield FigureSpec(base / section.figure, section.sha256, section.draw)


def _line(row: Row) -> AucLine:
    low, high = row.bounds("mean_auc")
    reported = row.reported.mean_auc if row.reported and row.repeats(row.reported) else None
    seeds = row.values("mean_auc").tolist()
    return AucLine(row.name, row.mean("mean_auc"), low, high, seeds, row.is_control, reported)
