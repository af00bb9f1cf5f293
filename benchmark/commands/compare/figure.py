"""The figure of a comparison: the ROC curves of both runs over each other, one small panel a finding."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...metrics.auc import roc
from ...metrics.paired import Difference
from ...records.figures.style import COLORS, GRAY, STROKES, fold, new_figure, save, set_title, sha256, styled
from ...utils.text import display_name
from .pair import LEVEL, ComparedPair

COLUMNS = 4
NAME = 21  # characters of a finding's name in a line
LABEL = 27  # characters of a line of the legend
STYLES = tuple({"color": COLORS[k], "linestyle": STROKES[k], "linewidth": 1.4} for k in range(2))
TICKS = ([0, 0.5, 1], ["0", "0.5", "1"])


def comparison_sha256(compared: ComparedPair) -> str:
    """The hash of all that `draw_comparison` shows."""
    scores = [side.record.scores.sha256 for side in (compared.first, compared.second)]
    return sha256([_title(compared), _labels(compared), scores, compared.significant])


@styled
def draw_comparison(compared: ComparedPair, path: Path) -> None:
    """A panel a finding with both curves and both AUCs; a star and bold letters where they differ."""
    count = len(compared.each) // COLUMNS + 1
    figure = new_figure(2.2 * count + 0.6)
    cells = figure.subplots(count, COLUMNS, squeeze=False).flat
    tests = [side.scored(compared.first.findings) for side in (compared.first, compared.second)]
    for c, (finding, one) in enumerate(compared.each.items()):
        curves = [] if one.value is None else [roc(test.scores[:, c], test.labels[:, c]) for test in tests]
        for (false, true), style in zip(curves, STYLES, strict=False):
            cells[c].plot(false, true, **style)
        _finish(cells[c], one)
        _name(cells[c], finding, finding in compared.significant)
    for axes in cells[len(compared.each) :]:
        axes.set_axis_off()
    _explain(cells[len(compared.each)], compared)
    figure.supxlabel("False positive rate", fontsize=9)
    figure.supylabel("True positive rate", fontsize=9)
    set_title(figure, _title(compared))
    save(figure, path, comparison_sha256(compared))


def _name(axes: Axes, finding: str, significant: bool) -> None:
    name = fold(display_name(finding), NAME) + " *" * significant
    axes.set_title(name, fontsize=9, fontweight="bold" if significant else "normal", loc="left")


def _finish(axes: Axes, one: Difference) -> None:
    """Chance line, and both AUCs in the corner that no good curve enters; or why there are none."""
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":", zorder=0)
    axes.set(xlim=(-0.02, 1), ylim=(0, 1.02), box_aspect=1)
    axes.set_xticks(*TICKS, fontsize=7)
    axes.set_yticks(*TICKS, fontsize=7)
    if one.value is None:
        axes.text(0.5, 0.5, one.reason, ha="center", va="center", fontsize=8, backgroundcolor="white")
        return
    for height, letter, value, style in zip((0.19, 0.05), "AB", (one.first, one.second), STYLES, strict=True):
        axes.text(0.97, height, f"{letter} {value:.3f}", ha="right", color=style["color"])


def _title(compared: ComparedPair) -> str:
    dataset = compared.first.record.dataset
    counts = dataset.counts["test"]
    return f"A against B\n{dataset.title}: {counts.images:,} test images of {counts.patients:,} patients"


def _labels(compared: ComparedPair) -> list[str]:
    """What the lines are: A and B, their titles and their mean AUCs."""
    mean, sides = compared.found.mean, (compared.first, compared.second)
    values = ("undefined" if value is None else f"{value:.3f}" for value in (mean.first, mean.second))
    return [
        f"{fold(f'{letter}: {side.title}', LABEL)}\n(mean AUC {value})"
        for letter, side, value in zip("AB", sides, values, strict=True)
    ]


def _explain(axes: Axes, compared: ComparedPair) -> None:
    """The legend, in a panel that is left over."""
    marks = [Line2D([], [], label=label, **style) for label, style in zip(_labels(compared), STYLES, strict=True)]
    if compared.significant:
        star = f"* differs at {LEVEL * 100:.0f} % after the\ncorrection for all findings"
        marks.append(Line2D([], [], linestyle="none", label=star))
    axes.legend(handles=marks, loc="upper left", alignment="left", fontsize=8).set_in_layout(False)
