"""A plugin for a folder of a hospital's own images, whose pixels depend on an option."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from PIL import Image

from chxbench import DATASETS

NAME = "gamma_of_test"
GAMMA = """
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from PIL import Image

from chxbench import DATASETS, Dataset, Index
from chxbench.benchmark.dataset import Labels, Split, split_sha256


@DATASETS.register("gamma_of_test")
@dataclass(frozen=True)
class Gamma(Dataset):
    title: ClassVar[str] = "Own hospital"
    default_recipe: ClassVar[str] = "quick"
    gamma: float = 1.0

    def index(self, data_dir):
        names = [path.name for path in sorted(Path(data_dir).glob("*.png"))]
        images = pd.DataFrame({"image_id": names, "patient_id": names})
        images["path"] = [str(data_dir / name) for name in names]
        images["split"] = [("train", "val", "test", "train")[k % 4] for k in range(len(names))]
        images["Mass"] = [float(k // 4 % 2) for k in range(len(names))]
        labels = Labels("drawn", hashlib.sha256(images.to_csv().encode()).hexdigest(), "1")
        boxes = pd.DataFrame(columns=["image_id", "finding", "x", "y", "w", "h"])
        return Index(images, boxes, ("Mass",), labels, Split("own", split_sha256(images)))

    def read(self, image_id, path):
        if "three" in image_id:
            return np.zeros((4, 4, 3), np.uint8)
        gray = np.asarray(Image.open(path).convert("L"), float) / 255
        return (255 * gray**self.gamma).astype(np.uint8)
"""
# The same, read by the harness.
FILES = GAMMA.partition("    def read")[0].replace(NAME, "files_of_test")


@contextmanager
def own_dataset(folder, file="own.py") -> Iterator[dict]:
    """Write 24 images and the plugin to a folder; yields what a RunConfig needs to read them."""
    (folder / "data").mkdir()
    for k in range(24):
        draw(folder / "data" / f"{k:02}.png", k)
    (folder / file).write_text(GAMMA)
    try:
        yield {"dataset": NAME, "data_dir": folder / "data", "plugins": (folder / file,)}
    finally:
        DATASETS._entries.pop(NAME, None)


def draw(path, seed):
    """Draw an image of noise."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40), np.uint8)).save(path)


def own_config(config, **settings):
    """Return a small run's configuration without the settings of the dataset that it was made for, and with these."""
    kept = {key: value for key, value in config.settings.items() if not key.startswith("dataset.")}
    return replace(config, settings={**kept, "compute.precision": "float32", "train.epochs": 1, **settings})
