"""Speed of a method's network and of timm's plain one, measured in turns in one process; and that of end to end.

timm's side is what its own `benchmark.py` does, which is not in its wheel: random images on the device, in the memory
layout and under autocast, a warm-up, then repeated calls with the device synchronized after each; training by SGD with
momentum, all of it in plain torch.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import timm
import torch
from on_device import device_of
from torch.nn import functional as F

from chxbench import METHODS
from chxbench.benchmark.commands.speed import measure
from chxbench.benchmark.commands.speed.measure import MeasuredMethod
from chxbench.benchmark.commands.speed.same_network import network_signature
from chxbench.benchmark.data.pixel_cache import prepare_pixels
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine.experiment import build_method
from chxbench.benchmark.engine.train_context import build_train_context
from chxbench.benchmark.recipe import load_recipe

INFERENCE, TRAINING = "inference", "training"


class Rates(NamedTuple):
    """Images per second of two sides, in each round (n,)."""

    ours: np.ndarray
    theirs: np.ndarray

    @property
    def ratio(self):
        """The median over the rounds."""
        return float(np.median(self.ours / self.theirs))

    def medians(self):
        return float(np.median(self.ours)), float(np.median(self.theirs))


def subject_of(name, kind, precision="bfloat16", compiled=False, seconds=0.6, **settings):
    """Return a method as `chxbench speed` measures it, by the recipe `paper` with random weights."""
    recipe = load_recipe("paper", {"model.weights": "none", "compute.compile": compiled, **settings})
    method = build_method(METHODS.get(name).cls, recipe, {})
    return MeasuredMethod(device_of(kind, precision), method, recipe, FINDINGS, seconds)


def other_settings(subject, compiled=False, seconds=None):
    """Return the subject, compiled or not, measured for so many seconds."""
    recipe = replace(subject.recipe, compute=replace(subject.recipe.compute, compile=compiled))
    return replace(subject, recipe=recipe, seconds=seconds or subject.seconds)


def methods_by_network(kind, **settings):
    """List the names of the built-in methods, those with the same network together."""
    groups = {}
    for entry in filter(lambda entry: entry.built_in, METHODS):  # other tests register plugins
        signature = network_signature(subject_of(entry.name, kind, **settings))
        groups.setdefault(signature, []).append(entry.name)
    return list(groups.values())


@dataclass
class PlainNetwork:
    """A network of timm with as many outputs as there are findings, measured under a subject's conditions."""

    subject: MeasuredMethod
    name: str

    def __post_init__(self):
        network = timm.create_model(self.name, num_classes=len(FINDINGS))
        self.network = network.to(self.subject.device.torch_device, memory_format=torch.channels_last)
        self.run = self.network
        if self.subject.recipe.compute.compile:
            self.run = torch.compile(self.network, dynamic=False)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.01, momentum=0.9)

    def images(self, size):
        """Draw images: float32 (size, 3, crop, crop), in channels_last."""
        side = self.subject.recipe.pixels.crop
        images = torch.randn(size, 3, side, side, device=self.subject.device.torch_device)
        return images.contiguous(memory_format=torch.channels_last)

    def inference(self, size):
        """Images per second of forward passes."""
        self.network.eval()
        images = self.images(size)
        with torch.inference_mode(), self.subject.device.autocast():
            seconds = measure.repeat(lambda: self.run(images), self.subject)
        return size * len(seconds) / float(seconds.sum())

    def training(self, size):
        """Images per second of training steps."""
        self.network.train()
        images = self.images(size)
        targets = (torch.rand(size, len(FINDINGS), device=images.device) < 0.1).float()

        def step():
            self.optimizer.zero_grad()
            with self.subject.device.autocast():
                logits = self.run(images)
            F.binary_cross_entropy_with_logits(logits.float(), targets).backward()
            self.optimizer.step()

        seconds = measure.repeat(step, self.subject)
        return size * len(seconds) / float(seconds.sum())


@dataclass
class OwnNetwork:
    """The subject's own network, measured as `chxbench speed` does."""

    subject: MeasuredMethod

    def __post_init__(self):
        self.network, self.learner = self.subject.network(), measure.build_learner(self.subject)

    def inference(self, size):
        return measure.time_inference(self.subject, self.network, size).images_per_second

    def training(self, size):
        return measure.time_steps(self.subject, self.learner, size).images_per_second


def beside_plain(subject, plain, inference, rounds):
    """Measure a method and a plain network of timm in turns, the order reversed from round to round.

    Args:
        subject: the method; compiled, there should be one round: each one compiles again.
        plain: timm's name of the network.
        inference: images of a batch of inference; those of training are the recipe's.
        rounds: how often each is measured.

    Returns:
        Rates by INFERENCE and TRAINING.
    """
    sides = [OwnNetwork(subject), PlainNetwork(subject, plain)]
    found = {}
    for what, size in ((INFERENCE, inference), (TRAINING, subject.recipe.train.batch_size)):
        rates = np.empty((rounds, 2))
        for number in range(rounds):
            for side in (0, 1) if number % 2 else (1, 0):
                rates[number, side] = getattr(sides[side], what)(size)
        found[what] = Rates(*rates.T)
    return found


def end_to_end(subject, dataset, cache, rounds):
    """Measure training from the pixel map of a dataset beside the same steps on one batch on the device, in turns."""
    index = dataset.index(None)
    pixels = prepare_pixels(dataset, index, subject.recipe.pixels.size, cache).pixels
    context = build_train_context(
        device=subject.device, method=subject.method, recipe=subject.recipe, index=index, pixels=pixels, seed=0
    )
    learner, size, rows = measure.build_learner(subject), subject.recipe.train.batch_size, index.rows("train")
    rates = np.empty((rounds, 2))
    for number in range(rounds):
        steps = measure.time_steps(subject, learner, size).images_per_second
        read = measure.measure_end_to_end(subject, context, learner, rows, steps * subject.seconds)
        rates[number] = read, steps
    return Rates(*rates.T)
