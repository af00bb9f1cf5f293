"""Train one stage: the loop over epochs, and the selection of an epoch.

The order of the examples, the shift of each crop and the seed of dropout depend only on (seed, stage, epoch, position),
not on generator state. An interrupted stage therefore resumes exactly: bit-exact on a CPU, up to the order of summation
on a GPU.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data.loader import Batch, batch_sizes
from ..method import Method
from ..metrics.auc import mean_auc
from ..utils import signals
from ..utils.errors import UserError, first_few
from ..utils.files import CHECKPOINT_FILE
from ..utils.progress import progress, say
from ..utils.run_log import INTERVAL, has_listeners, log_event
from ..utils.text import count
from .blame import blame
from .checkpoint import (
    CHECK_EVERY,
    CheckpointManager,
    EpochProgress,
    TrainedStage,
    check_finite,
    new_progress,
    training_identity,
)
from .device import Device
from .epoch import Epoch
from .memory import advise_on_memory, peak_memory
from .random_state import seed_random, set_random_state
from .step import Learner, make_learner, train_step
from .train_context import TrainContext
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
    """Train a network on some images, or resume from the checkpoint in `work`.

    Args:
        context: settings and data shared by all stages.
        start: weights to start from.
        network: network as the method built it; afterwards it has the last epoch's weights.
        stage: number of the stage, from 0; part of the key of every random draw.
        title: name of the stage, for messages.
        rows: row numbers to train on (n,), repeats allowed.
        work: folder of the stage.

    Raises:
        UserError: see `train_epoch` and `CheckpointManager`.
        Interrupted: a signal stopped the training; the same call resumes it.
    """
    recipe, device = context.recipe, context.device
    network.load_state_dict(start)
    learner = make_learner(device, network, recipe, len(batch_sizes(len(rows), recipe.train.batch_size)))
    identity = training_identity(context.identity, stage, rows)
    manager = CheckpointManager(device, learner, work / CHECKPOINT_FILE, identity)
    trained, epochs = manager.trained, recipe.train.epochs
    if manager.path.exists():
        step = f", step {manager.progress.steps}" if manager.progress.steps else ""
        say(f"{title}: resumes after epoch {len(trained.loss)} of {epochs}{step}")
    for number in range(len(trained.loss), epochs):
        epoch = Epoch(context, (stage, number), rows, f"{title}, epoch {number + 1}/{epochs}")
        # Signals take effect between steps and between epochs, where a checkpoint contains everything to resume.
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
    """Train on each example once, or resume an interrupted epoch.

    Args:
        epoch: epoch to train.
        learner: network in training.
        manager: checkpoints, from which the epoch resumes; None to start at the beginning and save none.

    Returns:
        The mean loss over the epoch's images.

    Raises:
        UserError: loss or weights are not finite, or a step does not fit in memory.
        Interrupted: a signal stopped the training; the state is saved.
    """
    context, device = epoch.context, epoch.context.device
    position = manager.progress if manager else new_progress(device)
    position.stopwatch.start()
    seed_random(_epoch_seed(context.seed, *epoch.key))
    batches = epoch.batches(position.steps)
    if position.random_state:  # restored last: making the loader draws from torch's generator
        set_random_state(device, position.random_state)
    learner.train()
    step_logger = StepLogger(device, learner, epoch.key, len(epoch.spans), position.steps)
    with progress(epoch.title, len(epoch.rows) - epoch.count_images(position.steps), logged=False) as advance:
        for batch in batches:
            loss = run_step(device, context.method, learner, batch, context.recipe.train.micro_batch)
            position.add(loss, len(batch.targets))
            advance(len(batch.targets))
            step_logger(batch, loss)
            if manager:
                _checkpoint_if_due(epoch, manager)
    _check_finite(epoch, learner, position, manager)
    mean_loss = float(device.all_reduce_sum(position.loss_sum)) / len(epoch.rows)
    position.stopwatch.stop()
    return mean_loss


def _checkpoint_if_due(epoch: Epoch, manager: CheckpointManager) -> None:
    """After a step, check the losses, save a checkpoint or stop, each if it is due."""
    position = manager.progress
    signal, is_due = manager.poll()
    if signal is None and not is_due:
        if position.steps % CHECK_EVERY == 0:
            _check_finite(epoch, manager.learner, position, manager, with_weights=False)
        return
    _check_finite(epoch, manager.learner, position, manager)
    position.stopwatch.stop()
    manager.save()
    position.stopwatch.start()
    if signal is not None:
        stage, number = epoch.key
        where = f"step {position.steps} of {len(epoch.spans)} of stage {stage + 1}, epoch {number + 1}"
        raise signals.Interrupted(signal, f"stopped after {where}: rerun the same command to resume")


def _check_finite(
    epoch: Epoch,
    learner: Learner,
    position: EpochProgress,
    manager: CheckpointManager | None,
    with_weights: bool = True,
) -> None:
    """Raise a UserError that names the images if the loss or the weights are not finite."""
    failure = check_finite(epoch.context.device, learner, position, with_weights)
    if failure is not None:
        lower_rate = epoch.context.recipe.train.lr / 10
        raise UserError(
            f"{failure.problem} in {epoch.title}, step {failure.step + 1} of {len(epoch.spans)} (images "
            f"{first_few(epoch.image_ids(failure.step))}): lower the learning rate with --set train.lr={lower_rate:g}"
            + (f"; {manager.describe_last()}" if manager else "")
        )


def run_step(device: Device, method: Method, learner: Learner, batch: Batch, micro_batch: int) -> Tensor:
    """Train on a batch as `train_step` does, and explain an error.

    Raises:
        UserError: the step does not fit in memory (with the setting that needs about half), or the method fails in it.
    """
    images = len(batch.images)
    at_a_time = min(micro_batch or images, images)
    with (
        advise_on_memory("a training step", at_a_time, "train.micro_batch"),
        blame(method, f"compute a training step of {count(images, 'image')}"),
    ):
        return train_step(device, method, learner, batch, micro_batch)


def _score_validation(context: TrainContext, network: nn.Module, manager: CheckpointManager) -> np.ndarray:
    """Compute the log-odds of the validation split (n, C); if interrupted, save the epoch's steps first."""
    try:
        signals.raise_if_signalled()
        return context.predictor(network).scores(context.validation, "validation")
    except KeyboardInterrupt:
        manager.save()
        raise


def _finish_epoch(
    epoch: Epoch, network: nn.Module, manager: CheckpointManager, loss: float, scores: np.ndarray
) -> float | None:
    """Record an epoch's outcome, copy its weights if the epoch is selected so far, and save.

    Returns:
        Mean AUC of the validation split; None where undefined.
    """
    trained, context = manager.trained, epoch.context
    auc = mean_auc(scores, context.targets[context.validation])
    best = max((value for value in trained.validation_auc if value is not None), default=-1.0)
    trained.loss.append(loss)
    trained.validation_auc.append(auc)
    trained.seconds += manager.progress.stopwatch.seconds
    trained.images += len(epoch.rows)
    # The first epoch is always selected: without a defined AUC none would be.
    if context.recipe.train.select == "last" or not trained.weights or (auc is not None and auc > best):
        trained.weights, trained.best_epoch = copy_weights(network), len(trained.loss)
    manager.progress = new_progress(context.device)
    manager.save()
    return auc


def _epoch_seed(*key: int) -> int:
    """Derive a seed of 63 bits from counts."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


class StepLogger:
    """Logs the progress of an epoch: every INTERVAL seconds, and after its last step.

    The loss is summed on the device and copied for a log entry only, so that a step never waits for the device.

    Args:
        device: where the network runs.
        learner: network in training; its learning rate is logged.
        key: numbers of the stage and the epoch, from 0.
        steps: number of steps of the epoch.
        done: steps completed before this process started, which the logged loss does not include.
    """

    def __init__(self, device: Device, learner: Learner, key: tuple[int, int], steps: int, done: int = 0) -> None:
        self._device, self._learner = device, learner
        self._stage, self._epoch = key[0] + 1, key[1] + 1
        self._steps, self._step = steps, done
        self._loss_sum = torch.zeros((), device=device.torch_device)
        self._local_images = 0  # of this process, since it started
        self._images = 0  # of all processes, since the last entry
        self._last = time.monotonic()

    def __call__(self, batch: Batch, loss: Tensor) -> None:
        """Count a step: its batch, and this rank's part of the batch's loss, a scalar on the device."""
        if not has_listeners():
            return
        self._step += 1
        self._loss_sum += loss * len(batch.targets)
        self._local_images += 0 if batch.is_padding else len(batch.images)
        self._images += len(batch.targets)
        if self._step == self._steps or time.monotonic() - self._last >= INTERVAL:
            self._log()

    def _log(self) -> None:
        loss = float(self._loss_sum) / max(self._local_images, 1)  # waits for the device: the rate is measured after
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
