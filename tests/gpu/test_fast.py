"""How fast a GPU machine is at the size of the paper: 224 pixels, bfloat16, channels_last, batches of the recipe.

Asserted are ratios to what the same process measures of timm's plain ResNet-101, and of end to end to steps alone. The
networks named by CHXBENCH_COMPILED (`bsl,sam` unless set) are compiled as well, as long as the time allows it.
"""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from own_dataset import FILES
from paper_speed import (
    INFERENCE,
    TRAINING,
    beside_plain,
    end_to_end,
    methods_by_network,
    other_settings,
    subject_of,
)
from PIL import Image

from chxbench.benchmark.utils.environment import cores
from chxbench.datasets.phantom import Phantom

TABLE = "fast.txt"
pytestmark = pytest.mark.gpu
PLAIN = "resnet101"  # timm's name
BATCH = 256  # of inference
TARGETS = {"bsl": 0.95}  # of the plain network's speed: it has the same layers, plus maps and log-odds in float32
NEAR_STEPS = 0.97  # of the speed of steps alone
COMPILED = [name for name in os.environ.get("CHXBENCH_COMPILED", "bsl,sam").split(",") if name]
LATEST = 170  # seconds after the start, after which nothing more is compiled
STARTED = time.monotonic()
DRAWN, LINKED, SIDE = 64, 4096, 1024  # PNG files: those that are different, all, and their width


@pytest.fixture(scope="module")
def networks():
    """The names of all methods, grouped by their network."""
    return methods_by_network("cuda", **{"pixels.crop": 64})


def tell_rates(tell, name, others, how, found):
    """Add a row for inference and one for training; return the ratios."""
    for what, rates in found.items():
        ours, theirs = (f"{rate:,.0f} images/s" for rate in rates.medians())
        title = f"{name}{f' (= {others})' if others else ''}, {how}: {what}"
        tell(title, ours, f"timm's {PLAIN}: {theirs}", rates.ratio, TARGETS.get(name))
    return {what: rates.ratio for what, rates in found.items()}


@pytest.mark.gpu(seconds=120)
def test_every_method_beside_a_plain_network(networks, tell):
    ratios = {}
    for name, *others in networks:
        found = beside_plain(subject_of(name, "cuda"), PLAIN, BATCH, rounds=3)
        ratios[name] = tell_rates(tell, name, ", ".join(others), "eager", found)
        torch.cuda.empty_cache()
    missed = {name: ratios[name] for name in TARGETS if min(ratios[name].values()) < TARGETS[name]}
    assert not missed


@pytest.mark.gpu(seconds=90)
@pytest.mark.parametrize("name", ["bsl", "sam"])
def test_reading_does_not_slow_training(name, cache, tell):
    """Images are in the pixel map before anything is timed."""
    subject = subject_of(name, "cuda", seconds=2.0)
    rates = end_to_end(subject, Phantom(images=3000), cache, rounds=3)
    read, steps = (f"{rate:,.0f} images/s" for rate in rates.medians())
    tell(f"{name}: training from the pixel map", read, f"steps alone: {steps}", rates.ratio, NEAR_STEPS)
    assert rates.ratio >= NEAR_STEPS


def write_png(number, folder):
    """Draw a radiograph and write it as a PNG file."""
    phantom = Phantom(images=DRAWN, size=SIDE)
    image = phantom.index(None).images["image_id"][number]
    Image.fromarray(phantom.read(image, None)).save(Path(folder) / f"{number:05}.png")


def decoded_per_second(log):
    """Read the images per second from the log of `chxbench prepare`."""
    number, seconds = re.findall(r"decoding: ([\d,]+)/\1 images, .* took ([\d.,]+) s", log)[-1]
    return int(number.replace(",", "")) / float(seconds.replace(",", ""))


@pytest.mark.gpu(seconds=120)
def test_decoding_on_all_cores(start, finish, tmp_path, tell):
    log = tmp_path / "drawn.log"
    words = ["prepare", "--dataset", "phantom", "--recipe", "paper", "--set", "dataset.images=16000"]
    text = finish(start([*words, "--cache", tmp_path / "drawn"], log), log, 60)
    tell(f"prepare: drawing 256x256 on {cores()} cores", f"{decoded_per_second(text):,.0f} images/s")
    folder = tmp_path / "files"
    folder.mkdir()
    with ThreadPoolExecutor(cores()) as pool:  # a process that uses CUDA is better not forked
        list(pool.map(write_png, range(DRAWN), [folder] * DRAWN))
    for number in range(DRAWN, LINKED):
        os.link(folder / f"{number % DRAWN:05}.png", folder / f"{number:05}.png")
    (tmp_path / "files.py").write_text(FILES)
    log = tmp_path / "files.log"
    words = ["prepare", "--plugin", tmp_path / "files.py", "--dataset", "files_of_test", "--data-dir", folder]
    text = finish(start([*words, "--recipe", "paper", "--cache", tmp_path / "read"], log), log, 60)
    tell(f"prepare: {SIDE}x{SIDE} PNG files on {cores()} cores", f"{decoded_per_second(text):,.0f} images/s")


@pytest.mark.gpu(seconds=150)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_networks_beside_a_compiled_plain_one(name, tell):
    if time.monotonic() - STARTED > LATEST:
        pytest.skip(f"{LATEST} s have passed: compiling would take too long")
    torch.compiler.reset()
    subject = other_settings(subject_of(name, "cuda"), compiled=True, seconds=1.5)
    found = beside_plain(subject, PLAIN, BATCH, rounds=1)
    ratios = tell_rates(tell, name, "", "compiled", found)
    assert min(ratios.values()) >= TARGETS.get(name, 0)
    assert {INFERENCE, TRAINING} == set(ratios)
