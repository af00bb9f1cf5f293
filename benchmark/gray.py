"""Image files that Pillow reads, as gray bytes, row 0 at the top; what is no image, or too large, is refused."""

import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import DataError

if TYPE_CHECKING:
    from monai.data.image_reader import PILReader

MOST_PIXELS = 64_000_000  # of an image, by its header: a radiograph has up to 20 million
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "PPM", "WEBP")  # none of them is run as a program


def read_gray(path: str) -> np.ndarray:
    """Pixels of a file that Pillow reads: uint8 gray (H, W), row 0 at the top. Raises DataError if it does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pixels, _ = _gray_reader().get_data(_gray_reader().read(path))
        return np.asarray(pixels)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be read ({too_large()}): replace the file") from error
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise DataError(f"image {path} cannot be read ({error}): replace the file") from error


def size_of(path: str) -> tuple[int, int] | None:
    """Width and height by the file's header; None where it has none, which is told when the file is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return image.size
    except Exception:  # as above
        return None


def too_large() -> str:
    return f"it has more than {MOST_PIXELS // 10**6} million pixels"


@cache
def _gray_reader() -> "PILReader":
    """MONAI's Pillow reader, as gray, in the orientation Pillow shows: its default swaps the two image axes."""
    from monai.data.image_reader import PILReader

    return PILReader(reverse_indexing=False, converter=_to_gray, formats=FORMATS)


def _to_gray(image: Image.Image) -> Image.Image:
    """8-bit gray. Deeper images are refused: Pillow would clip them to white."""
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(too_large())
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"it has more than 8 bits a pixel (mode {image.mode}): scale it to 8")
        return image.convert("L")
