"""Reliability diagram: observed fraction of positives vs. predicted probability, per finding.

The diagram is not part of a record. To draw it from one::

    from pathlib import Path
    from chxbench.benchmark.records import record as records
    from chxbench.benchmark.records.figures.reliability import draw_reliability

    folder = Path("results/phantom/ma/<run id>")
    record = records.read(folder)
    draw_reliability(record, records.read_scores(folder, record), Path("reliability.png"))
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.special import expit

from ...evaluation.artifacts import label_column, score_column
from ...metrics import calibration
from ...utils.text import display_name
from ..schema import Record
from .style import COLORS, GRAY, figure_title, fold, new_figure, number, save, set_title, styled

COLUMNS = 4
NAME_WIDTH = 21  # characters per line of a finding's name
MARGIN = 1.12  # ratio of the range of a panel to its largest value
IMAGES_PER_BIN, MAX_BINS = 8, 15  # images of the rarer class per bin, on average; bins of the calibration error
DOT_AREA = 42  # area of the dot of the bin with the most images, in square points
NOTE = "ECE: expected calibration error.\nAxis ranges differ between panels:\nfrom 0 to just above the largest bin."


@styled
def draw_reliability(record: Record, table: pd.DataFrame, path: Path) -> None:
    """Draw the reliability of a record's probabilities on the test split, one panel per finding.

    Each panel has a separate range, equal on both axes, because probabilities of rare findings are small, and fewer
    bins than the calibration error if positives are few. The Wilson intervals treat images as independent; images of
    the same patient are not, so the intervals are too narrow.

    Args:
        record: record to draw.
        table: score table of the record.
        path: path of the PNG, in which the hash of the scores is embedded.
    """
    test = table[table["split"] == "test"]
    findings = record.dataset.findings
    rows = len(findings) // COLUMNS + 1
    figure = new_figure(2.25 * rows + 0.5)
    cells = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes, finding in zip(cells, findings, strict=False):
        scores, labels = (test[column(finding)].to_numpy(np.float64) for column in (score_column, label_column))
        _draw_panel(axes, finding, expit(scores), labels)
    for axes in cells[len(findings) :]:
        axes.set_axis_off()
    _draw_legend(cells[len(findings)])
    figure.supxlabel("Mean predicted probability in the bin", fontsize=9)
    figure.supylabel("Fraction of positives in the bin", fontsize=9)
    set_title(figure, figure_title(record))
    save(figure, path, record.scores.sha256)


def _draw_panel(axes: Axes, finding: str, probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Draw the panel of one finding from its probabilities and labels, each (N,)."""
    error = _format(calibration.expected_calibration_error(probabilities, labels))
    brier = _format(calibration.brier(probabilities, labels))
    axes.set_title(fold(display_name(finding), NAME_WIDTH), fontsize=9, fontweight="bold", loc="left", pad=16)
    axes.text(0, 1.03, f"ECE {error}, Brier {brier}", transform=axes.transAxes, fontsize=8)
    axes.set_box_aspect(1)
    axes.tick_params(labelsize=7)
    predicted, observed, count, low, high = calibration.reliability(probabilities, labels, _bins(labels))
    if not len(count):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", va="center", color=GRAY)
        return
    limit = MARGIN * max(predicted.max(), observed.max(), 1e-6)
    axes.plot([0, limit], [0, limit], color=GRAY, linewidth=0.9, linestyle=":")
    axes.vlines(predicted, low, high, color=COLORS[0], linewidth=1.3, alpha=0.55)
    axes.plot(predicted, observed, color=COLORS[0], linewidth=0.9, alpha=0.35)
    areas = DOT_AREA * count / count.max() + 9
    axes.scatter(predicted, observed, areas, COLORS[0], edgecolor="white", linewidth=0.5)
    axes.set(xlim=(-0.03 * limit, limit), ylim=(-0.03 * limit, limit))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _bins(labels: np.ndarray) -> int:
    """Return how many bins a diagram of labels (N,) may have, so that a bin has enough images of the rarer class."""
    rarer = min(np.count_nonzero(labels == value) for value in (1, 0))
    return int(np.clip(rarer // IMAGES_PER_BIN, 2, MAX_BINS))


def _format(value: float | None) -> str:
    """Format a value with two significant digits."""
    return "–" if number(value) is None else f"{value:#.2g}"


def _draw_legend(axes: Axes) -> None:
    bin_label, interval_label = "bin, area: number of images", "95 % interval"
    marks = [
        Line2D([], [], color=COLORS[0], linewidth=0.9, marker="o", markeredgecolor="white", label=bin_label),
        Line2D([], [], color=COLORS[0], linewidth=1.3, alpha=0.55, label=interval_label),
        Line2D([], [], color=GRAY, linewidth=0.9, linestyle=":", label="perfect calibration"),
    ]
    legend = axes.legend(handles=marks, loc="upper left", title=NOTE, alignment="left", fontsize=8, title_fontsize=8)
    legend.set_in_layout(False)
