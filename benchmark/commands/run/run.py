"""One run, from a name on the command line to a row on the leaderboard. `run` is the whole story."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from ...data.pixel_cache import prepare_pixels
from ...engine.device import Device, init_distributed
from ...engine.experiment import Experiment, RunConfig, build_experiment
from ...engine.inference import Predictor
from ...engine.stages import train_stages
from ...engine.weights import copy_weights, loaded_weights, save_weights
from ...evaluation.artifacts import score_table
from ...leaderboard.figures import draw_run
from ...leaderboard.leaderboard import write_leaderboard
from ...method import ContractError
from ...records import record as records
from ...records.checks import verify_record
from ...records.schema import Record
from ...utils.errors import UserError, first_few
from ...utils.progress import say
from ...utils.run_log import LOG_FILE, log_event, read_log
from ...utils.signals import handle_signals
from ...utils.workspace import check_not_overwriting, check_results_folder, leaderboard_path
from .describe import describe_environment, describe_run, describe_stages, describe_weights
from .localize import localize
from .tracking import check_trackers, log_run


def run(config: RunConfig, tell: Callable[[Record, Path], None] | None = None) -> tuple[Record, Path] | None:
    """Train and score a method as ordered, publish the record, regenerate the leaderboard.

    Args:
        order: what is asked for.
        tell: called with the record and its place as soon as it is published.

    Returns:
        The record, and the folder it was published to; None in a process that only helps the main one.

    Raises:
        UserError: whatever the user can mend. Nothing is published then, unless only the leaderboard could not be
            written because another record under `results` is refused.
    """
    with init_distributed().main_process_first():  # what is refused is told once
        check_trackers(config.track)
        experiment = build_experiment(config)
        board = leaderboard_path(config.results)
        check_results_folder(config.results)
        check_not_overwriting(board)
    device = Device(experiment.recipe.compute.precision, cache=config.cache)
    with handle_signals(), _alone(experiment) if device.is_main else nullcontext():
        if not device.broadcast((experiment.work / "run.json").exists()):
            with log_run(experiment, device), _named(experiment):
                train_and_score(experiment, device)
        else:
            say(f"this run is finished: {experiment.work} (--fresh trains again)")
        if not device.is_main:
            return None
        record = records.read(experiment.work)
        draw_run(record, verify_record(experiment.work, record).table, experiment.work)
        with FileLock(experiment.work.with_name("publish.lock")):  # two seeds may finish at the same time
            place, done = records.publish(experiment.work, record, config.results)
            say(f"{done} {place}")
            if tell:
                tell(record, place)
            write_leaderboard(config.results, board)
    return record, place


def train_and_score(experiment: Experiment, device: Device) -> None:
    """The costly part of a run: from initial weights to a record and its scores in the run's folder."""
    environment = describe_environment(experiment, device)  # as it starts: by the end, the code may have been edited
    with device.accelerator.main_process_first():  # pretrained weights are downloaded once
        network, initial = build_network(experiment)
    where = f"{device.describe()['device']} in {device.precision}"
    where += f", {device.shard.world_size} processes" if device.shard.world_size > 1 else ""
    what = f"{experiment.method.title} on {experiment.dataset.title}, recipe {experiment.recipe.name}"
    say(f"{what}, seed {experiment.config.seed}, {where}")
    say(f"working in {experiment.work}")
    with device.accelerator.main_process_first():  # it is the one that shows how far it has come
        decoded = prepare_pixels(
            experiment.dataset, experiment.index, experiment.recipe.pixels.size, experiment.config.cache
        )
    stages = train_stages(experiment, device, network, initial, decoded.pixels)
    rows, scores = score(experiment, device, network, stages[-1].trained.weights, decoded.pixels)
    if not device.is_main:
        return
    maps = localize(experiment, device, network, decoded.pixels)
    weights = describe_weights(experiment, network, initial, stages[-1].trained.weights)
    trained = describe_stages(stages, experiment.index)
    described = describe_run(experiment, environment, decoded.sha256, weights, trained)
    records.write(experiment.work, described, score_table(experiment.index, rows, scores), maps)


def build_network(experiment: Experiment) -> tuple[nn.Module, dict[str, Tensor]]:
    """The method's network and a copy of its initial weights, drawn from the run's seed where they are random."""
    torch.manual_seed(experiment.config.seed)
    network = experiment.method.build(experiment.index.findings, experiment.recipe.model.weights)
    source, untouched = loaded_weights(network)
    if source:
        say(f"loaded {source}; {len(untouched)} tensors keep their initial values: {first_few(untouched)}")
    return network, copy_weights(network)


def score(
    experiment: Experiment, device: Device, network: nn.Module, weights: dict[str, Tensor], pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the validation and test images, and their log-odds under the chosen weights, which are kept."""
    if device.is_main:
        save_weights(weights, experiment.work / "weights.safetensors")
    rows = np.concatenate([experiment.index.rows("val"), experiment.index.rows("test")])
    log_event("scoring", images=len(rows))
    title, findings = "scoring validation and test", len(experiment.index.findings)
    return rows, Predictor(device, network, pixels, experiment.recipe, findings).scores(rows, title)


@contextmanager
def _alone(experiment: Experiment) -> Iterator[None]:
    """Hold the run's folder against a second process; begin it anew where the user asks for that.

    The system lets go of the lock of a process that is dead. What ends before anything was kept leaves nothing.
    """
    experiment.work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(experiment.work.with_name(f"{experiment.run_id}.lock"))
    try:
        lock.acquire(timeout=1)  # `chxbench status` may be looking at it
    except Timeout:
        raise UserError(
            f"another process is working on this run in {experiment.work}: wait for it, or end it"
        ) from None
    try:
        if experiment.config.fresh and experiment.work.exists():
            (experiment.work / "run.json").unlink(missing_ok=True)  # first: half of a finished run is no finished run
            shutil.rmtree(experiment.work)
        experiment.work.mkdir(exist_ok=True)
        yield
    finally:
        if _is_empty(experiment.work):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # other runs lie there
            experiment.work.parent.rmdir()


def _is_empty(work: Path) -> bool:
    """Remove the folders that hold nothing, and a log of a run that was refused; tell whether nothing is left."""
    log = work / LOG_FILE
    if log.is_file() and {entry["event"] for entry in read_log(log)} <= {"started", "failed"}:
        log.unlink()
    for folder in (*work.glob("stage*"), work):
        with suppress(OSError):
            folder.rmdir()
    return not work.exists()


@contextmanager
def _named(experiment: Experiment) -> Iterator[None]:
    """Who breaks the contract is named, with the place where its class is written."""
    try:
        yield
    except ContractError as error:
        raise ContractError(
            f"method {experiment.method.name} ({experiment.entry.place}) breaks its contract: {error}"
        ) from error
