"""Provenance of a record's labels and split, recognized by hash and not by their names in the record.

The dataset plugin provides the known hashes of label files and test lists. If its files are available, or it needs
none, the complete index is loaded and compared with the record.
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
from ..utils.text import count
from .record import RECORD_FILE, RUN_AGAIN, SCORES_FILE, RecordError
from .schema import Record


class Origin(NamedTuple):
    """Recognized provenance of a record.

    Attributes:
        labels: version of the label file; None if its hash is unknown.
        test: name of the list of test images; None if its hash is unknown.
        checked: how the labels of the test images were compared with their source; None if they could not be compared.
    """

    labels: str | None
    test: str | None
    checked: str | None


def origin(folder: Path, record: Record, table: pd.DataFrame, data_dir: Path | None = None) -> Origin:
    """Recognize labels and test images of a record, and compare them with their source if it is available.

    Args:
        folder: folder of the record, for error messages.
        record: the record in the folder.
        table: score table of the record.
        data_dir: folder of the dataset's files; None to compare a dataset that needs files by its known hashes.

    Raises:
        RecordError: if the labels or the split differ from those that the record states.
        DataError: if `data_dir` is not a folder of this dataset.
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


def dataset_source(record: Record) -> str | None:
    """Return the hash of the code of a record's dataset; None if it is not registered."""
    name = record.dataset.name
    return DATASETS.get(name).source_sha256 if name in DATASETS else None


def _check_version(folder: Path, record: Record, cls: type[Dataset]) -> None:
    """Check that the name and the hash of the labels belong to the same known version, if either is known."""
    labels = record.dataset.labels
    known = cls.known_labels.get(labels.sha256)
    if known != labels.version and (known or labels.version in cls.known_labels.values()):
        raise RecordError(
            f"{folder / RECORD_FILE} calls its labels {labels.version}, but their SHA-256 {labels.sha256[:12]} is "
            f"{'that of ' + known if known else 'not that of this version'}: rerun with the label file of the release"
        )


def _compare_hashes(folder: Path, record: Record, cls: type[Dataset], test: pd.DataFrame, images: str) -> str | None:
    """Compare the test images and labels with the known hashes of the dataset; None if it has none for them."""
    name = cls.known_tests.get(images)
    truth = None if name is None else cls.known_truths.get((record.dataset.labels.version, name))
    if truth is None:
        return None
    if ground_truth_sha256(test) != truth:
        raise RecordError(
            f"{folder / SCORES_FILE} has labels of the {name} list that differ from {record.dataset.labels.version}, "
            f"the version in its record: {RUN_AGAIN}"
        )
    return "with known hashes"


def _compare_index(folder: Path, record: Record, table: pd.DataFrame, cls: type[Dataset], data_dir: Path | None) -> str:
    """Compare labels, split and the rows of the score table with the index of the dataset."""
    # mypy checks the hash of the instances of a dataclass instead of the hash of the class.
    index, truth = _load_truth(cls, json.dumps(record.dataset.options, sort_keys=True), data_dir)  # type: ignore[arg-type]
    labels, source = record.dataset.labels, data_dir or cls.title
    if index.labels.sha256 != labels.sha256:
        raise RecordError(
            f"{folder / RECORD_FILE} has labels of SHA-256 {labels.sha256[:12]}, {source} has {index.labels.version} "
            f"with {index.labels.sha256[:12]}: rerun, or pass the data folder of the run"
        )
    _compare_rows(folder, table, truth, source, record.submission is not None)
    _compare_split(folder, record, index)
    return "with the dataset itself"


def _compare_split(folder: Path, record: Record, index: Index) -> None:
    """Compare the split of a run with that of the dataset, without the unreadable images that the run skipped."""
    partial = any(counts.absent for counts in record.dataset.counts.values())
    if record.submission is not None or partial:  # a separate split, or only the images that were present
        return
    skipped = record.dataset.skipped
    usable = index.images[~index.images["image_id"].isin(skipped)]
    expected = split_sha256(usable) if skipped else index.split.sha256
    if record.dataset.split.sha256 != expected:
        raise RecordError(
            f"{folder / RECORD_FILE} has split hash {record.dataset.split.sha256[:12]}, the dataset has "
            f"{expected[:12]} ({index.split.name}): {RUN_AGAIN}"
        )


def _compare_rows(folder: Path, table: pd.DataFrame, truth: pd.DataFrame, source: object, ignore_split: bool) -> None:
    """Compare patient, labels and (unless ignored) split of every scored image with the dataset."""
    path = folder / SCORES_FILE
    unknown = table.loc[~table["image_id"].isin(truth.index), "image_id"].tolist()
    if unknown:
        raise RecordError(f"{path} contains images that {source} does not have ({first_few(unknown)}): {RUN_AGAIN}")
    expected = truth.loc[table["image_id"]]
    for column in expected.columns:
        if column == "split" and ignore_split:
            continue
        actual, wanted = table[column].to_numpy(), expected[column].to_numpy()
        same = (actual == wanted) | (pd.isna(actual) & pd.isna(wanted))
        if not same.all():
            names = table.loc[~same, "image_id"].tolist()
            raise RecordError(
                f"{path} differs from {source} in {column} of {count(len(names), 'image')} ({first_few(names)}): "
                f"{RUN_AGAIN}"
            )


@lru_cache(maxsize=4)
def _load_truth(cls: type[Dataset], options: str, data_dir: Path | None) -> tuple[Index, pd.DataFrame]:
    """Load the index of a dataset, and its patients, splits and labels per image id; cached for all its records."""
    dataset = build(cls, json.loads(options), "dataset.")
    index = datasets.check(dataset.listed(data_dir))
    names = index.images[list(ID_COLUMNS)].astype(str)
    labels = pd.DataFrame(index.targets(), columns=list(map(label_column, index.findings)))
    return index, names.reset_index(drop=True).join(labels).set_index("image_id")
