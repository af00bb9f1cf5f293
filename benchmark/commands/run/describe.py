"""Describe a run for its record: configuration and training, before its scores are evaluated."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ...data.identity import pixel_sample
from ...data.pixel_cache import Decoded
from ...dataset import SPLITS, Index
from ...engine.device import Device
from ...engine.experiment import Experiment
from ...engine.initial_weights import InitialWeights
from ...engine.stages import StageResult
from ...engine.weights import weights_sha256
from ...method import PartCheck
from ...recipe import Recipe
from ...records.describe import describe_dataset, describe_software, now
from ...records.schema import (
    EnvironmentPart,
    MethodPart,
    PartCheckPart,
    PixelsPart,
    RunDescription,
    StagePart,
    WeightsPart,
)
from ...utils.files import file_sha256
from ...utils.options import to_dict

SELECTION = {
    "best_validation_auc": "the epoch with the highest mean AUC on the validation split",
    "last": "the last epoch",
}


def describe_run(
    experiment: Experiment,
    environment: EnvironmentPart,
    decoded: Decoded,
    weights: WeightsPart,
    stages: list[StagePart],
    checks: Sequence[PartCheck],
) -> RunDescription:
    """Describe a trained run.

    Args:
        experiment: experiment of the run.
        environment: software and hardware when the run started.
        decoded: images that the network saw.
        weights: weights before and after training.
        stages: stages of training.
        checks: what the method's parts do in the trained network.
    """
    config, recipe = experiment.config, experiment.recipe
    pixels = PixelsPart(sha256=decoded.sha256, sample=pixel_sample(experiment.index, decoded.pixels))
    return RunDescription(
        created=now(),
        command=config.command(recipe.name),
        run_id=experiment.run_id,
        experiment_sha256=experiment.sha256,
        seed=config.seed,
        selection=SELECTION[recipe.train.select],
        method=describe_method(experiment),
        dataset=describe_dataset(experiment.dataset, experiment.index, SPLITS, pixels),
        recipe=_without_folders(recipe),
        weights=weights,
        stages=stages,
        part_checks=[PartCheckPart(**check._asdict()) for check in checks],
        submission=None,
        environment=environment,
    )


def _without_folders(recipe: Recipe) -> Recipe:
    """Return a recipe with the name of a weights file instead of its path, which may be private."""
    model = replace(recipe.model, weights=Path(recipe.model.weights).name)
    changed = (
        {**recipe.changed, "model.weights": model.weights} if "model.weights" in recipe.changed else recipe.changed
    )
    return replace(recipe, model=model, changed=changed)


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
        floor=False,
    )


def describe_weights(experiment: Experiment, initial: InitialWeights, final: dict[str, Tensor]) -> WeightsPart:
    """Describe the weights before and after training, and what the network loaded."""
    file = Path(experiment.recipe.model.weights)  # or a word, such as imagenet
    return WeightsPart(
        init=file.name,
        file_sha256=file_sha256(file) if file.is_file() else None,
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
