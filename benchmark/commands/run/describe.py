"""Describe a run for its record: configuration and training, before its scores are evaluated."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ...dataset import SPLITS, Index
from ...engine.device import Device
from ...engine.experiment import Experiment
from ...engine.initial_weights import InitialWeights
from ...engine.stages import StageResult
from ...engine.weights import weights_sha256
from ...records.describe import describe_dataset, describe_software, now
from ...records.schema import EnvironmentPart, MethodPart, RunDescription, StagePart, WeightsPart
from ...utils.options import to_dict

SELECTION = {
    "best_validation_auc": "the epoch with the highest mean AUC on the validation split",
    "last": "the last epoch",
}


def describe_run(
    experiment: Experiment,
    environment: EnvironmentPart,
    pixels_sha256: str,
    weights: WeightsPart,
    stages: list[StagePart],
) -> RunDescription:
    """Describe a trained run.

    Args:
        experiment: experiment of the run.
        environment: software and hardware when the run started.
        pixels_sha256: SHA-256 of the decoded images.
        weights: weights before and after training.
        stages: stages of training.
    """
    config, recipe = experiment.config, experiment.recipe
    return RunDescription(
        created=now(),
        command=config.command(recipe.name),
        run_id=experiment.run_id,
        seed=config.seed,
        selection=SELECTION[recipe.train.select],
        method=describe_method(experiment),
        dataset=describe_dataset(experiment.dataset, experiment.index, SPLITS, pixels_sha256),
        recipe=recipe,
        weights=weights,
        stages=stages,
        submission=None,
        environment=environment,
    )


def describe_method(experiment: Experiment) -> MethodPart:
    """Describe the method, its options and where it is defined."""
    method, entry = experiment.method, experiment.entry
    options = to_dict(method)
    return MethodPart(
        name=method.name,
        title=method.title,
        paper=method.paper,
        reported=method.reported,
        built_in=entry.built_in,
        source_sha256=entry.source_sha256,
        options=options,
        changed={key: options[key] for key in sorted(experiment.config.options)},
        compared_with=list(method.compared_with),
        control=method.control,
    )


def describe_weights(experiment: Experiment, initial: InitialWeights, final: dict[str, Tensor]) -> WeightsPart:
    """Describe the weights before and after training, and what the network loaded."""
    return WeightsPart(
        init=Path(experiment.recipe.model.weights).name,
        source=initial.source,
        not_loaded=initial.not_loaded if initial.source else None,
        sha256=weights_sha256(initial.tensors),
        final_sha256=weights_sha256(final),
    )


def describe_stages(stages: Sequence[StageResult], index: Index) -> list[StagePart]:
    """Describe the stages of training."""
    return [_describe_stage(stage, index) for stage in stages]


def describe_environment(experiment: Experiment, device: Device) -> EnvironmentPart:
    """Describe software and hardware, as they are now."""
    return EnvironmentPart(
        **dict(describe_software()),
        hardware={**device.describe(), "batch_norm": device.batch_norm(experiment.recipe.train.batch_norm)},
        precision=device.precision,
        layout=device.layout,
    )


def _describe_stage(result: StageResult, index: Index) -> StagePart:
    stage, selection, trained = result
    return StagePart(
        name=stage.name,
        start=stage.start,
        examples=len(selection.rows),
        hard_positives=None if selection.hard is None else _count_hard(selection.hard, index),
        epochs=len(trained.loss),
        best_epoch=trained.best_epoch,
        validation_auc=trained.validation_auc,
        loss=trained.loss,
        seconds=trained.seconds,
        images_per_second=trained.images / trained.seconds,
    )


def _count_hard(hard: np.ndarray, index: Index) -> dict[str, int]:
    """Count hard positives, bool (N, C), per finding, and the images that have one."""
    per_finding = dict(zip(index.findings, hard.sum(axis=0).tolist(), strict=True))
    return {**per_finding, "images": int(hard.any(axis=1).sum())}
