"""The figure of calibration: how often a finding was there, against how probable the method said it was."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.special import expit

from ...metrics import calibration
from ...utils.text import display_name
from ..schema import Record
from .style import COLORS, GRAY, figure_title, fold, new_figure, number, save, set_title, sha256, styled

COLUMNS = 4
NAME = 21  # characters of a finding's name in a line
ROOM = 1.12  # a panel reaches so much further than its largest value
NOTE = "ECE: expected calibration error.\nEach panel has a range of its own:\nfrom 0 to a little above its largest bin."
DOT = 42  # area of the dot of the fullest bin, in square points


class ReliabilityCurve(NamedTuple):
    """A finding in the figure; what is None or NaN is undefined and not drawn.

    Attributes:
        finding: its name.
        predicted: the mean probability of each bin.
        observed: the share of positives in each.
        count: the images in each; an empty bin is not drawn.
        low: the lower end of the interval of each share; None without intervals.
        high: the upper end.
        error: the expected calibration error.
        brier: the Brier score.
    """

    finding: str
    predicted: Sequence[float | None]
    observed: Sequence[float | None]
    count: Sequence[int]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    error: float | None = None
    brier: float | None = None


def reliability_sha256(panels: Sequence[ReliabilityCurve], title: str) -> str:
    """The hash of all that `draw_reliability` shows."""
    return sha256([title, *map(_shown, panels)])


@styled
def draw_reliability(panels: Sequence[ReliabilityCurve], title: str, path: Path, key: str | None = None) -> None:
    """A panel a finding: the share of positives of each bin against its mean probability, and the diagonal.

    Probabilities of rare findings are tiny, so each panel has a range of its own, the same on both axes.

    Args:
        panels: of the findings, in their order.
        title: of the whole.
        path: of the PNG.
        key: what the figure carries; the hash of all that it shows by default.
    """
    rows = len(panels) // COLUMNS + 1
    figure = new_figure(2.25 * rows + 0.5)
    cells = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes, panel in zip(cells, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    _explain(cells[len(panels)], panels)
    figure.supxlabel("Predicted probability, mean of the bin", fontsize=9)
    figure.supylabel("Share of positives in the bin", fontsize=9)
    set_title(figure, title)
    save(figure, path, reliability_sha256(panels, title) if key is None else key)


def draw_reliability_of(record: Record, table: pd.DataFrame, path: Path) -> None:
    """The reliability of a record's probabilities on the test split; it carries `calibration_sha256`."""
    test = table[table["split"] == "test"]
    panels = []
    for finding in record.auc:
        probabilities = expit(test[f"score {finding}"].to_numpy(np.float64))
        labels = test[f"label {finding}"].to_numpy(np.float64)
        error = calibration.expected_calibration_error(probabilities, labels)
        bins = calibration.reliability(probabilities, labels)
        panels.append(ReliabilityCurve(finding, *bins, error, calibration.brier(probabilities, labels)))
    draw_reliability(panels, figure_title(record), path, calibration_sha256(record))


def calibration_sha256(record: Record) -> str:
    """What `draw_calibration`'s figure carries: it follows from the scores, and no other figure of them has it."""
    return sha256(["reliability", record.scores.sha256])


def _shown(panel: ReliabilityCurve) -> list[object]:
    ends = [None if end is None else [number(value) for value in end] for end in (panel.low, panel.high)]
    means = [[number(value) for value in part] for part in (panel.predicted, panel.observed)]
    counts = [int(count) for count in panel.count]
    return [panel.finding, *means, counts, *ends, number(panel.error), number(panel.brier)]


def _draw_panel(axes: Axes, panel: ReliabilityCurve) -> None:
    bins = _filled(panel)
    axes.set_title(fold(display_name(panel.finding), NAME), fontsize=9, fontweight="bold", loc="left", pad=16)
    axes.text(0, 1.03, f"ECE {_short(panel.error)}, Brier {_short(panel.brier)}", transform=axes.transAxes, fontsize=8)
    axes.set_box_aspect(1)
    axes.tick_params(labelsize=7)
    if not len(bins):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", va="center", color=GRAY)
        return
    predicted, observed, count, low, high = bins.T
    reach = ROOM * max(predicted.max(), observed.max(), 1e-6)
    axes.plot([0, reach], [0, reach], color=GRAY, linewidth=0.9, linestyle=":")
    axes.vlines(predicted, low, high, color=COLORS[0], linewidth=1.3, alpha=0.55)
    axes.plot(predicted, observed, color=COLORS[0], linewidth=0.9, alpha=0.35)
    axes.scatter(predicted, observed, DOT * count / count.max() + 9, COLORS[0], edgecolor="white", linewidth=0.5)
    axes.set(xlim=(-0.03 * reach, reach), ylim=(-0.03 * reach, reach))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _filled(panel: ReliabilityCurve) -> np.ndarray:
    """The bins that hold images, one a row: predicted, observed, count, low, high; NaN for an interval's lack."""
    none = [None] * len(panel.predicted)
    ends = (none if end is None else end for end in (panel.low, panel.high))
    columns = [[np.nan if number(value) is None else value for value in part] for part in panel[1:4]]
    columns += [[np.nan if number(value) is None else value for value in end] for end in ends]
    bins = np.array(columns, float).T.reshape(-1, 5)
    return bins[(bins[:, 2] > 0) & np.isfinite(bins[:, :2]).all(axis=1)]


def _short(value: float | None) -> str:
    """Two figures, however small."""
    return "–" if number(value) is None else f"{value:#.2g}"


def _explain(axes: Axes, panels: Sequence[ReliabilityCurve]) -> None:
    dot = {"marker": "o", "markersize": 6, "markeredgecolor": "white"}
    marks = [
        Line2D([], [], color=COLORS[0], linewidth=0.9, label="a bin; its area: images in it", **dot),
        Line2D([], [], color=GRAY, linewidth=0.9, linestyle=":", label="perfect calibration"),
    ]
    if any(panel.low is not None for panel in panels):
        marks.insert(1, Line2D([], [], color=COLORS[0], linewidth=1.3, alpha=0.55, label="95 % interval"))
    legend = axes.legend(handles=marks, loc="upper left", title=NOTE, alignment="left", fontsize=8, title_fontsize=8)
    legend.set_in_layout(False)
