"""How fast a method is on one device: measurements alone, no file and no screen.

Each one warms up, waits for the device after every repetition, and takes the median of as many repetitions as fit its
time (as in karpathy/nanochat `scripts/infer_bench.py` and timm's `benchmark.py`). Images are random bytes that lie on
the device, weights are random: neither changes the speed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...data.loader import Batch
from ...engine.device import Device
from ...engine.epoch import Epoch, TrainContext
from ...engine.memory import PeakMemory
from ...engine.step import Learner, make_learner, train_step
from ...engine.trainer import train_epoch
from ...method import Method
from ...recipe import Recipe
from ...utils.errors import UserError

WARM_UP = 3  # repetitions that do not count: they choose kernels, compile, and fill caches
MIN_REPETITIONS, MAX_REPETITIONS = 5, 1000  # repetitions that count
TOO_LONG = 30.0  # seconds; a batch that would take longer is not measured
MIN_BATCHES, MAX_BATCHES = 4, 2000  # of an end-to-end measurement
QUANTILES = {"p50": (0.5, 2), "p95": (0.95, 20), "p99": (0.99, 100)}  # and how many times it takes for one above it
Result = TypeVar("Found")


class Latency(NamedTuple):
    """Milliseconds from one image on the device to its scores there.

    Attributes:
        p50, p95, p99: percentiles over the repetitions; None where they are too few to tell (p95: 20, p99: 100).
        repetitions: how many were timed.
        peak_memory: bytes; None where the system does not tell.
    """

    p50: float | None
    p95: float | None
    p99: float | None
    repetitions: int
    peak_memory: int | None


class Throughput(NamedTuple):
    """Images a second, batch after batch of one size.

    Attributes:
        requested: the requested batch size.
        batch_size: the one measured, halved until it fitted the memory; None if it was not measured.
        images_per_second: by the median repetition; None if one batch would have taken longer than TOO_LONG.
        repetitions: how many were timed.
        peak_memory: bytes; None where the system does not tell.
    """

    requested: int
    batch_size: int | None
    images_per_second: float | None
    repetitions: int
    peak_memory: int | None


class Flow(NamedTuple):
    """Images a second over many different batches, and how many images that were."""

    images_per_second: float
    images: int


@dataclass(frozen=True)
class MeasuredMethod:
    """What is measured.

    Attributes:
        device: where.
        method: builds the network and computes the loss.
        recipe: gives the crop, the training batch, the optimiser, and whether networks are compiled.
        findings: what is looked for, C names.
        seconds: about how long each measurement shall take, without its warm-up.
    """

    device: Device
    method: Method
    recipe: Recipe
    findings: Sequence[str]
    seconds: float

    @property
    def name(self) -> str:
        """The method's name, for people."""
        return self.method.name + (" (compiled)" if self.recipe.compute.compile else "")

    def network(self) -> nn.Module:
        """The method's network with random weights, on the device."""
        return self.device.place(self.method.build(self.findings, "none"))

    def images(self, number: int) -> Tensor:
        """Random gray bytes on the device: uint8 (number, crop, crop)."""
        side = self.recipe.pixels.crop
        return torch.randint(256, (number, side, side), dtype=torch.uint8, device=self.device.torch_device)


def count_parameters(network: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_operations(subject: MeasuredMethod, network: nn.Module) -> int:
    """Operations of one image's forward pass: its convolutions and matrix products, a multiply-add being two."""
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subject.device.forward(network, subject.images(1))
    return counter.get_total_flops()


def measure_latency(subject: MeasuredMethod, network: nn.Module) -> Latency:
    """How long one image takes, alone."""
    taken, peak = _time_inference(subject, network, 1)
    return Latency(**percentiles(taken), repetitions=len(taken), peak_memory=peak)


def percentiles(seconds: np.ndarray) -> dict[str, float | None]:
    """p50, p95 and p99 of the times, in milliseconds; None where there are too few of them."""
    return {
        name: float(np.quantile(seconds, share)) * 1e3 if len(seconds) >= fewest else None
        for name, (share, fewest) in QUANTILES.items()
    }


def measure_inference(subject: MeasuredMethod, network: nn.Module, asked: int, seconds_an_image: float) -> Throughput:
    """Images a second in batches of `asked`, or of what of it fits the memory.

    Args:
        subject: what is measured.
        network: its network, placed.
        asked: images a batch.
        seconds_an_image: what an image took so far, in smaller batches: tells whether this one would take too long.

    Raises:
        UserError: not even one image fits the memory.
    """
    if asked * seconds_an_image > TOO_LONG:
        return Throughput(asked, None, None, 0, None)
    size, (taken, peak) = halve_until_it_fits(lambda size: _time_inference(subject, network, size), asked)
    return Throughput(asked, size, size / float(np.median(taken)), len(taken), peak)


def measure_training(subject: MeasuredMethod, network: nn.Module) -> tuple[Throughput, Learner]:
    """Images a second of whole optimisation steps on one batch that lies on the device; and the warm learner.

    Raises:
        UserError: not even two images fit the memory.
    """
    asked = subject.recipe.train.batch_size
    learner = make_learner(subject.device, network, subject.recipe, steps_an_epoch=10**6)
    learner.train()
    size, (taken, peak) = halve_until_it_fits(lambda size: _time_steps(subject, learner, size), asked, least=2)
    return Throughput(asked, size, size / float(np.median(taken)), len(taken), peak), learner


def measure_loader(context: TrainContext, rows: np.ndarray, seconds: float) -> Flow:
    """Images a second that are read from the pixel map as training reads them, when nothing is computed."""
    batches = chain.from_iterable(Epoch(context, (0, epoch), rows).batches() for epoch in count())
    images, begun, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < seconds:
        images += len(next(batches).images)
        elapsed = time.perf_counter() - begun
    return Flow(images / elapsed, images)


def measure_end_to_end(context: TrainContext, learner: Learner, rows: np.ndarray, images: float, title: str) -> Flow:
    """Images a second of training as a run trains: batches read, moved to the device and learnt from.

    Args:
        material: what a stage of training has.
        learner: warm.
        rows: row numbers of training images; repeated, or not all used, to make whole batches.
        images: about how many to train on.
        title: what the progress bar says.
    """
    size = context.recipe.train.batch_size
    batches = int(np.clip(round(images / size), MIN_BATCHES, MAX_BATCHES))
    chosen = np.resize(rows, batches * size)
    begun = time.perf_counter()
    train_epoch(Epoch(context, (0, 0), chosen, title), learner)
    return Flow(len(chosen) / (time.perf_counter() - begun), len(chosen))


def halve_until_it_fits(measure: Callable[[int], Result], size: int, least: int = 1) -> tuple[int, Result]:
    """The largest of size, size / 2, size / 4, ... that the memory holds, and what `measure` found with it.

    Raises:
        UserError: not even `least` images fit.
    """
    while size >= least:
        try:
            return size, measure(size)
        except torch.OutOfMemoryError:
            size //= 2
    raise UserError(
        f"a batch of {least} does not fit the memory of the device: take smaller images with --set pixels.crop=..."
    )


def repeat(call: Callable[[], object], device: torch.device, seconds: float) -> np.ndarray:
    """Seconds that each call took (n,), the device waited for: as many as fit, at least FEWEST and at most MOST."""
    for _ in range(WARM_UP):
        call()
    _wait_for(device)
    taken: list[float] = []
    begun = time.perf_counter()
    while len(taken) < MIN_REPETITIONS or (len(taken) < MAX_REPETITIONS and time.perf_counter() - begun < seconds):
        start = time.perf_counter()
        call()
        _wait_for(device)
        taken.append(time.perf_counter() - start)
    return np.array(taken)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _time_inference(subject: MeasuredMethod, network: nn.Module, size: int) -> tuple[np.ndarray, int | None]:
    peak, images = PeakMemory(subject.device.torch_device), subject.images(size)
    view = network.eval()
    if subject.recipe.compute.compile:
        torch.compiler.reset()  # each batch size has code of its own, as a service with one size would
        view = torch.compile(network, dynamic=False)
    with torch.inference_mode():
        taken = repeat(lambda: subject.device.forward(view, images), subject.device.torch_device, subject.seconds)
    return taken, peak.bytes()


def _time_steps(subject: MeasuredMethod, learner: Learner, size: int) -> tuple[np.ndarray, int | None]:
    device = subject.device
    peak, images = PeakMemory(device.torch_device), subject.images(size)
    targets = (torch.rand(size, len(subject.findings), device=device.torch_device) < 0.1).float()
    batch, parts = Batch(images, targets, slice(0, size)), subject.recipe.train.micro_batch
    taken = repeat(
        lambda: train_step(device, subject.method, learner, batch, parts), device.torch_device, subject.seconds
    )
    return taken, peak.bytes()
