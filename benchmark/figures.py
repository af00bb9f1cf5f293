"""Figures of a run. Each carries the hash of the scores that it draws, so that a stale one is found without pixels."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from .metrics import roc
from .schema import Record
from .text import plain

KEY = "scores-sha256"  # the PNG text entry that names the data


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
    title = f"{plain(record.method.title)}, recipe {plain(record.recipe['name'])}, seed {record.seed}\n{plain(about)}"
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(color="0.9", linewidth=0.6)
    mean = "undefined" if record.mean_auc.value is None else f"{record.mean_auc.value:.3f}"
    figure.legend(loc="outside right upper", title=f"AUC (mean {mean})", fontsize=9, frameon=False)
    figure.savefig(path, bbox_inches="tight", metadata={KEY: record.scores.sha256, "Software": None})


def drawn_from(path: Path) -> str | None:
    """The hash that a figure carries; None if it is not there or carries none."""
    try:
        with Image.open(path) as image:
            return image.info.get(KEY)
    except (OSError, SyntaxError):
        return None
