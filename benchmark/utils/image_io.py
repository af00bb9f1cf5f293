"""Image files that Pillow reads, as gray bytes, row 0 at the top; what is no image, or too large, is refused."""

import math
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import DataError, first_few

if TYPE_CHECKING:
    from monai.data.image_reader import PILReader


MAX_PIXELS = 64_000_000  # of an image, by its header: a radiograph has up to 20 million
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


def image_size(path: str) -> tuple[int, int] | None:
    """Width and height by the file's header; None where it has none, which is told when the file is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return image.size
    except Exception:  # as above
        return None


def too_large() -> str:
    return f"it has more than {MAX_PIXELS // 10**6} million pixels"


@cache
def _gray_reader() -> "PILReader":
    """MONAI's Pillow reader, as gray, in the orientation Pillow shows: its default swaps the two image axes."""
    from monai.data.image_reader import PILReader

    return PILReader(reverse_indexing=False, converter=_to_gray, formats=FORMATS)


def _to_gray(image: Image.Image) -> Image.Image:
    """8-bit gray. Deeper images are refused: Pillow would clip them to white."""
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(too_large())
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"it has more than 8 bits a pixel (mode {image.mode}): scale it to 8")
        return image.convert("L")


if TYPE_CHECKING:
    from pydicom import Dataset


MAX_DICOM_BYTES = 512 * 2**20  # of a DICOM file
PICTURE_SUFFIXES, DICOM_SUFFIXES = (".png", ".jpg", ".jpeg"), (".dcm", ".dicom")


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The image files named, and those directly in the folders named, sorted. Raises DataError where there are none."""
    found, absent = [], []
    for path in paths:
        inside = sorted(file for file in path.iterdir() if _is_image(file)) if path.is_dir() else [path]
        if not inside or not path.exists():
            absent.append(path)
        found += inside
    if absent:
        known = ", ".join(PICTURE_SUFFIXES + DICOM_SUFFIXES)
        raise DataError(
            f"no image there: {first_few(absent)}; name files or folders that exist, with images that end in {known}, "
            "or image ids of the run's dataset"
        )
    return found


def read_image(path: Path) -> np.ndarray:
    """Pixels of one file, uint8 (H, W). Raises DataError if it cannot be decoded."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return _read_dicom(path)
    return read_gray(str(path))


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES + DICOM_SUFFIXES


def _read_dicom(path: Path) -> np.ndarray:
    """The stored window where there is one; else 8 bits as they are, more from the lowest to the highest value."""
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut

    try:
        _check_size(path)
        data = dcmread(path)
        kind = data.PhotometricInterpretation
        values = np.asarray(apply_modality_lut(data.pixel_array, data), np.float64)
        low, high = _window(data, values)
        if not np.isfinite([low, high]).all():
            raise ValueError("its window is no number")
    except Exception as error:  # pydicom's own, and those of the decoders that it calls
        raise DataError(f"image {path} cannot be read ({error}): convert it to PNG, or replace it") from error
    if values.ndim != 2 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"image {path} is {kind} {values.shape}, not one gray image: give a single radiograph")
    scaled = ((values - low) / max(high - low, 1e-9)).clip(0, 1)
    return np.round(255 * (1 - scaled if kind == "MONOCHROME1" else scaled)).astype(np.uint8)


def _check_size(path: Path) -> None:
    """By the header, before any pixel is read or anything is inflated. Raises ValueError."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if path.stat().st_size > MAX_DICOM_BYTES:
        raise ValueError(f"it has more than {MAX_DICOM_BYTES >> 20} MiB")
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ValueError("it is deflated as a whole")
    data = dcmread(path, stop_before_pixels=True)
    sides = (data.Rows, data.Columns, data.get("NumberOfFrames") or 1, data.get("SamplesPerPixel") or 1)
    if math.prod(map(int, sides)) > MAX_PIXELS:
        raise ValueError(too_large())


def _window(data: "Dataset", values: np.ndarray) -> tuple[float, float]:
    """The values that become black and white."""
    if "WindowCenter" in data and "WindowWidth" in data:
        centre, width = (np.atleast_1d(data[tag].value)[0] for tag in ("WindowCenter", "WindowWidth"))
        return float(centre) - float(width) / 2, float(centre) + float(width) / 2
    return (0.0, 255.0) if data.BitsStored == 8 else (values.min(), values.max())
