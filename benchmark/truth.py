"""What a run's dataset knows of an image by its name: labels, boxes, and its pixels."""

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from .dataset import Dataset, Index
from .options import make
from .plan import read_index
from .registry import DATASETS
from .schema import Record


class Truth:
    """A dataset and its index, or neither; everything is empty or None then."""

    def __init__(self, dataset: Dataset | None = None, index: Index | None = None) -> None:
        self._dataset, self._index = dataset, index

    def knows(self, name: str) -> bool:
        return self._index is not None and name in self._images.index

    def read(self, name: str) -> np.ndarray:
        """Pixels of an image that is known, uint8 (H, W). Raises DataError if it cannot be decoded."""
        return self._dataset.read(name, self._images.at[name, "path"])

    def labels(self, name: str) -> dict[str, int | None] | None:
        """Label of each finding: 1, 0 or None for unknown; None for an image that is not known."""
        if not self.knows(name):
            return None
        row = self._images.loc[name, list(self._index.findings)]
        return {finding: None if np.isnan(value) else int(value) for finding, value in row.items()}

    def boxes(self, name: str) -> dict[str, np.ndarray]:
        """True boxes (n, 4) of each finding that has any, as fractions of the image."""
        if not self.knows(name):
            return {}
        mine = self._index.boxes[self._index.boxes["image_id"] == name]
        return {finding: group[["x", "y", "w", "h"]].to_numpy(float) for finding, group in mine.groupby("finding")}

    @cached_property
    def _images(self) -> pd.DataFrame:
        return self._index.images.set_index("image_id")


def know_truth(record: Record, data_dir: Path | None) -> Truth:
    """The truth of a run's dataset; none where its folder is needed and was not named. Raises DataError, UserError."""
    cls = DATASETS.get(record.dataset.name).cls
    if cls.needs_folder and data_dir is None:
        return Truth()
    dataset = make(cls, record.dataset.options, "dataset.")
    return Truth(dataset, read_index(dataset, data_dir))
