"""Annotations of an image in a run's dataset: its split, labels and boxes."""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...data.source import load_index, read_gray
from ...data.unreadable import without_images
from ...dataset import Dataset, Index
from ...records.schema import Record
from ...utils.errors import UserError


class Annotations(NamedTuple):
    """Annotations of one image.

    Attributes:
        split: "train", "val" or "test".
        labels: per finding 1, 0, or None for unknown.
        boxes: ground-truth boxes (n, 4) of each finding that has any, as fractions of the image: x, y, w, h.
    """

    split: str
    labels: dict[str, int | None]
    boxes: dict[str, np.ndarray]

    @property
    def positives(self) -> list[str]:
        """The findings that the image is labeled with."""
        return [finding for finding, label in self.labels.items() if label == 1]


class AnnotationIndex:
    """Images of a run's dataset by their ids, with their annotations.

    Args:
        dataset: dataset that reads the images.
        index: index that lists the images; None if it is not available.
    """

    def __init__(self, dataset: Dataset, index: Index | None = None) -> None:
        self.dataset, self._index = dataset, index

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._images.index

    def read(self, image_id: str, path: Path | None = None) -> np.ndarray:
        """Read a file, or the file of an image in the index, as the dataset reads its own: uint8 (H, W).

        Raises:
            DataError: it cannot be decoded; also if a plugin raises something else or returns other pixels.
        """
        row: Any = {"path": str(path)} if path else self._images.loc[image_id]
        return read_gray(self.dataset, image_id, row["path"])

    def annotations(self, image_id: str) -> Annotations:
        """Return the annotations of an image in the index."""
        row: Any = self._images.loc[image_id]
        findings = self._index.findings if self._index else ()
        labels = {finding: None if np.isnan(row[finding]) else int(row[finding]) for finding in findings}
        return Annotations(row["split"], labels, self._boxes(image_id))

    def _boxes(self, image_id: str) -> dict[str, np.ndarray]:
        """Return the boxes (n, 4) of each finding that has any in an image."""
        if self._index is None or self._index.boxes.empty:
            return {}
        boxes = self._index.boxes[self._index.boxes["image_id"] == image_id]
        return {
            str(finding): group[["x", "y", "w", "h"]].to_numpy(float) for finding, group in boxes.groupby("finding")
        }

    @cached_property
    def _images(self) -> pd.DataFrame:
        """The table of images by image id."""
        return pd.DataFrame() if self._index is None else self._index.images.set_index("image_id")


def load_annotations(record: Record, dataset: Dataset, data_dir: Path | None) -> AnnotationIndex:
    """Load the annotations of a run's dataset.

    Args:
        record: record of the run.
        dataset: dataset of the run.
        data_dir: folder of the run's dataset; None if not given.

    Returns:
        The index; one without images if the dataset's folder is needed and not given.

    Raises:
        UserError: the folder's labels or split do not match those of the run.
    """
    if data_dir is None and dataset.needs_folder:
        return AnnotationIndex(dataset)
    index = without_images(load_index(dataset, data_dir), record.dataset.skipped)
    if (index.labels.sha256, index.split.sha256) != (record.dataset.labels.sha256, record.dataset.split.sha256):
        raise UserError(
            f"{data_dir or dataset.name} has labels or a split that do not match the run: pass the run's data"
        )
    return AnnotationIndex(dataset, index)
