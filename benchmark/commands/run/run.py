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
from ...engine.inference import predict_scores
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
from .describe import environment_fields, request_fields, training_fields
from .localize import localize
from .tracking import check_trackers, log_run


def run(order: RunConfig, tell: Callable[[Record, Path], None] | None = None) -> tuple[Record, Path] | None:
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
        check_trackers(order.track)
        plan = build_experiment(order)
        board = leaderboard_path(order.results)
        check_results_folder(order.results)
        check_not_overwriting(board)
    device = Device(plan.recipe.compute.precision, cache=order.cache)
    with handle_signals(), _alone(plan) if device.main else nullcontext():
        if not device.agree((plan.work / "run.json").exists()):
            with log_run(plan, device), _named(plan):
                train_and_score(plan, device)
        else:
            say(f"this run is finished: {plan.work} (--fresh trains again)")
        if not device.main:
            return None
        record = records.read(plan.work)
        draw_run(record, verify_record(plan.work, record).table, plan.work)
        with FileLock(plan.work.with_name("publish.lock")):  # two seeds may finish at the same time
            place, done = records.publish(plan.work, record, order.results)
            say(f"{done} {place}")
            if tell:
                tell(record, place)
            write_leaderboard(order.results, board)
    return record, place


def train_and_score(plan: Experiment, device: Device) -> None:
    """The costly part of a run: from initial weights to a record and its scores in the run's folder."""
    environment = environment_fields(plan, device)  # of the code as it starts: by the end it may have been edited
    with device.accelerator.main_process_first():  # pretrained weights are downloaded once
        network, initial = build_network(plan)
    where = f"{device.describe()['device']} in {device.precision}"
    where += f", {device.share.count} processes" if device.share.count > 1 else ""
    say(f"{plan.method.title} on {plan.dataset.title}, recipe {plan.recipe.name}, seed {plan.order.seed}, {where}")
    say(f"working in {plan.work}")
    with device.accelerator.main_process_first():  # it is the one that shows how far it has come
        decoded = prepare_pixels(plan.dataset, plan.index, plan.recipe.pixels.size, plan.order.cache)
    stages = train_stages(plan, device, network, initial, decoded.pixels)
    rows, scores = score(plan, device, network, stages[-1].trained.weights, decoded.pixels)
    if not device.main:
        return
    maps = localize(plan, device, network, decoded.pixels)
    fields = {
        **request_fields(plan, decoded.sha256),
        **training_fields(plan, network, initial, stages),
        "environment": environment,
    }
    records.write(plan.work, fields, score_table(plan.index, rows, scores), maps)


def build_network(plan: Experiment) -> tuple[nn.Module, dict[str, Tensor]]:
    """The method's network and a copy of its initial weights, drawn from the run's seed where they are random."""
    torch.manual_seed(plan.order.seed)
    network = plan.method.build(plan.index.findings, plan.recipe.model.weights)
    source, untouched = loaded_weights(network)
    if source:
        say(f"loaded {source}; {len(untouched)} tensors keep their initial values: {first_few(untouched)}")
    return network, copy_weights(network)


def score(
    plan: Experiment, device: Device, network: nn.Module, weights: dict[str, Tensor], pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the validation and test images, and their log-odds under the chosen weights, which are kept."""
    if device.main:
        save_weights(weights, plan.work / "weights.safetensors")
    rows = np.concatenate([plan.index.rows("val"), plan.index.rows("test")])
    log_event("scoring", images=len(rows))
    title, findings = "scoring validation and test", len(plan.index.findings)
    return rows, predict_scores(device, network, pixels, rows, plan.recipe, title, findings)


@contextmanager
def _alone(plan: Experiment) -> Iterator[None]:
    """Hold the run's folder against a second process; begin it anew where the user asks for that.

    The system lets go of the lock of a process that is dead. What ends before anything was kept leaves nothing.
    """
    plan.work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(plan.work.with_name(f"{plan.run_id}.lock"))
    try:
        lock.acquire(timeout=1)  # `chxbench status` may be looking at it
    except Timeout:
        raise UserError(f"another process is working on this run in {plan.work}: wait for it, or end it") from None
    try:
        if plan.order.fresh and plan.work.exists():
            (plan.work / "run.json").unlink(missing_ok=True)  # first: half of a finished run is no finished run
            shutil.rmtree(plan.work)
        plan.work.mkdir(exist_ok=True)
        yield
    finally:
        if _is_empty(plan.work):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # other runs lie there
            plan.work.parent.rmdir()


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
def _named(plan: Experiment) -> Iterator[None]:
    """Who breaks the contract is named, with the place where its class is written."""
    try:
        yield
    except ContractError as error:
        raise ContractError(f"method {plan.method.name} ({plan.source.place}) breaks its contract: {error}") from error
