"""Speed, as pairs measured side by side in one run: each group is the harness against the plain way of doing the same.

    pytest tests/speed          (or: tox -e speed)

The table's bracketed factors are the ratios. No time is asserted: it says more about the machine than about the code.
"""

import subprocess
import sys

import numpy as np
import pytest
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, LoadImaged, Resized
from PIL import Image
from sklearn.metrics import roc_auc_score

from chxbench.benchmark import metrics
from chxbench.benchmark.pixels import batches, prepare, shifted_crops
from chxbench.benchmark.recipe import Pixels
from chxbench.datasets.phantom import Phantom

IMAGES = 96
SETTING = Pixels(size=256, crop=224, max_shift=12)


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """Drawn radiographs of 1024x1024 as PNG files, and the same in the pixel cache."""
    folder = tmp_path_factory.mktemp("radiographs")
    dataset = Phantom(images=IMAGES, size=1024)
    index = dataset.index(None)
    paths = [folder / image for image in index.images["image_id"]]
    for path in paths:
        Image.fromarray(dataset.read(path.name, None)).save(path)
    return paths, prepare(dataset, index, SETTING.size, folder / "cache").pixels


@pytest.mark.benchmark(group="read an epoch of 224x224 crops")
def test_batches_from_the_map(benchmark, radiographs):
    _, pixels = radiographs
    targets = np.zeros((IMAGES, 14), np.float32)

    def epoch():
        crop = shifted_crops(np.arange(IMAGES), SETTING, 0)
        return sum(len(images) for images, _ in batches(pixels, targets, crop, SETTING.crop, 32))

    assert benchmark(epoch) == IMAGES


@pytest.mark.benchmark(group="read an epoch of 224x224 crops")
def test_monai_decoding_each_epoch(benchmark, radiographs):
    paths, _ = radiographs
    steps = [
        LoadImaged("image", image_only=True, ensure_channel_first=True, reverse_indexing=False),
        Resized("image", (SETTING.crop, SETTING.crop), mode="area"),
    ]
    loader = DataLoader(Dataset([{"image": path} for path in paths], Compose(steps)), batch_size=32)
    assert benchmark.pedantic(lambda: sum(len(batch["image"]) for batch in loader), rounds=3) == IMAGES


@pytest.fixture(scope="module")
def official_size():
    """Random scores and labels in the shape of the official test split."""
    rng = np.random.default_rng(0)
    labels = (rng.random((25_596, 14)) < 0.05).astype(np.float64)
    return rng.standard_normal(labels.shape) + labels, labels, rng.integers(0, 2_797, len(labels))


@pytest.mark.benchmark(group="10 resamples of the AUC of 25,596 x 14")
def test_resampled_auc(benchmark, official_size):
    scores, labels, patients = official_size
    benchmark.pedantic(lambda: metrics.evaluate(scores, labels, patients, 10), rounds=3)


@pytest.mark.benchmark(group="10 resamples of the AUC of 25,596 x 14")
def test_scikit_learn_in_a_loop(benchmark, official_size):
    scores, labels, patients = official_size
    rows_of = [np.flatnonzero(patients == patient) for patient in range(2_797)]
    rng = np.random.default_rng(0)

    def loop():
        for _ in range(10):
            rows = np.concatenate([rows_of[patient] for patient in rng.integers(0, 2_797, 2_797)])
            for c in range(14):
                roc_auc_score(labels[rows, c], scores[rows, c])

    benchmark.pedantic(loop, rounds=1)


@pytest.mark.benchmark(group="start")
@pytest.mark.parametrize("words", [("-m", "chxbench", "--help"), ("-c", "import torch")], ids=["help", "import torch"])
def test_start(benchmark, words):
    run = [sys.executable, *words]
    benchmark.pedantic(lambda: subprocess.run(run, check=True, capture_output=True, cwd="/"), rounds=3, warmup_rounds=1)
