"""Checkpoints of a stage's training state, from which it resumes bit-exact, also within an epoch.

The order of the examples and their shifts depend only on counts, so that a position in an epoch is the number of
batches done. A checkpoint also contains the sum of their losses, the network, the optimizer, and the state of torch's
random generators, which dropout uses. A state with NaN or Inf is never saved.

A checkpoint is a sealed file, and the previous one is stored next to it: damage is detected, and training resumes from
the other one.
"""

import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ..utils import signals
from ..utils.errors import UserError
from ..utils.files import previous_version, regular, seal_problem, write_atomic
from ..utils.progress import say
from .device import Device
from .random_state import random_state
from .step import Learner

CHECKPOINT_FORMAT = 1  # raise it when the keys of a checkpoint change
CHECKPOINT_EVERY = 300.0  # seconds between two checkpoints within an epoch
CHECK_EVERY = 50  # steps between two checks of the loss, for which the program waits for the device


@dataclass
class TrainedStage:
    """Outcome of a stage, so far or at its end.

    Attributes:
        weights: weights of the selected epoch, on the CPU.
        best_epoch: the selected epoch, from 1.
        validation_auc: mean AUC of the validation split after each epoch; None where undefined.
        loss: mean training loss of each epoch.
        seconds: time of training, without validation.
        images: number of images seen, over all epochs.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    validation_auc: list[float | None] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0


class Stopwatch:
    """Time spent between starts and stops.

    Attributes:
        seconds: total time so far.
    """

    def __init__(self) -> None:
        self.seconds = self._started = 0.0

    def start(self) -> None:
        """Start, or continue after a stop."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Add the time since the last start."""
        self.seconds += time.perf_counter() - self._started


@dataclass
class EpochProgress:
    """Position within an epoch.

    Attributes:
        loss_sum: loss times images, summed over the batches done, this rank's part only: a float32 scalar on the
            device.
        steps: batches done.
        random_state: state of the random generators from which the epoch resumes; None at its beginning.
        unchecked: losses of the batches since the last `check_finite`, each a scalar on the device.
        stopwatch: time spent on the epoch.
    """

    loss_sum: Tensor
    steps: int = 0
    random_state: dict[str, Any] | None = None
    unchecked: list[Tensor] = field(default_factory=list)
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def add(self, loss: Tensor, images: int) -> None:
        """Add a batch of this many images, with this rank's part of its loss."""
        self.loss_sum += loss * images
        self.unchecked.append(loss)
        self.steps += 1


def new_progress(device: Device) -> EpochProgress:
    """Return the progress of an epoch at its beginning."""
    return EpochProgress(torch.zeros((), device=device.torch_device))


class CheckpointManager:
    """Saves a stage's state to its checkpoint, and restores it from there.

    Args:
        device: where the network runs.
        learner: network in training; an existing checkpoint is loaded into it.
        path: checkpoint file.
        identity: hash that identifies the training, see `training_identity`.

    Attributes:
        trained: outcome of the completed epochs.
        progress: position in the epoch after them.

    Raises:
        UserError: the checkpoint belongs to a different training, or is not visible to every process.
    """

    def __init__(self, device: Device, learner: Learner, path: Path, identity: str) -> None:
        self.device, self.learner, self.path, self.identity = device, learner, path, identity
        self.trained, self.progress = TrainedStage(), new_progress(device)
        self._last_save = time.monotonic()
        state = load_checkpoint(path)
        if device.broadcast(state is not None) != (state is not None):
            raise UserError(
                f"{path} is not visible to every process: choose a --results folder that all machines share"
            )
        if state is not None:
            self._restore(state)

    def save(self) -> None:
        """Write the state in the main process; every process must call this.

        Raises:
            UserError: the file cannot be written.
        """
        loss_sum = self.device.all_reduce_sum(self.progress.loss_sum.clone())
        if self.device.is_main:
            progress = {
                "loss_sum": loss_sum,
                "steps": self.progress.steps,
                "random_state": random_state(self.device) if self.progress.steps else None,
            }
            state = {
                "format": CHECKPOINT_FORMAT,
                "identity": self.identity,
                "network": self.learner.network.state_dict(),
                "optimizer": self.learner.optimizer.state_dict(),
                "scheduler": self.learner.scheduler.state_dict(),
                "trained": vars(self.trained),
                "progress": progress,
                "seconds": self.progress.stopwatch.seconds,
            }
            save_checkpoint(self.path, state)
        self._last_save = time.monotonic()

    def poll(self) -> tuple[int | None, bool]:
        """Return the pending signal, if any, and whether a checkpoint is due: the same in every process.

        A single process checks after each step. Several processes synchronize only every CHECK_EVERY steps, because
        communication takes time.
        """
        if self.device.shard.world_size > 1 and self.progress.steps % CHECK_EVERY:
            return None, False
        is_due = time.monotonic() - self._last_save >= CHECKPOINT_EVERY
        return self.device.broadcast((signals.pending_signal(), is_due))

    def describe_last(self) -> str:
        """Describe where the last good checkpoint is, for messages."""
        return f"the last good checkpoint is {self.path}" if self.path.exists() else "no checkpoint was written yet"

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("format") != CHECKPOINT_FORMAT or state.get("identity") != self.identity:
            raise self._foreign("it belongs to a different run or version, or its images have changed since")
        try:
            self.learner.network.load_state_dict(state["network"])
            self.learner.optimizer.load_state_dict(state["optimizer"])
            self.learner.scheduler.load_state_dict(state["scheduler"])
            self.trained, self.progress = TrainedStage(**state["trained"]), EpochProgress(**state["progress"])
            self.progress.stopwatch.seconds = state["seconds"]
            # The saved sum is over all processes: the main one continues from it, the others from 0.
            self.progress.loss_sum = self.progress.loss_sum.to(self.device.torch_device) * self.device.is_main
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise self._foreign(_first_line(error)) from error

    def _foreign(self, reason: str) -> UserError:
        return UserError(
            f"{self.path} is not a checkpoint of this stage ({reason}): remove it, or start over with --fresh"
        )


def training_identity(run: str, stage: int, rows: np.ndarray) -> str:
    """Hash what determines a stage's training: the run's identity, the stage's number, and its examples' rows."""
    digest = hashlib.sha256(f"{run} {stage}".encode())
    digest.update(np.ascontiguousarray(rows, np.int64).tobytes())
    return digest.hexdigest()


class NonFinite(NamedTuple):
    """Loss or weights that are NaN or Inf.

    Attributes:
        problem: description, such as "the loss is nan" or "the weights are not finite".
        step: number of the batch, from 0.
    """

    problem: str
    step: int


def check_finite(device: Device, learner: Learner, progress: EpochProgress, with_weights: bool) -> NonFinite | None:
    """Check the losses since the last check, and the weights; waits for the device.

    Args:
        device: where the network runs; every process must call this.
        learner: network in training.
        progress: position in the epoch, with its unchecked losses.
        with_weights: whether to check the weights and the optimizer's state as well.

    Returns:
        The first value that is not finite; None if all are finite.
    """
    loss_sum = float(device.all_reduce_sum(progress.loss_sum.clone()))
    if not np.isfinite(loss_sum):
        finite = torch.isfinite(device.all_reduce_sum(torch.stack(progress.unchecked))).cpu().numpy()
        first = int(finite.argmin()) if not finite.all() else len(finite) - 1  # a sum may overflow where no loss does
        return NonFinite(f"the loss is {loss_sum}", progress.steps - len(finite) + first)
    progress.unchecked.clear()
    if with_weights and not _all_finite(learner):
        return NonFinite("the weights are not finite", progress.steps - 1)
    return None


def _all_finite(learner: Learner) -> bool:
    optimizer_state = [value for state in learner.optimizer.state.values() for value in state.values()]
    values = [*learner.network.state_dict().values(), *optimizer_state]
    floating = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    target = next(learner.network.parameters()).device  # some optimizers count their steps on the CPU
    return bool(torch.stack([torch.isfinite(value).all().to(target) for value in floating]).all())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a sealed state; the existing one becomes `previous_version(path)`.

    Raises:
        UserError: the file cannot be written.
    """
    # torch.save uses only the methods of a file that a Sink has.
    write_atomic(
        path, lambda sink: torch.save(state, cast("IO[bytes]", sink)), previous=previous_version(path), sealed=True
    )


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Load the last intact state and report damaged or missing ones; None if no state is intact.

    Only tensors and plain values are unpickled, so that a checkpoint cannot run code.

    Raises:
        UserError: an intact file is not a checkpoint.
    """
    versions = [version for version in (path, previous_version(path)) if os.path.lexists(version)]
    if versions and path not in versions:
        say(f"checkpoint {path} is missing: the previous one is used")
    for version in versions:
        problem = seal_problem(version)
        if problem is None:
            return _read_checkpoint(version)
        fallback = "the stage starts over" if version == versions[-1] else "the previous one is used"
        say(f"checkpoint {version} is damaged ({problem}): {fallback}")
    return None


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        with regular(path).open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch documents no errors; those of zip, pickle and the file system occur
        raise _not_a_checkpoint(path, _first_line(error)) from error
    if not isinstance(state, dict):
        raise _not_a_checkpoint(path, f"it contains a {type(state).__name__}")
    return state


def _not_a_checkpoint(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not a checkpoint ({reason}): remove it, or start over with --fresh")


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, which torch makes pages long; its class if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
