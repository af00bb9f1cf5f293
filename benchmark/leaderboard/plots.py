"""The figures of a board: mean AUC of each method with its interval, and mean AUC against speed."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

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

NAME = 38  # characters of a method's name in a line
WIDE = 4  # a ratio of speeds from which their axis is logarithmic
LINE = 0.2  # inches that a line of a name takes
METHOD, CONTROL, PAPER = COLORS[0], GRAY, COLORS[1]
MEAN = {"marker": "o", "markersize": 6.5, "markeredgewidth": 1.4}
SEED = {"marker": "|", "markersize": 10, "markeredgewidth": 1.1, "linestyle": "none"}
REPORTED = {"marker": "D", "markersize": 6, "markeredgewidth": 1.4, "linestyle": "none", "markerfacecolor": "none"}


class AucLine(NamedTuple):
    """A method in the figure of AUCs; what is None or NaN is undefined and not drawn.

    Attributes:
        name: the method's, with its options.
        auc: mean AUC over the findings, and over the seeds.
        low: lower end of its interval.
        high: upper end.
        seeds: the mean AUC of each seed.
        control: whether it is a control of another method.
        reported: what the paper of the method reports.
    """

    name: str
    auc: float | None
    low: float | None
    high: float | None
    seeds: Sequence[float | None]
    control: bool = False
    reported: float | None = None


def auc_sha256(lines: Sequence[AucLine], title: str) -> str:
    """The hash of all that `draw_auc` shows."""
    return sha256([title, *map(_shown, lines)])


@styled
def draw_auc(lines: Sequence[AucLine], title: str, path: Path) -> None:
    """Mean AUC of each method, a line a method, the best on top, with its interval and its seeds."""
    ranked = sorted(lines, key=lambda line: -(number(line.auc) or 0))
    names = [fold(line.name, NAME) for line in ranked]
    heights = np.array([name.count("\n") + 1.4 for name in names])
    places = heights.cumsum() - heights / 2
    figure = new_figure(LINE * heights.sum() + 1.5)
    axes = figure.add_subplot(xlabel="Mean test AUC, 95 % interval")
    for place, line in zip(places, ranked, strict=True):
        _draw_line(axes, place, line)
    axes.set_yticks(places, names)
    axes.set_ylim(heights.sum(), 0)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.margins(x=0.04)
    bare(axes)
    figure.legend(handles=_explain(ranked), loc="outside lower center", ncols=4, fontsize=8)
    set_title(figure, title)
    save(figure, path, auc_sha256(lines, title))


def _shown(line: AucLine) -> list[object]:
    means = [number(value) for value in (line.auc, line.low, line.high, line.reported)]
    return [line.name, *means, [number(seed) for seed in line.seeds], bool(line.control)]


def _draw_line(axes: Axes, place: float, line: AucLine) -> None:
    _, auc, low, high, reported, seeds, control = _shown(line)
    colour, fill = (CONTROL, "white") if control else (METHOD, METHOD)
    axes.axhline(place, color=PALE, linewidth=0.5, zorder=0)
    if auc is not None and low is not None and high is not None:
        axes.plot([low, high], [place] * 2, color=colour, linewidth=1.6, alpha=0.75)
    known = [seed for seed in seeds if seed is not None]
    if len(seeds) > 1:
        axes.plot(known, [place] * len(known), color=colour, **SEED)
    if auc is not None:
        axes.plot(auc, place, color=colour, markerfacecolor=fill, zorder=3, **MEAN)
    if reported is not None:
        axes.plot(reported, place, color=PAPER, zorder=3, **REPORTED)
    told = "undefined" if auc is None else f"{auc:.3f}"
    axes.annotate(told, (1.01, place), xycoords=("axes fraction", "data"), va="center", color=colour)


def _explain(lines: Sequence[AucLine]) -> list[Line2D]:
    """The legend, of what the figure holds."""
    marks = [Line2D([], [], color=METHOD, linewidth=1.6, label="mean over the seeds, 95 % interval", **MEAN)]
    if any(line.control for line in lines):
        control = {"color": CONTROL, "linewidth": 1.6, "markerfacecolor": "white"}
        marks.append(Line2D([], [], label="a control", **control, **MEAN))
    if any(len(line.seeds) > 1 for line in lines):
        marks.append(Line2D([], [], color=INK, label="a seed", **SEED))
    if any(number(line.reported) is not None for line in lines):
        marks.append(Line2D([], [], color=PAPER, label="reported by the paper, where there is one", **REPORTED))
    return marks


class Dot(NamedTuple):
    """A method in the figure of AUC against speed: its name, images a second, mean AUC and the ends of its interval."""

    name: str
    speed: float
    auc: float
    low: float
    high: float


def dots_sha256(dots: Sequence[Dot], title: str) -> str:
    """The hash of all that `draw_speed` shows."""
    return sha256([title, *dots])


@styled
def draw_speed(dots: Sequence[Dot], title: str, path: Path) -> None:
    """Mean AUC against images a second of inference.

    Names stand in a column beside the axes, in the order of the AUC, a line from each to its dot: none hides another.
    """
    ranked = sorted(dots, key=lambda dot: -dot.auc)
    names = [fold(dot.name, NAME) for dot in ranked]
    heights = np.array([name.count("\n") + 1.4 for name in names])
    places = 1 - (heights.cumsum() - heights / 2) / heights.sum()
    figure = new_figure(max(LINE * heights.sum(), 3) + 1.2)
    axes = figure.add_subplot(xlabel="Inference, images/s", ylabel="Mean test AUC, 95 % interval")
    for rank, (dot, name, place) in enumerate(zip(ranked, names, places, strict=True)):
        colour = COLORS[rank % len(COLORS)]
        axes.plot([dot.speed] * 2, [dot.low, dot.high], color=colour, linewidth=1.2, alpha=0.6)
        axes.plot(dot.speed, dot.auc, "o", color=colour, markersize=7, markeredgecolor="white", markeredgewidth=0.8)
        _name_beside(axes, dot, name, place, colour)
    _scale_speed(axes, [dot.speed for dot in dots])
    set_title(figure, title)
    save(figure, path, dots_sha256(dots, title))


def _name_beside(axes: Axes, dot: Dot, name: str, height: float, colour: str) -> None:
    axes.annotate(
        name,
        (dot.speed, dot.auc),
        xytext=(1.06, height),
        textcoords="axes fraction",
        va="center",
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "alpha": 0.7, "relpos": (0, 0.5)},
    )


def _scale_speed(axes: Axes, speeds: Sequence[float]) -> None:
    """From 0, or logarithmic where the fastest is many times the slowest."""
    if max(speeds) <= WIDE * min(speeds):
        axes.set_xlim(0, 1.1 * max(speeds))
        return
    axes.set_xscale("log")
    axes.set_xlim(min(speeds) / 1.5, max(speeds) * 1.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
