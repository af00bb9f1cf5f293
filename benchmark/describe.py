"""What a run says of itself: the record's fields, but for the judgement of the scores (record.py is the schema)."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .dataset import SPLITS, Index
from .device import Device
from .environment import code_state, versions
from .method import LoadedWeights
from .options import describe
from .plan import Plan
from .recipe import as_table
from .source import describe_dataset
from .stages import Done

SELECTION = {
    "best_validation_auc": "the epoch with the highest mean AUC on the validation split",
    "last": "the last epoch",
}


def describe_order(plan: Plan, pixels_sha256: str) -> dict[str, Any]:
    """The record's fields that say what was asked for."""
    order = plan.order
    return {
        "run_id": plan.run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": order.command(plan.recipe.name),
        "seed": order.seed,
        "selection": SELECTION[plan.recipe.train.select],
        "method": _describe_method(plan),
        "dataset": describe_dataset(plan.dataset, plan.index, SPLITS, pixels_sha256),
        "recipe": as_table(plan.recipe),
    }


def describe_outcome(
    plan: Plan, network: nn.Module, initial: dict[str, Tensor], stages: Sequence[Done]
) -> dict[str, Any]:
    """The record's fields that say what came of it, but for the judgement of the evidence."""
    return {
        "weights": {
            "init": Path(plan.recipe.model.weights).name,
            **_describe_loaded(network),
            "sha256": weights_sha256(initial),
            "final_sha256": weights_sha256(stages[-1].trained.weights),
        },
        "stages": [_describe_stage(done, plan.index) for done in stages],
        "speed": None,
    }


def describe_environment(plan: Plan, device: Device) -> dict[str, Any]:
    """The record's `environment`, as it is now."""
    return {
        "versions": versions(),
        "hardware": {**device.describe(), "batch_norm": device.batch_norm(plan.recipe.train.batch_norm)},
        "precision": device.precision,
        "layout": device.layout,
        "code": code_state(),
    }


def loaded_weights(network: nn.Module) -> tuple[str | None, list[str]]:
    """What was loaded into the network, and the names of its tensors that were not."""
    sources, loaded = [], set()
    for name, module in network.named_modules():
        found = getattr(module, "loaded_weights", None)
        if isinstance(found, LoadedWeights):
            sources.append(found.source)
            loaded |= {f"{name}.{tensor}".lstrip(".") for tensor in found.tensors}
    return ", ".join(sources) or None, [name for name, _ in network.named_parameters() if name not in loaded]


def _describe_loaded(network: nn.Module) -> dict[str, Any]:
    source, untouched = loaded_weights(network)
    return {"source": source, "untouched": untouched if source else None}


def _describe_method(plan: Plan) -> dict[str, Any]:
    method = plan.method
    options = describe(method)
    return {
        "name": method.name,
        "title": method.title,
        "paper": method.paper,
        "reported": method.reported,
        "built_in": plan.source.built_in,
        "source_sha256": plan.source.source_sha256,
        "options": options,
        "changed": {key: options[key] for key in sorted(plan.order.options)},
        "compared_with": list(method.compared_with),
        "control": method.control,
    }


def _describe_stage(done: Done, index: Index) -> dict[str, Any]:
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


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """SHA-256 over the names and bytes of the tensors, by name: equal for equal weights, however they were stored."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
