"""A method's stages in order: what each trains on, where it starts, and what came of it."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from torch import Tensor, nn

from ..method import ContractError, Selection, Stage
from ..utils.errors import UserError
from ..utils.files import CorruptFile, check_seal, write_atomic
from ..utils.progress import say
from ..utils.run_log import log_event
from .checkpoint import TrainedStage
from .device import Device
from .epoch import TrainContext
from .experiment import Experiment
from .inference import predict_scores
from .trainer import train_stage

PERMUTATION_KEY = (
    0x5EED  # ends the key of the dealt labels: the order of the examples is drawn from keys that begin alike
)


class StageResult(NamedTuple):
    """A stage that was trained: what it trained on, and what came out."""

    stage: Stage
    selection: Selection
    trained: TrainedStage


def train_stages(
    experiment: Experiment, device: Device, network: nn.Module, initial: dict[str, Tensor], pixels: np.ndarray
) -> list[StageResult]:
    """Train the method's stages in order; a stage that selects sees the scores of the one before."""
    context = build_train_context(experiment, device, pixels)
    rows = experiment.index.rows("train")
    done: list[StageResult] = []
    for number, stage in enumerate(experiment.method.stages()):
        work = experiment.work / f"stage{number + 1}"
        work.mkdir(exist_ok=True)
        selection = _select(context, stage, network if done else None, rows, work / "selection.npz")
        start = initial if stage.start == "initial" or not done else done[-1].trained.weights
        title = f"stage {number + 1} ({stage.name})"
        say(f"{title}: {len(selection.rows):,} images an epoch")
        log_event(
            "stage",
            stage=number + 1,
            name=stage.name,
            images=len(selection.rows),
            epochs=experiment.recipe.train.epochs,
        )
        trained = train_stage(context, start, network, number, title, rows[selection.rows], work)
        network.load_state_dict(trained.weights)
        done.append(StageResult(stage, selection, trained))
    return done


def build_train_context(experiment: Experiment, device: Device, pixels: np.ndarray) -> TrainContext:
    """What the stages share; pixels uint8 (N, size, size). The control deals anew, but never test labels."""
    targets = experiment.index.targets()
    if experiment.recipe.train.shuffle_labels:
        patients = experiment.index.images["patient_id"].to_numpy()
        for number, split in enumerate(("train", "val")):
            rows = experiment.index.rows(split)
            targets[rows] = permute_labels_by_patient(
                targets[rows], patients[rows], [experiment.config.seed, number, PERMUTATION_KEY]
            )
    seed, validation = experiment.config.seed, experiment.index.rows("val")
    names = experiment.index.images["image_id"].to_numpy()
    return TrainContext(device, experiment.method, experiment.recipe, seed, pixels, targets, validation, names)


def _select(context: TrainContext, stage: Stage, network: nn.Module | None, rows: np.ndarray, kept: Path) -> Selection:
    """The stage's examples as positions in `rows`, chosen with the network as the stage before left it, once.

    A stage that goes on must go on with the same examples, and so must every process: one chooses, and the choice is
    kept, because scoring again need not give the same bits on every device.
    """
    if stage.select is None:
        return Selection(np.arange(len(rows)))
    if network is None:
        raise ContractError(f"stage {stage.name!r} selects by scores, but no stage has been trained before it")
    device = context.device
    if not device.broadcast(_is_whole(kept)):
        title = f"scoring the training set for {stage.name}"
        scores = predict_scores(device, network, context.pixels, rows, context.recipe, title, context.targets.shape[1])
        if device.is_main:
            _save_selection(_check_selection(stage, stage.select(scores, context.targets[rows]), len(rows)), kept)
        device.accelerator.wait_for_everyone()
    return _read_selection(kept)


def _check_selection(stage: Stage, selection: Selection, count: int) -> Selection:
    rows = selection.rows if isinstance(selection, Selection) else None
    whole = isinstance(rows, np.ndarray) and rows.ndim == 1 and np.issubdtype(rows.dtype, np.integer) and len(rows)
    if not whole or rows.min() < 0 or rows.max() >= count:
        raise ContractError(f"stage {stage.name!r} must select a Selection of row numbers from 0 to {count - 1}")
    return selection


def _save_selection(selection: Selection, path: Path) -> None:
    packed = BytesIO()
    np.savez_compressed(packed, **{name: part for name, part in selection._asdict().items() if part is not None})
    write_atomic(path, packed.getvalue(), sealed=True)


def _is_whole(path: Path) -> bool:
    """Whether a choice was kept there and can be read; a damaged one is told in a line."""
    if not path.exists():
        return False
    try:
        check_seal(path)
    except (CorruptFile, OSError) as error:
        say(f"{path} is damaged ({error}): the examples are chosen again")
        return False
    return True


def _read_selection(path: Path) -> Selection:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Selection(file["rows"], file.get("hard"))
    except (OSError, ValueError, KeyError, AttributeError, BadZipFile) as error:
        raise UserError(f"{path} is no choice of examples ({error}): remove it, or start over with --fresh") from error


def permute_labels_by_patient(targets: np.ndarray, patients: np.ndarray, key: Sequence[int]) -> np.ndarray:
    """A control: every patient gets the labels of another one drawn at random; float32 (n, C) in the order given.

    Images of a patient take the other's rows in turn, so that labels stay as alike within a patient as they were.
    """
    _, owner, images = np.unique(patients, return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(owner, kind="stable"), np.cumsum(images)[:-1])
    dealt = np.empty_like(targets)
    for mine, other in zip(groups, np.random.default_rng(key).permutation(len(groups)), strict=True):
        dealt[mine] = targets[np.resize(groups[other], len(mine))]
    return dealt
