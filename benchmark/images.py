"""Image files from outside as the datasets' images are: gray bytes, row 0 at the top. PNG, JPEG and DICOM."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .dataset import DataError, read_gray
from .errors import first_few

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
        raise DataError(f"{len(absent)} of the paths named hold no image: {first_few(absent)} (images end in {known})")
    return found


def read_image(path: Path) -> np.ndarray:
    """Pixels of one file, uint8 (H, W). Raises DataError if it cannot be decoded."""
    if path.suffix.lower() in DICOM:
        return _read_dicom(path)
    return read_gray(str(path))


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in PICTURES + DICOM


def _read_dicom(path: Path) -> np.ndarray:
    """The stored window where there is one, else from the lowest to the highest value; bright is dense."""
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    try:
        data = dcmread(path)
        values = np.asarray(apply_voi_lut(apply_modality_lut(data.pixel_array, data), data), np.float64)
        inverted = data.get("PhotometricInterpretation") == "MONOCHROME1"
    except Exception as error:  # pydicom's own, and those of the decoders that it calls
        raise DataError(f"image {path} cannot be read ({error}): convert it to PNG, or replace it") from error
    if values.ndim != 2:
        raise DataError(f"image {path} is not one gray image but an array {values.shape}: give a single radiograph")
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.round(255 * (1 - scaled if inverted else scaled)).astype(np.uint8)
