"""Speed, as ratios of two sides measured in turns in one run: the harness against the plain way of doing the same.

    tox -e speed          (or: pytest tests/speed --benchmark-quiet)

The table at the end has them all. No time is asserted: it says more about the machine than about the code. That both
sides do the same is.
"""

import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import monai.data
import numpy as np
import pytest
from monai.transforms import CenterSpatialCropd, Compose, LoadImaged, Resized
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from chxbench.benchmark.data.loader import center_crops, read_batches, shard_within_batches
from chxbench.benchmark.data.pixel_cache import prepare_pixels
from chxbench.benchmark.dataset import Dataset
from chxbench.benchmark.metrics import auc as auc_metrics
from chxbench.benchmark.metrics import localization
from chxbench.benchmark.metrics.localization import IOBB, IOU, THRESHOLDS, Boxes, Frame
from chxbench.benchmark.recipe import Pixels
from chxbench.benchmark.utils.environment import cores
from chxbench.datasets.phantom import Phantom

DRAWN, IMAGES = 64, 512
EPOCHS = 20
SETTING = Pixels(size=256, crop=224, max_shift=12)
PATIENTS = 2_797
RESAMPLES, LOOPED = 1_000, 10


@dataclass(frozen=True)
class Files(Dataset):
    """Images as files, with the base class's own reader."""

    name: ClassVar[str] = "files"


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """Index of drawn radiographs of 1024x1024 as PNG files, each drawn one under several names."""
    folder = tmp_path_factory.mktemp("radiographs")
    phantom = Phantom(images=IMAGES, size=1024)
    images = phantom.index(None).images
    paths = [folder / name for name in images["image_id"]]
    for k, path in enumerate(paths):
        if k < DRAWN:
            Image.fromarray(phantom.read(path.name, None)).save(path)
        else:
            os.link(paths[k % DRAWN], path)
    return dataclasses.replace(phantom.index(None), images=images.assign(path=[str(path) for path in paths]))


def shrink_with_pillow(paths):
    """Read and shrink as one would without a harness; box averages are Pillow's fastest filter that sees all pixels."""
    side = (SETTING.size, SETTING.size)
    shrunk = []
    for path in paths:
        with Image.open(path) as image:
            shrunk.append(np.asarray(image.convert("L").resize(side, Image.Resampling.BOX)))
    return np.stack(shrunk)


def test_preparing(versus, radiographs, tmp_path_factory):
    part = radiographs.images["path"][: IMAGES // 4]
    prepared, plain = versus(
        "prepare: decode 1024x1024 PNGs, shrink to 256x256, start-up included",
        f"Pillow on one core, x {cores()} cores",
        lambda: prepare_pixels(Files(), radiographs, SETTING.size, tmp_path_factory.mktemp("cache")).pixels,
        lambda: shrink_with_pillow(part),
        target=0.9,
        scale=IMAGES / len(part) / cores(),
    )
    assert np.abs(prepared[: len(part)].astype(int) - plain).max() <= 1  # Pillow rounds halves up


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # LoadImaged makes all of MONAI's readers
def test_reading_an_epoch(versus, radiographs, tmp_path):
    pixels = prepare_pixels(Files(), radiographs, SETTING.size, tmp_path / "cache").pixels
    targets, crop = np.zeros((IMAGES, 14), np.float32), center_crops(np.arange(IMAGES), SETTING)
    spans = shard_within_batches(IMAGES, 32)
    steps = [
        LoadImaged("image", "PILReader", ensure_channel_first=True, reverse_indexing=False),
        Resized("image", (SETTING.size, SETTING.size), mode="area"),
        CenterSpatialCropd("image", (SETTING.crop, SETTING.crop)),
    ]
    files = monai.data.Dataset([{"image": path} for path in radiographs.images["path"]], Compose(steps))
    loader = monai.data.DataLoader(files, batch_size=32, num_workers=cores(), persistent_workers=True)

    def read_epochs():
        for _ in range(EPOCHS):
            last = [batch.images for batch in read_batches(pixels, targets, crop, SETTING.crop, spans)]
        return last

    ours, theirs = versus(
        f"read an epoch of 224x224 crops from the pixel map (mean of {EPOCHS})",
        f"MONAI decoding the PNGs with {cores()} workers",
        read_epochs,
        lambda: [batch["image"] for batch in loader],
        target=100,
        scale=EPOCHS,
    )
    for mine, batch in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.numpy(), batch[:, 0].numpy().round())


@pytest.fixture(scope="module")
def official_size():
    """Random scores and labels in the shape of the official test split."""
    rng = np.random.default_rng(0)
    labels = (rng.random((25_596, 14)) < 0.05).astype(np.float64)
    return rng.standard_normal(labels.shape) + labels, labels, rng.integers(0, PATIENTS, len(labels))


def aucs(scores, labels):
    return [roc_auc_score(labels[:, c], scores[:, c]) for c in range(labels.shape[1])]


def test_intervals(versus, official_size):
    scores, labels, patients = official_size
    rows_of = [np.flatnonzero(patients == patient) for patient in range(PATIENTS)]

    def loop():
        rng = np.random.default_rng(0)
        drawn = [np.concatenate([rows_of[k] for k in rng.integers(0, PATIENTS, PATIENTS)]) for _ in range(LOOPED)]
        return [aucs(scores[rows], labels[rows]) for rows in drawn]

    judged, looped = versus(
        f"AUC of 25,596 x 14, intervals from {RESAMPLES:,} draws of patients",
        f"loop over scikit-learn's roc_auc_score ({LOOPED} draws, x {RESAMPLES // LOOPED})",
        lambda: auc_metrics.evaluate(scores, labels, patients, RESAMPLES),
        loop,
        target=25,
        scale=RESAMPLES / LOOPED,
    )
    np.testing.assert_allclose([interval.value for interval in judged.each], aucs(scores, labels), rtol=0, atol=1e-12)
    draws = auc_metrics.mean_defined(auc_metrics.bootstrap(scores, labels, patients, LOOPED))
    np.testing.assert_allclose(draws, np.mean(looped, axis=1), rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def boxed():
    """Random maps and boxes, as many as ChestX-ray14 has."""
    rng = np.random.default_rng(0)
    image = np.concatenate([np.arange(880), rng.integers(0, 880, 104)])
    corners, sides = rng.random((984, 2)) * 0.5 + 0.1, rng.random((984, 2)) * 0.3 + 0.05
    boxes = np.column_stack([corners, sides])
    truth = Boxes(image, rng.integers(0, 8, 984), boxes, rng.integers(0, 700, 880))
    return rng.random((880, 8, 7, 7), np.float32), truth


def boxes_with_scipy(places, frame):
    """Boxes (x, y, w, h) of one map (h, w), as fractions of the whole image."""
    heat = ndimage.zoom(places.astype(float), frame.side / len(places), config=1, mode="nearest", grid_mode=True)
    heat = 255 * (heat - heat.min()) / (heat.max() - heat.min())
    found = set()
    for threshold in THRESHOLDS:
        for rows, columns in ndimage.find_objects(ndimage.label(heat > threshold)[0]):
            found.add((columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start))
    start = (frame.size - frame.side) // 2
    return (np.array(sorted(found)) + np.array([start, start, 0, 0])) / frame.size


def overlaps_with(predicted, box):
    """IoBB and IoU, each (n,), of predicted boxes (n, 4) with one box."""
    low, high = (
        np.maximum(predicted[:, :2], box[:2]),
        np.minimum(predicted[:, :2] + predicted[:, 2:], box[:2] + box[2:]),
    )
    shared = (high - low).clip(0).prod(axis=1)
    area = predicted[:, 2:].prod(axis=1)
    return shared / area, shared / (area + box[2:].prod() - shared)


def judge_with_scipy(maps, truth, frame):
    """Found boxes (M, 12) and false boxes (C, 12): one image and one finding after the other."""
    found = np.zeros((len(truth.boxes), len(IOBB) + len(IOU)), bool)
    false = np.zeros((maps.shape[1], found.shape[1]), int)
    for c in range(maps.shape[1]):
        for n in range(len(maps)):
            predicted = boxes_with_scipy(maps[n, c], frame)
            right = np.zeros((len(predicted), found.shape[1]), bool)
            for m in np.flatnonzero((truth.image == n) & (truth.finding == c)):
                iobb, iou = overlaps_with(predicted, truth.boxes[m])
                meets = np.column_stack([iobb[:, None] > IOBB, iou[:, None] > IOU])
                found[m] = meets.any(axis=0)
                right |= meets
            false[c] += (~right).sum(axis=0)
    return found, false


def test_localisation(versus, boxed):
    maps, truth = boxed
    frame = Frame(SETTING.size, SETTING.crop)
    marks, (found, false) = versus(
        "boxes of 880 x 8 heatmaps (7x7 to 224x224), judged",
        "loop over images and findings with scipy.ndimage",
        lambda: localization.match_boxes(maps, truth, frame),
        lambda: judge_with_scipy(maps, truth, frame),
        target=3,
    )
    np.testing.assert_array_equal(marks.found, found)
    np.testing.assert_array_equal(marks.false, false)


def test_start(versus):
    def start(*words):
        return subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True, cwd="/").stdout

    versus(
        "chxbench --help",
        'python -c "import torch"',
        lambda: start("-m", "chxbench", "--help"),
        lambda: start("-c", "import torch"),
        target=5,
        rounds=5,
    )
