"""Train and score a run: from initial weights to a record and its artifacts in the run's folder."""

import numpy as np
from torch import Tensor, nn

from ...data.pixel_cache import prepare_pixels
from ...engine.device import Device
from ...engine.experiment import Experiment
from ...engine.inference import Predictor
from ...engine.initial_weights import build_network
from ...engine.stages import train_stages
from ...engine.weights import save_weights
from ...evaluation.artifacts import score_table
from ...records import record as records
from ...utils.progress import say
from ...utils.run_log import log_event
from .describe import describe_environment, describe_run, describe_stages, describe_weights
from .localize import localize


def train_and_score(experiment: Experiment, device: Device) -> None:
    """Train all stages, score validation and test images, write artifacts and record to the run's folder."""
    environment = describe_environment(experiment, device)  # before training, during which the code may be edited
    with device.accelerator.main_process_first():  # pretrained weights are downloaded once
        network, initial = build_network(experiment)
    _announce(experiment, device)
    with device.accelerator.main_process_first():  # the main process decodes and shows progress, the others read
        decoded = prepare_pixels(
            experiment.dataset, experiment.index, experiment.recipe.pixels.size, experiment.config.cache
        )
    stages = train_stages(experiment, device, network, initial.tensors, decoded.pixels)
    rows, scores = score(experiment, device, network, stages[-1].trained.weights, decoded.pixels)
    if not device.is_main:
        return
    maps = localize(experiment, device, network, decoded.pixels)
    weights = describe_weights(experiment, initial, stages[-1].trained.weights)
    trained = describe_stages(stages, experiment.index)
    described = describe_run(experiment, environment, decoded, weights, trained)
    records.write(experiment.work, described, score_table(experiment.index, rows, scores), maps)


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
