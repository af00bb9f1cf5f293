"""The contract of a dataset plugin: an index of images, and a way to read one of them.

A dataset is a frozen dataclass; its fields are the options a user sets with `--set dataset.KEY=VALUE`::

    @DATASETS.register("mine")
    @dataclass(frozen=True)
    class Mine(Dataset):
        title: ClassVar[str] = "My hospital"
        def index(self, data_dir): ...

The harness never changes an index; it decodes each image once (pixels.py) and reads labels from the table.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd

from .utils.errors import DataError, first_few
from .utils.image_io import read_gray

# The order of the literature (protocol of Wang et al. 2017); every table and every tensor of a 14-finding set uses it.
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
SPLITS = ("train", "val", "test")
TRAITS = ("sex", "age", "view")  # what an index may tell of the patient and the image, beside the labels
BOX_COLUMNS = ("image_id", "finding", "x", "y", "w", "h")
MAX_AGE = 120  # of age; more is a mistake in the source
BOX_SLACK = 1e-6  # of rounding, beyond the image's edge


class Labels(NamedTuple):
    """Which labels these are: the file's name, the SHA-256 of its bytes (of the table, if drawn), and its version."""

    file: str
    sha256: str
    version: str


class Split(NamedTuple):
    """Which images are in which split: a name for people, and `split_sha256` of the table."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Index:
    """What a dataset holds.

    Attributes:
        images: one row an image: `image_id` (unique), `patient_id`, `path` (None where nothing lies on disk), `split`
            (train, val or test), then one float column a finding: 1, 0 or NaN for unknown. Where the dataset knows
            them also the TRAITS: `sex` ("F" or "M") and `age` (years, float) of the patient, `view` ("PA" or "AP") of
            the image, each missing (NaN or None) where it is unknown.
        boxes: one row a box: `image_id`, `finding`, and `x, y, w, h` as fractions of the image's width and height,
            (x, y) the upper left corner. May be empty.
        findings: the finding columns, in the order of every score matrix.
        labels, split: the identity of the labels and of the split; part of every result.
        absent: per split, how many listed images are not there and are left out (only where the user allowed it).
        skipped: the images that cannot be read and are left out (readable.py; no plugin fills it).
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    findings: tuple[str, ...]
    labels: Labels
    split: Split
    absent: dict[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    def rows(self, split: str) -> np.ndarray:
        """Row numbers (int64) of one split, in the table's order."""
        return np.flatnonzero((self.images["split"] == split).to_numpy())

    def targets(self) -> np.ndarray:
        """Labels of all images, float32 (N, C), values 0, 1 or NaN."""
        return self.images[list(self.findings)].to_numpy(np.float32, copy=True)


@dataclass(frozen=True)
class Dataset:
    """Base class of a dataset plugin.

    Attributes:
        title: a name for people.
        caveat: what a result on it does not show, as the end of a sentence; stands under its boards.
        default_recipe: the recipe a run takes where the user names none.
        needs_folder: whether the user must say where the data lies (`--data-dir`).
        known_labels: SHA-256 of a label file to the version that it is.
        known_tests: `evidence.test_sha256` of a list of test images to the name of the list.
        known_truths: by version of the labels and name of the list, `evidence.truth_sha256` of the test images: so that
            a record's labels can be checked where the label file is not at hand.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    caveat: ClassVar[str] = ""
    default_recipe: ClassVar[str] = "paper"
    needs_folder: ClassVar[bool] = True
    rare: ClassVar[tuple[str, ...]] = ()
    known_labels: ClassVar[Mapping[str, str]] = {}
    known_tests: ClassVar[Mapping[str, str]] = {}
    known_truths: ClassVar[Mapping[tuple[str, str], str]] = {}

    def index(self, data_dir: Path | None) -> Index:
        """Read (or draw) the labels and lists, no pixels. Raises DataError with one sentence."""
        raise NotImplementedError

    def listed(self, data_dir: Path | None) -> Index:
        """Every image that the lists name, whether its file is there or not: enough where scores come from elsewhere.

        By default the index itself. Raises DataError with one sentence.
        """
        return self.index(data_dir)

    def read(self, image_id: str, path: str | None) -> np.ndarray:
        """Pixels of one image: uint8 gray (H, W), row 0 at the top. Raises DataError if it cannot be decoded."""
        if path is None:
            raise NotImplementedError(f"{type(self).__name__} has images without a path: it must define read()")
        return read_gray(path)

    def stamp(self, image_id: str, path: str | None) -> str:
        """A short text that changes when the image's source changes: by default the file's size and time."""
        if path is None:
            raise NotImplementedError(f"{type(self).__name__} has images without a path: it must define stamp()")
        stat = Path(path).stat()
        return f"{stat.st_size}:{stat.st_mtime_ns}"


def split_sha256(images: pd.DataFrame) -> str:
    """SHA-256 over the sorted lines `split,image_id`: equal exactly when the same images are in the same splits."""
    lines = sorted(f"{split},{image}\n" for split, image in zip(images["split"], images["image_id"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check(index: Index) -> Index:
    """Refuse what no protocol allows: repeated images, unknown splits or labels, shared patients. Raises DataError."""
    images = index.images
    columns = ["image_id", "patient_id", "path", "split", *index.findings]
    absent = [column for column in columns if column not in images]
    if absent:
        raise DataError(f"the index has no column {absent[0]!r}: it needs {', '.join(columns)}")
    nameless = int(images[["image_id", "patient_id", "split"]].isna().any(axis=1).sum())
    if nameless:
        raise DataError(f"{nameless:,} images have no image_id, patient_id or split: fill these columns")
    repeated = images.loc[images["image_id"].duplicated(), "image_id"].tolist()
    if repeated:
        raise DataError(f"{len(repeated):,} images are listed twice, {repeated[0]} first: list each image once")
    strange = sorted(set(images["split"]) - set(SPLITS))
    if strange:
        raise DataError(f"unknown split {strange[0]!r}: use {', '.join(SPLITS)}")
    values = index.targets()
    known = np.isnan(values) | (values == 0) | (values == 1)
    if not known.all():
        bad = np.argwhere(~known)
        cells = [f"{index.findings[c]} of {images['image_id'].iloc[row]} is {values[row, c]:g}" for row, c in bad[:4]]
        raise DataError(f"{len(bad):,} labels are neither 0, 1 nor unknown ({first_few(cells)}): correct that column")
    _check_traits(images)
    patients = images["split"].groupby(images["patient_id"].astype(str)).nunique()
    shared = patients.index[patients > 1].tolist()
    if shared:
        raise DataError(
            f"{len(shared):,} patients are in two splits, patient {shared[0]} first: "
            "a patient's images must all be in one split"
        )
    _check_boxes(index)
    for split in SPLITS:
        if not len(index.rows(split)):
            raise DataError(f"the {split} split has no image: check the lists and the image folder")
    if index.split.sha256 != split_sha256(images):
        raise DataError("the index names its split by another hash than split_sha256(images) gives: use that function")
    if not re.fullmatch("[0-9a-f]{64}", index.labels.sha256):
        raise DataError(f"the labels' identity {index.labels.sha256!r} is no SHA-256: give 64 hexadecimal digits")
    return index


def _check_traits(images: pd.DataFrame) -> None:
    """The traits that an index has are spelt as every index spells them. Raises DataError."""
    for trait, known in (("sex", ("F", "M")), ("view", ("PA", "AP"))):
        if trait in images and not (images[trait].isin(known) | images[trait].isna()).all():
            raise DataError(f"a {trait} of the index is neither {', '.join(known)} nor missing: check that column")
    if "age" in images and not (images["age"].between(0, MAX_AGE) | images["age"].isna()).all():
        raise DataError(f"an age of the index is not from 0 to {MAX_AGE} years, nor missing: check that column")


def _check_boxes(index: Index) -> None:
    """Boxes lie on known images, are of known findings, and are fractions of the image. Raises DataError."""
    boxes = index.boxes
    if boxes.empty:
        return
    absent = [column for column in BOX_COLUMNS if column not in boxes]
    if absent:
        raise DataError(f"the box table has no column {absent[0]!r}: it needs {', '.join(BOX_COLUMNS)}")
    x, y, w, h = boxes[["x", "y", "w", "h"]].to_numpy(float).T.reshape(4, -1)
    inside = (x >= 0) & (y >= 0) & (w > 0) & (h > 0) & (x + w <= 1 + BOX_SLACK) & (y + h <= 1 + BOX_SLACK)
    listed = set(index.images["image_id"])  # Series.isin would be slow: boxes are few, images very many
    for fits, what in (
        ([name in listed for name in boxes["image_id"]], "is on an image that is not listed"),
        (boxes["finding"].isin(index.findings), "is of a finding that is not listed"),
        (inside, "does not lie in its image: give x, y, w, h as fractions of width and height"),
        (~boxes.duplicated(list(BOX_COLUMNS)), "stands twice"),
    ):
        if not np.all(fits):
            first = boxes.loc[~np.asarray(fits)].iloc[0]
            raise DataError(
                f"{int((~np.asarray(fits)).sum()):,} boxes: {first['finding']} of {first['image_id']} {what}"
            )
