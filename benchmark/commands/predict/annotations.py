"""What a run's dataset knows of an image: its pixels, its split, labels and boxes."""

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...data.source import load_index
from ...data.unreadable import without_images
from ...dataset import Dataset, Index
from ...records.schema import Record
from ...registry import DATASETS
from ...utils.errors import UserError
from ...utils.options import build


class Annotations(NamedTuple):
    """What is known of one image.

    Attributes:
        split: train, val or test.
        labels: of each finding: 1, 0 or None for unknown.
        boxes: true boxes (n, 4) of each finding that has any, as fractions of the image.
    """

    split: str
    labels: dict[str, int | None]
    boxes: dict[str, np.ndarray]


class AnnotationIndex:
    """A dataset and its index, or neither; nothing is known then."""

    def __init__(self, dataset: Dataset | None = None, index: Index | None = None) -> None:
        self.dataset, self._index = dataset, index

    def __contains__(self, name: str) -> bool:
        return self._index is not None and name in self._images.index

    def read(self, name: str) -> np.ndarray:
        """Pixels of an image that is known, uint8 (H, W). Raises DataError if it cannot be decoded."""
        return self.dataset.read(name, self._images.at[name, "path"])

    def facts(self, name: str) -> Annotations:
        """What is known of an image that is known."""
        row = self._images.loc[name]
        labels = {f: None if np.isnan(row[f]) else int(row[f]) for f in self._index.findings}
        boxes = {}
        if not self._index.boxes.empty:
            mine = self._index.boxes[self._index.boxes["image_id"] == name]
            boxes = {finding: part[["x", "y", "w", "h"]].to_numpy(float) for finding, part in mine.groupby("finding")}
        return Annotations(row["split"], labels, boxes)

    @cached_property
    def _images(self) -> pd.DataFrame:
        return self._index.images.set_index("image_id")


def load_annotations(record: Record, data_dir: Path | None) -> AnnotationIndex:
    """The images of a run's dataset; none where its folder or its plugin would have to be named and was not.

    Raises:
        UserError: the folder named holds other labels or another split than the run was made with.
    """
    if data_dir is None and (record.dataset.name not in DATASETS or DATASETS.get(record.dataset.name).cls.needs_folder):
        return AnnotationIndex()
    dataset = build(DATASETS.get(record.dataset.name).cls, record.dataset.options, "dataset.")
    index = without_images(load_index(dataset, data_dir), record.dataset.skipped)
    if (index.labels.sha256, index.split.sha256) != (record.dataset.labels.sha256, record.dataset.split.sha256):
        raise UserError(f"{data_dir or dataset.name} has other labels or another split than the run was made with")
    return AnnotationIndex(dataset, index)
