"""The figure of a comparison: the ROC curves of both runs over each other, one small panel a finding."""

import hashlib
import json
from math import ceil
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .compared import LEVEL, Compared
from .figures import KEY
from .metrics import roc
from .paired import Difference
from .text import plain

COLUMNS = 4
LINE = 100  # letters that fit the figure's width
STYLES = ({"color": "#0b5cad", "linestyle": "-"}, {"color": "#d1530b", "linestyle": "--"})  # told apart in gray as well

TICKS = ([0, 0.5, 1], ["0", "0.5", "1"])


def comparison_sha256(compared: Compared) -> str:
    """The hash of all that `draw_comparison` shows."""
    scores = [side.record.scores.sha256 for side in (compared.first, compared.second)]
    return hashlib.sha256(json.dumps([scores, _labels(compared), compared.significant]).encode()).hexdigest()


def draw_comparison(compared: Compared, path: Path) -> None:
    """Panels of 2.2 inches in rows of four, so that 14 findings are read at 900 pixels; on white, whatever the page."""
    count = ceil(len(compared.each) / COLUMNS)
    figure = Figure(figsize=(9, 2.25 * count + 1), dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots(count, COLUMNS, squeeze=False, sharex=True, sharey=True)
    tests = [side.scored(compared.first.findings) for side in (compared.first, compared.second)]
    for c, (finding, one) in enumerate(compared.each.items()):
        axis = axes.flat[c]
        curves = [] if one.value is None else [roc(test.scores[:, c], test.labels[:, c]) for test in tests]
        for (false, true), style in zip(curves, STYLES, strict=False):
            axis.plot(false, true, linewidth=1.4, clip_on=False, **style)
        axis.tick_params(labelsize=8, labelbottom=c + COLUMNS >= len(compared.each))
        _finish(axis, finding, one, finding in compared.significant)
    for axis in axes.flat[len(compared.each) :]:
        axis.set_axis_off()
    _explain(figure, compared)
    figure.savefig(path, format="png", metadata={KEY: comparison_sha256(compared), "Software": None})


def _finish(axis: Axes, finding: str, one: Difference, significant: bool) -> None:
    """Title, chance line, and both AUCs in the corner that no good curve enters."""
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8, linestyle=":", zorder=0)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.set_xticks(*TICKS)
    axis.set_yticks(*TICKS)
    axis.grid(color="0.9", linewidth=0.6)
    title = finding.replace("_", " ") + (" *" if significant else "")
    axis.set_title(plain(title), fontsize=10, fontweight="bold" if significant else "normal", parse_math=False)
    if one.value is None:
        axis.text(0.5, 0.5, one.reason, ha="center", va="center", fontsize=8, backgroundcolor="white")
        return
    for height, letter, value, style in zip((0.2, 0.06), "AB", (one.first, one.second), STYLES, strict=True):
        axis.text(0.96, height, f"{letter} {value:.3f}", ha="right", fontsize=9, color=style["color"])


def _labels(compared: Compared) -> list[str]:
    """What the lines are: A and B, their titles and their mean AUCs."""
    mean, sides = compared.found.mean, (compared.first, compared.second)
    values = ("undefined" if value is None else f"{value:.3f}" for value in (mean.first, mean.second))
    return [
        fill(f"{letter}: {side.title} (mean AUC {value})", LINE)
        for letter, side, value in zip("AB", sides, values, strict=True)
    ]


def _explain(figure: Figure, compared: Compared) -> None:
    handles = [
        figure.axes[0].plot([], [], label=label, linewidth=1.6, **style)[0]
        for label, style in zip(_labels(compared), STYLES, strict=True)
    ]
    if compared.significant:
        handles += figure.axes[0].plot(
            [], [], linestyle="none", label=f"* differs at {LEVEL * 100:.0f} % after correction"
        )
    figure.legend(handles=handles, loc="outside upper center", fontsize=10, frameon=False)
    figure.supxlabel("False positive rate", fontsize=9)
    figure.supylabel("True positive rate", fontsize=9)
