"""Choice of the images to evaluate: the dataset's test split, or all images of the file as a split of their own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...dataset import DataError, Index, Split, split_sha256
from ...evaluation.artifacts import image_list_sha256
from ...utils.errors import first_few
from .predictions import Predictions


class EvaluatedSplit(NamedTuple):
    """The images to evaluate, and their scores.

    Attributes:
        index: only these images, in the order of the dataset: `test`, and `val` if all of it is in the file. The hash
            of its split is that of the test images: the same test images are one board, whatever else is in the file.
        scores: log-odds, float64 (n, C), one row per image of the index.
        notes: what was chosen, one line each, for the user.
    """

    index: Index  # type: ignore[assignment]  # tuple.index is not used
    scores: np.ndarray
    notes: tuple[str, ...]


def choose_split(
    path: Path, read: Predictions, full: Index, tests: Mapping[str, str], name: str | None = None
) -> EvaluatedSplit:
    """Choose the images to evaluate.

    Args:
        path: the file of predictions, for messages.
        read: its content.
        full: all images of the dataset, with their splits.
        tests: published lists of test images: `image_list_sha256` to name.
        name: evaluates all images of the file as a test split of this name; None takes the dataset's test split.

    Raises:
        DataError: a test image has no scores, or the name is that of one of the dataset's lists.
    """
    order = np.argsort(read.rows)
    images = full.images.iloc[read.rows[order]].reset_index(drop=True)
    if name is None:
        _check_missing(path, full, read.rows)
        notes, kept = _keep(full, images["split"].to_numpy(str))
    else:
        _check_split_name(name, full, tests)
        notes = (_own_split_note(images["split"]),)
        images["split"], kept = "test", np.ones(len(images), bool)
    images = images[kept].reset_index(drop=True)
    test = images[images["split"] == "test"]
    recognized = tests.get(image_list_sha256(test["image_id"]))
    split = Split(recognized or name or full.split.name, split_sha256(test))
    note = f"test split: {split.name}, {len(test):,} images of {test['patient_id'].nunique():,} patients"
    index = replace(full, images=images, boxes=full.boxes.iloc[:0], split=split, absent={})
    return EvaluatedSplit(index, read.scores[order][kept], (note, *notes))


def _check_split_name(name: str, full: Index, tests: Mapping[str, str]) -> None:
    """Check that a split of the user's own cannot pass for one of the dataset's. Raises DataError."""
    taken = [*tests.values(), full.split.name]
    if " ".join(name.split()).casefold() in [" ".join(one.split()).casefold() for one in taken]:
        raise DataError(f"--split {name!r} is the name of one of the dataset's own lists: choose another")


def _own_split_note(splits: pd.Series) -> str:
    """Report in which splits the dataset has the images of a split of the user's own."""
    counts = ", ".join(f"{count:,} {split}" for split, count in splits.value_counts().items())
    return f"a split of its own: the dataset has its {len(splits):,} images in {counts}"


def _check_missing(path: Path, full: Index, rows: np.ndarray) -> None:
    test = full.rows("test")
    missing = full.images["image_id"].iloc[np.setdiff1d(test, rows)].tolist()
    if missing:
        raise DataError(
            f"{path}: {len(missing):,} of the {len(test):,} test images have no row ({first_few(missing)}): add them; "
            "or, to evaluate the images of this file as a split of their own, name it with --split NAME"
        )


def _keep(full: Index, splits: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return notes on the images outside the test split, and which images are kept (n,)."""
    kept, notes = splits == "test", []
    val, complete = int((splits == "val").sum()), len(full.rows("val"))
    # Thresholds that were fixed on a part of the validation split would not be comparable.
    if val == complete:
        kept |= splits == "val"
        notes.append(f"validation split: all {val:,} images are present and fix the thresholds")
    elif val:
        notes.append(f"left out: {val:,} of the {complete:,} validation images; thresholds need all of them")
    train = int((splits == "train").sum())
    if train:
        notes.append(f"left out: {train:,} training images")
    return tuple(notes), kept
