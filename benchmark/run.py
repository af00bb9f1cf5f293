"""One run, from a name on the command line to a row on the leaderboard. `run` is the whole story."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from . import record as records
from .dataset import SPLITS, Index
from .device import Device, save_weights
from .environment import code_state, versions
from .errors import UserError
from .figures import draw_roc
from .leaderboard import leaderboard_path, refuse_foreign, write_leaderboard
from .method import MethodError, Selection, Stage
from .options import describe
from .pixels import prepare
from .plan import Order, Plan, make_plan
from .predict import predict
from .progress import say
from .recipe import as_table
from .record import Record
from .train import Material, Trained, copy_weights, deal_labels_anew, train_stage

SHUFFLE = 0x5EED  # ends the key of the dealt labels: the order of the examples is drawn from keys that begin alike
SELECTION = {
    "best_validation_auc": "the epoch with the highest mean AUC on the validation split",
    "last": "the last epoch",
}


def run(order: Order) -> tuple[Record, Path]:
    """Train and score a method as ordered, publish the record, regenerate the leaderboard.

    Returns:
        The record, and the folder it was published to.

    Raises:
        UserError: whatever the user can mend; nothing is published then.
    """
    plan = make_plan(order)
    board = leaderboard_path(order.results)
    refuse_foreign(board)
    with _alone(plan):
        if not (plan.work / "run.json").exists():
            train_and_score(plan)
        else:
            say(f"this run is finished: {plan.work} (--fresh trains again)")
        record = records.read(plan.work)
        draw_roc(record, records.verify(plan.work, record), plan.work / "roc.png")
        with FileLock(plan.work.with_name("publish.lock")):  # two seeds may finish at the same time
            place, replaced = records.publish(plan.work, record, order.results)
            say(f"{'replaced the record in' if replaced else 'published'} {place}")
            write_leaderboard(order.results, board)
    return record, place


def train_and_score(plan: Plan) -> None:
    """The costly part of a run: from initial weights to a record and its scores in the run's folder."""
    device = Device(plan.recipe.compute.precision)
    environment = describe_environment(device)  # of the code as it starts: by the end it may have been edited
    network, initial = build_network(plan)
    decoded = prepare(plan.dataset, plan.index, plan.recipe.pixels.size, plan.order.cache)
    stages = train_stages(plan, device, network, initial, decoded.pixels)
    rows, scores = score(plan, device, network, stages[-1].trained.weights, decoded.pixels)
    fields = {
        **describe_order(plan, decoded.sha256),
        **describe_outcome(plan, initial, stages),
        "environment": environment,
    }
    records.write(plan.work, fields, records.score_table(plan.index, rows, scores))


class Done(NamedTuple):
    """A stage that was trained: what it trained on, and what came out."""

    stage: Stage
    selection: Selection
    trained: Trained


def build_network(plan: Plan) -> tuple[nn.Module, dict[str, Tensor]]:
    """The method's network and a copy of its initial weights, drawn from the run's seed where they are random."""
    torch.manual_seed(plan.order.seed)
    network = plan.method.build(plan.index.findings, plan.recipe.model.weights)
    return network, copy_weights(network)


def train_stages(
    plan: Plan, device: Device, network: nn.Module, initial: dict[str, Tensor], pixels: np.ndarray
) -> list[Done]:
    """Train the method's stages in order; a stage that selects sees the scores of the one before."""
    material = make_material(plan, device, pixels)
    rows = plan.index.rows("train")
    done: list[Done] = []
    for number, stage in enumerate(plan.method.stages()):
        work = plan.work / f"stage{number + 1}"
        work.mkdir(exist_ok=True)
        selection = _select(material, stage, network if done else None, rows, work / "selection.npz")
        start = initial if stage.start == "initial" or not done else done[-1].trained.weights
        title = f"stage {number + 1} ({stage.name})"
        say(f"{title}: {len(selection.rows):,} images an epoch")
        trained = train_stage(material, start, network, number, title, rows[selection.rows], work)
        network.load_state_dict(trained.weights)
        done.append(Done(stage, selection, trained))
    return done


def score(
    plan: Plan, device: Device, network: nn.Module, weights: dict[str, Tensor], pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the validation and test images, and their log-odds under the chosen weights, which are kept."""
    save_weights(weights, plan.work / "weights.safetensors")
    rows = np.concatenate([plan.index.rows("val"), plan.index.rows("test")])
    scores = predict(device, network, pixels, rows, plan.recipe, "scoring validation and test")
    if not np.isfinite(scores).all():
        raise MethodError(f"method {plan.method.name} gives scores that are not numbers: lower train.lr")
    return rows, scores


def describe_order(plan: Plan, pixels_sha256: str) -> dict[str, Any]:
    """The record's fields that say what was asked for (record.py describes each)."""
    order, index = plan.order, plan.index
    return {
        "run_id": plan.run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": order.command(plan.recipe.name),
        "seed": order.seed,
        "selection": SELECTION[plan.recipe.train.select],
        "method": _describe_method(plan),
        "dataset": {
            "name": plan.dataset.name,
            "title": plan.dataset.title,
            "options": describe(plan.dataset),
            "labels": index.labels._asdict(),
            "split": index.split._asdict(),
            "pixels_sha256": pixels_sha256,
            "counts": {split: _count(index, split) for split in SPLITS},
        },
        "recipe": as_table(plan.recipe),
    }


def describe_outcome(plan: Plan, initial: dict[str, Tensor], stages: Sequence[Done]) -> dict[str, Any]:
    """The record's fields that say what came of it, but for the judgement of the scores."""
    return {
        "weights": {
            "init": plan.recipe.model.weights,
            "sha256": weights_sha256(initial),
            "final_sha256": weights_sha256(stages[-1].trained.weights),
        },
        "stages": [_describe_stage(done, plan.index) for done in stages],
        "localization": None,
        "speed": None,
    }


def describe_environment(device: Device) -> dict[str, Any]:
    """The record's `environment`, as it is now."""
    return {
        "versions": versions(),
        "hardware": device.describe(),
        "precision": device.precision,
        "layout": device.layout,
        "code": code_state(),
    }


@contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """Hold the run's folder against a second process; begin it anew where the user asks for that."""
    plan.work.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(plan.work.with_name(f"{plan.run_id}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process is working on this run in {plan.work}: wait for it, or end it") from None
    try:
        if plan.order.fresh:
            shutil.rmtree(plan.work, ignore_errors=True)
        plan.work.mkdir(exist_ok=True)
        yield
    finally:
        lock.release()


def make_material(plan: Plan, device: Device, pixels: np.ndarray) -> Material:
    targets = plan.index.targets()
    if plan.recipe.train.shuffle_labels:
        patients = plan.index.images["patient_id"].to_numpy()
        for number, split in enumerate(("train", "val")):
            rows = plan.index.rows(split)
            targets[rows] = deal_labels_anew(targets[rows], patients[rows], [plan.order.seed, number, SHUFFLE])
    return Material(device, plan.method, plan.recipe, plan.order.seed, pixels, targets, plan.index.rows("val"))


def _select(material: Material, stage: Stage, network: nn.Module | None, rows: np.ndarray, kept: Path) -> Selection:
    """The stage's examples as positions in `rows`, chosen with the network as the stage before left it, once.

    A stage that goes on must go on with the same examples: they are kept, because scoring again need not give the same
    bits on every device.
    """
    if stage.select is None:
        return Selection(np.arange(len(rows)))
    if network is None:
        raise MethodError(f"stage {stage.name!r} selects by scores, but no stage has been trained before it")
    if not kept.exists():
        title = f"scoring the training set for {stage.name}"
        scores = predict(material.device, network, material.pixels, rows, material.recipe, title)
        _keep(_checked(stage, stage.select(scores, material.targets[rows]), len(rows)), kept)
    with np.load(kept, allow_pickle=False) as file:
        return Selection(file["rows"], file.get("hard"))


def _checked(stage: Stage, selection: Selection, count: int) -> Selection:
    rows = selection.rows if isinstance(selection, Selection) else None
    whole = isinstance(rows, np.ndarray) and rows.ndim == 1 and np.issubdtype(rows.dtype, np.integer) and len(rows)
    if not whole or rows.min() < 0 or rows.max() >= count:
        raise MethodError(f"stage {stage.name!r} must select a Selection of row numbers from 0 to {count - 1}")
    return selection


def _keep(selection: Selection, path: Path) -> None:
    parts = {name: part for name, part in selection._asdict().items() if part is not None}
    part = path.with_name("selection.part.npz")
    np.savez_compressed(part, **parts)
    part.replace(path)


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


def _count(index: Index, split: str) -> dict[str, Any]:
    images = index.images.iloc[index.rows(split)]
    return {
        "images": len(images),
        "patients": int(images["patient_id"].nunique()),
        "positives": {finding: int((images[finding] == 1).sum()) for finding in index.findings},
        "absent": index.absent.get(split, 0),
    }


def weights_sha256(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
