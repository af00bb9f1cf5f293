"""Which of the images that somebody scored count: the dataset's test split, or all of them as a split of their own."""

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
    """The images that count, and their scores.

    Attributes:
        index: these images alone, in the order of the dataset: `test`, and `val` where all of it was scored. Its
            split's hash is of the test images alone: the same images make the same board, whatever else was scored.
        scores: log-odds, float64 (n, C), a row an image of the index.
        notes: what was decided on the way, for the user.
    """

    index: Index
    scores: np.ndarray
    notes: tuple[str, ...]


def choose_split(
    path: Path, read: Predictions, known: Index, tests: Mapping[str, str], name: str | None = None
) -> EvaluatedSplit:
    """The images that count.

    Args:
        path: the file of scores, for messages.
        read: what it says.
        known: the dataset's images, in their splits.
        tests: known lists of test images: `test_sha256` to name.
        name: of a split of its own that all images of the file make; None takes the dataset's test split.

    Raises:
        DataError: images of the test split have no scores, or the name is that of a list of the dataset's.
    """
    order = np.argsort(read.rows)
    images = known.images.iloc[read.rows[order]].reset_index(drop=True)
    if name is None:
        _check_missing(path, known, read.rows)
        notes, kept = _wanted(known, images["split"].to_numpy(str))
    else:
        _check_split_name(name, known, tests)
        notes = (_taken_from(images["split"]),)
        images["split"], kept = "test", np.ones(len(images), bool)
    images = images[kept].reset_index(drop=True)
    test = images[images["split"] == "test"]
    recognised = tests.get(image_list_sha256(test["image_id"]))
    split = Split(recognised or name or known.split.name, split_sha256(test))
    told = f"test split: {split.name}, {len(test):,} images of {test['patient_id'].nunique():,} patients"
    index = replace(known, images=images, boxes=known.boxes.iloc[:0], split=split, absent={})
    return EvaluatedSplit(index, read.scores[order][kept], (told, *notes))


def _check_split_name(name: str, known: Index, tests: Mapping[str, str]) -> None:
    """A split of one's own cannot pass for one of the dataset's."""
    taken = [*tests.values(), known.split.name]
    if " ".join(name.split()).casefold() in [" ".join(one.split()).casefold() for one in taken]:
        raise DataError(f"--split {name!r} is the name of a list of the dataset's: choose another")


def _taken_from(splits: pd.Series) -> str:
    """How many images of a split of one's own the dataset has in which of its splits."""
    counts = ", ".join(f"{count:,} {split}" for split, count in splits.value_counts().items())
    return f"a split of its own: of its {len(splits):,} images the dataset has {counts}"


def _check_missing(path: Path, known: Index, rows: np.ndarray) -> None:
    test = known.rows("test")
    missing = known.images["image_id"].iloc[np.setdiff1d(test, rows)].tolist()
    if missing:
        raise DataError(
            f"{path}: {len(missing):,} of the {len(test):,} test images have no row ({first_few(missing)}): add them; "
            "or, to score the images of this file as a split of their own, name it with --split NAME"
        )


def _wanted(known: Index, splits: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """What is said of the images outside the test split, and which images are kept (n,)."""
    kept, notes = splits == "test", []
    val, every = int((splits == "val").sum()), len(known.rows("val"))
    if val == every:
        kept |= splits == "val"
        notes.append(f"validation split: all {val:,} images are there and fix the thresholds")
    elif val:
        notes.append(f"left out: {val:,} of the {every:,} validation images; all of them would fix thresholds")
    train = int((splits == "train").sum())
    if train:
        notes.append(f"left out: {train:,} training images")
    return tuple(notes), kept
