"""NIH ChestX-ray14 (Wang et al., CVPR 2017), read from the folder as it lies on disk after the download.

What the folder holds::

    images_001/images/*.png ... images_012/images/*.png   or all in images/: found by base name anywhere below
    Data_Entry_2017_v2020.csv or Data_Entry_2017.csv      findings, `|`-separated; the corrected v2020 is preferred
    train_val_list.txt, test_list.txt                     the official split, by patient
    BBox_List_2017.csv                                    boxes on 880 test images (optional)

There is no official validation list: it is drawn from the train_val patients, so that it depends on the list and the
seed, never on which images happen to be there.
"""

import hashlib
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import pandas as pd

from ..benchmark.dataset import (
    BOX_COLUMNS,
    FINDINGS,
    MOST_YEARS,
    SPLITS,
    TRAITS,
    DataError,
    Dataset,
    Index,
    Labels,
    Split,
    split_sha256,
)
from ..benchmark.errors import first_few
from ..benchmark.registry import DATASETS

LABEL_FILES = {"Data_Entry_2017_v2020.csv": "NIH v2020", "Data_Entry_2017.csv": "NIH v2017"}  # the first is preferred
# v2017 is missing: it circulates in several forms (ages are "58" or "058Y"), so that no one hash identifies it.
LABEL_VERSIONS = {"dc1d2df67fdc1c5a7601d48699cda2b13dc2c4841488b4183dcf04884dbaca11": "NIH v2020"}
# SHA-256 of the names joined by line feeds, without a final one: of the official lists, these are the released bytes.
LISTS = {
    "train_val_list.txt": "61fbe896321c1c1c8b75f3e4f3a08e4fef6486d95ef8a667c31d4d60dca6cb81",
    "test_list.txt": "38ca5ef7f756092946f57c1a59faca882ed589a1ab1f72590b45dc06c6d5e1cc",
}
OFFICIAL = "NIH official test"
# Computed from the released label file and list (evidence.truth_sha256).
TRUTHS = {
    ("NIH v2020", OFFICIAL): "a52ef9b96bdcc5c05135ce62acf01513df82995f1ab6d2f7a66c84eac04c2d0b",
}
BOX_FILE = "BBox_List_2017.csv"
# Boxes are given in pixels of the released images, whatever size the images on disk have now.
BOX_PIXELS = 1024
NEEDED = ("Image Index", "Finding Labels", "Patient ID")
# The columns of the traits, which some copies of the label file spell otherwise or lack.
SEX, AGE, VIEW = ("Patient Gender", "Patient Sex"), ("Patient Age",), ("View Position",)
A_YEAR = {"": 1, "Y": 1, "M": 12, "D": 365.25}  # ages are "58" or "058Y", and of infants "011M" or "013D"
SPELLINGS = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}


@DATASETS.register("chestxray14")
@dataclass(frozen=True)
class ChestXray14(Dataset):
    """112,120 frontal chest X-rays of 30,805 patients, with 14 findings mined from the reports.

    Options:
        allow_missing: use the listed images that are there instead of refusing a partial download.
        labels: the label file's name in the folder; empty: v2020 if it is there, else v2017.
        validation_share: share of the train_val patients held out for validation (10 of the 80 percent).
        split_seed: which patients those are.
    """

    title: ClassVar[str] = "NIH ChestX-ray14"
    caveat: ClassVar[str] = "the labels were mined from reports by software, and some of them are wrong"

    known_labels: ClassVar[Mapping[str, str]] = LABEL_VERSIONS
    known_tests: ClassVar[Mapping[str, str]] = {LISTS["test_list.txt"]: OFFICIAL}
    known_truths: ClassVar[Mapping[tuple[str, str], str]] = TRUTHS

    allow_missing: bool = False
    labels: str = ""
    validation_share: float = 0.125
    split_seed: int = 0

    def index(self, data_dir: Path | None) -> Index:
        """Read labels, lists and boxes, and find the images. Raises DataError with one sentence."""
        listed = self.listed(data_dir)
        images, absent = self._present(_folder(data_dir), listed.images)
        if not absent:
            return replace(listed, images=images)
        boxes = listed.boxes[_among(listed.boxes["image_id"], set(images["image_id"]))].reset_index(drop=True)
        name = f"{listed.split.name}, partial: {len(images):,} of {len(listed.images):,} images"
        return replace(listed, images=images, boxes=boxes, split=Split(name, split_sha256(images)), absent=absent)

    def listed(self, data_dir: Path | None) -> Index:
        """Every image of both lists, whether its file is there or not: no image is looked for, `path` is None."""
        root = _folder(data_dir)
        file = self._label_file(root)
        train_val, test, official = _read_lists(root)
        held_out = self.validation_patients(train_val)
        splits = ["val" if _patient(name) in held_out else "train" for name in train_val]
        images = pd.DataFrame({"image_id": [*train_val, *test]})
        images["patient_id"] = [_patient(name) for name in images["image_id"]]
        images["path"] = None
        images["split"] = splits + ["test"] * len(test)
        labels, columns = _read_labels(file)
        images = images.join(columns, on="image_id")
        unlabelled = images.loc[images[FINDINGS[0]].isna(), "image_id"].tolist()
        if unlabelled:
            raise DataError(
                f"{len(unlabelled):,} listed images are not in {file} ({first_few(unlabelled)}): "
                "use the lists and the label file of one release"
            )
        boxes = _read_boxes(root / BOX_FILE, set(images["image_id"]))
        lists = OFFICIAL if official else "own lists"
        name = f"{lists}, validation by patient (seed {self.split_seed}, {100 * self.validation_share:g} %)"
        return Index(images, boxes, FINDINGS, labels, Split(name, split_sha256(images)))

    def validation_patients(self, train_val: Sequence[str]) -> set[str]:
        """Patients held out of these image names: the first `validation_share` in the order of a seeded hash."""
        share, seed = self.validation_share, self.split_seed
        if not 0 < share < 1:
            raise DataError(f"validation_share is {share}: choose a share between 0 and 1, such as 0.125")
        patients = {_patient(name) for name in train_val}
        shuffled = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
        return set(shuffled[: max(1, round(len(shuffled) * share))])

    def _label_file(self, root: Path) -> Path:
        names = [self.labels] if self.labels else list(LABEL_FILES)
        for name in names:
            if (root / name).is_file():
                return root / name
        raise DataError(f"{root} has no label file {' or '.join(names)}: put the one of the NIH release there")

    def _present(self, root: Path, listed: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
        """The images whose files are there, with their `path`, and how many of each split are not."""
        found = _find_images(root, set(listed["image_id"]))
        if not found:
            raise DataError(
                f"{root} holds none of the {len(listed):,} listed images: "
                "unpack the NIH image archives there (images_001 to images_012)"
            )
        images = listed.copy()
        images["path"] = images["image_id"].map(found)
        missing = images["path"].isna()
        if missing.any() and not self.allow_missing:
            names = images.loc[missing, "image_id"].tolist()
            raise DataError(
                f"{len(names):,} of the {len(images):,} listed images are not under {root} ({first_few(names)}): "
                "download the rest, or use what is there with --set dataset.allow_missing=true"
            )
        absent = {split: int((missing & (images["split"] == split)).sum()) for split in SPLITS}
        return images[~missing].reset_index(drop=True), absent if missing.any() else {}


def _folder(data_dir: Path | None) -> Path:
    if data_dir is None:
        raise DataError("say where the NIH files lie: --data-dir FOLDER")
    if not data_dir.exists():
        raise DataError(f"data folder {data_dir} does not exist: say where the NIH files lie with --data-dir FOLDER")
    if not data_dir.is_dir():
        raise DataError(f"{data_dir} is a file: --data-dir takes the folder that holds the NIH files")
    return data_dir


def _patient(image_id: str) -> str:
    """The first 8 digits of the file name: the one place where the release never errs about the patient."""
    return image_id[:8]


def _read_lists(root: Path) -> tuple[list[str], list[str], bool]:
    """Image names of train_val and of test, and whether both are the official lists."""
    gone = [name for name in LISTS if not (root / name).is_file()]
    if gone:
        raise DataError(f"{root} has no {' and no '.join(gone)}: put the lists of the NIH release there")
    train_val, test = (_read_list(root / name) for name in LISTS)
    patients = ({_patient(name) for name in names} for names in (train_val, test))
    for what, shared in ("images", {*train_val} & {*test}), ("patients", set.intersection(*patients)):
        if shared:
            raise DataError(
                f"{len(shared):,} {what} are in both {' and '.join(LISTS)} of {root} ({first_few(sorted(shared))}): "
                "a patient's images must all be in one list"
            )
    # The names are hashed, not the bytes: a copy with other line ends is still the official split.
    hashes = [hashlib.sha256("\n".join(names).encode()).hexdigest() for names in (train_val, test)]
    return train_val, test, hashes == list(LISTS.values())


def _read_list(file: Path) -> list[str]:
    lines = [line.strip() for line in _text(file, _bytes(file)).splitlines()]
    strange = [f"row {row} ({name!r})" for row, name in enumerate(lines, 1) if name and not re.match("[0-9]{8}", name)]
    _refuse_rows(file, strange, "an image name does not begin with the 8 digits of a patient", "list base names only")
    names = [name for name in lines if name]
    if not names:
        raise DataError(f"{file} names no image: put the list of the NIH release there")
    return names


def _read_labels(file: Path) -> tuple[Labels, pd.DataFrame]:
    """The file's identity; by image name its traits, then its findings: float32 columns in the order of FINDINGS."""
    data = _bytes(file)
    table = _table(file, data, usecols={*NEEDED, *SEX, *AGE, *VIEW}.__contains__)
    absent = [column for column in NEEDED if column not in table]
    if absent:
        raise DataError(f"{file} is not the table of the NIH release (no column {absent[0]!r}): download it again")
    names, stated = table["Image Index"], table["Patient ID"]
    disagree = pd.to_numeric(stated, errors="coerce") != pd.to_numeric(names.map(_patient), errors="coerce")
    rows = [f"row {row + 2} ({names[row]}, patient {stated[row]!r})" for row in table.index[disagree]]
    _refuse_rows(file, rows, "the patient column disagrees with the file name", "download the file again")
    rows = [f"row {row + 2} ({names[row]})" for row in table.index[names.duplicated()]]
    _refuse_rows(file, rows, "the image already has a row", "keep one row an image")
    values = _parse_findings(file, table["Finding Labels"])
    digest = hashlib.sha256(data).hexdigest()
    columns = {**_read_traits(table), **dict(zip(FINDINGS, values.T, strict=True))}
    return Labels(file.name, digest, _version(file.name, digest)), pd.DataFrame(columns, pd.Index(names))


def _read_traits(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns of TRAITS that the label file has; what is unknown or makes no sense is missing (NaN)."""
    found = {}
    for trait, names, parse in zip(TRAITS, (SEX, AGE, VIEW), (_sex, _years, _view), strict=True):
        for column in [name for name in names if name in table][:1]:
            codes, texts = pd.factorize(table[column])  # few different texts
            found[trait] = np.array([parse(text.strip().upper()) for text in texts])[codes]
    return found


def _sex(text: str) -> str | None:
    return text if text in ("F", "M") else None


def _view(text: str) -> str | None:
    return text if text in ("PA", "AP") else None


def _years(text: str) -> float:
    """`58`, `058Y` and `006M` to years. The first release has patients of 155 years and more: unknown."""
    found = re.fullmatch(r"([0-9]{1,3})([YMD]?)", text)
    years = int(found[1]) / A_YEAR[found[2]] if found else math.nan
    return years if years <= MOST_YEARS else math.nan


def _parse_findings(file: Path, texts: pd.Series) -> np.ndarray:
    """`Effusion|Mass` to zeros and ones, float32 (N, 14). Raises DataError with the row of each unknown finding."""
    # The release has 112,120 rows but fewer than a thousand different texts.
    codes, distinct = pd.factorize(texts)
    parts = [[SPELLINGS.get(part, part) for part in text.split("|")] for text in distinct]
    parts = [[] if findings == ["No Finding"] else findings for findings in parts]
    unknown = [[part for part in findings if part not in FINDINGS] for findings in parts]
    rows = [f"row {texts.index[i] + 2} ({unknown[code][0]!r})" for i, code in enumerate(codes) if unknown[code]]
    _refuse_rows(file, rows, "unknown finding", f"use {', '.join(FINDINGS)}, joined by |, or No Finding alone")
    return np.array([[finding in findings for finding in FINDINGS] for findings in parts], np.float32)[codes]


def _version(name: str, digest: str) -> str:
    if digest in LABEL_VERSIONS:
        return LABEL_VERSIONS[digest]
    if name not in LABEL_FILES:
        return "unknown"
    version = LABEL_FILES[name]
    return f"{version} (modified)" if version in LABEL_VERSIONS.values() else f"{version} (unverified)"


def _read_boxes(file: Path, listed: set[str]) -> pd.DataFrame:
    """The box table of `Index.boxes`; empty if there is no box file. Raises DataError with the row of each bad box."""
    if not file.is_file():
        return pd.DataFrame(columns=list(BOX_COLUMNS))
    # The header names the four numbers "Bbox [x,y,w,h],,,": nine fields over rows of six.
    table = _table(file, _bytes(file), skiprows=1, header=None, usecols=range(len(BOX_COLUMNS)), names=BOX_COLUMNS)
    table["finding"] = table["finding"].replace(SPELLINGS)
    x, y, w, h = (pd.to_numeric(table[name], errors="coerce").to_numpy(float) for name in "xywh")
    corners = np.stack([x, y, x + w, y + h], axis=1)
    clipped = corners.clip(0, BOX_PIXELS)
    # Less than a pixel over the edge is rounding, more is a mistake.
    fits = (np.abs(corners - clipped) < 1).all(axis=1) & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    for what, bad in (
        ("the image is in neither list", ~_among(table["image_id"], listed)),
        ("unknown finding", ~table["finding"].isin(FINDINGS)),
        (f"the box is not inside the {BOX_PIXELS} x {BOX_PIXELS} image", ~fits),
    ):
        rows = [f"row {row + 2} ({table['image_id'][row]})" for row in table.index[bad]]
        _refuse_rows(file, rows, what, "correct it, or put the box file of the NIH release there")
    table[["x", "y"]] = clipped[:, :2] / BOX_PIXELS
    table[["w", "h"]] = (clipped[:, 2:] - clipped[:, :2]) / BOX_PIXELS
    return table


def _among(names: pd.Series, known: set[str]) -> np.ndarray:
    # For a few names among very many known ones; Series.isin would first convert all that are known.
    return np.array([name in known for name in names], bool)


def _find_images(root: Path, wanted: set[str]) -> dict[str, str]:
    """Base name to path of the wanted images anywhere under the folder. Raises DataError if two files contend."""
    places: dict[str, list[str]] = {}
    visited = set()
    # Links are followed, because large image folders often are links; one that leads back up must not loop.
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_refuse_folder):
        real = Path(folder).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in wanted.intersection(files):
            places.setdefault(name, []).append(f"{folder}{os.sep}{name}")
    twice = [sorted(paths) for _, paths in sorted(places.items()) if len(paths) > 1]
    differ = [" and ".join(paths) for paths in twice if len({Path(path).stat().st_size for path in paths}) > 1]
    if differ:
        raise DataError(f"{len(differ):,} images lie in two places and differ ({first_few(differ)}): keep one of each")
    return {name: min(paths) for name, paths in places.items()}


def _table(file: Path, data: bytes, **options: Any) -> pd.DataFrame:
    """A CSV file as text, without its blank lines; label i of the table's index is line i + 2 of the file."""
    options |= {"dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    try:
        # Without index_col=False, a trailing comma in the rows would turn the first column into the index.
        table = pd.read_csv(io.StringIO(_text(file, data)), index_col=False, **options).fillna("")
    except ValueError as error:
        raise DataError(
            f"{file} is not the table of the NIH release ({str(error).strip()}): download it again"
        ) from error
    return table[(table != "").any(axis=1)].copy()


def _text(file: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not a text file ({error.reason}): download it again") from error


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): check its permissions") from error


def _refuse_folder(error: OSError) -> NoReturn:
    raise DataError(f"folder {error.filename} cannot be read ({error.strerror}): check its permissions") from error


def _refuse_rows(file: Path, rows: Sequence[str], what: str, mend: str) -> None:
    if rows:
        raise DataError(f"{file}, {first_few(rows)}: {what}; {mend}")
