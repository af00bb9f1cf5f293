"""Read image files (Pillow's formats and DICOM) as 8-bit grayscale, as their headers say to show them."""

import math
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageOps, UnidentifiedImageError

from .errors import DataError

if TYPE_CHECKING:  # both packages take a moment to import, and most commands read no image
    from monai.data.image_reader import PILReader
    from pydicom import Dataset

MAX_PIXELS = 64_000_000  # per image, by its header; radiographs have up to 20 million
MAX_DICOM_BYTES = 512 * 2**20  # per DICOM file
FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "PPM", "WEBP")  # all that run no external program
PICTURE_SUFFIXES, DICOM_SUFFIXES = (".png", ".jpg", ".jpeg"), (".dcm", ".dicom")
TOO_LARGE = f"it has more than {MAX_PIXELS // 10**6} million pixels"
SAMPLE_FORMAT = 339  # TIFF's tag: 2 for signed values, which Pillow reads as if they were not
SCREEN_GAMMA, NEUTRAL_GAMMA = 2.2, 0.02  # gray values of 1/2.2, and of nearly that, are shown as they are
SHUTTERS = {  # by shape, the elements that say where it is
    "RECTANGULAR": (
        *("ShutterLeftVerticalEdge", "ShutterRightVerticalEdge"),
        *("ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge"),
    ),
    "CIRCULAR": ("CenterOfCircularShutter", "RadiusOfCircularShutter"),
    "POLYGONAL": ("VerticesOfThePolygonalShutter",),
}
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
NESTED = ("WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleSlope", "RescaleIntercept")  # in these groups
# Elements without which the pixels of a DICOM file have no meaning.
NEEDED = ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "BitsStored")


def read_image(path: Path) -> np.ndarray:
    """Read a picture or DICOM file: uint8 gray (H, W), row 0 at the top, padding and what is transparent black.

    Raises:
        DataError: the file cannot be read, or is not one gray image of known depth.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError(
                "it is not a file" if path.exists() else "there is no such file, or its link leads nowhere"
            )
        with warnings.catch_warnings():  # Pillow and pydicom warn of elements that are not used here
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _read_dicom(path) if _is_dicom(path) else _read_picture(path)
    except Exception as error:  # decoders raise exceptions of many kinds
        problem = f"image {path} cannot be read ({_reason(error)})"
        raise DataError(f"{problem}: convert it to an 8-bit PNG, or replace it") from error


def image_size(path: str) -> tuple[int, int] | None:
    """Read width and height from a file's header; None if the header cannot be read, which decoding will report."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return image.size
    except Exception:  # as above
        return None


def _reason(error: Exception) -> str:
    """Explain an error in words: those of the decoder, but not the interpreter's on content that it cannot handle."""
    from pydicom.errors import InvalidDicomError

    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return TOO_LARGE
    if isinstance(error, UnidentifiedImageError):
        return "Pillow cannot identify its format"
    if isinstance(error, InvalidDicomError):
        return "it is not a DICOM file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # Pillow's and pydicom's own sentences; SyntaxError is Pillow's for a broken file.
    return str(error) if isinstance(error, ValueError | OSError | RuntimeError | SyntaxError) else "it is damaged"


# Pillow --------------------------------------------------------------------------------------------------------------


def _read_picture(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        # From a path, Pillow maps uncompressed TIFF files into memory, and then confuses the sides of a turned one.
        pixels, _ = _gray_reader().get_data(_gray_reader().read([file]))
    return np.asarray(pixels)


@cache
def _gray_reader() -> "PILReader":
    """Build MONAI's Pillow reader for grayscale, in Pillow's orientation: its default swaps the two image axes."""
    from monai.data.image_reader import PILReader

    return PILReader(reverse_indexing=False, converter=_to_gray, formats=FORMATS)


def _to_gray(image: Image.Image) -> Image.Image:
    """Convert to 8-bit gray, turned as EXIF or TIFF says, and composed with black.

    Raises:
        ValueError: the image is too large, deeper than 8 bits (Pillow would clip or cut it), or has several frames.
    """
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(TOO_LARGE)
        if image.mode.startswith(("I", "F")) or ";16" in _raw_mode(image):
            raise ValueError(f"it has more than 8 bits per pixel (mode {image.mode}): scale it to 8")
        if 2 in np.atleast_1d(getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, 1)):
            raise ValueError("its values are signed: add 128")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # the other frames of an MPO are previews of the first
            raise ValueError(f"it has {frames} frames: pass a single radiograph")
        image.load()  # turns a TIFF
        upright = ImageOps.exif_transpose(image)
        gray = upright.convert("L")
        if "transparency" in upright.info or upright.mode[-1] in "Aa":
            gray = ImageChops.multiply(gray, upright.convert("RGBA").getchannel("A"))
        return _for_display(gray, image.info)


def _for_display(gray: Image.Image, info: Mapping[Any, Any]) -> Image.Image:
    """Convert gray values of another gamma (PNG's gAMA) to those of a screen, as viewers do (PNG 3rd ed., 13.13)."""
    gamma = info.get("gamma")
    if not gamma or "srgb" in info or abs(gamma * SCREEN_GAMMA - 1) < NEUTRAL_GAMMA:
        return gray
    return gray.point([round(255 * (value / 255) ** (1 / (gamma * SCREEN_GAMMA))) for value in range(256)])


def _raw_mode(image: Image.Image) -> str:
    """Return how Pillow reads the file's pixels: `RGB;16B` are 16 bits per color, of which it keeps 8."""
    tiles = getattr(image, "tile", None)
    arguments: Any = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


# DICOM ---------------------------------------------------------------------------------------------------------------


def _is_dicom(path: Path) -> bool:
    """Return whether the content is DICOM, or neither DICOM nor a picture's in a file that is called DICOM."""
    with path.open("rb") as file:
        head = file.read(132)
    is_picture = head.startswith((b"\x89PNG", b"\xff\xd8\xff"))
    return head[128:] == b"DICM" or (path.suffix.lower() in DICOM_SUFFIXES and not is_picture)


def _read_dicom(path: Path) -> np.ndarray:
    """Read one DICOM image: modality and VOI transformation, then polarity; padding is black whatever it is."""
    from pydicom import dcmread

    _check_size(path)
    data = dcmread(path)
    _lift_functional_groups(data)
    stored = _stored_values(data)
    is_padding = _padding(data, stored) | _shuttered(data, stored.shape)
    shown = _displayed(data, stored, ~is_padding).clip(0, 1)
    if data.PhotometricInterpretation == "MONOCHROME1" or data.get("PresentationLUTShape") == "INVERSE":
        shown = 1 - shown
    shown[is_padding] = 0
    return np.round(255 * shown).astype(np.uint8)


def _check_size(path: Path) -> None:
    """Check the size that the header claims, before any pixel is read or inflated.

    Raises:
        ValueError: an element that gives the pixels their meaning is missing, empty or 0, the image is too large or of
            unknown size, or it is not one gray image.
    """
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if path.stat().st_size > MAX_DICOM_BYTES:
        raise ValueError(f"it has more than {MAX_DICOM_BYTES >> 20} MiB")
    syntax = read_file_meta_info(path).get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        raise ValueError("all of it is deflated, so that its size is unknown")
    data = dcmread(path, stop_before_pixels=True)
    missing = [name for name in NEEDED if not data.get(name)]
    if missing or not syntax or data.get("PixelRepresentation") is None:
        raise ValueError(f"its header has no {[*missing, 'PixelRepresentation' if syntax else 'TransferSyntaxUID'][0]}")
    frames = int(data.get("NumberOfFrames") or 1)
    if math.prod((data.Rows, data.Columns, frames, data.SamplesPerPixel)) > MAX_PIXELS:
        raise ValueError(TOO_LARGE)
    if data.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2") or frames > 1:
        raise ValueError(f"it is {data.PhotometricInterpretation} of {frames} frames: pass a single gray radiograph")


def _lift_functional_groups(data: "Dataset") -> None:
    """Copy the elements that enhanced files nest in functional groups to the top, where all others have them."""
    groups = [item for name in GROUPS for item in (data.get(name) or [])[:1]]
    for item in (nested for group in groups for sequence in group if sequence.VR == "SQ" for nested in sequence.value):
        for name in NESTED:
            if name in item and name not in data:
                setattr(data, name, item.get(name))


def _stored_values(data: "Dataset") -> np.ndarray:
    """Decode the pixels, integers (H, W), without the bits beyond those stored, in which old files keep overlays.

    Raises:
        ValueError: no installed package can decode them, or values need more bits than the header says.
    """
    from pydicom.pixels import get_decoder

    syntax = data.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        decoder = get_decoder(syntax)
        if not decoder.is_available:
            plugin = next(text for text in decoder.missing_dependencies if text.startswith("pylibjpeg"))
            packages = " ".join(re.findall(r"[\w-]+(?=>=)", plugin))
            raise ValueError(f"it is compressed by {syntax.name}, which needs a decoder: pip install {packages}")
    unused = 0 if syntax.is_encapsulated else max((data.get("HighBit") or 0) + 1 - data.BitsStored, 0)
    data.BitsStored += unused  # pydicom assumes that the stored bits are the lowest
    values: np.ndarray = data.pixel_array >> unused
    data.BitsStored -= unused
    if not syntax.is_encapsulated:
        _check_bits(data, values)
    return values


def _check_bits(data: "Dataset", values: np.ndarray) -> None:
    """Check that the bits above those stored hold no part of the values (H, W).

    Raises:
        ValueError: they differ from pixel to pixel, and the header declares no overlay in them.
    """
    shift = (data.get("HighBit") or data.BitsStored - 1) + 1
    if shift >= data.BitsAllocated or any(element.tag.group >> 8 == 0x60 for element in data):
        return
    kind = (">" if not data.file_meta.TransferSyntaxUID.is_little_endian else "<") + f"u{data.BitsAllocated // 8}"
    above = np.frombuffer(data.PixelData, kind)[: values.size].reshape(values.shape) >> shift
    ones = 2 ** (data.BitsAllocated - shift) - 1
    if data.PixelRepresentation and np.array_equal(above, np.where(values < 0, ones, 0)):
        return  # the sign, repeated
    if above.min() != above.max():
        raise ValueError(f"it has values of more than the {data.BitsStored} bits that its header says are stored")


def _padding(data: "Dataset", stored: np.ndarray) -> np.ndarray:
    """Return where the stored values (H, W) are padding: the padding value, or those from it to the range's limit."""
    ends = _numbers(data, "PixelPaddingValue")[:1]
    if not ends:
        return np.zeros(stored.shape, bool)
    ends += _numbers(data, "PixelPaddingRangeLimit")[:1]
    # A value written with the wrong sign has the same bits.
    low, *_, high = sorted(np.array(ends * 2, np.int64).astype(stored.dtype))
    return np.asarray((stored >= low) & (stored <= high))


def _shuttered(data: "Dataset", shape: tuple[int, ...]) -> np.ndarray:
    """Return which pixels (H, W) the display shutters cover (DICOM PS3.3, C.7.6.11); edges are visible.

    Raises:
        ValueError: a shutter of unknown shape, or without its position.
    """
    hidden, (rows, columns) = np.zeros(shape, bool), np.indices(shape) + 1
    for kind in np.atleast_1d(data.get("ShutterShape") or []):
        if kind not in SHUTTERS:
            raise ValueError(f"it has a display shutter of unknown shape {kind}")
        values = [_numbers(data, name) for name in SHUTTERS[kind]]
        if not all(values) or (kind == "CIRCULAR" and len(values[0]) < 2):
            raise ValueError(f"its {kind.lower()} display shutter has no position")
        if kind == "RECTANGULAR":
            (left, *_), (right, *_), (upper, *_), (lower, *_) = values
            hidden |= (columns < left) | (columns > right) | (rows < upper) | (rows > lower)
        elif kind == "CIRCULAR":
            (row, column, *_), (radius, *_) = values
            hidden |= np.hypot(rows - row, columns - column) > radius
        else:
            polygon = Image.new("1", (shape[1], shape[0]))
            corners = np.array(values[0][: len(values[0]) // 2 * 2]).reshape(-1, 2)[:, ::-1] - 1
            ImageDraw.Draw(polygon).polygon([(float(x), float(y)) for x, y in corners], fill=1)
            hidden |= ~np.asarray(polygon)
    return hidden


def _displayed(data: "Dataset", stored: np.ndarray, is_image: np.ndarray) -> np.ndarray:
    """Apply the modality and VOI transformations; 0 is black and 1 is white, before the polarity.

    Without a VOI transformation, all values of 8 bits are shown from black to white, else those that occur in the
    image.
    """
    values = _rescale(data, stored)
    table = _first_table(data, "VOILUTSequence")
    if table is not None:
        levels, depth = _look_up(table, values, _first_entry(table, values))
        return np.asarray(levels / max(2**depth - 1, 1))
    window = _window(data)
    if window is not None:
        from pydicom.pixels import apply_windowing

        return np.asarray(apply_windowing(values, window)) / 255
    if data.BitsStored == 8:
        lowest = -128 if data.PixelRepresentation else 0
        ends = _rescale(data, np.array([lowest, lowest + 255]))
    else:
        ends = values[is_image] if is_image.any() else np.zeros(1)
    return np.asarray((values - ends.min()) / max(ends.max() - ends.min(), 1e-9))


def _rescale(data: "Dataset", stored: np.ndarray) -> np.ndarray:
    """Apply the modality table, or slope and intercept; a slope that is missing, empty or 0 changes nothing."""
    table = _first_table(data, "ModalityLUTSequence")
    if table is not None:
        return _look_up(table, stored)[0]
    slope, intercept = (next(iter(_numbers(data, name)), 0) for name in ("RescaleSlope", "RescaleIntercept"))
    return stored.astype(np.float64) * (slope or 1) + intercept


def _window(data: "Dataset") -> "Dataset | None":
    """Return the first window as a header for pydicom, which then maps to 0..255; None if none has a width."""
    from pydicom import Dataset

    centers, widths = (_numbers(data, name, keep_empty=True) for name in ("WindowCenter", "WindowWidth"))
    pairs = ((center, width) for center, width in zip(centers, widths, strict=False) if not math.isnan(center))
    center, width = next(((center, width) for center, width in pairs if width > 0), (0, 0))
    if not width:
        return None
    window = Dataset()
    window.WindowCenter, window.WindowWidth = center, width
    window.VOILUTFunction = data.get("VOILUTFunction") or "LINEAR"
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
    return window


def _first_table(data: "Dataset", keyword: str) -> "Dataset | None":
    """Return the first item of a sequence of lookup tables; None if there is none, or it is empty."""
    items = data.get(keyword) or [{}]
    return items[0] if items[0].get("LUTDescriptor") and items[0].get("LUTData") is not None else None


def _first_entry(table: "Dataset", values: np.ndarray) -> int:
    """Return the value of a VOI table's first entry; one that no value reaches is a negative number read unsigned.

    Without explicit types, pydicom takes it to be as signed as the stored pixels, before a negative intercept.
    """
    first = int(table.LUTDescriptor[1])
    return first - 2**16 if first >= 2**15 and values.max() < first else first


def _look_up(table: "Dataset", values: np.ndarray, first: int | None = None) -> tuple[np.ndarray, int]:
    """Look values up in a table, as float64, and return how many bits its entries have.

    `first` replaces the value of the first entry that the table gives.

    pydicom's functions fail for entries of 12 bits, and wrap values around that do not fit into those of 8 bits.
    """
    entries, given, depth = (int(value) for value in table.LUTDescriptor)
    content = table.LUTData
    if isinstance(content, bytes):
        content = np.frombuffer(content, "<u2" if len(content) >= 2 * (entries or 2**16) else np.uint8)
    levels = np.atleast_1d(np.asarray(content, np.float64))[: entries or 2**16]
    return levels[
        np.clip(np.round(values) - (given if first is None else first), 0, len(levels) - 1).astype(np.int64)
    ], depth


def _numbers(data: "Dataset", keyword: str, keep_empty: bool = False) -> list[float]:
    """Return the numbers of an element, without its empty values or with NaN for each; none if it is missing.

    Raises:
        ValueError: a value is not a finite number.
    """
    values = np.atleast_1d(np.asarray(data.get(keyword), object))
    try:
        numbers = [math.nan if value in (None, "") else float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ValueError(f"its {keyword} is not a number") from error
    if not all(math.isfinite(number) for number, value in zip(numbers, values, strict=True) if value not in (None, "")):
        raise ValueError(f"its {keyword} is not finite")
    return numbers if keep_empty else [number for number in numbers if not math.isnan(number)]
