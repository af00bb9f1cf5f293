"""Measure a method's speed on one device, without writing or printing.

Each measurement warms up, synchronizes with the device after each repetition, and takes the median of as many
repetitions as fit its time (as in karpathy/nanochat `scripts/infer_bench.py` and timm's `benchmark.py`). Images are
random bytes on the device and weights are random; neither changes the speed.
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
MIN_BATCHES, MAX_BATCHES = 4, 2000  # batches of an end-to-end measurement
QUANTILES = {"p50": (0.5, 2), "p95": (0.95, 20), "p99": (0.99, 100)}  # with the repetitions each one needs
Result = TypeVar("Result")


class Latency(NamedTuple):
    """Latency from an image on the device to its scores on the device, in milliseconds.

    Attributes:
        p50, p95, p99: percentiles over the repetitions; None with too few repetitions (p95: 20, p99: 100).
        repetitions: number of timed repetitions.
        peak_memory: peak memory in bytes; None if the system does not report it.
    """

    p50: float | None
    p95: float | None
    p99: float | None
    repetitions: int
    peak_memory: int | None


class Throughput(NamedTuple):
    """Throughput with batches of one size.

    Attributes:
        requested: requested batch size.
        batch_size: measured batch size, halved until it fits in memory; None if it was not measured.
        images_per_second: throughput of the median repetition; None if a batch would take longer than TOO_LONG.
        repetitions: number of timed repetitions.
        peak_memory: peak memory in bytes; None if the system does not report it.
    """

    requested: int
    batch_size: int | None
    images_per_second: float | None
    repetitions: int
    peak_memory: int | None


class Flow(NamedTuple):
    """Throughput over many different batches, and the number of images."""

    images_per_second: float
    images: int


@dataclass(frozen=True)
class MeasuredMethod:
    """A method and the conditions it is measured under.

    Attributes:
        device: device of the networks.
        method: method that builds the network and computes the loss.
        recipe: recipe with crop, training batch size, optimizer, and whether networks are compiled.
        findings: names of the C findings.
        seconds: approximate duration of each measurement, without its warm-up.
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
        """Create random gray images on the device: uint8 (number, crop, crop)."""
        side = self.recipe.pixels.crop
        return torch.randint(256, (number, side, side), dtype=torch.uint8, device=self.device.torch_device)


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_operations(subject: MeasuredMethod, network: nn.Module) -> int:
    """Count the operations of one image's forward pass; a multiply-add of a convolution or matrix product is two."""
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        subject.device.forward(network, subject.images(1))
    return int(counter.get_total_flops())


def measure_latency(subject: MeasuredMethod, network: nn.Module) -> Latency:
    """Measure the time of a batch of one image."""
    seconds, peak = _time_inference(subject, network, 1)
    return Latency(**percentiles(seconds), repetitions=len(seconds), peak_memory=peak)


def percentiles(seconds: np.ndarray) -> dict[str, float | None]:
    """Compute p50, p95 and p99 of times (n,), in milliseconds; None if n is too small."""
    return {
        name: float(np.quantile(seconds, quantile)) * 1e3 if len(seconds) >= needed else None
        for name, (quantile, needed) in QUANTILES.items()
    }


def measure_inference(
    subject: MeasuredMethod, network: nn.Module, requested: int, seconds_per_image: float
) -> Throughput:
    """Measure the throughput of inference.

    Args:
        subject: method to measure.
        network: network of the method, on the device.
        requested: images per batch; halved until a batch fits in memory.
        seconds_per_image: time per image in smaller batches, to skip a batch that would take longer than TOO_LONG.

    Raises:
        UserError: if not even one image fits in memory.
    """
    if requested * seconds_per_image > TOO_LONG:
        return Throughput(requested, None, None, 0, None)
    size, (seconds, peak) = halve_until_it_fits(lambda size: _time_inference(subject, network, size), requested)
    return Throughput(requested, size, size / float(np.median(seconds)), len(seconds), peak)


def measure_training(subject: MeasuredMethod, network: nn.Module) -> tuple[Throughput, Learner]:
    """Measure the throughput of optimization steps on one batch on the device.

    Args:
        subject: method to measure.
        network: network of the method, on the device.

    Returns:
        The throughput, and the learner, warmed up.

    Raises:
        UserError: if not even two images fit in memory.
    """
    requested = subject.recipe.train.batch_size
    learner = make_learner(subject.device, network, subject.recipe, steps_per_epoch=10**6)  # never reached
    learner.train()
    # At least two images: with 1x1 features, BatchNorm cannot compute the variance of a single image.
    size, (seconds, peak) = halve_until_it_fits(lambda size: _time_steps(subject, learner, size), requested, least=2)
    return Throughput(requested, size, size / float(np.median(seconds)), len(seconds), peak), learner


def measure_loader(context: TrainContext, rows: np.ndarray, seconds: float) -> Flow:
    """Measure the throughput of reading batches from the pixel cache as in training, without optimization steps."""
    batches = chain.from_iterable(Epoch(context, (0, epoch), rows).batches() for epoch in count())
    images, start, elapsed = 0, time.perf_counter(), 0.0
    while elapsed < seconds:
        images += len(next(batches).images)
        elapsed = time.perf_counter() - start
    return Flow(images / elapsed, images)


def measure_end_to_end(context: TrainContext, learner: Learner, rows: np.ndarray, images: float, title: str) -> Flow:
    """Measure the throughput of training end to end: batches are read, moved to the device and trained on.

    Args:
        context: context of a training stage.
        learner: learner, warmed up.
        rows: row numbers of training images; repeated or cut to fill complete batches.
        images: approximate number of images to train on.
        title: text of the progress bar.
    """
    size = context.recipe.train.batch_size
    batches = int(np.clip(round(images / size), MIN_BATCHES, MAX_BATCHES))
    examples = np.resize(rows, batches * size)
    start = time.perf_counter()
    train_epoch(Epoch(context, (0, 0), examples, title), learner)
    return Flow(len(examples) / (time.perf_counter() - start), len(examples))


def halve_until_it_fits(measure: Callable[[int], Result], size: int, least: int = 1) -> tuple[int, Result]:
    """Measure with batch size `size`, halved until a batch fits in memory.

    Args:
        measure: function of a batch size.
        size: largest batch size.
        least: smallest batch size.

    Returns:
        The batch size that fits, and the result of `measure` for it.

    Raises:
        UserError: if not even `least` images fit in memory.
    """
    while size >= least:
        try:
            return size, measure(size)
        except torch.OutOfMemoryError:
            size //= 2
    raise UserError(f"a batch of {least} does not fit in device memory: use smaller images with --set pixels.crop=...")


def repeat(call: Callable[[], object], device: torch.device, seconds: float) -> np.ndarray:
    """Time repeated calls for about `seconds`, from MIN_REPETITIONS to MAX_REPETITIONS of them, after a warm-up.

    Args:
        call: function to time.
        device: device to synchronize with after every call.
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
        torch.compiler.reset()  # each batch size is compiled separately, as in a service with one batch size
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
