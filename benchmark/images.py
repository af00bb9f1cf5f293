"""Image files from outside as the datasets' images are: gray bytes, row 0 at the top. PNG, JPEG and DICOM."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import DataError, first_few
from .gray import MOST_PIXELS, read_gray, too_large

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_BYTES = 512 * 2**20  # of a DICOM file
PICTURES, DICOM = (".png", ".jpg", ".jpeg"), (".dcm", ".dicom")


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The image files named, and those directly in the folders named, sorted. Raises DataError where there are none."""
    found, absent = [], []
    for path in paths:
        inside = sorted(file for file in path.iterdir() if _is_image(file)) if path.is_dir() else [path]
        if not inside or not path.exists():
            absent.append(path)
        found += inside
    if absent:
        known = ", ".join(PICTURES + DICOM)
        raise DataError(
            f"no image there: {first_few(absent)}; name files or folders that exist, with images that end in {known}, "
            "or image ids of the run's dataset"
        )
    return found


def read_image(path: Path) -> np.ndarray:
    """Pixels of one file, uint8 (H, W). Raises DataError if it cannot be decoded."""
    if path.suffix.lower() in DICOM:
        return _read_dicom(path)
    return read_gray(str(path))


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in PICTURES + DICOM


def _read_dicom(path: Path) -> np.ndarray:
    """The stored window where there is one; else 8 bits as they are, more from the lowest to the highest value."""
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut

    try:
        _refuse_large(path)
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


def _refuse_large(path: Path) -> None:
    """By the header, before any pixel is read or anything is inflated. Raises ValueError."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise ValueError("it is deflated as a whole")
    data = dcmread(path, stop_before_pixels=True)
    sides = (data.Rows, data.Columns, data.get("NumberOfFrames") or 1, data.get("SamplesPerPixel") or 1)
    if math.prod(map(int, sides)) > MOST_PIXELS:
        raise ValueError(too_large())


def _window(data: "Dataset", values: np.ndarray) -> tuple[float, float]:
    """The values that become black and white."""
    if "WindowCenter" in data and "WindowWidth" in data:
        centre, width = (np.atleast_1d(data[tag].value)[0] for tag in ("WindowCenter", "WindowWidth"))
        return float(centre) - float(width) / 2, float(centre) + float(width) / 2
    return (0.0, 255.0) if data.BitsStored == 8 else (values.min(), values.max())
