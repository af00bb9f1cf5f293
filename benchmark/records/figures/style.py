"""What all figures share: how they look, how they are written, and the hash by which a stale one is found.

A figure stands on white, whatever the page, and is drawn for a width of about 850 pixels. Its PNG carries the hash of
what it shows, no date and no version of a library.
"""

import math
import textwrap
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from PIL.PngImagePlugin import PngInfo
from scipy.spatial.distance import cdist

from ...utils.files import json_sha256, write_atomic
from ...utils.text import plain, recipe_label
from ..schema import Record

KEY = "scores-sha256"  # the PNG text entry that names the data
WIDTH = 8.5  # inches
INK, GRAY, PALE = "#1f2328", "#6e7781", "#e4e7eb"


# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow, which white swallows.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STROKES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
FONT = "DejaVu Sans"  # comes with matplotlib
TITLE = 95  # characters of a title in a line
STYLE = {
    "font.family": FONT,
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlesize": 10,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.solid_capstyle": "butt",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
}


# Decorates a function that draws: what the user has in a matplotlibrc changes nothing.
styled = style.context(["default", STYLE])


def new_figure(height: float) -> Figure:
    """A white figure of the common width; `height` in inches."""
    return Figure(figsize=(WIDTH, height), dpi=160, facecolor="white", layout="constrained")


def line_style(number: int) -> dict[str, object]:
    """Colour and stroke of the line with this number; 21 differ."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": STROKES[number // len(COLORS) % len(STROKES)]}


def fold(text: object, width: int) -> str:
    """Text from a record in lines of at most `width` characters, "?" for what the font cannot show."""
    shown = "".join(char if ord(char) in _glyphs() else "?" for char in plain(text))
    return "\n".join(textwrap.wrap(shown, width)) or "?"


def figure_title(record: Record) -> str:
    """What a record's figure is headed by: method, recipe and seed; dataset and test images."""
    counts = record.dataset.counts["test"]
    about = f"{record.dataset.title}: {counts.images:,} test images of {counts.patients:,} patients"
    if record.recipe is None:
        return f"{record.method.title}, scores from elsewhere\n{about}"
    return f"{record.method.title}, recipe {recipe_label(record.recipe['name'])}, seed {record.seed}\n{about}"


def set_title(figure: Figure, title: str) -> None:
    """The title, its lines folded where they are too long."""
    figure.suptitle("\n".join(fold(line, TITLE) for line in title.split("\n")), fontsize=10)


def bare(axes: Axes) -> None:
    """Without a frame but for the lower edge."""
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def number(value: float | None) -> float | None:
    """None where a value is undefined, be it None or NaN."""
    return None if value is None or math.isnan(value) else float(value)


def sha256(shown: Iterable[object]) -> str:
    """The hash of what a figure shows: texts, numbers, and lists of them."""
    return json_sha256(list(shown))


def save(figure: Figure, path: Path, key: str) -> None:
    """Write the figure whole or not at all, in few colours, with its key."""
    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png")
    text = PngInfo()
    text.add_text(KEY, key)
    _in_few_colors(Image.open(drawn).convert("RGB")).save(small, format="png", pnginfo=text, optimize=True)
    write_atomic(path, small.getvalue())


def drawn_from(path: Path) -> str | None:
    """The hash that a figure carries; None if it is not there or carries none."""
    try:
        with Image.open(path) as image:
            return image.info.get(KEY)
    except Exception:  # of a broken file, Pillow raises whatever it meets
        return None


def _in_few_colors(image: Image.Image) -> Image.Image:
    """The image in our colours and its 56 most frequent ones, which take a quarter of the space.

    Only the soft edges of lines and letters change, and little. Pillow's own reductions tint the page or the grid.
    """
    pixels = np.asarray(image).astype(np.int32) @ [1 << 16, 1 << 8, 1]
    found, place, count = np.unique(pixels, return_inverse=True, return_counts=True)
    levels = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    ours = [ImageColor.getrgb(colour) for colour in COLORS]
    kept = np.concatenate([ours, levels[np.argsort(-count, kind="stable")[:56]]])
    nearest = cdist(levels, kept).argmin(axis=1).astype(np.uint8)
    reduced = Image.fromarray(nearest[place].reshape(pixels.shape))
    reduced.putpalette(kept.astype(np.uint8).tobytes())
    return reduced


@cache
def _glyphs() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont(FONT))
    return frozenset(font.get_charmap())
