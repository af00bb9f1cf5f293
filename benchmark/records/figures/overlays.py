"""Figure of heatmaps over radiographs with predicted and true boxes, as in Ma et al. 2019, Fig. 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from ...metrics.localization import THRESHOLDS, Frame, enlarge, normalize, predict_boxes
from ...utils.text import display_name
from .style import fold, render, write_png

Stroke: TypeAlias = Literal["-", "--", ":"]
TRUE, PREDICTED = "#ff2bd6", "white"  # colors that do not occur in a heatmap
STROKES: tuple[tuple[Stroke, float], ...] = ((":", 1.0), ("--", 1.6))  # of the predicted boxes, by threshold
OVERLAY_COLORS = "turbo"
CHARACTERS_PER_INCH = 13  # width of a panel's title
OPACITY = 0.65  # opacity of the maximum of a heatmap; the minimum is transparent
FAINT = 0.2  # opacity in place of it where the score or the map says nothing
AT_BASE_RATE = 1.5  # times its prevalence, up to which a finding's probability says nothing
MIN_CONTRAST = 1e-3  # range of a map, of its largest value, below which it has none
WHOLE = 0.9  # part of the crop from which a box says nothing
DPI = 100
PALETTE, REFINEMENTS = 80, 2  # number of colors of a published figure, and k-means steps that keep grays neutral


class Panel(NamedTuple):
    """A radiograph with its heatmap and boxes.

    Attributes:
        title: title of the panel, one or two lines, which are folded if they are too long.
        gray: the full image, uint8 (H, W), of any size.
        map: heatmap (h, w) of the center crop; None to show only the image.
        boxes: ground-truth boxes (n, 4) as fractions of the full image.
        doubt: why the heatmap shows no finding; it is drawn faintly, without predicted boxes. Empty if it may.
    """

    title: str
    gray: np.ndarray
    map: np.ndarray | None
    boxes: np.ndarray
    doubt: str = ""


def finding_panel(
    finding: str, label: str, gray: np.ndarray, heatmap: np.ndarray | None, boxes: np.ndarray, odds: tuple[float, float]
) -> Panel:
    """Return the panel of a finding with its probability and prevalence; one at its base rate is doubtful.

    Args:
        finding: name of the finding.
        label: what is known of the image, appended to the title.
        gray: the full image, uint8 (H, W).
        heatmap: heatmap (h, w) of the center crop; None if there is none.
        boxes: ground-truth boxes (n, 4) as fractions of the full image.
        odds: probability of the finding, and the fraction of the dataset's images that have it.
    """
    probability, prevalence = odds
    title = f"{display_name(finding)}{label}\n{probability:.2f}, prevalence {prevalence:.2f}"
    flat = heatmap is not None and np.ptp(heatmap) <= MIN_CONTRAST * np.abs(heatmap).max()
    doubt = "no contrast" if flat else "at its base rate" if probability <= AT_BASE_RATE * prevalence else ""
    return Panel(title, gray, heatmap, boxes, doubt)


def draw_panels(
    panels: Sequence[Panel],
    frame: Frame,
    path: Path,
    title: str,
    columns: int,
    side: float = 2.4,
    key: str | None = None,
) -> None:
    """Draw radiographs with their heatmaps, in rows, with one legend.

    Args:
        panels: radiographs to draw.
        frame: position of the center crop, which the heatmaps cover, in the image.
        path: path of the PNG.
        title: title of the figure.
        columns: number of panels per row.
        side: width of a panel in inches.
        key: hash of the data, for a published figure, whose colors are reduced to keep the file small; else None.
    """
    rows = -(-len(panels) // columns)
    size = side * columns + 0.6, (side + 0.3) * rows + 0.7
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel, frame, int(CHARACTERS_PER_INCH * size[0] / columns))
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(fold(title, int(CHARACTERS_PER_INCH * size[0])), fontsize=10, parse_math=False)
    _draw_legend(figure, any(len(panel.boxes) for panel in panels))
    image = render(figure)
    if key is not None:
        image = image.quantize(PALETTE, Image.Quantize.MAXCOVERAGE, REFINEMENTS, dither=Image.Dither.NONE)
    write_png(image, path, key)


def _draw_panel(axis: Axes, panel: Panel, frame: Frame, width: int) -> None:
    """Draw one radiograph; `width` is the width of its title in characters."""
    axis.set_axis_off()
    title = "\n".join(fold(line, width) for line in panel.title.splitlines())
    axis.set_title(title, fontsize=9, parse_math=False)
    axis.imshow(panel.gray, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0), aspect="auto")
    axis.set_box_aspect(panel.gray.shape[0] / panel.gray.shape[1])
    if panel.map is not None:
        _draw_heatmap(axis, panel.map, frame, FAINT if panel.doubt else OPACITY)
    if panel.map is not None and not panel.doubt:
        _draw_predicted(axis, panel.map, frame)
    if panel.doubt:
        axis.text(0.5, 0.97, panel.doubt, color="white", fontsize=8, ha="center", va="bottom")
    for box in panel.boxes:
        _outline(axis, box, TRUE, "-", 1.3)
    axis.set(xlim=(0, 1), ylim=(1, 0))


def _draw_heatmap(axis: Axes, heatmap: np.ndarray, frame: Frame, opacity: float) -> None:
    """Draw a heatmap (h, w) enlarged to the crop, as in the evaluation."""
    heat = normalize(enlarge(heatmap[None], frame.side))[0] / 255
    colors = matplotlib.colormaps[OVERLAY_COLORS](heat)
    colors[..., 3] = opacity * heat
    x, y, w, h = frame.to_image(np.array([[0.0, 0, 1, 1]]))[0]
    axis.imshow(colors, extent=(x, x + w, y + h, y), aspect="auto", interpolation="nearest")


def _draw_predicted(axis: Axes, heatmap: np.ndarray, frame: Frame) -> None:
    """Draw the predicted boxes of both thresholds, except those around nearly all of the crop."""
    crop = frame.to_image(np.array([[0.0, 0, 1, 1]]))[0]
    for threshold, (stroke, width) in zip(THRESHOLDS, STROKES, strict=True):
        for box in predict_boxes(heatmap[None], frame, [threshold]).boxes:
            if box[2] * box[3] < WHOLE * crop[2] * crop[3]:
                _outline(axis, box, PREDICTED, stroke, width)


def _outline(axis: Axes, box: np.ndarray, color: str, stroke: Stroke, width: float) -> None:
    x, y, w, h = box
    axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=color, linestyle=stroke, linewidth=width))


def _draw_legend(figure: Figure, with_truth: bool) -> None:
    """Draw the legend of the boxes and the color scale of the heatmap."""
    boxes = [
        Line2D([], [], color="0.45", linestyle=stroke, linewidth=width, label=f"predicted: above {threshold} of 255")
        for threshold, (stroke, width) in zip(THRESHOLDS, STROKES, strict=True)
    ]
    if with_truth:
        boxes.insert(0, Line2D([], [], color=TRUE, label="true box"))
    title = f"predicted boxes around {WHOLE:.0%} of the crop or more are not drawn"
    figure.legend(
        handles=boxes, loc="outside lower center", ncols=3, fontsize=8, frameon=False, title=title
    ).get_title().set_fontsize(7)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 255), OVERLAY_COLORS)
    bar = figure.colorbar(scale, ax=figure.axes, location="right", shrink=0.6, aspect=30, ticks=[0, 60, 180, 255])
    bar.ax.tick_params(labelsize=7)
    bar.set_label("heatmap, normalized per image", fontsize=7)
