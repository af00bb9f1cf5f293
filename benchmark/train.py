"""One stage of training: the loop over epochs, and the rule that picks one (step.py is what happens to a batch).

Randomness is counted, not consumed: the order of the examples, the shift of each crop and the seed of dropout are
functions of (seed, stage, epoch), so a stage that was interrupted goes on as if it had not been; to the bit on a CPU,
up to the order in which sums are taken on a GPU.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import stopping
from .batches import Batch, batch_sizes
from .epoch import Epoch, Material
from .errors import UserError, first_few
from .keeper import LOOK, Keeper, Passed, Trained, begin, identity_of, look, set_random_state
from .log import note
from .memory import is_out_of_memory
from .options import describe
from .predict import predict
from .progress import progress, say
from .recipe import as_table, identity
from .statistics.metrics import mean_auc
from .step import Learner, learn, make_learner
from .watch import Pace


def train_stage(
    material: Material,
    start: dict[str, Tensor],
    network: nn.Module,
    stage: int,
    title: str,
    rows: np.ndarray,
    work: Path,
) -> Trained:
    """Train `network` from the weights `start` on the images `rows`, or go on where `work/checkpoint.pt` stands.

    Args:
        material: what the stages share.
        start: the weights to begin with.
        network: as the method built it; holds the last epoch's weights afterwards.
        stage: the stage's number, from 0; part of every count of randomness.
        title: the stage's name, for the progress bar.
        rows: row numbers to train on, repeats allowed.
        work: the stage's own folder.

    Raises:
        UserError: as `train_epoch` and `Keeper`.
        Stopped: a signal asked for it; the same call goes on.
    """
    recipe, device = material.recipe, material.device
    network.load_state_dict(start)
    learner = make_learner(device, network, recipe, len(batch_sizes(len(rows), recipe.train.batch_size)))
    keeper = Keeper(device, learner, work / "checkpoint.pt", _identity(material, stage, rows))
    trained, epochs = keeper.trained, recipe.train.epochs
    if keeper.path.exists():
        within = f", step {keeper.passed.steps}" if keeper.passed.steps else ""
        say(f"{title}: goes on after epoch {len(trained.loss)} of {epochs}{within}")
    for number in range(len(trained.loss), epochs):
        epoch = Epoch(material, (stage, number), rows, f"{title}, epoch {number + 1}/{epochs}")
        with stopping.held():
            loss = train_epoch(epoch, learner, keeper)
        scores = _score_validation(material, network, keeper)
        with stopping.held():
            auc = _finish_epoch(epoch, network, keeper, loss, scores)
        say(f"{epoch.title}: loss {loss:.4f}, validation AUC {'undefined' if auc is None else f'{auc:.3f}'}")
        note("epoch", stage=stage + 1, epoch=number + 1, epochs=epochs, loss=loss, validation_auc=auc)
        stopping.stop_if_asked()
    return trained


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """The network's weights as tensors on the CPU that later training cannot change."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()}


def deal_labels_anew(targets: np.ndarray, patients: np.ndarray, key: Sequence[int]) -> np.ndarray:
    """A control: every patient gets the labels of another one drawn at random; float32 (n, C) in the order given.

    Images of a patient take the other's rows in turn, so that labels stay as alike within a patient as they were.
    """
    _, owner, images = np.unique(patients, return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(owner, kind="stable"), np.cumsum(images)[:-1])
    dealt = np.empty_like(targets)
    for mine, other in zip(groups, np.random.default_rng(key).permutation(len(groups)), strict=True):
        dealt[mine] = targets[np.resize(groups[other], len(mine))]
    return dealt


def train_epoch(epoch: Epoch, learner: Learner, keeper: Keeper | None = None) -> float:
    """One pass over the rows, from where it was left; the mean loss over its images.

    Args:
        epoch: which pass.
        learner: what is trained.
        keeper: knows where the pass goes on, and keeps how far it has come; None begins, and keeps nothing.

    Raises:
        UserError: the loss or the weights are no numbers any more, or the memory does not hold a step.
        Stopped: a signal asked for it; the keeper has the state.
    """
    device, passed = epoch.material.device, keeper.passed if keeper else begin(epoch.material.device)
    passed.clock.start()
    torch.manual_seed(_torch_seed(epoch.material.seed, *epoch.count))
    batches = epoch.batches(passed.steps)  # it draws, so a state that was kept is set afterwards
    if passed.random:
        set_random_state(device, passed.random)
    learner.train()
    pace = Pace(device, learner, epoch.count, len(epoch.spans), passed.steps)
    with progress(epoch.title, len(epoch.rows) - epoch.images(passed.steps), noted=False) as advance:
        for batch in batches:
            loss = _learn(epoch.material, learner, batch)
            passed.add(loss, len(batch.targets))
            advance(len(batch.targets))
            pace(batch, loss)
            if keeper:
                _keep_up(epoch, keeper)
    _refuse_lost(epoch, learner, passed, keeper)
    mean = float(device.total(passed.total)) / len(epoch.rows)
    passed.clock.stop()
    return mean


def _keep_up(epoch: Epoch, keeper: Keeper) -> None:
    """After a step: look whether all is well, save and stop, each where it is time."""
    passed = keeper.passed
    signal, due = keeper.wanted()
    if signal is None and not due:
        if passed.steps % LOOK == 0:
            _refuse_lost(epoch, keeper.learner, passed, keeper, with_weights=False)
        return
    _refuse_lost(epoch, keeper.learner, passed, keeper)
    passed.clock.stop()
    keeper.save()
    passed.clock.start()
    if signal is not None:
        stage, number = epoch.count
        where = f"step {passed.steps} of {len(epoch.spans)} of stage {stage + 1}, epoch {number + 1}"
        raise stopping.Stopped(signal, f"stopped after {where}: the same command goes on from there")


def _refuse_lost(
    epoch: Epoch, learner: Learner, passed: Passed, keeper: Keeper | None, with_weights: bool = True
) -> None:
    lost = look(epoch.material.device, learner, passed, with_weights)
    if lost is not None:
        rate = epoch.material.recipe.train.lr / 10
        raise UserError(
            f"{lost.what} in {epoch.title}, step {lost.step + 1} of {len(epoch.spans)} (images "
            f"{first_few(epoch.names(lost.step))}): lower the rate with --set train.lr={rate:g}"
            + (f"; {keeper.last()}" if keeper else "")
        )


def _learn(material: Material, learner: Learner, batch: Batch) -> Tensor:
    """One step. Raises UserError where the memory does not hold it, with the setting that takes half of it."""
    micro_batch = material.recipe.train.micro_batch
    try:
        return learn(material.device, material.method, learner, batch, micro_batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        images = min(micro_batch or len(batch.images), len(batch.images))
        advice = f"--set train.micro_batch={images // 2}" if images > 1 else "a smaller pixels.crop"
        raise UserError(
            f"the memory does not hold a training step of {images} images at a time: try {advice}"
        ) from error


def _score_validation(material: Material, network: nn.Module, keeper: Keeper) -> np.ndarray:
    """Log-odds of the validation split (n, C); who interrupts finds the epoch, trained, in the checkpoint."""
    try:
        stopping.stop_if_asked()
        rows, findings = material.validation, material.targets.shape[1]
        return predict(material.device, network, material.pixels, rows, material.recipe, "validation", findings)
    except KeyboardInterrupt:
        keeper.save()
        raise


def _finish_epoch(epoch: Epoch, network: nn.Module, keeper: Keeper, loss: float, scores: np.ndarray) -> float | None:
    """Note what came of an epoch, keep the weights if the recipe's rule picks it, save; the validation's mean AUC."""
    trained, material = keeper.trained, epoch.material
    value = mean_auc(scores, material.targets[material.validation])
    best = max((auc for auc in trained.validation_auc if auc is not None), default=-1.0)
    trained.loss.append(loss)
    trained.validation_auc.append(value)
    trained.seconds += keeper.passed.clock.seconds
    trained.images += len(epoch.rows)
    if material.recipe.train.select == "last" or not trained.weights or (value is not None and value > best):
        trained.weights, trained.best_epoch = copy_weights(network), len(trained.loss)
    keeper.passed = begin(material.device)
    keeper.save()
    return value


def _identity(material: Material, stage: int, rows: np.ndarray) -> str:
    """Names the training that a checkpoint belongs to."""
    method, recipe = material.method, as_table(material.recipe)
    counts = {"seed": material.seed, "stage": stage, "method": [method.name, describe(method)]}
    return identity_of({**counts, "recipe": identity(recipe)}, rows)


def _torch_seed(*count: int) -> int:
    return int(np.random.SeedSequence(count).generate_state(1, np.uint64)[0] >> np.uint64(1))
