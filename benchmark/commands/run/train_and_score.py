"""Train and score a run: from initial weights to a record and its artifacts in the run's folder."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pydantic import ValidationError
from torch import Tensor, nn

from ...data.pixel_cache import Decoded, prepare_pixels
from ...engine.blame import blame
from ...engine.checkpoint import TrainedStage
from ...engine.device import Device
from ...engine.experiment import Experiment
from ...engine.inference import Predictor
from ...engine.initial_weights import build_network
from ...engine.memory import release_memory
from ...engine.rehearsal import rehearse
from ...engine.stages import StageResult, list_stages, train_stages
from ...engine.train_context import training_targets
from ...engine.weights import save_weights
from ...evaluation.artifacts import boxed_rows, score_table
from ...method import PartCheck, Selection
from ...metrics.auc import mean_auc
from ...records import record as records
from ...records.schema import EnvironmentPart, WeightsPart
from ...utils.errors import UserError, describe_error
from ...utils.files import CHECKPOINT_FILE
from ...utils.progress import say
from ...utils.run_log import log_event
from .describe import describe_environment, describe_run, describe_stages, describe_weights
from .localize import NOT_COMPLETED, localize

NO_HASH = "0" * 64  # of what is not trained yet
MAX_CHANGE_OF_AUC = 0.005  # by the rounding of other batches
MIN_RESAMPLES = 100  # bootstrap replicates of the rehearsed record


def train_and_score(experiment: Experiment, device: Device) -> None:
    """Train all stages, score validation and test images, write artifacts and record to the run's folder."""
    environment = describe_environment(experiment, device)  # before training, during which the code may be edited
    boxed = len(boxed_rows(experiment.index))
    with device.accelerator.main_process_first():  # pretrained weights are downloaded once
        network, initial = build_network(experiment)
        if device.is_main and not any(experiment.work.glob(f"stage*/{CHECKPOINT_FILE}")):
            _rehearse(experiment, device, initial.tensors, environment, boxed)
    _announce(experiment, device)
    with device.accelerator.main_process_first():  # the main process decodes and shows progress, the others read
        decoded = prepare_pixels(
            experiment.dataset, experiment.index, experiment.recipe.pixels.size, experiment.config.cache
        )
    stages = train_stages(experiment, device, network, initial.tensors, decoded)
    del network  # what is published is that of a new one, as `chxbench predict` builds it
    network = rebuild(experiment, device, stages[-1].trained.weights)
    rows, scores = score(experiment, device, network, stages[-1].trained.weights, decoded.pixels)
    if not device.is_main:
        return
    weights = describe_weights(experiment, initial, stages[-1].trained.weights)
    trained = describe_stages(stages, experiment.index)
    checks = _check_parts(experiment, device, network, decoded.pixels)
    described = describe_run(experiment, environment, decoded, weights, trained, checks)
    _compare_with_training(stages[-1].trained, experiment, scores)
    table = score_table(experiment.index, rows, scores)
    # Complete before there are heatmaps, which must not take the scores with them.
    record = records.write(experiment.work, described, table, problem=NOT_COMPLETED if boxed else None)
    if boxed:
        localize(experiment, device, record, lambda: (network, decoded.pixels))
    else:
        say("localization is not scored: the test split has no boxes")


def _rehearse(
    experiment: Experiment, device: Device, initial: dict[str, Tensor], environment: EnvironmentPart, boxed: int
) -> None:
    """Rehearse the run and its record. Raises UserError if it would fail later; says why it will have no heatmaps."""
    started = time.perf_counter()
    no_heatmaps = rehearse(experiment, device, initial, boxed)
    release_memory()
    if no_heatmaps:
        say(f"localization will not be scored: {no_heatmaps}")
    _rehearse_record(experiment, environment)
    say(f"rehearsed the run on noise in {time.perf_counter() - started:.1f} s")


def _rehearse_record(experiment: Experiment, environment: EnvironmentPart) -> None:
    """Write a record of random scores and remove it. Raises UserError if what is known by now cannot be recorded."""
    index, recipe = experiment.index, experiment.recipe
    stages = [
        StageResult(stage, Selection(np.arange(1)), TrainedStage({}, 1, [None], [0.0], 1.0, 1))
        for stage in list_stages(experiment.method)
    ]
    decoded = Decoded(np.zeros((len(index.images), 1, 1), np.uint8), NO_HASH)
    hashes = {"file_sha256": None, "sha256": NO_HASH, "final_sha256": NO_HASH}
    weights = WeightsPart(init="none", source=None, not_loaded=None, **hashes)
    rows = np.concatenate([index.rows("val"), index.rows("test")])
    scores = np.random.default_rng(0).normal(size=(len(rows), len(index.findings))).astype(np.float32)
    short = replace(recipe, evaluate=replace(recipe.evaluate, resamples=MIN_RESAMPLES))
    try:
        with TemporaryDirectory(prefix="rehearsal", dir=experiment.work) as folder:
            described = describe_run(experiment, environment, decoded, weights, describe_stages(stages, index), [])
            described = described.model_copy(update={"recipe": short})
            records.write(Path(folder), described, score_table(index, rows, scores))
    except UserError:
        raise
    except ValidationError as error:
        raise UserError(f"this run cannot be recorded: {records.describe_invalid(error)}") from error
    except Exception as error:  # of pyarrow, json or the evaluation, which the dataset's columns reach
        raise UserError(f"this run cannot be recorded: {describe_error(error)}") from error


def _check_parts(experiment: Experiment, device: Device, network: nn.Module, pixels: np.ndarray) -> list[PartCheck]:
    """Measure what the method's parts do; if this fails, say so and return none, so that the scores are recorded."""
    try:
        with blame(experiment.method, "check its parts"):
            predictor = Predictor(device, network, pixels, experiment.recipe)
            return predictor.check_parts(experiment.method, experiment.index.rows("val"))
    except UserError as error:
        say(f"the record will have no checks of the method's parts: {error}")
        return []


def rebuild(experiment: Experiment, device: Device, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build a new network with trained weights. Raises MethodError if they do not fit."""
    with blame(experiment.method, "load its trained weights into a new network"):
        network = experiment.method.build(experiment.index.findings, "none")
        network.load_state_dict(weights)
    return device.place(network)


def _compare_with_training(trained: TrainedStage, experiment: Experiment, scores: np.ndarray) -> None:
    """Say if the scores (n, C), validation images first, are not those that the network had in training."""
    validation = experiment.index.rows("val")
    targets = training_targets(experiment.recipe, experiment.index, experiment.config.seed)[validation]
    now, before = mean_auc(scores[: len(validation)], targets), trained.validation_auc[trained.best_epoch - 1]
    if now is not None and before is not None and abs(now - before) > MAX_CHANGE_OF_AUC:
        say(
            f"a new network with the saved weights has a validation AUC of {now:.3f}, and the trained one had "
            f"{before:.3f}: the method keeps something outside state_dict(); what is published is of the saved weights"
        )


def score(
    experiment: Experiment, device: Device, network: nn.Module, weights: dict[str, Tensor], pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Score the validation and test images under the selected weights, which are saved for `chxbench predict`.

    Args:
        experiment: experiment of the run.
        device: where the network runs.
        network: network of the method.
        weights: weights to score, by their names in the network's state_dict.
        pixels: decoded images, uint8 (N, size, size).

    Returns:
        Row numbers of the scored images in the index (n,), and their log-odds (n, C).
    """
    if device.is_main:
        save_weights(weights, experiment.work / "weights.safetensors")
    rows = np.concatenate([experiment.index.rows("val"), experiment.index.rows("test")])
    log_event("scoring", images=len(rows))
    title, findings = "scoring validation and test", len(experiment.index.findings)
    return rows, Predictor(device, network, pixels, experiment.recipe, findings).scores(rows, title)


def _announce(experiment: Experiment, device: Device) -> None:
    where = f"{device.describe()['device']} in {device.precision}"
    where += f", {device.shard.world_size} processes" if device.shard.world_size > 1 else ""
    what = f"{experiment.method.title} on {experiment.dataset.title}, recipe {experiment.recipe.name}"
    say(f"{what}, seed {experiment.config.seed}, {where}")
    say(f"working in {experiment.work}")
