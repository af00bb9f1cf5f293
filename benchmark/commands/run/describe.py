"""What a run says of itself: the record's fields, but for the judgement of the scores (record.py is the schema)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...data.source import dataset_fields
from ...dataset import SPLITS, Index
from ...engine.device import Device
from ...engine.experiment import Experiment
from ...engine.stages import StageResult
from ...engine.weights import loaded_weights, weights_sha256
from ...recipe import recipe_table
from ...utils.environment import code_state, versions
from ...utils.options import to_dict

SELECTION = {
    "best_validation_auc": "the epoch with the highest mean AUC on the validation split",
    "last": "the last epoch",
}


def request_fields(experiment: Experiment, pixels_sha256: str) -> dict[str, Any]:
    """The record's fields that say what was asked for."""
    config = experiment.config
    return {
        "run_id": experiment.run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": config.command(experiment.recipe.name),
        "seed": config.seed,
        "selection": SELECTION[experiment.recipe.train.select],
        "method": _method_fields(experiment),
        "dataset": dataset_fields(experiment.dataset, experiment.index, SPLITS, pixels_sha256),
        "recipe": recipe_table(experiment.recipe),
    }


def training_fields(
    experiment: Experiment, network: nn.Module, initial: dict[str, Tensor], stages: Sequence[StageResult]
) -> dict[str, Any]:
    """The record's fields that say what came of it, but for the judgement of the evidence."""
    return {
        "weights": {
            "init": Path(experiment.recipe.model.weights).name,
            **_loaded_fields(network),
            "sha256": weights_sha256(initial),
            "final_sha256": weights_sha256(stages[-1].trained.weights),
        },
        "stages": [_stage_fields(done, experiment.index) for done in stages],
        "speed": None,
    }


def environment_fields(experiment: Experiment, device: Device) -> dict[str, Any]:
    """The record's `environment`, as it is now."""
    return {
        "versions": versions(),
        "hardware": {**device.describe(), "batch_norm": device.batch_norm(experiment.recipe.train.batch_norm)},
        "precision": device.precision,
        "layout": device.layout,
        "code": code_state(),
    }


def _loaded_fields(network: nn.Module) -> dict[str, Any]:
    source, untouched = loaded_weights(network)
    return {"source": source, "untouched": untouched if source else None}


def _method_fields(experiment: Experiment) -> dict[str, Any]:
    method = experiment.method
    options = to_dict(method)
    return {
        "name": method.name,
        "title": method.title,
        "paper": method.paper,
        "reported": method.reported,
        "built_in": experiment.entry.built_in,
        "source_sha256": experiment.entry.source_sha256,
        "options": options,
        "changed": {key: options[key] for key in sorted(experiment.config.options)},
        "compared_with": list(method.compared_with),
        "control": method.control,
    }


def _stage_fields(done: StageResult, index: Index) -> dict[str, Any]:
    stage, selection, trained = done
    hard = None
    if selection.hard is not None:
        each = dict(zip(index.findings, selection.hard.sum(axis=0).tolist(), strict=True))
        hard = {**each, "images": int(selection.hard.any(axis=1).sum())}
    return {
        "name": stage.name,
        "start": stage.start,
        "examples": len(selection.rows),
        "hard_positives": hard,
        "epochs": len(trained.loss),
        "best_epoch": trained.best_epoch,
        "validation_auc": trained.validation_auc,
        "loss": trained.loss,
        "seconds": trained.seconds,
        "images_per_second": trained.images / trained.seconds,
    }
