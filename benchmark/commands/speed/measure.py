"""Measurements of a method's speed on one device; nothing is written or printed.

Each one warms up, synchronizes with the device after each repetition, and takes the median of as many repetitions as
fit its time (as in karpathy/nanochat `scripts/infer_bench.py` and timm's `benchmark.py`). Images are random bytes on
the device, weights are random: neither changes the speed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ...data.loader import Batch
from ...engine.device import Device
from ...engine.epoch import Epoch
from ...engine.memory import PeakMemory
from ...engine.step import Learner, make_learner, train_step
from ...engine.train_context import TrainContext
from ...engine.trainer import train_epoch
from ...method import Method
from ...recipe import Recipe
from ...utils.errors import UserError

WARM_UP = 3  # repetitions that are not timed: they choose kernels, compile, and fill caches
MIN_REPETITIONS, MAX_REPETITIONS = 5, 1000  # repetitions that are timed
TOO_LONG = 30.0  # seconds; a batch that would take longer is not measured
MIN_BATCHES, MAX_BATCHES = 4, 2000  # of an end-to-end measurement
QUANTILES = {"p50": (0.5, 2), "p95": (0.95, 20), "p99": (0.99, 100)}  # and repetitions needed for one to be above it
Result = TypeVar("Result")


class Latency(NamedTuple):
    """Time from one image on the device to its scores there, in milliseconds.

    Attributes:
        p50, p95, p99: percentiles over the repetitions; None if these are too few (p95: 20, p99: 100).
        repetitions: how many were timed.
        peak_memory: bytes; None where the system does not tell.
    """

    p50: float | None
    p95: float | None
    p99: float | None
    repetitions: int
    peak_memory: int | None


class Throughput(NamedTuple):
    """Images per second, batch after batch of one size.

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
    """Images per second over many different batches, and the number of images."""

    images_per_second: float
    images: int


@dataclass(frozen=True)
class MeasuredMethod:
    """A method and the conditions it is measured under.

    Attributes:
        device: where networks run.
        method: builds the network and computes the loss.
        recipe: gives the crop, the training batch, the optimizer, and whether networks are compiled.
        findings: names of the C findings.
        seconds: approximate time of each measurement, without its warm-up.
    """

    device: Device
    method: Method
    recipe: Recipe
    findings: Sequence[str]
    seconds: float

    @property
    def name(self) -> str:
        """Display name of the method."""
        return self.method.name + (" (compiled)" if self.recipe.compute.compile else "")

    def network(self) -> nn.Module:
        """Build the method's network with random weights, on the device."""
        return self.device.place(self.method.build(self.findings, "none"))

    def images(self, number: int) -> Tensor:
        """Make random gray bytes on the device: uint8 (number, crop, crop)."""
        side = self.recipe.pixels.crop
        return torch.randint(256, (number, side, side), dtype=torch.uint8, device=self.device.torch_device)


def count_parameters(network: nn.Module) -> int:
    """Count the parameters that training changes."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_operations(subject: MeasuredMethod, network: nn.Module) -> int:
    """Count the operations of one image's forward pass: convolutions and matrix products, a multiply-add being two."""
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subject.device.forward(network, subject.images(1))
    return int(counter.get_total_flops())


def measure_latency(subject: MeasuredMethod, network: nn.Module) -> Latency:
    """Measure the time of a batch of one image."""
    seconds, peak = _time_inference(subject, network, 1)
    return Latency(**percentiles(seconds), repetitions=len(seconds), peak_memory=peak)


def percentiles(seconds: np.ndarray) -> dict[str, float | None]:
    """Compute p50, p95 and p99 of times (n,), in milliseconds; None where n is too small."""
    return {
        name: float(np.quantile(seconds, quantile)) * 1e3 if len(seconds) >= needed else None
        for name, (quantile, needed) in QUANTILES.items()
    }


def measure_inference(
    subject: MeasuredMethod, network: nn.Module, requested: int, seconds_per_image: float
) -> Throughput:
    """Measure the throughput of inference.

    Args:
        subject: what is measured.
        network: its network, placed on the device.
        requested: images per batch; halved until a batch fits the memory.
        seconds_per_image: measured in smaller batches, to skip a batch that would take longer than TOO_LONG.

    Raises:
        UserError: not even one image fits the memory.
    """
    if requested * seconds_per_image > TOO_LONG:
        return Throughput(requested, None, None, 0, None)
    size, (seconds, peak) = halve_until_it_fits(lambda size: _time_inference(subject, network, size), requested)
    return Throughput(requested, size, size / float(np.median(seconds)), len(seconds), peak)


def measure_training(subject: MeasuredMethod, network: nn.Module) -> tuple[Throughput, Learner]:
    """Measure the throughput of optimization steps on one batch on the device.

    Args:
        subject: what is measured.
        network: its network.

    Returns:
        The throughput, and the learner, warmed up.

    Raises:
        UserError: not even two images fit the memory.
    """
    requested = subject.recipe.train.batch_size
    learner = make_learner(subject.device, network, subject.recipe, steps_per_epoch=10**6)  # no schedule ends
    learner.train()
    # At least two images: BatchNorm has no variance of one where features are 1x1.
    size, (seconds, peak) = halve_until_it_fits(lambda size: _time_steps(subject, learner, size), requested, least=2)
    return Throughput(requested, size, size / float(np.median(seconds)), len(seconds), peak), learner


def measure_loader(context: TrainContext, rows: np.ndarray, seconds: float) -> Flow:
    """Measure the throughput of reading batches from the pixel map as training does, without computing."""
    batches = chain.from_iterable(Epoch(context, (0, epoch), rows).batches() for epoch in count())
    images, start, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < seconds:
        images += len(next(batches).images)
        elapsed = time.perf_counter() - start
    return Flow(images / elapsed, images)


def measure_end_to_end(context: TrainContext, learner: Learner, rows: np.ndarray, images: float, title: str) -> Flow:
    """Measure the throughput of training as a run trains: batches are read, moved to the device and trained on.

    Args:
        context: what a stage of training has.
        learner: warmed up.
        rows: row numbers of training images; repeated or cut to fill complete batches.
        images: approximate number of images to train on.
        title: text of the progress bar.
    """
    size = context.recipe.train.batch_size
    batches = int(np.clip(round(images / size), MIN_BATCHES, MAX_BATCHES))
    chosen = np.resize(rows, batches * size)
    start = time.perf_counter()
    train_epoch(Epoch(context, (0, 0), chosen, title), learner)
    return Flow(len(chosen) / (time.perf_counter() - start), len(chosen))


def halve_until_it_fits(measure: Callable[[int], Result], size: int, least: int = 1) -> tuple[int, Result]:
    """Measure with `size`, or with half of it, and so on, until the memory suffices.

    Args:
        measure: takes a batch size.
        size: the largest one.
        least: the smallest one.

    Returns:
        The batch size that fits, and what `measure` returned for it.

    Raises:
        UserError: not even `least` images fit.
    """
    while size >= least:
        try:
            return size, measure(size)
        except torch.OutOfMemoryError:
            size //= 2
    raise UserError(
        f"a batch of {least} does not fit the memory of the device: use smaller images with --set pixels.crop=..."
    )


def repeat(call: Callable[[], object], device: torch.device, seconds: float) -> np.ndarray:
    """Time as many calls as fit the time, within MIN_REPETITIONS and MAX_REPETITIONS, after a warm-up.

    Args:
        call: what to time.
        device: synchronized with after every call.
        seconds: time for all calls.

    Returns:
        Seconds of each call (n,).
    """
    for _ in range(WARM_UP):
        call()
    _synchronize(device)
    times: list[float] = []
    first_start = time.perf_counter()
    while len(times) < MIN_REPETITIONS or (
        len(times) < MAX_REPETITIONS and time.perf_counter() - first_start < seconds
    ):
        start = time.perf_counter()
        call()
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return np.array(times)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _time_inference(subject: MeasuredMethod, network: nn.Module, size: int) -> tuple[np.ndarray, int | None]:
    """Time forward passes: seconds (n,), and the peak memory in bytes."""
    peak, images = PeakMemory(subject.device.torch_device), subject.images(size)
    network = network.eval()
    if subject.recipe.compute.compile:
        torch.compiler.reset()  # each batch size gets code of its own, as in a service with one batch size
        network = cast("nn.Module", torch.compile(network, dynamic=False))
    with torch.inference_mode():
        seconds = repeat(lambda: subject.device.forward(network, images), subject.device.torch_device, subject.seconds)
    return seconds, peak.bytes()


def _time_steps(subject: MeasuredMethod, learner: Learner, size: int) -> tuple[np.ndarray, int | None]:
    """Time optimization steps: seconds (n,), and the peak memory in bytes."""
    device = subject.device
    peak, images = PeakMemory(device.torch_device), subject.images(size)
    targets = (torch.rand(size, len(subject.findings), device=device.torch_device) < 0.1).float()
    batch, micro_batch = Batch(images, targets, slice(0, size)), subject.recipe.train.micro_batch
    seconds = repeat(
        lambda: train_step(device, subject.method, learner, batch, micro_batch), device.torch_device, subject.seconds
    )
    return seconds, peak.bytes()
