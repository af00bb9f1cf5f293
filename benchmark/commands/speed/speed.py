"""`chxbench speed`: from names on the command line to published speed records. `run_speed` is the whole story."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.pixel_cache import prepare_pixels
from ...data.source import DataConfig, build_dataset
from ...data.unreadable import load_readable_index
from ...dataset import Dataset, Index
from ...engine.device import Device
from ...engine.epoch import TrainContext
from ...engine.experiment import build_method
from ...engine.memory import PeakMemory
from ...leaderboard.leaderboard import write_leaderboard
from ...method import Method
from ...recipe import Recipe
from ...records import speed_record
from ...records.speed_record import SpeedRecord
from ...registry import METHODS, Entry
from ...utils.environment import code_state, cores, load_average, versions
from ...utils.errors import UserError
from ...utils.options import to_dict
from ...utils.progress import say
from ...utils.workspace import Workspace
from ..speed import measure as speed
from .measure import MeasuredMethod, Throughput

BATCH_SIZES = {"cpu": (1, 8, 32, 128), "cuda": (1, 8, 32, 128, 512)}
BUSY = 0.5  # of the cores


@dataclass(frozen=True)
class SpeedConfig(DataConfig):
    """What a user asks of `speed`.

    Attributes:
        methods: registered methods' names.
        options: their options that differ from the defaults; every one of them has these.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        batch_sizes: of inference; none for the device's usual ones.
        seconds: about how long each measurement shall take.
        results: the folder of published records; `leaderboard.md` lies beside it.
    """

    methods: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    batch_sizes: Sequence[int] = ()
    seconds: float = 5.0
    results: Path = Path("results")

    def command(self, method: str, recipe: str) -> str:
        """The command that measures this method again; folders of this machine are left out."""
        words = ["chxbench", "speed", "--method", method, "--dataset", self.dataset, "--recipe", recipe]
        words += ["--data-dir", "DIR"] if self.data_dir else []
        words += ["--device", self.device, "--seconds", f"{self.seconds:g}"]
        for size in self.batch_sizes:
            words += ["--batch-size", str(size)]
        return shlex.join(words + self.changes(self.options))


@dataclass(frozen=True)
class SpeedExperiment:
    """What all methods of an order are measured on: names found and values checked."""

    config: SpeedConfig
    methods: list[tuple[Entry, Method]]
    dataset: Dataset
    recipe: Recipe
    index: Index
    device: Device

    @property
    def batch_sizes(self) -> list[int]:
        usual = BATCH_SIZES.get(self.device.torch_device.type, BATCH_SIZES["cpu"])
        return sorted(set(self.config.batch_sizes or usual))


def run_speed(config: SpeedConfig, tell: Callable[[list[SpeedRecord]], None] | None = None) -> list[SpeedRecord]:
    """Measure the methods as ordered, publish each record as soon as it is whole, regenerate the leaderboard.

    Networks run as they are, and where the recipe says `compute.compile` compiled as well, which is another record.

    Args:
        order: what is asked for.
        tell: called with the records before the leaderboard is written.

    Raises:
        UserError: whatever the user can mend. What was measured before stays published.
    """
    bench = build_speed_experiment(config)
    workspace = Workspace(config.results)
    workspace.check()
    environment = environment_fields()  # as it is now: later the code may have been edited
    pixels = prepare_pixels(bench.dataset, bench.index, bench.recipe.pixels.size, config.cache).pixels
    records: list[SpeedRecord] = []
    try:
        for entry, method in bench.methods:
            for compiled in (False, True) if bench.recipe.compute.compile else (False,):
                subject = build_measured(bench, method, compiled)
                measured = measure(subject, build_speed_context(bench, subject, pixels), bench)
                fields = {**request_fields(bench, entry, subject), **measured, "environment": environment}
                records.append(_publish(fields, config.results.resolve()))
    finally:  # also where a later method fails, or the user stops
        if records:
            if tell:
                tell(records)
            write_leaderboard(workspace)
    return records


def build_speed_experiment(config: SpeedConfig) -> SpeedExperiment:
    """Check the whole order before anything costs time. Raises UserError."""
    dataset, recipe = build_dataset(config)
    entries = [METHODS.get(name) for name in dict.fromkeys(config.methods)]
    methods = [(entry, build_method(entry.cls, recipe, config.options)) for entry in entries]
    index = load_readable_index(config, dataset, recipe)
    device = Device(recipe.compute.precision, config.device, config.cache)
    if device.shard.world_size > 1:
        raise UserError("speed is measured in one process: start chxbench speed without torchrun")
    return SpeedExperiment(config, methods, dataset, recipe, index, device)


def build_measured(bench: SpeedExperiment, method: Method, compiled: bool) -> MeasuredMethod:
    """One method, as it is or compiled."""
    recipe = replace(bench.recipe, compute=replace(bench.recipe.compute, compile=compiled))
    return MeasuredMethod(bench.device, method, recipe, bench.index.findings, bench.config.seconds)


def build_speed_context(bench: SpeedExperiment, subject: MeasuredMethod, pixels: np.ndarray) -> TrainContext:
    """What a stage of training would have; pixels uint8 (N, size, size)."""
    targets, validation = bench.index.targets(), bench.index.rows("val")
    names = bench.index.images["image_id"].to_numpy()
    return TrainContext(bench.device, subject.method, subject.recipe, 0, pixels, targets, validation, names)


def measure(subject: MeasuredMethod, context: TrainContext, bench: SpeedExperiment) -> dict[str, Any]:
    """The record's fields that are measured. Raises UserError: too little memory, or no compiler."""
    try:
        return {**inference_fields(subject, bench.batch_sizes), **training_fields(subject, context, bench.index)}
    except torch._dynamo.exc.TorchDynamoException as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"method {subject.method.name} cannot be compiled here ({cause}): leave out --compile"
        ) from error


def inference_fields(subject: MeasuredMethod, batch_sizes: Sequence[int]) -> dict[str, Any]:
    """Parameters, operations, latency, and throughput at each batch size."""
    network = subject.network()
    _say(subject, "parameters and operations")
    size = {"parameters": speed.count_parameters(network), "operations": speed.count_operations(subject, network)}
    _say(subject, "latency of one image")
    latency = speed.measure_latency(subject, network)
    an_image, inference = latency.p50 / 1e3, []
    for asked in batch_sizes:
        _say(subject, f"inference in batches of {asked:,}")
        found = speed.measure_inference(subject, network, asked, an_image)
        _say_size(subject, found)
        inference.append(found._asdict())
        an_image = 1 / found.images_per_second if found.images_per_second else an_image
    return {"network": size, "latency": latency._asdict(), "inference": inference}


def training_fields(subject: MeasuredMethod, context: TrainContext, index: Index) -> dict[str, Any]:
    """Training steps alone, reading alone, and both together."""
    rows, train = index.rows("train"), subject.recipe.train
    _say(subject, f"training steps of {train.batch_size:,} images")
    training, learner = speed.measure_training(subject, subject.network())
    _say_size(subject, training)
    fitting = replace(subject.recipe, train=replace(train, batch_size=training.batch_size))
    context = replace(context, recipe=fitting)
    _say(subject, "reading batches")
    loader = speed.measure_loader(context, rows, subject.seconds)
    images = training.images_per_second * subject.seconds
    end_to_end = speed.measure_end_to_end(context, learner, rows, images, f"{subject.name}: training end to end")
    flows = {"loader": loader._asdict(), "end_to_end": end_to_end._asdict()}
    return {"training": training._asdict(), **flows}


def request_fields(bench: SpeedExperiment, entry: Entry, subject: MeasuredMethod) -> dict[str, Any]:
    """The record's fields that say what was asked for."""
    config = bench.config
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": config.command(entry.name, bench.recipe.name),
        "method": {
            "name": entry.name,
            "built_in": entry.built_in,
            "source_sha256": entry.source_sha256,
            "options": to_dict(subject.method),
        },
        "setup": setup_fields(bench, subject.recipe),
        "seconds": config.seconds,
        "memory": PeakMemory(bench.device.torch_device).meaning,
    }


def setup_fields(bench: SpeedExperiment, recipe: Recipe) -> dict[str, Any]:
    """What the speed depends on beside the method."""
    hardware = bench.device.describe()
    keys = ("device", "kind", "cores", "processes", "precision", "layout")
    return {
        **{key: hardware[key] for key in keys},
        "threads": torch.get_num_threads(),
        "compiled": recipe.compute.compile,
        "torch": torch.__version__,
        "recipe": Path(recipe.name).name,
        **to_dict(recipe.pixels),
        **{key: getattr(recipe.train, key) for key in ("batch_size", "micro_batch", "batch_norm", "optimizer")},
        "dataset": bench.dataset.name,
        "images": len(bench.index.rows("train")),
        "batch_sizes": bench.batch_sizes,
    }


def environment_fields() -> dict[str, Any]:
    """The record's `environment`; warns the user of a busy machine."""
    busy = load_average()
    if busy is not None and busy > BUSY * cores():
        say(f"this machine was busy in the last minute (load {busy:.1f}): if it still is, it will measure as too slow")
    return {"versions": versions(), "code": code_state(), "load": busy}


def _publish(fields: dict[str, Any], results: Path) -> SpeedRecord:
    record, place, replaced = speed_record.publish(fields, results)
    say(f"{'replaced the record' if replaced else 'published'} {place}")
    return record


def _say(subject: MeasuredMethod, what: str) -> None:
    say(f"{subject.name}: {what}")


def _say_size(subject: MeasuredMethod, found: Throughput) -> None:
    if found.batch_size is None:
        _say(subject, f"batches of {found.asked:,} would take too long each, and are left out")
    elif found.batch_size < found.asked:
        _say(subject, f"batches of {found.asked:,} do not fit the memory: {found.batch_size:,} were measured")
