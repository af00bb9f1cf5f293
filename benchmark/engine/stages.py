"""Train a method's stages in order: examples, initial weights and outcome of each."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints
from zipfile import BadZipFile

import numpy as np
from torch import Tensor, nn

from ..data.pixel_cache import Decoded
from ..method import ContractError, Method, Selection, Stage
from ..utils.errors import UserError
from ..utils.files import regular, seal_problem, write_atomic
from ..utils.progress import say
from ..utils.run_log import log_event
from ..utils.text import count
from .blame import blame
from .checkpoint import TrainedStage
from .device import Device
from .experiment import Experiment
from .threads import THREADS_FILE
from .train_context import TrainContext, build_train_context
from .trainer import train_stage

SELECTION_FILE = "selection.npz"  # in a stage's folder
STARTS = get_args(get_type_hints(Stage)["start"])


class StageResult(NamedTuple):
    """Trained stage: its definition, its examples and its outcome."""

    stage: Stage
    selection: Selection
    trained: TrainedStage


def train_stages(
    experiment: Experiment, device: Device, network: nn.Module, initial: dict[str, Tensor], decoded: Decoded
) -> list[StageResult]:
    """Train the method's stages in order.

    Args:
        experiment: experiment of the run.
        device: where the network runs.
        network: network as the method built it; afterwards it has the weights of the last stage's selected epoch.
        initial: the run's initial weights.
        decoded: pixels of all N images.

    Raises:
        UserError: see `train_stage`, `list_stages` and `select_examples`.
        Interrupted: a signal stopped the training; the same call resumes it.
    """
    context = build_train_context(
        device=device,
        method=experiment.method,
        recipe=experiment.recipe,
        index=experiment.index,
        pixels=decoded.pixels,
        seed=experiment.config.seed,
        identity=f"{experiment.sha256} {experiment.config.seed} {decoded.sha256}",
    )
    rows, epochs = experiment.index.rows("train"), experiment.recipe.train.epochs
    results: list[StageResult] = []
    for number, stage in enumerate(list_stages(experiment.method)):
        work = experiment.work / f"stage{number + 1}"
        work.mkdir(exist_ok=True)
        selection = _select(context, stage, network, rows, work / SELECTION_FILE)
        start = initial if stage.start == "initial" or not results else results[-1].trained.weights
        title, images = f"stage {number + 1} ({stage.name})", len(selection.rows)
        say(f"{title}: {count(images, 'image')} per epoch")
        log_event("stage", stage=number + 1, name=stage.name, images=images, epochs=epochs)
        trained = train_stage(context, start, network, number, title, rows[selection.rows], work)
        network.load_state_dict(trained.weights)  # the next stage selects by the selected epoch, not the last one
        results.append(StageResult(stage, selection, trained))
    return results


def list_stages(method: Method) -> tuple[Stage, ...]:
    """Return a method's stages. Raises UserError if there are none, or one breaks the contract."""
    with blame(method, "list its stages"):
        stages = tuple(method.stages())
    if not stages or not all(isinstance(stage, Stage) and isinstance(stage.name, str) for stage in stages):
        raise ContractError("stages() must return one Stage or more, each with a name")
    for stage in stages:
        if stage.start not in STARTS:
            raise ContractError(f"stage {stage.name!r} starts from {stage.start!r}: it must be {' or '.join(STARTS)}")
    if stages[0].select is not None:
        raise ContractError(f"stage {stages[0].name!r} selects by scores, but no stage is trained before it")
    return stages


def select_examples(method: Method, stage: Stage, scores: np.ndarray, labels: np.ndarray) -> Selection:
    """Let a stage select its examples by log-odds and labels, both (n, C).

    Raises:
        UserError: the method fails, or does not return a Selection of rows that exist (ContractError).
    """
    assert stage.select is not None
    with blame(method, f"select the examples of stage {stage.name!r}"):
        selection = stage.select(scores, labels)
    rows = selection.rows if isinstance(selection, Selection) else None
    is_row_list = isinstance(rows, np.ndarray) and rows.ndim == 1 and np.issubdtype(rows.dtype, np.integer)
    if rows is None or not is_row_list or not len(rows) or rows.min() < 0 or rows.max() >= len(labels):
        raise ContractError(f"stage {stage.name!r} must select a Selection of row numbers from 0 to {len(labels) - 1}")
    hard = selection.hard
    if hard is not None and not (isinstance(hard, np.ndarray) and hard.dtype == bool and hard.shape == labels.shape):
        raise ContractError(f"stage {stage.name!r} must select hard labels as a bool array {labels.shape}, or None")
    return selection


def _select(context: TrainContext, stage: Stage, network: nn.Module, rows: np.ndarray, path: Path) -> Selection:
    """Select a stage's examples by the scores of the previous stage.

    They are selected once, by one process, and saved to `path`: a stage must resume with the same examples, but scores
    are not bit-reproducible on every device.

    Args:
        context: settings and data shared by all stages.
        stage: stage that selects its examples, or trains on all.
        network: network with the weights of the previous stage.
        rows: row numbers of the training split (n,).
        path: file where the selection is saved.

    Returns:
        The selection, as positions in `rows`.
    """
    if stage.select is None:
        return _every_image(len(rows), context.recipe.train.images, context.seed)
    device = context.device
    if not device.broadcast(_has_selection(path)):
        scores = context.predictor(network).scores(rows, f"scoring the training set for {stage.name}")
        if device.is_main:
            _save_selection(select_examples(context.method, stage, scores, context.targets[rows]), path)
        device.accelerator.wait_for_everyone()
    return _read_selection(path)


def _every_image(number: int, images: int, seed: int) -> Selection:
    """Select every image once, then random ones again, evenly repeated, up to a number of images per epoch."""
    again = np.resize(np.random.default_rng([seed, number]).permutation(number), max(images - number, 0))
    return Selection(np.append(np.arange(number), again))


def remove_training_state(work: Path) -> None:
    """Remove the checkpoints and selections of a run that is published: its weights and its record are enough."""
    for path in [*work.glob("stage*/checkpoint*.pt*"), *work.glob(f"stage*/{SELECTION_FILE}*"), work / THREADS_FILE]:
        with suppress(OSError):
            path.unlink()
    for folder in work.glob("stage*"):
        with suppress(OSError):  # not empty
            folder.rmdir()


def _has_selection(path: Path) -> bool:
    """Return whether an intact selection was saved; a damaged one is reported."""
    if not path.exists():
        return False
    problem = seal_problem(path)
    if problem is not None:
        say(f"{path} is damaged ({problem}): the examples are selected again")
    return problem is None


def _save_selection(selection: Selection, path: Path) -> None:
    packed = BytesIO()
    arrays = {name: array for name, array in selection._asdict().items() if array is not None}
    np.savez_compressed(packed, **arrays)
    write_atomic(path, packed.getvalue(), sealed=True)


def _read_selection(path: Path) -> Selection:
    try:
        with np.load(regular(path), allow_pickle=False) as file:
            return Selection(file["rows"], file.get("hard"))
    except (OSError, ValueError, KeyError, AttributeError, BadZipFile) as error:
        raise UserError(
            f"{path} is not a selection of examples ({error}): remove it, or start over with --fresh"
        ) from error
