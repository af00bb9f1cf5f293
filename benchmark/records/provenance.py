"""Provenance of a record's labels and split: recognized by hash, not by what the record calls them.

The dataset plugin is the authority: it knows label files and test lists by hash, or, where its files are at hand or it
needs none, its whole index is loaded and compared.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .. import dataset as datasets
from ..dataset import Dataset, Index, split_sha256
from ..evaluation.artifacts import ID_COLUMNS, ground_truth_sha256, image_list_sha256, label_column
from ..registry import DATASETS
from ..utils.errors import DataError, first_few
from ..utils.options import build
from .record import RECORD_FILE, RUN_AGAIN, SCORES_FILE, RecordError
from .schema import Record


class Origin(NamedTuple):
    """Recognized provenance of a record.

    Attributes:
        labels: the recognized version of its label file; None where the hash is unknown.
        test: the recognized name of its list of test images; None where the hash is unknown.
        checked: how the labels of the test images were compared with their source, as text; None where they could not
            be compared.
    """

    labels: str | None
    test: str | None
    checked: str | None


def origin(folder: Path, record: Record, table: pd.DataFrame, data_dir: Path | None = None) -> Origin:
    """Recognize labels and test images of a record, and compare them with their source where it is at hand.

    Args:
        folder: of the record, for messages.
        record: the record.
        table: its scores.
        data_dir: the dataset's own files; without them, a dataset that needs files is compared by known hashes.

    Raises:
        RecordError: the record's labels or split are not what it says.
        DataError: `data_dir` is not a folder of this dataset.
    """
    if record.dataset.name not in DATASETS:
        return Origin(None, None, None)
    cls = DATASETS.get(record.dataset.name).cls
    if data_dir is not None and not cls.needs_folder:
        raise DataError(f"dataset {record.dataset.name} reads no files: omit --data-dir {data_dir}")
    test = table[table["split"] == "test"]
    images = image_list_sha256(test["image_id"])
    _check_version(folder, record, cls)
    if cls.needs_folder and data_dir is None:
        checked = _compare_hashes(folder, record, cls, test, images)
    else:
        checked = _compare_index(folder, record, table, cls, data_dir)
    return Origin(cls.known_labels.get(record.dataset.labels.sha256), cls.known_tests.get(images), checked)


def _check_version(folder: Path, record: Record, cls: type[Dataset]) -> None:
    """Check that labels with the name of a known version have its hash, and the other way around."""
    labels = record.dataset.labels
    known = cls.known_labels.get(labels.sha256)
    if known != labels.version and (known or labels.version in cls.known_labels.values()):
        raise RecordError(
            f"{folder / RECORD_FILE} calls its labels {labels.version}, but their SHA-256 {labels.sha256[:12]} is "
            f"{'that of ' + known if known else 'another'}: rerun with the label file of the release"
        )


def _compare_hashes(folder: Path, record: Record, cls: type[Dataset], test: pd.DataFrame, images: str) -> str | None:
    """Compare the test images and labels with the hashes that the dataset knows; None where it knows none of them."""
    name = cls.known_tests.get(images)
    truth = None if name is None else cls.known_truths.get((record.dataset.labels.version, name))
    if truth is None:
        return None
    if ground_truth_sha256(test) != truth:
        raise RecordError(
            f"{folder / SCORES_FILE} has other labels of the {name} list than {record.dataset.labels.version}, "
            f"which its record names: {RUN_AGAIN}"
        )
    return "with known hashes"


def _compare_index(folder: Path, record: Record, table: pd.DataFrame, cls: type[Dataset], data_dir: Path | None) -> str:
    """Compare labels, split and the rows of the score table with the dataset itself."""
    # mypy takes the hash of a dataclass's instances for that of the class.
    index, truth = _load_truth(cls, json.dumps(record.dataset.options, sort_keys=True), data_dir)  # type: ignore[arg-type]
    labels, source = record.dataset.labels, data_dir or cls.title
    if index.labels.sha256 != labels.sha256:
        raise RecordError(
            f"{folder / RECORD_FILE} has labels of SHA-256 {labels.sha256[:12]}, {source} has {index.labels.version} "
            f"of {index.labels.sha256[:12]}: rerun, or pass the folder that it was run with"
        )
    _compare_rows(folder, table, truth, source, record.submission is not None)
    _compare_split(folder, record, index)
    return "with the dataset itself"


def _compare_split(folder: Path, record: Record, index: Index) -> None:
    """Compare a run's split with the dataset's, from which it may have skipped unreadable images."""
    partial = any(counts.absent for counts in record.dataset.counts.values())
    if record.submission is not None or partial:  # a split of its own, or of the images that were there
        return
    skipped = record.dataset.skipped
    usable = index.images[~index.images["image_id"].isin(skipped)]
    expected = split_sha256(usable) if skipped else index.split.sha256
    if record.dataset.split.sha256 != expected:
        raise RecordError(
            f"{folder / RECORD_FILE} has the split of SHA-256 {record.dataset.split.sha256[:12]}, the dataset has "
            f"{expected[:12]} ({index.split.name}): {RUN_AGAIN}"
        )


def _compare_rows(folder: Path, table: pd.DataFrame, truth: pd.DataFrame, source: object, own_split: bool) -> None:
    """Compare patient, labels and (unless the record has its own) split of every scored image with the dataset."""
    path = folder / SCORES_FILE
    unknown = table.loc[~table["image_id"].isin(truth.index), "image_id"].tolist()
    if unknown:
        raise RecordError(f"{path} holds images that {source} does not have ({first_few(unknown)}): {RUN_AGAIN}")
    expected = truth.loc[table["image_id"]]
    for column in expected.columns:
        if column == "split" and own_split:
            continue
        one, other = table[column].to_numpy(), expected[column].to_numpy()
        same = (one == other) | (pd.isna(one) & pd.isna(other))
        if not same.all():
            names = table.loc[~same, "image_id"].tolist()
            raise RecordError(
                f"{path} has another {column} than {source} for {len(names):,} images ({first_few(names)}): {RUN_AGAIN}"
            )


@lru_cache(maxsize=4)
def _load_truth(cls: type[Dataset], options: str, data_dir: Path | None) -> tuple[Index, pd.DataFrame]:
    """Load a dataset's index, and its table of patients, splits and labels by image id; once for all its records."""
    dataset = build(cls, json.loads(options), "dataset.")
    index = datasets.check(dataset.listed(data_dir))
    names = index.images[list(ID_COLUMNS)].astype(str)
    labels = pd.DataFrame(index.targets(), columns=list(map(label_column, index.findings)))
    return index, names.reset_index(drop=True).join(labels).set_index("image_id")
