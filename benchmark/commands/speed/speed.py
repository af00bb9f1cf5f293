"""`chxbench speed`: measure methods and publish their speed records."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.pixel_cache import prepare_pixels
from ...data.source import DataConfig, build_dataset
from ...data.unreadable import load_readable_index
from ...dataset import Dataset, Index
from ...engine.blame import name_method
from ...engine.device import Device
from ...engine.experiment import build_method
from ...engine.memory import PeakMemory
from ...engine.rehearsal import rehearse_measurement
from ...engine.train_context import TrainContext, build_train_context
from ...leaderboard.leaderboard import write_leaderboard
from ...method import Method
from ...recipe import Recipe
from ...records import speed_record
from ...records.describe import describe_software, now
from ...records.schema import MethodIdentity
from ...records.speed_record import SetupPart, SpeedDescription, SpeedEnvironment, SpeedMeasurements, SpeedRecord
from ...registry import METHODS, Entry
from ...utils.environment import cores, load_average
from ...utils.errors import UserError
from ...utils.options import to_dict
from ...utils.progress import say
from ...utils.text import recipe_label
from ...utils.workspace import Workspace
from . import measure as speed
from .measure import MeasuredMethod, Throughput

BATCH_SIZES = {"cpu": (1, 8, 32, 128), "cuda": (1, 8, 32, 128, 512)}
OnRecords = Callable[[list[SpeedRecord]], None]


@dataclass(frozen=True)
class SpeedConfig(DataConfig):
    """Request of `chxbench speed`.

    Attributes:
        methods: names of registered methods.
        options: options that differ from their defaults, the same for all methods.
        device: "cpu", "cuda", or "auto" for a GPU if one is available.
        batch_sizes: batch sizes of inference; empty for the device's defaults.
        seconds: approximate duration of each measurement.
        results: folder of published records.
    """

    methods: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    batch_sizes: Sequence[int] = ()
    seconds: float = 5.0
    results: Path = Path("results")

    def command(self, method: str, recipe: str) -> str:
        """Return the command that repeats the measurement of a method, without local paths."""
        args = ["chxbench", "speed", "--method", method, "--dataset", self.dataset, "--recipe", recipe]
        args += ["--data-dir", "DIR"] if self.data_dir else []
        args += ["--device", self.device, "--seconds", f"{self.seconds:g}"]
        for size in self.batch_sizes:
            args += ["--batch-size", str(size)]
        return shlex.join(args + self.changes(self.options))


@dataclass(frozen=True)
class SpeedExperiment:
    """A checked `SpeedConfig`, with the objects built from it.

    Attributes:
        config: the request.
        methods: registry entry of each method, and the method with its options.
        dataset, index: dataset whose images are read, and its index.
        recipe: recipe whose settings apply.
        device: device to measure on.
    """

    config: SpeedConfig
    methods: list[tuple[Entry, Method]]
    dataset: Dataset
    recipe: Recipe
    index: Index
    device: Device

    @property
    def batch_sizes(self) -> list[int]:
        """Batch sizes of inference, ascending."""
        defaults = BATCH_SIZES.get(self.device.torch_device.type, BATCH_SIZES["cpu"])
        return sorted(set(self.config.batch_sizes or defaults))


def run_speed(config: SpeedConfig, on_records: OnRecords | None = None) -> list[SpeedRecord]:
    """Measure methods, publish each record as soon as it is complete, regenerate the leaderboard.

    With the recipe's `compute.compile`, networks are measured with and without compilation, which gives two records.

    Args:
        config: the requested measurements.
        on_records: called with the records before the leaderboard is regenerated.

    Raises:
        UserError: if the request is invalid or a measurement fails. Records of completed measurements stay published.
    """
    bench = build_speed_experiment(config)
    workspace = Workspace(config.results)
    workspace.check()
    environment = describe_environment()  # before measuring, during which the code may be edited
    for entry, method in bench.methods:
        with name_method(method, entry.place):
            rehearse_measurement(bench.device, method, bench.recipe, bench.index.findings)
    pixels = prepare_pixels(bench.dataset, bench.index, bench.recipe.pixels.size, config.cache).pixels
    records: list[SpeedRecord] = []
    try:
        for entry, method in bench.methods:
            for compiled in (False, True) if bench.recipe.compute.compile else (False,):
                subject = build_measured(bench, method, compiled)
                measured = measure(subject, build_speed_context(bench, subject, pixels), bench)
                described = describe_speed(bench, entry, subject, measured, environment)
                records.append(_publish(described, config.results.resolve()))
    finally:  # also if a later method fails or the user stops
        if records:
            if on_records:
                on_records(records)
            write_leaderboard(workspace)
    return records


def build_speed_experiment(config: SpeedConfig) -> SpeedExperiment:
    """Check the request before anything takes time. Raises UserError if it is invalid."""
    dataset, recipe = build_dataset(config)
    entries = [METHODS.get(name) for name in dict.fromkeys(config.methods)]
    methods = [(entry, build_method(entry.cls, recipe, config.options)) for entry in entries]
    index = load_readable_index(config, dataset, recipe)
    device = Device(recipe.compute.precision, config.device, config.cache)
    if device.shard.world_size > 1:
        raise UserError("speed is measured in one process: start `chxbench speed` without torchrun")
    return SpeedExperiment(config, methods, dataset, recipe, index, device)


def build_measured(bench: SpeedExperiment, method: Method, compiled: bool) -> MeasuredMethod:
    """Return a method to measure, compiled or not."""
    recipe = replace(bench.recipe, compute=replace(bench.recipe.compute, compile=compiled))
    return MeasuredMethod(bench.device, method, recipe, bench.index.findings, bench.config.seconds)


def build_speed_context(bench: SpeedExperiment, subject: MeasuredMethod, pixels: np.ndarray) -> TrainContext:
    """Return the context of a training stage; pixels are uint8 (N, size, size)."""
    return build_train_context(
        device=bench.device, method=subject.method, recipe=subject.recipe, index=bench.index, pixels=pixels, seed=0
    )


def measure(subject: MeasuredMethod, context: TrainContext, bench: SpeedExperiment) -> SpeedMeasurements:
    """Measure inference and training. Raises UserError if memory or a compiler is missing."""
    try:
        return SpeedMeasurements.model_validate(
            {**inference_fields(subject, bench.batch_sizes), **training_fields(subject, context, bench.index)}
        )
    except torch._dynamo.exc.TorchDynamoException as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"method {subject.method.name} cannot be compiled ({cause}): omit --compile") from error


def inference_fields(subject: MeasuredMethod, batch_sizes: Sequence[int]) -> dict[str, Any]:
    """Measure parameters, operations, latency, and throughput at each batch size."""
    network = subject.network()
    _say(subject, "parameters and operations")
    counts = {"parameters": speed.count_parameters(network), "flops": speed.count_operations(subject, network)}
    _say(subject, "latency of one image")
    latency = speed.measure_latency(subject, network)
    assert latency.p50 is not None  # every measurement has enough repetitions for a median
    # The time per image predicts whether the next larger batch would take too long.
    seconds, inference = latency.p50 / 1e3, []
    for size in batch_sizes:
        _say(subject, f"inference in batches of {size:,}")
        throughput = speed.measure_inference(subject, network, size, seconds)
        _say_size(subject, throughput)
        inference.append(throughput._asdict())
        seconds = 1 / throughput.images_per_second if throughput.images_per_second else seconds
    return {"network": counts, "latency": latency._asdict(), "inference": inference}


def training_fields(subject: MeasuredMethod, context: TrainContext, index: Index) -> dict[str, Any]:
    """Measure training steps alone, reading alone, and both together."""
    rows, train = index.rows("train"), subject.recipe.train
    _say(subject, f"training steps of {train.batch_size:,} images")
    training, learner = speed.measure_training(subject, subject.network())
    _say_size(subject, training)
    assert training.batch_size is not None and training.images_per_second is not None  # training is never skipped
    # Reading and end-to-end training use the batch size that fits in memory.
    feasible = replace(subject.recipe, train=replace(train, batch_size=training.batch_size))
    context = replace(context, recipe=feasible)
    _say(subject, "reading batches")
    loader = speed.measure_loader(context, rows, subject.seconds)
    images = training.images_per_second * subject.seconds
    end_to_end = speed.measure_end_to_end(context, learner, rows, images, f"{subject.name}: training end to end")
    flows = {"loader": loader._asdict(), "end_to_end": end_to_end._asdict()}
    return {"training": training._asdict(), **flows}


def describe_speed(
    bench: SpeedExperiment,
    entry: Entry,
    subject: MeasuredMethod,
    measured: SpeedMeasurements,
    environment: SpeedEnvironment,
) -> SpeedDescription:
    """Describe what was requested and measured, for the record.

    Args:
        bench: the request.
        entry: registry entry of the method.
        subject: method as it was measured.
        measured: the measurements.
        environment: software and load of the machine when measuring started.
    """
    return SpeedDescription(
        created=now(),
        command=bench.config.command(entry.name, bench.recipe.name),
        method=MethodIdentity(
            name=entry.name,
            built_in=entry.built_in,
            source_sha256=entry.source_sha256,
            options=to_dict(subject.method),
        ),
        setup=describe_setup(bench, subject.recipe),
        seconds=bench.config.seconds,
        **dict(measured),
        memory=PeakMemory(bench.device.torch_device).meaning,
        environment=environment,
    )


def describe_setup(bench: SpeedExperiment, recipe: Recipe) -> SetupPart:
    """Describe everything besides the method that speed depends on."""
    hardware, train = bench.device.describe(), recipe.train
    keys = ("device", "kind", "cores", "processes", "precision", "layout")
    return SetupPart.model_validate(
        {
            **{key: hardware[key] for key in keys},
            "threads": torch.get_num_threads(),
            "compiled": recipe.compute.compile,
            "torch": torch.__version__,
            "recipe": recipe_label(recipe.name),
            **to_dict(recipe.pixels),
            **{key: getattr(train, key) for key in ("batch_size", "micro_batch", "batch_norm", "optimizer")},
            "dataset": bench.dataset.name,
            "images": len(bench.index.rows("train")),
            "batch_sizes": bench.batch_sizes,
        }
    )


def describe_environment() -> SpeedEnvironment:
    """Describe the current software and load of the machine; warn the user if the machine is busy."""
    busy = load_average()
    if busy is not None and busy > speed_record.BUSY * cores():
        say(f"this machine was busy in the last minute (load {busy:.1f}): if it still is, measured speeds are too low")
    return SpeedEnvironment(**dict(describe_software()), load_average=busy)


def _publish(speed: SpeedDescription, results: Path) -> SpeedRecord:
    record, place, replaced = speed_record.publish(speed, results)
    say(f"{'replaced the record' if replaced else 'published'} {place}")
    return record


def _say(subject: MeasuredMethod, message: str) -> None:
    say(f"{subject.name}: {message}")


def _say_size(subject: MeasuredMethod, throughput: Throughput) -> None:
    if throughput.batch_size is None:
        _say(subject, f"batches of {throughput.requested:,} would take too long and are skipped")
    elif throughput.batch_size < throughput.requested:
        _say(subject, f"batches of {throughput.requested:,} do not fit in memory: measured {throughput.batch_size:,}")
