"""Figures. Each carries the hash of the numbers that it draws, so that a stale one is found without pixels."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image

from .metrics import roc
from .schema import Record
from .text import plain

KEY = "scores-sha256"  # the PNG text entry that names the data
WIDE = 4  # a ratio of speeds from which their axis is logarithmic


def draw_roc(record: Record, table: pd.DataFrame, path: Path) -> None:
    """ROC curves of all findings on the test split, as in the paper's Fig. 5; findings without an AUC are listed."""
    test = table[table["split"] == "test"]
    figure = Figure(figsize=(7.6, 5.2), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot(aspect="equal", xlabel="False positive rate", ylabel="True positive rate")
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":")
    colors = matplotlib.colormaps["tab20"].colors[::2]
    by_area = sorted(record.auc.items(), key=lambda item: -(item[1].value if item[1].value is not None else -1))
    for number, (finding, auc) in enumerate(by_area):
        name = finding.replace("_", " ")
        if auc.value is None:
            axes.plot([], [], linestyle="none", label=f"{name} undefined")
            continue
        false, true = roc(test[f"score {finding}"].to_numpy(), test[f"label {finding}"].to_numpy())
        style = "-" if number < len(colors) else "--"
        label = f"{name} {auc.value:.3f}"
        axes.plot(false, true, style, color=colors[number % len(colors)], linewidth=1.4, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    counts = record.dataset.counts["test"]
    about = f"{record.dataset.title}: {counts.images:,} test images of {counts.patients:,} patients"
    axes.set_title(f"{plain(_told(record))}\n{plain(about)}", fontsize=10, parse_math=False)
    axes.grid(color="0.9", linewidth=0.6)
    mean = "undefined" if record.mean_auc.value is None else f"{record.mean_auc.value:.3f}"
    figure.legend(loc="outside right upper", title=f"AUC (mean {mean})", fontsize=9, frameon=False)
    figure.savefig(path, bbox_inches="tight", metadata={KEY: record.scores.sha256, "Software": None})


def _told(record: Record) -> str:
    """Whose scores they are."""
    if record.recipe is None:
        return f"{record.method.title}, scores from elsewhere"
    return f"{record.method.title}, recipe {record.recipe['name']}, seed {record.seed}"


class Dot(NamedTuple):
    """A method in the figure of AUC against speed: its name, images a second, mean AUC and the ends of its interval."""

    name: str
    speed: float
    auc: float
    low: float
    high: float


def dots_sha256(dots: Sequence[Dot], title: str) -> str:
    """The hash of all that `draw_speed` shows."""
    return hashlib.sha256(json.dumps([title, *dots]).encode()).hexdigest()


def draw_speed(dots: Sequence[Dot], title: str, path: Path) -> None:
    """Mean AUC against images a second of inference.

    Names stand in a column beside the axes, in the order of the AUC, a line from each to its dot: none hides another.
    """
    figure = Figure(figsize=(7.6, 0.35 * max(len(dots), 8) + 1.2), dpi=110, facecolor="white", layout="constrained")
    axes = figure.add_subplot(xlabel="Inference, images/s", ylabel="Mean test AUC, 95 % interval")
    ranked = sorted(dots, key=lambda dot: -dot.auc)
    colors = matplotlib.colormaps["tab10"].colors
    for number, dot in enumerate(ranked):
        color = colors[number % len(colors)]
        axes.plot([dot.speed] * 2, [dot.low, dot.high], color=color, linewidth=1.2, alpha=0.6)
        axes.plot(dot.speed, dot.auc, "o", color=color, markersize=7, markeredgecolor="white", markeredgewidth=0.8)
        _name_beside(axes, dot, 1 - (number + 0.5) / len(ranked), color)
    _scale_speed(axes, [dot.speed for dot in dots])
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(color="0.9", linewidth=0.6)
    figure.savefig(path, bbox_inches="tight", metadata={KEY: dots_sha256(dots, title), "Software": None})


def _name_beside(axes: Axes, dot: Dot, height: float, color: tuple[float, float, float]) -> None:
    axes.annotate(
        dot.name,
        (dot.speed, dot.auc),
        xytext=(1.04, height),
        textcoords="axes fraction",
        va="center",
        fontsize=9,
        parse_math=False,
        arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8, "alpha": 0.7, "relpos": (0, 0.5)},
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


def drawn_from(path: Path) -> str | None:
    """The hash that a figure carries; None if it is not there or carries none."""
    try:
        with Image.open(path) as image:
            return image.info.get(KEY)
    except (OSError, SyntaxError):
        return None
