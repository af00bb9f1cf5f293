"""The contract of a dataset plugin: an index of images, and a way to read one of them.

A dataset is a frozen dataclass; its fields are the options a user sets with `--set dataset.KEY=VALUE`::

    @DATASETS.register("mine")
    @dataclass(frozen=True)
    class Mine(Dataset):
        title: ClassVar[str] = "My hospital"
        def index(self, data_dir): ...

The harness never changes an index; it decodes each image once (data/pixel_cache.py) and reads labels from the table.
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
from .utils.image_io import read_image
from .utils.text import count, encodable

# The 14 findings of NIH ChestX-ray14 in the order of the literature (Wang et al. 2017). Datasets may have others.
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
TRAITS = ("sex", "age", "view")  # the traits of the NIH release, in the order of its columns
CONTRACT_COLUMNS = ("image_id", "patient_id", "path", "split")
BOX_COLUMNS = ("image_id", "finding", "x", "y", "w", "h")
MAX_AGE = 120  # years; a higher age in the NIH release is an error
BOX_SLACK = 1e-6  # fraction of the image by which rounding may move a box beyond its edge


class Labels(NamedTuple):
    """Identity of the labels: name of their file, SHA-256 of its bytes (of the table, if generated), and version."""

    file: str
    sha256: str
    version: str


class Split(NamedTuple):
    """Identity of the split: a display name, and `split_sha256` of the table."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Index:
    """Images, labels, splits and boxes of a dataset; any number of findings.

    Attributes:
        images: one row per image: `image_id` (unique), `patient_id`, `path` (None if it is not a file), `split` (train,
            val or test), then one float column per finding: 1, 0 or NaN for unknown. Other columns are ignored, except
            those in `traits`.
        traits: names of additional columns that describe the patient or the image, such as sex, age or view. Their
            values are strings or numbers; None or NaN if unknown. They are included in the record's score table, and
            results are also reported per subgroup.
        boxes: one row per box: `image_id`, `finding`, and `x, y, w, h` as fractions of the image's width and height,
            (x, y) the upper left corner. May be empty.
        findings: names of the finding columns, in the order of every score matrix.
        labels: identity of the labels; part of every result.
        split: identity of the split; part of every result.
        absent: per split, the number of listed images that are missing and excluded (only if the user opts in).
        skipped: ids of images that cannot be read and are excluded (filled by data/unreadable.py, not by plugins).
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    findings: tuple[str, ...]
    labels: Labels
    split: Split
    absent: dict[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()

    def rows(self, split: str) -> np.ndarray:
        """Return the row numbers of one split, int64 (n,), in the table's order."""
        return np.flatnonzero((self.images["split"] == split).to_numpy())

    def targets(self) -> np.ndarray:
        """Return the labels of all images, float32 (N, C), values 0, 1 or NaN."""
        return self.images[list(self.findings)].to_numpy(np.float32, copy=True)


@dataclass(frozen=True)
class Dataset:
    """Base class of a dataset plugin.

    Attributes:
        name: set by the registry.
        title: display name.
        caveat: limits of results on the dataset, as the end of a sentence; printed below its boards.
        default_recipe: recipe of runs for which the user chooses none.
        needs_folder: whether the user must pass the data's folder (`--data-dir`).
        rare: findings with so few positive test images that their AUC would move the mean by chance; the mean without
            them is reported as well.
        known_labels: released label files: the SHA-256 of each file (key) and its version (value).
        known_tests: released lists of test images: the `image_list_sha256` (evaluation/artifacts.py) of each list (key)
            and its name (value).
        known_truths: released ground truth: version of the labels and name of the test list (key), and the
            `ground_truth_sha256` (evaluation/artifacts.py) of the test images (value). The labels in a record can be
            checked with it even if the label file is not available.
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
        """Read (or generate) labels, lists and boxes, but no pixels.

        Raises:
            DataError: a file is missing, damaged or inconsistent.
        """
        raise NotImplementedError

    def listed(self, data_dir: Path | None) -> Index:
        """Return the index of all listed images without looking for files: enough to score external predictions.

        The default is the index itself.

        Raises:
            DataError: a file is missing, damaged or inconsistent.
        """
        return self.index(data_dir)

    def read(self, image_id: str, path: str | None) -> np.ndarray:
        """Read one image: uint8 gray (H, W), row 0 at the top. Raises DataError if it cannot be decoded."""
        if path is None:
            raise NotImplementedError(f"{type(self).__name__} has images without a path: it must define read()")
        return read_image(Path(path))

    def stamp(self, image_id: str, path: str | None) -> str:
        """Return a short string that changes when the image does: by default the file's size and modification time."""
        if path is None:
            raise NotImplementedError(f"{type(self).__name__} has images without a path: it must define stamp()")
        stat = Path(path).stat()
        return f"{stat.st_size}:{stat.st_mtime_ns}"


def split_sha256(images: pd.DataFrame) -> str:
    """Hash the sorted lines `split,image_id`: equal if and only if the same images are in the same splits."""
    lines = sorted(f"{split},{image}\n" for split, image in zip(images["split"], images["image_id"], strict=True))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def check(index: Index) -> Index:
    """Check an index against this contract and return it.

    Raises:
        DataError: missing columns, names that are not text, repeated images, unknown splits or labels, patients in two
            splits, empty splits, misplaced boxes, or hashes that do not match the index.
    """
    _check_columns(index)
    _check_labels(index)
    _check_traits(index)
    _check_patients(index.images)
    _check_boxes(index)
    _check_identity(index)
    return index


def _check_columns(index: Index) -> None:
    images, columns = index.images, [*CONTRACT_COLUMNS, *index.findings]
    missing = [column for column in columns if column not in images]
    if missing:
        raise DataError(f"the index has no column {missing[0]!r}: it needs {', '.join(columns)}")
    incomplete = int(images[["image_id", "patient_id", "split"]].isna().any(axis=1).sum())
    if incomplete:
        raise DataError(f"{count(incomplete, 'image')} without image_id, patient_id or split: fill these columns")
    not_text = [name for name in map(str, images["image_id"]) if encodable(name) != name]
    if not_text:
        raise DataError(f"{count(len(not_text), 'image_id')} not text ({first_few(not_text)}): rename these files")
    repeated = images.loc[images["image_id"].duplicated(), "image_id"].tolist()
    if repeated:
        raise DataError(f"{count(len(repeated), 'repeated image')}, {repeated[0]} first: list each image once")
    unknown = sorted(set(images["split"]) - set(SPLITS))
    if unknown:
        raise DataError(f"unknown split {unknown[0]!r}: use {', '.join(SPLITS)}")


def _check_labels(index: Index) -> None:
    values = index.targets()
    valid = np.isnan(values) | (values == 0) | (values == 1)
    if not valid.all():
        bad, images = np.argwhere(~valid), index.images["image_id"]
        cells = [f"{index.findings[c]} of {images.iloc[row]} is {values[row, c]:g}" for row, c in bad[:4]]
        raise DataError(f"{count(len(bad), 'label')} not 0, 1 or NaN ({first_few(cells)}): correct the column")


def _check_traits(index: Index) -> None:
    for trait in index.traits:
        if trait in (*CONTRACT_COLUMNS, *index.findings) or trait.startswith(("label ", "score ")):
            raise DataError(f"the index uses the reserved column name {trait!r} as a trait: rename the column")
        if trait not in index.images:
            raise DataError(f"the index has no column {trait!r}, which its traits include: add the column")
        values = index.images[trait].dropna()
        if not (pd.api.types.is_numeric_dtype(values) or values.map(lambda value: isinstance(value, str)).all()):
            raise DataError(f"the trait {trait!r} of the index mixes types: use only strings or only numbers")


def _check_patients(images: pd.DataFrame) -> None:
    # As strings: 1 and "1" are the same patient.
    splits = images["split"].groupby(images["patient_id"].astype(str)).nunique()
    shared = splits.index[splits > 1].tolist()
    if shared:
        raise DataError(
            f"{count(len(shared), 'patient')} in several splits, {shared[0]} first: "
            "a patient's images must all be in one split"
        )


def _check_boxes(index: Index) -> None:
    """Check that boxes are on listed images, of listed findings, and fractions of the image."""
    boxes = index.boxes
    if boxes.empty:
        return
    missing = [column for column in BOX_COLUMNS if column not in boxes]
    if missing:
        raise DataError(f"the box table has no column {missing[0]!r}: it needs {', '.join(BOX_COLUMNS)}")
    x, y, w, h = boxes[["x", "y", "w", "h"]].to_numpy(float).T.reshape(4, -1)
    inside = (x >= 0) & (y >= 0) & (w > 0) & (h > 0) & (x + w <= 1 + BOX_SLACK) & (y + h <= 1 + BOX_SLACK)
    listed = set(index.images["image_id"])  # Series.isin would be slow: boxes are few, images very many
    for valid, problem in (
        ([name in listed for name in boxes["image_id"]], "is on an image that is not listed"),
        (boxes["finding"].isin(index.findings), "is of a finding that is not listed"),
        (inside, "is not inside its image: give x, y, w, h as fractions of width and height"),
        (~boxes.duplicated(list(BOX_COLUMNS)), "is listed twice"),
    ):
        bad = boxes.loc[~np.asarray(valid)]
        if len(bad):
            first = bad.iloc[0]
            raise DataError(
                f"{count(len(bad), 'invalid box', 'invalid boxes')}: "
                f"{first['finding']} of {first['image_id']} {problem}"
            )


def _check_identity(index: Index) -> None:
    for split in SPLITS:
        if not len(index.rows(split)):
            raise DataError(f"the {split} split has no image: check the lists and the image folder")
    if index.split.sha256 != split_sha256(index.images):
        raise DataError("the index's split hash is not split_sha256(images): compute it with that function")
    if not re.fullmatch("[0-9a-f]{64}", index.labels.sha256):
        raise DataError(f"the label hash {index.labels.sha256!r} is not a SHA-256: use 64 hexadecimal digits")
