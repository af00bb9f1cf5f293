"""Measure a method's speed on one device, without writing or printing.

Each measurement warms up and synchronizes with the device after each repetition (as in karpathy/nanochat
`scripts/infer_bench.py` and timm's `benchmark.py`). Images are random bytes on the device and weights are random;
neither changes the speed. Which batches fit in memory is found once, before the first round.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from ...utils.cpu_time import OtherProcesses
from ...utils.errors import UserError

WARM_UP = 2  # repetitions that are not timed: they choose kernels, compile, and fill caches
MIN_REPETITIONS, MAX_REPETITIONS = 3, 1000  # repetitions that are timed, in each round
TOO_LONG = 30.0  # seconds; a batch that would take longer is not measured
MIN_BATCHES, MAX_BATCHES = 4, 2000  # batches of an end-to-end measurement
QUANTILES = {"p95": (0.95, 20), "p99": (0.99, 100)}  # with the repetitions each one needs
Result = TypeVar("Result")
Done = Callable[[int], None]  # called with 1 after each measurement


class Plan(NamedTuple):
    """What a method measures in each round.

    Attributes:
        parameters: trainable parameters of the network.
        flops: operations of one image's forward pass.
        inference: requested batch sizes of inference, with those to measure: halved until they fit in memory; None for
            one that would take too long.
        training: batch size of training, halved until it fits.
    """

    parameters: int
    flops: int
    inference: dict[int, int | None]
    training: int

    @property
    def measurements(self) -> int:
        """Number of measurements in a round: latency, each further batch size, steps, reading, end to end."""
        return len({1, *self.inference.values()} - {None}) + 3


class Timed(NamedTuple):
    """Repetitions of one computation on a batch.

    Attributes:
        size: images in a batch.
        seconds: duration of each repetition (n,).
        peak_memory: peak memory in bytes; None if the system does not report it.
    """

    size: int
    seconds: np.ndarray
    peak_memory: int | None

    @property
    def images_per_second(self) -> float:
        """Images per second over all repetitions."""
        return self.size * len(self.seconds) / float(self.seconds.sum())


class Turn(NamedTuple):
    """The measurements of a method in one round.

    Attributes:
        place: place in the order of the round, from 1.
        latency: inference of single images.
        inference: inference at each batch size of the plan; None if not measured.
        steps: training steps on a batch on the device.
        loader: images per second of reading batches.
        end_to_end: images per second of reading batches and training on them.
        others: share of the cores' time that other processes used; None if unknown.
    """

    place: int
    latency: Timed
    inference: tuple[Timed | None, ...]
    steps: Timed
    loader: float
    end_to_end: float
    others: float | None


@dataclass(frozen=True)
class MeasuredMethod:
    """A method and the conditions it is measured under.

    Attributes:
        device: device of the networks.
        method: method that builds the network and computes the loss.
        recipe: recipe with crop, training batch size, optimizer, and whether networks are compiled.
        findings: names of the C findings.
        seconds: approximate duration of each measurement, without its warm-up.
        others: counts what other processes compute during the measurements.
    """

    device: Device
    method: Method
    recipe: Recipe
    findings: Sequence[str]
    seconds: float
    others: OtherProcesses = field(default_factory=OtherProcesses)

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


def plan_rounds(subject: MeasuredMethod, batch_sizes: Sequence[int]) -> Plan:
    """Count parameters and operations, and find the batch sizes that can be measured.

    Args:
        subject: method to measure; its network is not compiled here.
        batch_sizes: requested batch sizes of inference, ascending.

    Raises:
        UserError: if not even one image, or two in training, fit in memory.
    """
    recipe = subject.recipe
    subject = replace(subject, seconds=0, recipe=replace(recipe, compute=replace(recipe.compute, compile=False)))
    network = subject.network()
    inference = dict(zip(batch_sizes, feasible_sizes(subject, network, batch_sizes), strict=True))
    # At least two images: with 1x1 features, BatchNorm cannot compute the variance of a single image.
    training, _ = halve_until_it_fits(
        lambda size: time_steps(subject, build_learner(subject), size, once=True), recipe.train.batch_size, least=2
    )
    return Plan(count_parameters(network), count_operations(subject, network), inference, training)


def feasible_sizes(subject: MeasuredMethod, network: nn.Module, requested: Sequence[int]) -> Iterator[int | None]:
    """Yield the batch size to measure for each requested one: halved until it fits; None if it would take TOO_LONG."""
    seconds_per_image = float(np.median(_in_memory(lambda size: time_inference(subject, network, size), 1).seconds))
    for size in requested:
        if size * seconds_per_image > TOO_LONG:
            yield None
            continue
        fitting, timed = halve_until_it_fits(lambda size: time_inference(subject, network, size, once=True), size)
        seconds_per_image = 1 / timed.images_per_second
        yield fitting


def measure_turn(
    subject: MeasuredMethod, plan: Plan, context: TrainContext, rows: np.ndarray, place: int, done: Done
) -> Turn:
    """Measure a method once, with new networks.

    Args:
        subject: method to measure.
        plan: batch sizes.
        context: context of a training stage.
        rows: row numbers of the training images.
        place: place in the order of the round, from 1.
        done: called after each measurement.

    Raises:
        UserError: if the memory no longer suffices.
    """
    subject = replace(subject, others=OtherProcesses())
    timed = measure_inference(subject, plan, done)
    learner = build_learner(subject)
    steps = _in_memory(lambda size: time_steps(subject, learner, size), plan.training)
    done(1)
    # Reading and end-to-end training use the batch size that fits in memory.
    recipe = replace(subject.recipe, train=replace(subject.recipe.train, batch_size=plan.training))
    context = replace(context, recipe=recipe)
    loader = measure_loader(subject, context, rows)
    done(1)
    end_to_end = measure_end_to_end(subject, context, learner, rows, steps.images_per_second * subject.seconds)
    done(1)
    inference = tuple(None if size is None else timed[size] for size in plan.inference.values())
    return Turn(place, timed[1], inference, steps, loader, end_to_end, subject.others.share)


def measure_inference(subject: MeasuredMethod, plan: Plan, done: Done) -> dict[int, Timed]:
    """Time inference of single images and at each batch size of the plan."""
    network, found = subject.network(), {}
    for size in sorted({1, *(size for size in plan.inference.values() if size is not None)}):
        found[size] = _in_memory(lambda size: time_inference(subject, network, size), size)
        done(1)
    return found


def _in_memory(measure: Callable[[int], Timed], size: int) -> Timed:
    return halve_until_it_fits(measure, size, least=size)[1]


def build_learner(subject: MeasuredMethod) -> Learner:
    """Build a network with random weights and its optimizer."""
    learner = make_learner(subject.device, subject.network(), subject.recipe, steps_per_epoch=10**6)  # never reached
    learner.train()
    return learner


def percentiles(seconds: np.ndarray) -> dict[str, float | None]:
    """Compute p95 and p99 of times (n,), in milliseconds; None if n is too small."""
    return {
        name: float(np.quantile(seconds, quantile)) * 1e3 if len(seconds) >= needed else None
        for name, (quantile, needed) in QUANTILES.items()
    }


def measure_loader(subject: MeasuredMethod, context: TrainContext, rows: np.ndarray) -> float:
    """Measure images per second of reading batches from the pixel cache as in training, without optimization steps."""
    batches = chain.from_iterable(Epoch(context, (0, epoch), rows).batches() for epoch in count())
    images, start, elapsed = 0, time.perf_counter(), 0.0
    with subject.others:
        while not images or elapsed < subject.seconds:
            images += len(next(batches).images)
            elapsed = time.perf_counter() - start
    return images / elapsed


def measure_end_to_end(
    subject: MeasuredMethod, context: TrainContext, learner: Learner, rows: np.ndarray, images: float
) -> float:
    """Measure images per second of training end to end: batches are read, moved to the device and trained on.

    Args:
        subject: method to measure.
        context: context of a training stage.
        learner: learner, warmed up.
        rows: row numbers of training images; repeated or cut to fill complete batches.
        images: approximate number of images to train on.
    """
    size = context.recipe.train.batch_size
    batches = int(np.clip(round(images / size), MIN_BATCHES, MAX_BATCHES))
    examples = np.resize(rows, batches * size)
    start = time.perf_counter()
    with subject.others:
        train_epoch(Epoch(context, (0, 0), examples), learner)
    return len(examples) / (time.perf_counter() - start)


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


def repeat(call: Callable[[], object], subject: MeasuredMethod, once: bool = False) -> np.ndarray:
    """Time repeated calls for about the subject's time, from MIN_REPETITIONS to MAX_REPETITIONS, after a warm-up.

    Args:
        call: function to time; the device is synchronized after every call.
        subject: method that is measured.
        once: whether to call it once, without a warm-up, to see whether it fits in memory.

    Returns:
        Seconds of each call (n,).
    """
    device, least = subject.device.torch_device, 1 if once else MIN_REPETITIONS
    for _ in range(0 if once else WARM_UP):
        call()
    _synchronize(device)
    times: list[float] = []
    first_start = time.perf_counter()
    with subject.others:
        while len(times) < least or (
            len(times) < MAX_REPETITIONS and time.perf_counter() - first_start < subject.seconds
        ):
            start = time.perf_counter()
            call()
            _synchronize(device)
            times.append(time.perf_counter() - start)
    return np.array(times)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def time_inference(subject: MeasuredMethod, network: nn.Module, size: int, once: bool = False) -> Timed:
    """Time forward passes of a batch; `once` as in `repeat`."""
    peak, images = PeakMemory(subject.device.torch_device), subject.images(size)
    network = network.eval()
    if subject.recipe.compute.compile:
        torch.compiler.reset()  # each batch size is compiled separately, as in a service with one batch size
        network = cast("nn.Module", torch.compile(network, dynamic=False))
    with torch.inference_mode():
        seconds = repeat(lambda: subject.device.forward(network, images), subject, once)
    return Timed(size, seconds, peak.bytes())


def time_steps(subject: MeasuredMethod, learner: Learner, size: int, once: bool = False) -> Timed:
    """Time optimization steps on a batch on the device; `once` as in `repeat`."""
    peak, batch = PeakMemory(subject.device.torch_device), random_batch(subject, size)
    seconds = repeat(lambda: step(subject, learner, batch), subject, once)
    return Timed(size, seconds, peak.bytes())


def random_batch(subject: MeasuredMethod, size: int) -> Batch:
    """Create a batch of random images and labels on the device."""
    targets = torch.rand(size, len(subject.findings), device=subject.device.torch_device) < 0.1
    return Batch(subject.images(size), targets.float(), slice(0, size))


def step(subject: MeasuredMethod, learner: Learner, batch: Batch) -> None:
    """Take one optimization step."""
    train_step(subject.device, subject.method, learner, batch, subject.recipe.train.micro_batch)
