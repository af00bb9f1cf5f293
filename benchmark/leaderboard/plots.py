"""Draw the figures of a board: mean AUC of each method with its interval, and mean AUC vs. speed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from ..metrics.ratios import Quartiles
from ..records.figures.style import (
    COLORS,
    GRAY,
    INK,
    PALE,
    bare,
    fold,
    new_figure,
    number,
    save,
    set_title,
    sha256,
    styled,
)

NAME = 38  # characters per line of a method's name
WIDE = 4  # ratio of highest to lowest speed above which the axis is logarithmic
LINE = 0.2  # height of a line of a name, in inches
METHOD, CONTROL, PAPER, FLOOR = COLORS[0], GRAY, COLORS[1], INK
MEAN: dict[str, Any] = {"marker": "o", "markersize": 6.5, "markeredgewidth": 1.4}
OF_FLOOR: dict[str, Any] = {"marker": "s", "markersize": 5.5, "markerfacecolor": "white"}
SEED: dict[str, Any] = {"marker": "|", "markersize": 10, "markeredgewidth": 1.1, "linestyle": "none"}
REPORTED: dict[str, Any] = {
    "marker": "D",
    "markersize": 6,
    "markeredgewidth": 1.4,
    "linestyle": "none",
    "markerfacecolor": "none",
}
FILLED: dict[str, Any] = {
    "marker": "o",
    "markersize": 7,
    "linestyle": "none",
    "markeredgecolor": "white",
    "markeredgewidth": 0.8,
}
HOLLOW: dict[str, Any] = {
    "marker": "o",
    "markersize": 7,
    "linestyle": "none",
    "markerfacecolor": "white",
    "markeredgewidth": 1.4,
}


class AucLine(NamedTuple):
    """A method in the figure of AUCs; values that are None or NaN are not drawn.

    Attributes:
        name: name of the method with its options.
        auc: mean AUC over the findings and over the seeds.
        low: lower bound of its interval.
        high: upper bound of its interval.
        seeds: mean AUC of each seed.
        control: whether the method is a control.
        reported: mean AUC reported by the paper of the method.
        floor: whether it is a floor, which needs no network.
    """

    name: str
    auc: float | None
    low: float | None
    high: float | None
    seeds: Sequence[float | None]
    control: bool = False
    reported: float | None = None
    floor: bool = False


def auc_sha256(lines: Sequence[AucLine], title: str) -> str:
    """Return the hash of the data shown by `draw_auc`."""
    return sha256([title, *(_hashed(_defined(line)) for line in lines)])


@styled
def draw_auc(lines: Sequence[AucLine], title: str, path: Path) -> None:
    """Draw the mean AUC of each method and floor with its interval and seeds, sorted with the highest on top."""
    ranked = sorted(lines, key=lambda line: -(number(line.auc) or 0))
    names = [fold(line.name, NAME) for line in ranked]
    heights = np.array([name.count("\n") + 1.4 for name in names])
    centers = heights.cumsum() - heights / 2
    figure = new_figure(LINE * heights.sum() + 1.5)
    axes = figure.add_subplot(xlabel=_auc_label("Mean test AUC", lines))
    for center, line in zip(centers, ranked, strict=True):
        _draw_line(axes, center, line)
    axes.set_yticks(centers, names)
    axes.set_ylim(heights.sum(), 0)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.margins(x=0.04)
    bare(axes)
    figure.legend(handles=_explain(ranked), loc="outside lower center", ncols=4, fontsize=8)
    set_title(figure, title)
    save(figure, path, auc_sha256(lines, title))


def _defined(line: AucLine) -> AucLine:
    """Replace NaN with None, so that the hash does not depend on how undefined values are represented."""
    auc, low, high, reported = (number(value) for value in (line.auc, line.low, line.high, line.reported))
    seeds = [number(seed) for seed in line.seeds]
    return AucLine(line.name, auc, low, high, seeds, bool(line.control), reported, bool(line.floor))


def _hashed(line: AucLine) -> list[object]:
    return [line.name, line.auc, line.low, line.high, line.reported, line.seeds, line.control, line.floor]


def _draw_line(axes: Axes, height: float, line: AucLine) -> None:
    _, auc, low, high, seeds, control, reported, floor = _defined(line)
    color, mark = _mark(control, floor)
    axes.axhline(height, color=PALE, linewidth=0.5, zorder=0)
    if auc is not None and low is not None and high is not None:
        axes.plot([low, high], [height] * 2, color=color, linewidth=1.6, alpha=0.75)
    defined = [seed for seed in seeds if seed is not None]
    if len(seeds) > 1:
        axes.plot(defined, [height] * len(defined), color=color, **SEED)
    if auc is not None:
        axes.plot(auc, height, color=color, zorder=3, **mark)
    if reported is not None:
        axes.plot(reported, height, color=PAPER, zorder=3, **REPORTED)
    label = "undefined" if auc is None else f"{auc:.3f}"
    axes.annotate(label, (1.01, height), xycoords=("axes fraction", "data"), va="center", color=color)


def _mark(control: bool, floor: bool) -> tuple[str, dict[str, Any]]:
    """Return the color and the mark of a method, a control or a floor."""
    if floor:
        return FLOOR, MEAN | OF_FLOOR
    return (CONTROL, MEAN | {"markerfacecolor": "white"}) if control else (METHOD, MEAN)


def _explain(lines: Sequence[AucLine]) -> list[Line2D]:
    """Return the legend entries of the marks that occur in the figure."""
    has_seeds = any(len(line.seeds) > 1 for line in lines)
    label = _auc_label("mean over the seeds" if has_seeds else "mean over the findings", lines)
    marks = [Line2D([], [], color=METHOD, linewidth=1.6, label=label, **MEAN)]
    for label, control, floor in (("control", True, False), ("floor, without a network", False, True)):
        if any((line.control, line.floor) == (control, floor) for line in lines):
            color, mark = _mark(control, floor)
            marks.append(Line2D([], [], color=color, linewidth=1.6, label=label, **mark))
    if has_seeds:
        marks.append(Line2D([], [], color=INK, label="seed", **SEED))
    if any(number(line.reported) is not None for line in lines):
        marks.append(Line2D([], [], color=PAPER, label="reported by the paper", **REPORTED))
    return marks


class Dot(NamedTuple):
    """A method in the figure of AUC vs. speed.

    Attributes:
        name: name of the method with its options.
        speed: median and quartiles of images/s over the rounds.
        auc: mean AUC.
        low, high: bounds of its interval, if any.
        doubtful: whether the speed should not be compared with others.
    """

    name: str
    speed: Quartiles
    auc: float
    low: float | None
    high: float | None
    doubtful: bool = False


def _auc_label(label: str, drawn: Sequence[AucLine | Dot]) -> str:
    """Add to a label that intervals are drawn, if any method has one."""
    return f"{label}, 95 % interval" if any(number(method.low) is not None for method in drawn) else label


def dots_sha256(dots: Sequence[Dot], title: str) -> str:
    """Return the hash of the data shown by `draw_speed`."""
    return sha256([title, *dots])


@styled
def draw_speed(dots: Sequence[Dot], title: str, path: Path) -> None:
    """Draw mean AUC vs. images per second of inference, with the quartiles; doubtful speeds have hollow dots.

    To avoid overlap, names are in a column next to the axes, sorted by AUC, and each is connected to its dot.
    """
    ranked = sorted(dots, key=lambda dot: -dot.auc)
    names = [fold(dot.name, NAME) for dot in ranked]
    heights = np.array([name.count("\n") + 1.4 for name in names])
    centers = 1 - (heights.cumsum() - heights / 2) / heights.sum()
    figure = new_figure(max(LINE * heights.sum(), 3) + 1.2)
    axes = figure.add_subplot(xlabel="Inference, images/s: median, quartiles", ylabel=_auc_label("Mean test AUC", dots))
    for rank, (dot, name, center) in enumerate(zip(ranked, names, centers, strict=True)):
        color = COLORS[rank % len(COLORS)]
        _draw_dot(axes, dot, color)
        _annotate(axes, dot, name, center, color)
    _scale_speed(axes, [dot.speed.median for dot in dots])
    if doubtful := sum(dot.doubtful for dot in dots):
        which = "all speeds" if doubtful == len(dots) else f"{doubtful} of {len(dots)} speeds"
        hollow = Line2D([], [], color=INK, label=f"not comparable ({which}): see the leaderboard", **HOLLOW)
        figure.legend(handles=[hollow], loc="outside lower center", fontsize=8)
    set_title(figure, title)
    save(figure, path, dots_sha256(dots, title))


def _draw_dot(axes: Axes, dot: Dot, color: str) -> None:
    if dot.low is not None and dot.high is not None:
        axes.plot([dot.speed.median] * 2, [dot.low, dot.high], color=color, linewidth=1.2, alpha=0.6)
    axes.plot([dot.speed.low, dot.speed.high], [dot.auc] * 2, color=color, linewidth=1.2, alpha=0.6)
    axes.plot(dot.speed.median, dot.auc, color=color, **(HOLLOW if dot.doubtful else FILLED))


def _annotate(axes: Axes, dot: Dot, name: str, height: float, color: str) -> None:
    axes.annotate(
        name,
        (dot.speed.median, dot.auc),
        xytext=(1.06, height),
        textcoords="axes fraction",
        va="center",
        arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8, "alpha": 0.7, "relpos": (0, 0.5)},
    )


def _scale_speed(axes: Axes, speeds: Sequence[float]) -> None:
    """Start the axis at 0, or make it logarithmic if the speeds differ by more than a factor of `WIDE`."""
    if max(speeds) <= WIDE * min(speeds):
        axes.set_xlim(0, 1.1 * max(speeds))
        return
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 1.5, max(speeds) * 1.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
