"""Read image files (Pillow's formats and DICOM) as 8-bit grayscale; other or too large files are rejected."""

import math
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import DataError, first_few

if TYPE_CHECKING:  # both packages take a moment to import, and most commands read no image
    from monai.data.image_reader import PILReader
    from pydicom import Dataset

MAX_PIXELS = 64_000_000  # per image, by its header; radiographs have up to 20 million
MAX_DICOM_BYTES = 512 * 2**20  # per DICOM file
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "PPM", "WEBP")  # all that run no external program
PICTURE_SUFFIXES, DICOM_SUFFIXES = (".png", ".jpg", ".jpeg"), (".dcm", ".dicom")
TOO_LARGE = f"it has more than {MAX_PIXELS // 10**6} million pixels"


def find_images(paths: Iterable[Path]) -> list[Path]:
    """List the given files, and the image files directly in the given folders, sorted within each folder.

    Raises:
        DataError: a path does not exist, or a folder has no image.
    """
    images, missing = [], []
    for path in paths:
        files = sorted(file for file in path.iterdir() if _is_image(file)) if path.is_dir() else [path]
        if not files or not path.exists():
            missing.append(path)
        images += files
    if missing:
        suffixes = ", ".join(PICTURE_SUFFIXES + DICOM_SUFFIXES)
        raise DataError(
            f"no image found: {first_few(missing)}; pass existing files, folders with images that end in {suffixes}, "
            "or image ids of the run's dataset"
        )
    return images


def read_image(path: Path) -> np.ndarray:
    """Read a picture or DICOM file: uint8 gray (H, W), row 0 at the top. Raises DataError if it cannot be decoded."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return _read_dicom(path)
    return read_gray(str(path))


def read_gray(path: str) -> np.ndarray:
    """Read a file with Pillow: uint8 gray (H, W), row 0 at the top. Raises DataError if it cannot be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pixels, _ = _gray_reader().get_data(_gray_reader().read(path))
        return np.asarray(pixels)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"image {path} cannot be read ({TOO_LARGE}): replace the file") from error
    except Exception as error:  # Pillow's decoders raise exceptions of many kinds
        raise DataError(f"image {path} cannot be read ({error}): replace the file") from error


def image_size(path: str) -> tuple[int, int] | None:
    """Read width and height from a file's header; None if the header cannot be read, which decoding will report."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return image.size
    except Exception:  # as above
        return None


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES + DICOM_SUFFIXES


# Pillow --------------------------------------------------------------------------------------------------------------


@cache
def _gray_reader() -> "PILReader":
    """Build MONAI's Pillow reader for grayscale, in Pillow's orientation: its default swaps the two image axes."""
    from monai.data.image_reader import PILReader

    return PILReader(reverse_indexing=False, converter=_to_gray, formats=FORMATS)


def _to_gray(image: Image.Image) -> Image.Image:
    """Convert to 8-bit gray. Raises ValueError for deeper images, which Pillow would clip to white."""
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(TOO_LARGE)
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"it has more than 8 bits per pixel (mode {image.mode}): scale it to 8")
        return image.convert("L")


# DICOM ---------------------------------------------------------------------------------------------------------------


def _read_dicom(path: Path) -> np.ndarray:
    """Read one DICOM image, scaled to 8 bits by `_window` and inverted if it is MONOCHROME1 (low values are white)."""
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut

    try:
        _check_size(path)
        data = dcmread(path)
        kind = data.PhotometricInterpretation
        values = np.asarray(apply_modality_lut(data.pixel_array, data), np.float64)
        low, high = _window(data, values)
        if not np.isfinite([low, high]).all():
            raise ValueError("its window is not finite")
    except Exception as error:  # pydicom also raises the exceptions of its decoders
        raise DataError(f"image {path} cannot be read ({error}): convert it to PNG, or replace it") from error
    if values.ndim != 2 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"image {path} is {kind} {values.shape}, not one gray image: pass a single radiograph")
    scaled = ((values - low) / max(high - low, 1e-9)).clip(0, 1)
    return np.round(255 * (1 - scaled if kind == "MONOCHROME1" else scaled)).astype(np.uint8)


def _check_size(path: Path) -> None:
    """Check the size that the header claims, before any pixel is read or inflated.

    Raises:
        ValueError: the image is too large, or its size is unknown.
    """
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if path.stat().st_size > MAX_DICOM_BYTES:
        raise ValueError(f"it has more than {MAX_DICOM_BYTES >> 20} MiB")
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ValueError("all of it is deflated, so that its size is unknown")
    data = dcmread(path, stop_before_pixels=True)
    sides = (data.Rows, data.Columns, data.get("NumberOfFrames") or 1, data.get("SamplesPerPixel") or 1)
    if math.prod(map(int, sides)) > MAX_PIXELS:
        raise ValueError(TOO_LARGE)


def _window(data: "Dataset", values: np.ndarray) -> tuple[float, float]:
    """Choose the values that become black and white: the stored window, else 0..255 of 8 bits, else the extremes."""
    if "WindowCenter" in data and "WindowWidth" in data:
        center, width = (np.atleast_1d(data[tag].value)[0] for tag in ("WindowCenter", "WindowWidth"))
        return float(center) - float(width) / 2, float(center) + float(width) / 2
    return (0.0, 255.0) if data.BitsStored == 8 else (float(values.min()), float(values.max()))
