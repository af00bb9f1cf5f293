"""Style and writing of all figures, and the embedded hash that identifies an outdated figure.

Figures have a white background and are designed for a width of about 850 pixels. The PNG contains the hash of the data
shown, but no date and no library version, so that equal figures are equal files.
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
from ...utils.paths import regular
from ...utils.text import plain, recipe_label
from ..schema import Record

KEY = "scores-sha256"  # key of the PNG text entry with the hash of the data
WIDTH = 8.5  # inches
INK, GRAY, PALE = "#1f2328", "#6e7781", "#e4e7eb"
FREQUENT_COLORS = 56  # number of colors in a PNG besides COLORS; enough for antialiased edges

# Colors of Okabe and Ito, distinguishable for color-blind readers, without the yellow, which is too pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Stroke = str | tuple[float, tuple[float, ...]]
STROKES: tuple[Stroke, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
FONT = "DejaVu Sans"  # included in matplotlib
TITLE_WIDTH = 95  # characters per line of a title
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


# Decorator of drawing functions, which makes them independent of the user's matplotlibrc.
styled = style.context(["default", STYLE])


def new_figure(height: float) -> Figure:
    """Create a white figure with the standard width and the given height in inches."""
    return Figure(figsize=(WIDTH, height), dpi=160, facecolor="white", layout="constrained")


def line_style(number: int) -> tuple[str, Stroke]:
    """Return color and stroke of a line by its number; the first 21 are distinct."""
    return COLORS[number % len(COLORS)], STROKES[number // len(COLORS) % len(STROKES)]


def fold(text: object, width: int) -> str:
    """Wrap text from a record into lines of at most `width` characters; glyphs missing in the font become "?"."""
    shown = "".join(char if ord(char) in _glyphs() else "?" for char in plain(text))
    return "\n".join(textwrap.wrap(shown, width)) or "?"


def figure_title(record: Record) -> str:
    """Return the title of a record's figure: method, recipe and seed, if it has them; dataset and test images."""
    counts = record.dataset.counts["test"]
    about = f"{record.dataset.title}: {counts.images:,} test images of {counts.patients:,} patients"
    if record.recipe is None:
        return f"{record.method.title}{'' if record.method.floor else ', external predictions'}\n{about}"
    return f"{record.method.title}, recipe {recipe_label(record.recipe.name)}, seed {record.seed}\n{about}"


def set_title(figure: Figure, title: str) -> None:
    """Set the title and wrap its lines."""
    figure.suptitle("\n".join(fold(line, TITLE_WIDTH) for line in title.split("\n")), fontsize=10)


def bare(axes: Axes) -> None:
    """Remove the frame, except for its lower edge."""
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def number(value: float | None) -> float | None:
    """Return the value as a Python float, or None if it is None or NaN."""
    return None if value is None or math.isnan(value) else float(value)


def sha256(shown: Iterable[object]) -> str:
    """Return the hash of the content of a figure: strings, numbers, and lists of them."""
    return json_sha256(list(shown))


def save(figure: Figure, path: Path, key: str) -> None:
    """Write the figure atomically as a PNG with a reduced palette and the key embedded."""
    image = _reduce_colors(render(figure))
    write_png(image, path, key)


def render(figure: Figure) -> Image.Image:
    """Draw the figure to an RGB image."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def write_png(image: Image.Image, path: Path, key: str | None) -> None:
    """Write an image atomically as a PNG, with the key embedded unless it is None."""
    text, buffer = PngInfo(), BytesIO()
    if key is not None:
        text.add_text(KEY, key)
    image.save(buffer, format="png", pnginfo=text, optimize=True)
    write_atomic(path, buffer.getvalue())


def drawn_from(path: Path) -> str | None:
    """Return the hash embedded in a figure; None if the file is missing or invalid, or contains no hash."""
    try:
        with Image.open(regular(path)) as image:
            key = image.info.get(KEY)
    except Exception:  # an invalid file makes Pillow raise exceptions of any kind
        return None
    return key if isinstance(key, str) else None


def _reduce_colors(image: Image.Image) -> Image.Image:
    """Reduce an RGB image to COLORS and its most frequent colors, which reduces the file to a quarter.

    Only antialiased edges of lines and letters change slightly. Pillow's quantization would tint the background or the
    grid.
    """
    pixels = np.asarray(image).astype(np.int32)
    codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    unique, place, count = np.unique(codes, return_inverse=True, return_counts=True)
    levels = np.stack([unique >> 16, unique >> 8 & 255, unique & 255], axis=1)
    fixed = [ImageColor.getrgb(color) for color in COLORS]
    palette = np.concatenate([fixed, levels[np.argsort(-count, kind="stable")[:FREQUENT_COLORS]]])
    nearest = cdist(levels, palette).argmin(axis=1).astype(np.uint8)
    reduced = Image.fromarray(nearest[place].reshape(codes.shape))
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced


@cache
def _glyphs() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont(FONT))
    return frozenset(font.get_charmap())
