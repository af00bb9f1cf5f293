"""Choose the images to evaluate: the dataset's test split, or all images of the file as a custom split."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...dataset import DataError, Index, Split, split_sha256
from ...evaluation.artifacts import image_list_sha256
from ...utils.errors import first_few
from ...utils.text import count
from .predictions import Predictions


class EvaluatedSplit(NamedTuple):
    """The images to evaluate, and their scores.

    Attributes:
        index: only these images, in the order of the dataset: `test`, and `val` if the file has all of it. The hash of
            its split is that of the test images, so that only they determine the board.
        scores: log-odds, float64 (n, C), one row per image of the index.
        notes: description of the choice, one line each, for the user.
    """

    index: Index  # type: ignore[assignment]  # tuple.index is not used
    scores: np.ndarray
    notes: tuple[str, ...]


def choose_split(
    path: Path, predictions: Predictions, full: Index, tests: Mapping[str, str], name: str | None = None
) -> EvaluatedSplit:
    """Choose the images to evaluate.

    Args:
        path: file of predictions, for messages.
        predictions: content of the file.
        full: all images of the dataset, with their splits.
        tests: published lists of test images: `image_list_sha256` to name.
        name: name of a custom test split with all images of the file; None to use the dataset's test split.

    Raises:
        DataError: if a test image has no scores, or the name is that of one of the dataset's lists.
    """
    order = np.argsort(predictions.rows)
    images = full.images.iloc[predictions.rows[order]].reset_index(drop=True)
    if name is None:
        _check_missing(path, full, predictions.rows)
        notes, selected = _select(full, images["split"].to_numpy(str))
    else:
        _check_split_name(name, full, tests)
        notes = (_custom_split_note(images["split"]),)
        images["split"], selected = "test", np.ones(len(images), bool)
    images = images[selected].reset_index(drop=True)
    test = images[images["split"] == "test"]
    recognized = tests.get(image_list_sha256(test["image_id"]))
    split = Split(recognized or name or full.split.name, split_sha256(test))
    note = f"test split: {split.name}, {count(len(test), 'image')} of {count(test['patient_id'].nunique(), 'patient')}"
    index = replace(full, images=images, boxes=full.boxes.iloc[:0], split=split, absent={})
    return EvaluatedSplit(index, predictions.scores[order][selected], (note, *notes))


def _check_split_name(name: str, full: Index, tests: Mapping[str, str]) -> None:
    """Check that a custom split does not have the name of one of the dataset's. Raises DataError if it does."""
    taken = [*tests.values(), full.split.name]
    if " ".join(name.split()).casefold() in [" ".join(other.split()).casefold() for other in taken]:
        raise DataError(f"--split {name!r} is the name of one of the dataset's lists: choose a different name")


def _custom_split_note(splits: pd.Series) -> str:
    """Report in which splits the dataset has the images of a custom split."""
    counts = ", ".join(f"{number:,} {split}" for split, number in splits.value_counts().items())
    return f"custom split: {count(len(splits), 'image')} (in the splits of the dataset: {counts})"


def _check_missing(path: Path, full: Index, rows: np.ndarray) -> None:
    test = full.rows("test")
    missing = full.images["image_id"].iloc[np.setdiff1d(test, rows)].tolist()
    if missing:
        raise DataError(
            f"{path}: {len(missing):,} of the {len(test):,} test images have no row ({first_few(missing)}): add them; "
            "or, to evaluate the images of this file as a custom split, pass --split NAME"
        )


def _select(full: Index, splits: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return notes on the images outside the test split, and a mask of the images to evaluate (n,)."""
    selected, notes = splits == "test", []
    val, complete = int((splits == "val").sum()), len(full.rows("val"))
    # Thresholds chosen on a part of the validation split would not be comparable.
    if val == complete:
        selected |= splits == "val"
        notes.append(f"validation split: all {val:,} images are present and are used to choose the thresholds")
    elif val:
        notes.append(f"ignored: {val:,} of the {complete:,} validation images; thresholds need all of them")
    train = int((splits == "train").sum())
    if train:
        notes.append(f"ignored: {count(train, 'training image')}")
    return tuple(notes), selected
