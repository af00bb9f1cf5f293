"""One stage of training: the loop over epochs, and the rule that picks one (step.py is what happens to a batch).

Randomness is counted, not consumed: the order of the examples, the shift of each crop and the seed of dropout are
functions of (seed, stage, epoch), so a stage that was interrupted goes on as if it had not been; to the bit on a CPU,
up to the order in which sums are taken on a GPU.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data.loader import Batch, batch_sizes
from ..metrics.auc import mean_auc
from ..recipe import recipe_identity, recipe_table
from ..utils import signals
from ..utils.errors import UserError, first_few
from ..utils.options import to_dict
from ..utils.progress import progress, say
from ..utils.run_log import INTERVAL, has_listeners, log_event
from .checkpoint import (
    CHECK_EVERY,
    CheckpointManager,
    EpochProgress,
    TrainedStage,
    check_finite,
    new_progress,
    set_random_state,
    training_identity,
)
from .device import Device
from .epoch import Epoch, TrainContext
from .inference import predict_scores
from .memory import is_out_of_memory, peak_memory
from .step import Learner, make_learner, train_step
from .weights import copy_weights


def train_stage(
    context: TrainContext,
    start: dict[str, Tensor],
    network: nn.Module,
    stage: int,
    title: str,
    rows: np.ndarray,
    work: Path,
) -> TrainedStage:
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
    recipe, device = context.recipe, context.device
    network.load_state_dict(start)
    learner = make_learner(device, network, recipe, len(batch_sizes(len(rows), recipe.train.batch_size)))
    manager = CheckpointManager(device, learner, work / "checkpoint.pt", _stage_identity(context, stage, rows))
    trained, epochs = manager.trained, recipe.train.epochs
    if manager.path.exists():
        within = f", step {manager.passed.steps}" if manager.passed.steps else ""
        say(f"{title}: goes on after epoch {len(trained.loss)} of {epochs}{within}")
    for number in range(len(trained.loss), epochs):
        epoch = Epoch(context, (stage, number), rows, f"{title}, epoch {number + 1}/{epochs}")
        with signals.defer_signals():
            loss = train_epoch(epoch, learner, manager)
        scores = _score_validation(context, network, manager)
        with signals.defer_signals():
            auc = _finish_epoch(epoch, network, manager, loss, scores)
        say(f"{epoch.title}: loss {loss:.4f}, validation AUC {'undefined' if auc is None else f'{auc:.3f}'}")
        log_event("epoch", stage=stage + 1, epoch=number + 1, epochs=epochs, loss=loss, validation_auc=auc)
        signals.raise_if_signalled()
    return trained


def train_epoch(epoch: Epoch, learner: Learner, manager: CheckpointManager | None = None) -> float:
    """One pass over the rows, from where it was left; the mean loss over its images.

    Args:
        epoch: which pass.
        learner: what is trained.
        keeper: knows where the pass goes on, and keeps how far it has come; None begins, and keeps nothing.

    Raises:
        UserError: the loss or the weights are no numbers any more, or the memory does not hold a step.
        Stopped: a signal asked for it; the keeper has the state.
    """
    device, passed = epoch.context.device, manager.passed if manager else new_progress(epoch.context.device)
    passed.clock.start()
    torch.manual_seed(_torch_seed(epoch.context.seed, *epoch.count))
    batches = epoch.batches(passed.steps)  # it draws, so a state that was kept is set afterwards
    if passed.random:
        set_random_state(device, passed.random)
    learner.train()
    pace = StepLogger(device, learner, epoch.count, len(epoch.spans), passed.steps)
    with progress(epoch.title, len(epoch.rows) - epoch.images(passed.steps), logged=False) as advance:
        for batch in batches:
            loss = _train_step(epoch.context, learner, batch)
            passed.add(loss, len(batch.targets))
            advance(len(batch.targets))
            pace(batch, loss)
            if manager:
                _checkpoint_if_due(epoch, manager)
    _check_finite(epoch, learner, passed, manager)
    mean = float(device.all_reduce_sum(passed.total)) / len(epoch.rows)
    passed.clock.stop()
    return mean


def _checkpoint_if_due(epoch: Epoch, manager: CheckpointManager) -> None:
    """After a step: look whether all is well, save and stop, each where it is time."""
    passed = manager.passed
    signal, due = manager.wanted()
    if signal is None and not due:
        if passed.steps % CHECK_EVERY == 0:
            _check_finite(epoch, manager.learner, passed, manager, with_weights=False)
        return
    _check_finite(epoch, manager.learner, passed, manager)
    passed.clock.stop()
    manager.save()
    passed.clock.start()
    if signal is not None:
        stage, number = epoch.count
        where = f"step {passed.steps} of {len(epoch.spans)} of stage {stage + 1}, epoch {number + 1}"
        raise signals.Interrupted(signal, f"stopped after {where}: the same command goes on from there")


def _check_finite(
    epoch: Epoch, learner: Learner, passed: EpochProgress, manager: CheckpointManager | None, with_weights: bool = True
) -> None:
    lost = check_finite(epoch.context.device, learner, passed, with_weights)
    if lost is not None:
        rate = epoch.context.recipe.train.lr / 10
        raise UserError(
            f"{lost.what} in {epoch.title}, step {lost.step + 1} of {len(epoch.spans)} (images "
            f"{first_few(epoch.names(lost.step))}): lower the rate with --set train.lr={rate:g}"
            + (f"; {manager.last()}" if manager else "")
        )


def _train_step(context: TrainContext, learner: Learner, batch: Batch) -> Tensor:
    """One step. Raises UserError where the memory does not hold it, with the setting that takes half of it."""
    micro_batch = context.recipe.train.micro_batch
    try:
        return train_step(context.device, context.method, learner, batch, micro_batch)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        images = min(micro_batch or len(batch.images), len(batch.images))
        advice = f"--set train.micro_batch={images // 2}" if images > 1 else "a smaller pixels.crop"
        raise UserError(
            f"the memory does not hold a training step of {images} images at a time: try {advice}"
        ) from error


def _score_validation(context: TrainContext, network: nn.Module, manager: CheckpointManager) -> np.ndarray:
    """Log-odds of the validation split (n, C); who interrupts finds the epoch, trained, in the checkpoint."""
    try:
        signals.raise_if_signalled()
        rows, findings = context.validation, context.targets.shape[1]
        return predict_scores(context.device, network, context.pixels, rows, context.recipe, "validation", findings)
    except KeyboardInterrupt:
        manager.save()
        raise


def _finish_epoch(
    epoch: Epoch, network: nn.Module, manager: CheckpointManager, loss: float, scores: np.ndarray
) -> float | None:
    """Note what came of an epoch, keep the weights if the recipe's rule picks it, save; the validation's mean AUC."""
    trained, context = manager.trained, epoch.context
    value = mean_auc(scores, context.targets[context.validation])
    best = max((auc for auc in trained.validation_auc if auc is not None), default=-1.0)
    trained.loss.append(loss)
    trained.validation_auc.append(value)
    trained.seconds += manager.passed.clock.seconds
    trained.images += len(epoch.rows)
    if context.recipe.train.select == "last" or not trained.weights or (value is not None and value > best):
        trained.weights, trained.best_epoch = copy_weights(network), len(trained.loss)
    manager.passed = new_progress(context.device)
    manager.save()
    return value


def _stage_identity(context: TrainContext, stage: int, rows: np.ndarray) -> str:
    """Names the training that a checkpoint belongs to."""
    method, recipe = context.method, recipe_table(context.recipe)
    counts = {"seed": context.seed, "stage": stage, "method": [method.name, to_dict(method)]}
    return training_identity({**counts, "recipe": recipe_identity(recipe)}, rows)


def _torch_seed(*count: int) -> int:
    return int(np.random.SeedSequence(count).generate_state(1, np.uint64)[0] >> np.uint64(1))


class StepLogger:
    """Notes how an epoch comes on: every INTERVAL seconds, and after its last step.

    The loss is summed where it is, and fetched only for a line: a step never waits for the device.

    Args:
        device: where the network is trained.
        learner: what is trained; its rate is told.
        count: the stage's and the epoch's number, from 0.
        steps: of the epoch.
        done: steps of the epoch that were done before this process began; their loss is not told.
    """

    def __init__(self, device: Device, learner: Learner, count: tuple[int, int], steps: int, done: int = 0) -> None:
        self._device, self._learner = device, learner
        self._stage, self._epoch = count[0] + 1, count[1] + 1
        self._steps, self._step = steps, done
        self._loss = torch.zeros((), device=device.torch_device)
        self._mine = self._images = 0
        self._last = time.monotonic()

    def __call__(self, batch: Batch, loss: Tensor) -> None:
        """Count a step: its batch, and this process's part of the batch's loss, a scalar on the device."""
        if not has_listeners():
            return
        self._step += 1
        self._loss += loss * len(batch.targets)
        self._mine += 0 if batch.is_padding else len(batch.images)
        self._images += len(batch.targets)
        if self._step == self._steps or time.monotonic() - self._last >= INTERVAL:
            self._note()

    def _note(self) -> None:
        loss = float(self._loss) / max(self._mine, 1)
        now = time.monotonic()
        log_event(
            "step",
            stage=self._stage,
            epoch=self._epoch,
            step=self._step,
            steps=self._steps,
            loss=loss,
            lr=float(self._learner.optimizer.param_groups[0]["lr"]),
            images_per_second=round(self._images / max(now - self._last, 1e-9), 2),
            memory=peak_memory(self._device.torch_device),
        )
        self._last, self._images = now, 0
