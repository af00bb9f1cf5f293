"""Figure of a comparison: the ROC curves of both runs, one small panel per finding."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...metrics.auc import roc
from ...metrics.paired import Difference
from ...records.figures.style import COLORS, GRAY, STROKES, fold, new_figure, save, set_title, sha256, styled
from ...utils.text import display_name
from .pair import LEVEL, ComparedPair

COLUMNS = 4
NAME_WIDTH = 21  # characters per line of a finding's name
LABEL_WIDTH = 27  # characters per line of the legend
LINE_WIDTH = 1.4  # points
TICKS = ([0, 0.5, 1], ["0", "0.5", "1"])


def comparison_sha256(compared: ComparedPair) -> str:
    """Hash everything that `draw_comparison` shows."""
    scores = [side.record.scores.sha256 for side in (compared.first, compared.second)]
    return sha256([_title(compared), _labels(compared), scores, compared.significant])


@styled
def draw_comparison(compared: ComparedPair, path: Path) -> None:
    """Draw a panel per finding with both curves and AUCs; a star and a bold name where they differ significantly."""
    count = len(compared.each) // COLUMNS + 1
    figure = new_figure(2.2 * count + 0.6)
    cells = figure.subplots(count, COLUMNS, squeeze=False).flat
    tests = [side.scored(compared.first.findings) for side in (compared.first, compared.second)]
    for c, (finding, one) in enumerate(compared.each.items()):
        curves = [] if one.value is None else [roc(test.scores[:, c], test.labels[:, c]) for test in tests]
        for k, (false, true) in enumerate(curves):
            cells[c].plot(false, true, color=COLORS[k], linestyle=STROKES[k], linewidth=LINE_WIDTH)
        _finish(cells[c], one)
        _set_name(cells[c], finding, finding in compared.significant)
    for axes in cells[len(compared.each) :]:
        axes.set_axis_off()
    _draw_legend(cells[len(compared.each)], compared)
    figure.supxlabel("False positive rate", fontsize=9)
    figure.supylabel("True positive rate", fontsize=9)
    set_title(figure, _title(compared))
    save(figure, path, comparison_sha256(compared))


def _set_name(axes: Axes, finding: str, significant: bool) -> None:
    name = fold(display_name(finding), NAME_WIDTH) + " *" * significant
    axes.set_title(name, fontsize=9, fontweight="bold" if significant else "normal", loc="left")


def _finish(axes: Axes, one: Difference) -> None:
    """Add the chance line, and both AUCs in the corner that no good curve enters; or why they are undefined."""
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":", zorder=0)
    axes.set(xlim=(-0.02, 1), ylim=(0, 1.02), box_aspect=1)
    axes.set_xticks(*TICKS, fontsize=7)
    axes.set_yticks(*TICKS, fontsize=7)
    if one.value is None:
        axes.text(0.5, 0.5, one.reason or "", ha="center", va="center", fontsize=8, backgroundcolor="white")
        return
    for height, letter, value, color in zip((0.19, 0.05), "AB", (one.first, one.second), COLORS[:2], strict=True):
        axes.text(0.97, height, f"{letter} {value:.3f}", ha="right", color=color)


def _title(compared: ComparedPair) -> str:
    dataset = compared.first.record.dataset
    counts = dataset.counts["test"]
    return f"A against B\n{dataset.title}: {counts.images:,} test images of {counts.patients:,} patients"


def _labels(compared: ComparedPair) -> list[str]:
    """Return the legend of the curves: A and B, their titles and mean AUCs."""
    mean, sides = compared.found.mean, (compared.first, compared.second)
    values = ("undefined" if value is None else f"{value:.3f}" for value in (mean.first, mean.second))
    return [
        f"{fold(f'{letter}: {side.title}', LABEL_WIDTH)}\n(mean AUC {value})"
        for letter, side, value in zip("AB", sides, values, strict=True)
    ]


def _draw_legend(axes: Axes, compared: ComparedPair) -> None:
    """Draw the legend in a panel that no finding needs."""
    styles: list[dict[str, Any]] = [{"color": COLORS[k], "linestyle": STROKES[k]} for k in range(2)]
    marks = [
        Line2D([], [], label=label, linewidth=LINE_WIDTH, **style)
        for label, style in zip(_labels(compared), styles, strict=True)
    ]
    if compared.significant:
        star = f"* differs at {LEVEL * 100:.0f} % after the\ncorrection for all findings"
        marks.append(Line2D([], [], linestyle="none", label=star))
    axes.legend(handles=marks, loc="upper left", alignment="left", fontsize=8).set_in_layout(False)
