"""Training: what the harness adds to the bare step, and what a plain script would have taken."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chxbench import FINDINGS
from chxbench.benchmark.data.loader import Batch
from chxbench.benchmark.data.pixel_cache import prepare_pixels
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.epoch import Epoch
from chxbench.benchmark.engine.experiment import build_method
from chxbench.benchmark.engine.step import make_learner, train_step
from chxbench.benchmark.engine.train_context import build_train_context
from chxbench.benchmark.engine.trainer import train_epoch
from chxbench.benchmark.recipe import load_recipe
from chxbench.datasets.phantom import Phantom
from chxbench.methods.ma import MultiAttention

IMAGES, BATCH = 96, 32  # of the comparison with a plain script


def make_context(dataset, settings, cache, recipe="quick"):
    """A training of `ma` on a small set of drawn radiographs: its context, its learner, rows to train on."""
    recipe = load_recipe(recipe, {"model.weights": "none", **settings})
    method = build_method(MultiAttention, recipe, {})
    index = dataset.index(None)
    pixels = prepare_pixels(dataset, index, recipe.pixels.size, cache).pixels
    device = Device("auto")
    learner = make_learner(device, method.build(FINDINGS, "none"), recipe, 1000)
    rows = np.arange(len(index.images))
    context = build_train_context(device=device, method=method, recipe=recipe, index=index, pixels=pixels, seed=0)
    return context, learner, rows


def test_an_epoch_against_its_bare_steps(versus, tmp_path):
    dataset = Phantom(images=256, size=144)
    context, learner, rows = make_context(dataset, {"train.epochs": 100}, tmp_path)
    size, side = context.recipe.train.batch_size, context.recipe.pixels.crop
    gray = torch.randint(256, (size, side, side), dtype=torch.uint8)
    resident = Batch(gray.to(context.device.torch_device), torch.from_numpy(context.targets[:size]), slice(0, size))

    def epoch():
        return train_epoch(Epoch(context, (0, 0), rows, "training"), learner)

    def bare():
        learner.train()
        losses = [train_step(context.device, context.method, learner, resident) for _ in range(len(rows) // size)]
        return float(sum(losses)) / len(losses)

    learner.train()
    train_step(context.device, context.method, learner, resident)
    ours, theirs = versus(
        "training end to end, 128x128 crops", "the same steps on one batch in memory", epoch, bare, 0.97, rounds=9
    )
    assert np.isfinite([ours, theirs]).all()


@pytest.fixture
def plain_script(tmp_path):
    """Drawn radiographs of 1024x1024 as files, and a plain script at work on them: call it to train an epoch."""
    dataset = Phantom(images=IMAGES, size=1024)
    index = dataset.index(None)
    for name in index.images["image_id"]:
        Image.fromarray(dataset.read(name, None)).save(tmp_path / name)
    np.save(tmp_path / "labels.npy", index.targets())
    words = [sys.executable, Path(__file__).with_name("plain_script.py"), tmp_path, str(BATCH)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:

        def epoch():
            process.stdin.write("go\n")
            return float(process.stdout.readline())

        yield epoch
        process.stdin.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares what a CPU does")
def test_training_against_a_plain_script(versus, plain_script, tmp_path):
    settings = {"train.batch_size": BATCH, "train.epochs": 100, "train.drop_after": []}
    dataset = Phantom(images=IMAGES, size=1024)
    context, learner, rows = make_context(dataset, settings, tmp_path / "cache", "paper")

    def epoch():
        return train_epoch(Epoch(context, (0, 0), rows, "training"), learner)

    plain_script()
    epoch()
    ours, theirs = versus(
        f"training ma in {context.device.precision}, 224x224 crops",
        "a plain script: float32, NCHW, decoding each epoch",
        epoch,
        plain_script,
        2.5,
    )
    assert np.isfinite([ours, theirs]).all()
