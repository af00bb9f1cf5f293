"""How time and memory grow with the number of images: 112,120, as many as NIH ChestX-ray14 has, against a tenth.

    python tests/speed/scale.py 11212 112120

Each size runs in a process of its own, on drawn radiographs of 256x256 (7.35 GB of pixels for 112,120, made anew in a
temporary folder), and is measured step by step: seconds, and the most memory that the process held. Pages of the pixel
map do not count, the system takes them back when it needs them; nor do the processes that draw, of which there is one a
core, whatever the number of images. Scoring is a small network on small crops: what grows is the harness's part.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import numpy as np
import torch
from tabulate import tabulate

from chxbench.benchmark.data.loader import read_batches, shard_within_batches, shifted_crops
from chxbench.benchmark.data.pixel_cache import prepare_pixels
from chxbench.benchmark.dataset import check
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.inference import Predictor
from chxbench.benchmark.metrics import auc as auc_metrics
from chxbench.benchmark.recipe import load_recipe
from chxbench.datasets.phantom import Phantom
from chxbench.methods.bsl import Baseline

SIZE, CROP, BATCH = 256, 224, 96


def measure(images: int, cache: Path) -> dict[str, tuple[float, float]]:
    """Seconds and peak memory in MB of each step, at this many images."""
    torch.set_num_threads(1)
    dataset = Phantom(images=images, size=SIZE)
    steps: dict[str, tuple[float, float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        with _Memory() as memory:
            begun = time.perf_counter()
            result = work()
            steps[name] = (time.perf_counter() - begun, memory.peak)
        return result

    index = timed("index: labels, splits, boxes, checked", lambda: check(dataset.index(None)))
    pixels = timed("prepare: draw, shrink, write, hash", lambda: prepare_pixels(dataset, index, SIZE, cache)).pixels
    timed("prepare again", lambda: prepare_pixels(dataset, index, SIZE, cache))
    timed("read an epoch of 224x224 crops", lambda: _read(pixels, index.targets()))
    recipe = load_recipe("quick", {"pixels.size": SIZE, "pixels.crop": 32, "compute.precision": "float32"})
    device = Device("float32")
    network = device.place(Baseline(backbone="resnet10t").build(index.findings, "none"))
    rows = np.arange(images)
    scores = timed("score all images", lambda: Predictor(device, network, pixels, recipe).scores(rows, "scoring"))
    patients = index.images["patient_id"].to_numpy()
    timed("AUC, 1,000 resamples", lambda: auc_metrics.evaluate(scores, index.targets(), patients, 1000))
    return steps


def _read(pixels: np.ndarray, targets: np.ndarray) -> int:
    setting = load_recipe("paper", {}).pixels
    rows = np.random.default_rng(0).permutation(len(pixels))
    spans = shard_within_batches(len(rows), BATCH)
    batches = read_batches(pixels, targets, shifted_crops(rows, setting, 0), CROP, spans)
    return sum(len(batch.images) for batch in batches)


class _Memory:
    """Looks fifty times a second at the memory of this process, less pages of files; `peak` in MB (Linux)."""

    def __enter__(self) -> Self:
        self.peak, self.done = 0.0, Event()
        self.thread = Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _look(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            held = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.peak = max(self.peak, held / 1024)
            if self.done.wait(0.02):
                return


def main(sizes: list[int]) -> None:
    found = []
    for images in sizes:
        with tempfile.TemporaryDirectory() as cache:
            words = [sys.executable, __file__, "--one", str(images), cache]
            found.append(json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout))
    rows = [[name, *(f"{one[name][0]:,.1f} s, {one[name][1]:,.0f} MB" for one in found)] for name in found[0]]
    growth = [found[-1][name][0] / found[0][name][0] for name in found[0]]
    table = [[*row, f"{times:.1f}"] for row, times in zip(rows, growth, strict=True)]
    headers = ["step", *(f"{images:,} images" for images in sizes), "times as long"]
    sys.stdout.write(tabulate(table, headers, tablefmt="pipe", disable_numparse=True) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        sys.stdout.write(json.dumps(measure(int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main([int(word) for word in sys.argv[1:]])
