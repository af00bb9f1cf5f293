"""Draw the figure of a comparison: the ROC curves of all runs of both methods, one small panel per finding."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...metrics.auc import roc
from ...metrics.paired import Difference
from ...records.figures.style import COLORS, GRAY, STROKES, fold, new_figure, save, set_title, sha256, styled
from ...utils.text import count, display_name
from .pair import ALPHA, ComparedPair

COLUMNS = 4
NAME_WIDTH = 21  # characters per line of a finding's name
LABEL_WIDTH = 27  # characters per line of the legend
LINE_WIDTH = 1.4  # points
TICKS = ([0, 0.5, 1], ["0", "0.5", "1"])


def comparison_sha256(compared: ComparedPair) -> str:
    """Hash everything that `draw_comparison` shows."""
    scores = [run.record.scores.sha256 for method in (compared.first, compared.second) for run in method.runs]
    return sha256([_title(compared), _labels(compared), scores, compared.significant])


@styled
def draw_comparison(compared: ComparedPair, path: Path) -> None:
    """Draw a panel per finding with the curves of all runs and both AUCs.

    Significant differences have a star and a bold name.
    """
    rows = len(compared.differences) // COLUMNS + 1  # with a panel for the legend
    figure = new_figure(2.2 * rows + 0.6)
    cells = figure.subplots(rows, COLUMNS, squeeze=False).flat
    methods, findings = (compared.first, compared.second), compared.first.first.findings
    tests = [(k, run.test_scores(findings)) for k, method in enumerate(methods) for run in method.runs]
    for c, (finding, difference) in enumerate(compared.differences.items()):
        for k, test in () if difference.value is None else tests:
            width = LINE_WIDTH if len(methods[k].runs) == 1 else LINE_WIDTH / 2
            curve = roc(test.scores[:, c], test.labels[:, c])
            cells[c].plot(*curve, color=COLORS[k], linestyle=STROKES[k], linewidth=width)
        _finish(cells[c], difference)
        _set_name(cells[c], finding, finding in compared.significant)
    for axes in cells[len(compared.differences) :]:
        axes.set_axis_off()
    _draw_legend(cells[len(compared.differences)], compared)
    figure.supxlabel("False positive rate", fontsize=9)
    figure.supylabel("True positive rate", fontsize=9)
    set_title(figure, _title(compared))
    save(figure, path, comparison_sha256(compared))


def _set_name(axes: Axes, finding: str, significant: bool) -> None:
    name = fold(display_name(finding), NAME_WIDTH) + " *" * significant
    axes.set_title(name, fontsize=9, fontweight="bold" if significant else "normal", loc="left")


def _finish(axes: Axes, difference: Difference) -> None:
    """Add the chance line, and both AUCs in the lower right corner, below the curves; or why they are undefined."""
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":", zorder=0)
    axes.set(xlim=(-0.02, 1), ylim=(0, 1.02), box_aspect=1)
    axes.set_xticks(*TICKS, fontsize=7)
    axes.set_yticks(*TICKS, fontsize=7)
    if difference.value is None:
        axes.text(0.5, 0.5, difference.reason or "", ha="center", va="center", fontsize=8, backgroundcolor="white")
        return
    values = difference.first, difference.second
    for height, letter, value, color in zip((0.19, 0.05), "AB", values, COLORS[:2], strict=True):
        axes.text(0.97, height, f"{letter} {value:.3f}", ha="right", color=color)


def _title(compared: ComparedPair) -> str:
    dataset = compared.first.record.dataset
    counts = dataset.counts["test"]
    return f"A vs. B\n{dataset.title}: {count(counts.images, 'test image')} of {count(counts.patients, 'patient')}"


def _labels(compared: ComparedPair) -> list[str]:
    """Return the legend of the curves: A and B, their titles and mean AUCs."""
    mean, runs = compared.comparison.mean, (compared.first, compared.second)
    values = ("undefined" if value is None else f"{value:.3f}" for value in (mean.first, mean.second))
    return [
        f"{fold(f'{letter}: {run.title}', LABEL_WIDTH)}\n(mean AUC {value})"
        for letter, run, value in zip("AB", runs, values, strict=True)
    ]


def _draw_legend(axes: Axes, compared: ComparedPair) -> None:
    """Draw the legend in the first panel after those of the findings."""
    styles: list[dict[str, Any]] = [{"color": COLORS[k], "linestyle": STROKES[k]} for k in range(2)]
    marks = [
        Line2D([], [], label=label, linewidth=LINE_WIDTH, **style)
        for label, style in zip(_labels(compared), styles, strict=True)
    ]
    if compared.significant:
        star = f"* differs at {ALPHA * 100:.0f} % after the\ncorrection for all findings"
        marks.append(Line2D([], [], linestyle="none", label=star))
    axes.legend(handles=marks, loc="upper left", alignment="left", fontsize=8).set_in_layout(False)
