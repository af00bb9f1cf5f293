"""Read the text files of the NIH ChestX-ray14 release: the lists, the label file, the box file.

Each file is read completely or rejected with one sentence that names the file and, for bad rows, the first few.
Accepted variants: in all files other line endings, a byte order mark and blank lines after the header; in the label
file also additional columns and a different order of columns.
"""

import hashlib
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..benchmark.dataset import BOX_COLUMNS, FINDINGS, MAX_AGE, TRAITS, DataError, Labels
from ..benchmark.utils.errors import first_few
from ..benchmark.utils.text import count

LABEL_FILES = {"Data_Entry_2017_v2020.csv": "NIH v2020", "Data_Entry_2017.csv": "NIH v2017"}  # the first is preferred
# v2017 is not included: it circulates in several forms (ages are "58" or "058Y"), so that a hash cannot identify it.
LABEL_VERSIONS = {"dc1d2df67fdc1c5a7601d48699cda2b13dc2c4841488b4183dcf04884dbaca11": "NIH v2020"}
# SHA-256 of the image names joined by line feeds, without a final one: the bytes of the released lists.
LISTS = {
    "train_val_list.txt": "61fbe896321c1c1c8b75f3e4f3a08e4fef6486d95ef8a667c31d4d60dca6cb81",
    "test_list.txt": "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc",
}
OFFICIAL = "NIH official test"
# Computed from the released label file and list by `ground_truth_sha256` of evaluation/artifacts.py.
TRUTHS = {
    ("NIH v2020", OFFICIAL): "a52ef9b96bdcc5c05135ce62acf01513df82995f1ab6d2f7a66c84eac04c2d0b",
}
BOX_FILE = "BBox_List_2017.csv"
# Boxes are given in pixels of the released images, whatever size the images on disk have now.
BOX_PIXELS = 1024
NEEDED = ("Image Index", "Finding Labels", "Patient ID")
# The columns of the traits, which some copies of the label file name differently or lack.
SEX, AGE, VIEW = ("Patient Gender", "Patient Sex"), ("Patient Age",), ("View Position",)
UNITS_PER_YEAR = {"": 1, "Y": 1, "M": 12, "D": 365.25}  # ages are "58" or "058Y", and of infants "011M" or "013D"
MAX_BYTES = 256 * 2**20  # per text file; the largest in the release has 8 MiB
SPELLINGS = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}


def patient_of(image_id: str) -> str:
    """Return the patient, the first 8 digits of the file name; some label files state another, and are rejected."""
    return image_id[:8]


def read_lists(root: Path) -> tuple[list[str], list[str], bool]:
    """Read the image names of train_val and of test, and whether both are the official lists.

    Raises:
        DataError: a list is missing, has malformed or repeated names, or shares images or patients with the other.
    """
    missing = [name for name in LISTS if not (root / name).is_file()]
    if missing:
        raise DataError(f"{root} has no {' and no '.join(missing)}: put the lists of the NIH release there")
    train_val, test = (_read_list(root / name) for name in LISTS)
    patients = ({patient_of(name) for name in names} for names in (train_val, test))
    for kind, shared in ("image", {*train_val} & {*test}), ("patient", set.intersection(*patients)):
        if shared:
            raise DataError(
                f"{count(len(shared), kind)} in both {' and '.join(LISTS)} of {root} ({first_few(sorted(shared))}): "
                "a patient's images must all be in one list"
            )
    # The names are hashed, not the bytes: a copy with other line ends is still the official split.
    hashes = [hashlib.sha256("\n".join(names).encode()).hexdigest() for names in (train_val, test)]
    return train_val, test, hashes == list(LISTS.values())


def _read_list(file: Path) -> list[str]:
    # Not splitlines, which also splits at characters that a name may have.
    lines = [line.strip() for line in re.split("\r\n|\r|\n", _text(file, _bytes(file)))]
    malformed = [
        f"row {row} ({name!r})" for row, name in enumerate(lines, 1) if name and not re.match("[0-9]{8}", name)
    ]
    _reject_rows(file, malformed, "an image name does not begin with the 8 digits of a patient", "list base names only")
    rows = {row: name for row, name in enumerate(lines, 1) if name}
    if not rows:
        raise DataError(f"{file} lists no image: put the list of the NIH release there")
    duplicated = pd.Series(rows).duplicated()
    repeated = [f"row {row} ({rows[row]})" for row in duplicated.index[duplicated]]
    _reject_rows(file, repeated, "the image is already in the list", "list each image once")
    return list(rows.values())


def read_labels(file: Path) -> tuple[Labels, pd.DataFrame]:
    """Read the label file.

    Returns:
        Identity of the file, and a table by image name: traits, then float32 columns in the order of FINDINGS.

    Raises:
        DataError: the file is not the label table, or has inconsistent rows, which the message names.
    """
    data = _bytes(file)
    table = _table(file, data, usecols={*NEEDED, *SEX, *AGE, *VIEW}.__contains__)
    missing = [column for column in NEEDED if column not in table]
    if missing:
        raise DataError(
            f"{file} is not the table of the NIH release (no comma-separated column {missing[0]!r}): download it again"
        )
    names, stated = table["Image Index"], table["Patient ID"]
    disagree = pd.to_numeric(stated, errors="coerce") != pd.to_numeric(names.map(patient_of), errors="coerce")
    rows = [f"row {row + 2} ({names[row]}, patient {stated[row]!r})" for row in table.index[disagree]]
    _reject_rows(file, rows, "the patient column disagrees with the file name", "download the file again")
    rows = [f"row {row + 2} ({names[row]})" for row in table.index[names.duplicated()]]
    _reject_rows(file, rows, "the image already has a row", "keep one row per image")
    values = _parse_findings(file, table["Finding Labels"])
    digest = hashlib.sha256(data).hexdigest()
    columns = {**_read_traits(table), **dict(zip(FINDINGS, values.T, strict=True))}
    return Labels(file.name, digest, _version(file.name, digest)), pd.DataFrame(columns, pd.Index(names))


def _read_traits(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Read the columns of TRAITS in the label file; unknown and implausible values become None or NaN."""
    traits = {}
    for trait, names, parse in zip(TRAITS, (SEX, AGE, VIEW), (_sex, _years, _view), strict=True):
        for column in [name for name in names if name in table][:1]:
            codes, texts = pd.factorize(table[column])  # parse each distinct string once
            traits[trait] = np.array([parse(text.strip().upper()) for text in texts])[codes]
    return traits


def _sex(text: str) -> str | None:
    return text if text in ("F", "M") else None


def _view(text: str) -> str | None:
    return text if text in ("PA", "AP") else None


def _years(text: str) -> float:
    """Convert `58`, `058Y` or `006M` to years; NaN if it is not an age or is above `MAX_AGE`."""
    match = re.fullmatch(r"([0-9]{1,3})([YMD]?)", text)
    years = int(match[1]) / UNITS_PER_YEAR[match[2]] if match else math.nan
    return years if years <= MAX_AGE else math.nan


def _parse_findings(file: Path, texts: pd.Series) -> np.ndarray:
    """Convert `Effusion|Mass` to zeros and ones, float32 (N, 14). Raises DataError with rows of unknown findings."""
    # The release has 112,120 rows but fewer than a thousand distinct strings.
    codes, distinct = pd.factorize(texts)
    parts = [[SPELLINGS.get(part, part) for part in text.split("|")] for text in distinct]
    parts = [[] if findings == ["No Finding"] else findings for findings in parts]
    unknown = [[part for part in findings if part not in FINDINGS] for findings in parts]
    rows = [f"row {texts.index[i] + 2} ({unknown[code][0]!r})" for i, code in enumerate(codes) if unknown[code]]
    _reject_rows(file, rows, "unknown finding", f"use {', '.join(FINDINGS)}, joined by |, or only No Finding")
    values = np.array([[finding in findings for finding in FINDINGS] for findings in parts], np.float32)
    return values.reshape(-1, len(FINDINGS))[codes]


def _version(name: str, digest: str) -> str:
    """Identify a label file's version by its hash, else by its name (as modified or unverified), or as "unknown"."""
    if digest in LABEL_VERSIONS:
        return LABEL_VERSIONS[digest]
    if name not in LABEL_FILES:
        return "unknown"
    version = LABEL_FILES[name]
    return f"{version} (modified)" if version in LABEL_VERSIONS.values() else f"{version} (unverified)"


def read_boxes(file: Path, listed: set[str]) -> pd.DataFrame:
    """Read the boxes as a table in the form of `Index.boxes`, empty if there is no box file.

    Raises:
        DataError: the file is not the box table, or has invalid rows, which the message names.
    """
    if not file.is_file():
        return pd.DataFrame(columns=list(BOX_COLUMNS))
    data = _bytes(file)
    if not _text(file, data).strip():
        raise DataError(f"{file} is not the table of the NIH release (it is empty): download it again, or remove it")
    # The header names the four numbers "Bbox [x,y,w,h],,,": nine fields over rows of six.
    table = _table(file, data, skiprows=1, header=None, usecols=range(len(BOX_COLUMNS)), names=BOX_COLUMNS)
    table["finding"] = table["finding"].replace(SPELLINGS)
    x, y, w, h = (pd.to_numeric(table[name], errors="coerce").to_numpy(float) for name in "xywh")
    with np.errstate(invalid="ignore"):
        corners = np.stack([x, y, x + w, y + h], axis=1)
    clipped = corners.clip(0, BOX_PIXELS)
    # Less than a pixel beyond the edge is rounding, more is an error.
    is_inside = (np.abs(corners - clipped) < 1).all(axis=1) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    for problem, bad in (
        ("the image is in neither list", [name not in listed for name in table["image_id"]]),
        ("unknown finding", ~table["finding"].isin(FINDINGS)),
        (f"the box is not inside the {BOX_PIXELS} x {BOX_PIXELS} image", ~is_inside),
    ):
        rows = [f"row {row + 2} ({table['image_id'][row]})" for row in table.index[bad]]
        _reject_rows(file, rows, problem, "correct it, or put the box file of the NIH release there")
    table[["x", "y"]] = clipped[:, :2] / BOX_PIXELS
    table[["w", "h"]] = (clipped[:, 2:] - clipped[:, :2]) / BOX_PIXELS
    return table


def _table(file: Path, data: bytes, **options: Any) -> pd.DataFrame:
    """Parse a CSV file as text, without blank lines; label i of the table's index is line i + 2 of the file."""
    options |= {"dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    try:
        # Without index_col=False, a trailing comma in the rows would turn the first column into the index.
        table = pd.read_csv(io.StringIO(_text(file, data)), index_col=False, **options).fillna("")
    except ValueError as error:
        raise DataError(
            f"{file} is not the table of the NIH release ({str(error).strip()}): download it again"
        ) from error
    filled: pd.DataFrame = table[(table != "").any(axis=1)].copy()
    return filled


def _text(file: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not a text file ({error.reason}): download it again") from error


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    if len(data) > MAX_BYTES:
        raise DataError(f"{file} has more than {MAX_BYTES >> 20} MiB: put the file of the NIH release there")
    return data


def _reject_rows(file: Path, rows: Sequence[str], problem: str, fix: str) -> None:
    """Raise DataError if there are wrong rows."""
    if rows:
        raise DataError(f"{file}, {first_few(rows)}: {problem}; {fix}")
