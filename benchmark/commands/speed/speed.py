"""`chxbench speed`: measure methods in turn and publish their speed records."""

import gc
import shlex
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from ...records.schema import MethodIdentity, Software
from ...records.speed_record import BUSY, SetupPart, SpeedDescription, SpeedRecord
from ...registry import METHODS, Entry
from ...utils.cpu_time import OtherProcesses
from ...utils.errors import UserError
from ...utils.options import to_dict
from ...utils.progress import progress, say
from ...utils.signals import Interrupted, defer_signals, handle_signals, pending_signal
from ...utils.text import recipe_label
from ...utils.workspace import Workspace
from .measure import MeasuredMethod, Plan, Turn, plan_rounds
from .results import describe_baseline, describe_measurements, find_baseline
from .rounds import MeasuredNetwork, measure_rounds
from .same_network import network_signature

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
        rounds: number of rounds, each of which measures every method once.
        seconds: approximate duration of each measurement in a round.
        results: folder of published records.
    """

    methods: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    batch_sizes: Sequence[int] = ()
    rounds: int = 8
    seconds: float = 1.0
    results: Path = Path("results")

    def command(self, recipe: str) -> str:
        """Return the command that repeats the measurements, without local paths."""
        args = ["chxbench", "speed"]
        for method in dict.fromkeys(self.methods):
            args += ["--method", method]
        args += ["--dataset", self.dataset, "--recipe", recipe]
        args += ["--data-dir", "DIR"] if self.data_dir else []
        args += ["--device", self.device, "--rounds", str(self.rounds), "--seconds", f"{self.seconds:g}"]
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
    """Measure methods in turn, publish their records when all are measured, regenerate the leaderboard.

    With the recipe's `compute.compile`, networks are measured with and without compilation, which gives two records.

    Args:
        config: the requested measurements.
        on_records: called with the records before the leaderboard is regenerated.

    Raises:
        UserError: if the request is invalid or a measurement fails. Nothing is published then.
    """
    bench = build_speed_experiment(config)
    workspace = Workspace(config.results)
    workspace.check()
    software = describe_software()  # before measuring, during which the code may be edited
    rehearse(bench)
    pixels = prepare_pixels(bench.dataset, bench.index, bench.recipe.pixels.size, config.cache).pixels
    warn_if_busy(min(1.0, config.seconds))
    with few_objects():
        networks = plan_networks(bench, pixels)
        turns = measure_rounds(networks, bench.index.rows("train"), config.rounds)
    records = publish_all(describe_speeds(bench, networks, turns, software), config.results.resolve())
    if on_records:
        on_records(records)
    write_leaderboard(workspace)
    return records


def rehearse(bench: SpeedExperiment) -> None:
    """Run each method's smallest batches, so that one that fails does so before anything is decoded or measured."""
    with progress("rehearsal", len(bench.methods), "methods") as done:
        for entry, method in bench.methods:
            with name_method(method, entry.place):
                rehearse_measurement(bench.device, method, bench.recipe, bench.index.findings)
            done(1)


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


def plan_networks(bench: SpeedExperiment, pixels: np.ndarray) -> list[MeasuredNetwork]:
    """Group the methods by their networks, and plan what to measure; pixels are uint8 (N, size, size)."""
    networks, groups = [], group_by_network(bench)
    for compiled in (False, True) if bench.recipe.compute.compile else (False,):
        for methods in groups:
            subject = build_measured(bench, methods[0][1], compiled)
            plan = plan_rounds(subject, bench.batch_sizes)
            _say_sizes(subject, plan)
            networks.append(MeasuredNetwork(methods, subject, plan, build_speed_context(bench, subject, pixels)))
    return networks


def group_by_network(bench: SpeedExperiment) -> list[list[tuple[Entry, Method]]]:
    """Group the methods whose networks are the same."""
    groups: dict[Hashable, list[tuple[Entry, Method]]] = {}
    for entry, method in bench.methods:
        signature = network_signature(build_measured(bench, method, compiled=False))
        groups.setdefault(signature, []).append((entry, method))
    for (entry, _), *others in groups.values():
        if others:
            say(f"{', '.join(other.name for other, _ in others)}: the network is that of {entry.name}, measured once")
    return list(groups.values())


def build_measured(bench: SpeedExperiment, method: Method, compiled: bool) -> MeasuredMethod:
    """Return a method to measure, compiled or not."""
    recipe = replace(bench.recipe, compute=replace(bench.recipe.compute, compile=compiled))
    return MeasuredMethod(bench.device, method, recipe, bench.index.findings, bench.config.seconds)


def build_speed_context(bench: SpeedExperiment, subject: MeasuredMethod, pixels: np.ndarray) -> TrainContext:
    """Return the context of a training stage; pixels are uint8 (N, size, size)."""
    return build_train_context(
        device=bench.device, method=subject.method, recipe=subject.recipe, index=bench.index, pixels=pixels, seed=0
    )


@contextmanager
def few_objects() -> Iterator[None]:
    """Exempt all objects that exist from Python's search for garbage, which precedes each measurement of memory."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def warn_if_busy(seconds: float) -> None:
    """Tell the user of other processes that compute, watched for some seconds."""
    with OtherProcesses() as others:
        time.sleep(seconds)
    share = others.share or 0
    if share > BUSY:
        say(f"other processes use {100 * share:.0f} % of the cores: stop them, or the speeds are not comparable")


def describe_speeds(
    bench: SpeedExperiment, networks: Sequence[MeasuredNetwork], turns: Sequence[Sequence[Turn]], software: Software
) -> Iterator[SpeedDescription]:
    """Describe what was requested and measured, for the record of each method.

    Args:
        bench: the request.
        networks: the networks.
        turns: the turns of each network, one per round.
        software: software when measuring started.
    """
    created, command = now(), bench.config.command(bench.recipe.name)  # the same for all: measured together
    baseline = find_baseline([entry for entry, _ in bench.methods])
    for network, own in zip(networks, turns, strict=True):
        measured = describe_measurements(network, own, describe_baseline(baseline, network, networks, turns))
        for entry, method in network.methods:
            yield SpeedDescription(
                created=created,
                command=command,
                method=MethodIdentity(
                    name=entry.name,
                    built_in=entry.built_in,
                    source_sha256=entry.source_sha256,
                    options=to_dict(method),
                ),
                setup=describe_setup(bench, network.subject.recipe),
                seconds=bench.config.seconds,
                **measured,
                shared_with=[name for name in network.names if name != entry.name],
                memory=PeakMemory(bench.device.torch_device).meaning,
                environment=software,
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


def publish_all(speeds: Iterable[SpeedDescription], results: Path) -> list[SpeedRecord]:
    """Publish the records of a command; a signal that arrives meanwhile is raised when all are."""
    records = []
    with handle_signals():
        with defer_signals():
            for speed in speeds:
                record, place, replaced = speed_record.publish(speed, results)
                say(f"{'replaced the record' if replaced else 'published'} {place}")
                records.append(record)
        if number := pending_signal():
            raise Interrupted(number, "stopped: the speeds are published, `chxbench leaderboard` shows them")
    return records


def _say_sizes(subject: MeasuredMethod, plan: Plan) -> None:
    pairs = [*plan.inference.items(), (subject.recipe.train.batch_size, plan.training)]
    for wanted, size in pairs:
        if size is None:
            say(f"{subject.name}: batches of {wanted:,} would take too long and are skipped")
        elif size < wanted:
            say(f"{subject.name}: batches of {wanted:,} do not fit in memory: {size:,} are measured")
