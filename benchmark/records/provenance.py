"""Whose labels and which list a record's images are: told from hashes, not from what the record calls them.

What a dataset plugin knows of itself is asked here: the label files and test lists that it knows by hash, or, where it
needs no files, the whole index, drawn again.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ...benchmark import dataset as datasets
from ..dataset import Dataset, Index, split_sha256
from ..evaluation.artifacts import ground_truth_sha256, image_list_sha256
from ..registry import DATASETS
from ..utils.errors import DataError, first_few
from ..utils.options import build
from .record import RecordError
from .schema import Record


class Origin(NamedTuple):
    """What is known of a record's labels and images.

    Attributes:
        labels: the known version of its label file; None where its hash is not known.
        test: the known name of its list of test images; None where that is not known.
        checked: how the labels of the test images were compared with their source, in words; None where they could
            not be.
    """

    labels: str | None
    test: str | None
    checked: str | None


def origin(folder: Path, record: Record, table: pd.DataFrame, data_dir: Path | None = None) -> Origin:
    """Recognise labels and images, and compare them with their source where it can be had.

    Args:
        folder: of the record, for messages.
        record, table: the record and its scores.
        data_dir: the dataset's own files; without them, a dataset that needs files is compared by known hashes.

    Raises:
        RecordError: the record calls its labels or its split what they are not.
        DataError: the folder is not the dataset's.
    """
    if record.dataset.name not in DATASETS:
        return Origin(None, None, None)
    cls = DATASETS.get(record.dataset.name).cls
    if data_dir is not None and not cls.needs_folder:
        raise DataError(f"dataset {record.dataset.name} reads no files: leave --data-dir {data_dir} away")
    test = table[table["split"] == "test"]
    images = image_list_sha256(test["image_id"])
    _check_version(folder, record, cls)
    if cls.needs_folder and data_dir is None:
        checked = _compare_known(folder, record, cls, test, images)
    else:
        checked = _compare_index(folder, record, table, cls, data_dir)
    return Origin(cls.known_labels.get(record.dataset.labels.sha256), cls.known_tests.get(images), checked)


def _check_version(folder: Path, record: Record, cls: type[Dataset]) -> None:
    """A label file that has the name of a known version has its bytes, too."""
    labels = record.dataset.labels
    known = cls.known_labels.get(labels.sha256)
    if known != labels.version and (known or labels.version in cls.known_labels.values()):
        raise RecordError(
            f"{folder / 'run.json'} calls its labels {labels.version}, but their SHA-256 {labels.sha256[:12]} is "
            f"{'that of ' + known if known else 'another'}: run again with the label file of the release"
        )


def _compare_known(folder: Path, record: Record, cls: type[Dataset], test: pd.DataFrame, images: str) -> str | None:
    """Against what is known of the test images under these labels; None where nothing is."""
    name = cls.known_tests.get(images)
    truth = cls.known_truths.get((record.dataset.labels.version, name))
    if truth is None:
        return None
    if ground_truth_sha256(test) != truth:
        raise RecordError(
            f"{folder / 'scores.parquet'} has other labels of the {name} list than {record.dataset.labels.version}, "
            "which its record names: run again"
        )
    return "with known hashes"


def _compare_index(folder: Path, record: Record, table: pd.DataFrame, cls: type[Dataset], data_dir: Path | None) -> str:
    """Against the dataset itself: its labels, its split, and the rows of the score table."""
    index, whole = _whole(cls, json.dumps(record.dataset.options, sort_keys=True), data_dir)
    labels, split, source = record.dataset.labels, record.dataset.split, data_dir or cls.title
    if index.labels.sha256 != labels.sha256:
        raise RecordError(
            f"{folder / 'run.json'} names labels of SHA-256 {labels.sha256[:12]}, {source} has {index.labels.version} "
            f"of {index.labels.sha256[:12]}: run again, or name the folder that it was run with"
        )
    _compare_rows(folder, table, whole, source, record.source is not None)
    partial = any(counts.absent for counts in record.dataset.counts.values())
    skipped = record.dataset.skipped
    left = index.images[~index.images["image_id"].isin(skipped)]
    there = split_sha256(left) if skipped else index.split.sha256
    if record.source is None and not partial and split.sha256 != there:
        raise RecordError(
            f"{folder / 'run.json'} names the split of SHA-256 {split.sha256[:12]}, its images are split as "
            f"{there[:12]} ({index.split.name}): run again"
        )
    return "with the dataset itself"


def _compare_rows(folder: Path, table: pd.DataFrame, whole: pd.DataFrame, source: object, own_split: bool) -> None:
    """Every scored image has the patient, the labels and (but in a split of its own) the split of the dataset."""
    unknown = table.loc[~table["image_id"].isin(whole.index), "image_id"].tolist()
    if unknown:
        raise RecordError(f"{folder / 'scores.parquet'} holds images that {source} has not ({first_few(unknown)})")
    there = whole.loc[table["image_id"]]
    for column in there.columns:
        if column == "split" and own_split:
            continue
        same = (table[column].to_numpy() == there[column].to_numpy()) | (
            table[column].isna().to_numpy() & there[column].isna().to_numpy()
        )
        if not same.all():
            names = table.loc[~same, "image_id"].tolist()
            raise RecordError(
                f"{folder / 'scores.parquet'} has another {column} than {source} for {len(names):,} images "
                f"({first_few(names)}): run again"
            )


@lru_cache(maxsize=4)
def _whole(cls: type[Dataset], options: str, data_dir: Path | None) -> tuple[Index, pd.DataFrame]:
    """A dataset's index, and its table of patients, splits and labels by image; the same for all records of a board."""
    dataset = build(cls, json.loads(options), "dataset.")
    index = datasets.check(dataset.listed(data_dir))
    names = index.images[["image_id", "patient_id", "split"]].astype(str)
    labels = pd.DataFrame(index.targets(), columns=[f"label {finding}" for finding in index.findings])
    return index, names.reset_index(drop=True).join(labels).set_index("image_id")
