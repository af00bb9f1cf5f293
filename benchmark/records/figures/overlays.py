"""Heatmaps over radiographs, as in Ma et al. 2019, Fig. 1: what was found, where, and where it really is."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...metrics.localization import Frame, enlarge, normalize, predict_boxes
from ...utils.files import write_atomic
from ...utils.text import plain
from .style import KEY

TRUE, FOUND = "#ff2bd6", "white"  # a colour that no heat has
OVERLAY_COLORS = "turbo"
TITLE_WIDTH = 13  # characters an inch
OPACITY = 0.65  # of the hottest place; the coldest is clear


class Panel(NamedTuple):
    """One radiograph and what to draw over it.

    Attributes:
        title: a line or two above it.
        gray: uint8 (H, W), any size, the whole image.
        map: (h, w) of the centre crop; None shows the image alone.
        boxes: true boxes (n, 4), fractions of the whole image.
    """

    title: str
    gray: np.ndarray
    map: np.ndarray | None
    boxes: np.ndarray


def draw_panels(
    panels: Sequence[Panel],
    frame: Frame,
    path: Path,
    title: str,
    columns: int,
    side: float = 2.4,
    key: str | None = None,
) -> None:
    """Draw the panels, `side` inches wide, in rows of `columns`, with one legend for all.

    `key` names the data that the figure shows.
    """
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(side * columns + 0.6, (side + 0.3) * rows + 0.7), dpi=100, facecolor="white", layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel, frame)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(plain(title), fontsize=10, parse_math=False)
    _explain(figure, any(len(panel.boxes) for panel in panels))
    _save(figure, path, key)


def _save(figure: Figure, path: Path, key: str | None) -> None:
    """Write it whole or not at all; one that belongs to a record in 256 colours, which take a quarter of the space."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    image = Image.open(buffer).convert("RGB")
    text = PngInfo()
    if key:
        text.add_text(KEY, key)
        image = image.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    small = BytesIO()
    image.save(small, format="png", pnginfo=text, optimize=True)
    write_atomic(path, small.getvalue())


def _draw(axis: Axes, panel: Panel, frame: Frame) -> None:
    axis.set_axis_off()
    width = int(TITLE_WIDTH * axis.figure.get_figwidth() / axis.get_subplotspec().get_gridspec().ncols)
    axis.set_title(fill(plain(panel.title), width), fontsize=9, parse_math=False)
    axis.imshow(panel.gray, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0), aspect="auto")
    axis.set_box_aspect(panel.gray.shape[0] / panel.gray.shape[1])
    if panel.map is not None:
        heat = normalize(enlarge(panel.map[None], frame.side))[0] / 255
        colours = matplotlib.colormaps[OVERLAY_COLORS](heat)
        colours[..., 3] = OPACITY * heat
        x, y, w, h = frame.to_image(np.array([[0.0, 0, 1, 1]]))[0]
        axis.imshow(colours, extent=(x, x + w, y + h, y), aspect="auto", interpolation="bilinear")
        for box in predict_boxes(panel.map[None], frame).boxes:
            _outline(axis, box, FOUND, "--")
    for box in panel.boxes:
        _outline(axis, box, TRUE, "-")
    axis.set(xlim=(0, 1), ylim=(1, 0))


def _outline(axis: Axes, box: np.ndarray, colour: str, style: str) -> None:
    x, y, w, h = box
    axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=colour, linestyle=style, linewidth=1.3))


def _explain(figure: Figure, with_truth: bool) -> None:
    """The legend: what the frames are, and what the colours mean."""
    frames = [Line2D([], [], color="0.45", linestyle="--", label="found: above 60 and above 180 of 255")]
    if with_truth:
        frames.insert(0, Line2D([], [], color=TRUE, label="true box"))
    figure.legend(handles=frames, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 255), OVERLAY_COLORS)
    bar = figure.colorbar(scale, ax=figure.axes, location="right", shrink=0.6, aspect=30, ticks=[0, 60, 180, 255])
    bar.ax.tick_params(labelsize=7)
    bar.set_label("heatmap, each from its own lowest to its highest", fontsize=7)
