"""What is kept of a stage while it is trained, so that it goes on in the middle of an epoch as if nothing had been.

The order of the examples and their shifts are counted, so a place in an epoch is the number of batches that are done.
To it belong the sum of their losses, the network, the optimiser, and the state of torch's random numbers, from which
dropout draws. A network that is no longer made of numbers is never kept.
"""

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..utils import signals
from ..utils.errors import UserError
from ..utils.files import CorruptFile, check_seal, json_bytes, write_atomic
from ..utils.progress import say
from .device import Device
from .step import Learner

CHECKPOINT_FORMAT = 1  # of a checkpoint: raise it when its keys change
CHECKPOINT_EVERY = 300.0  # seconds between two checkpoints within an epoch
CHECK_EVERY = 50  # steps between two looks at the loss, for which the program waits for the device


@dataclass
class TrainedStage:
    """A stage's outcome.

    Attributes:
        weights: of the chosen epoch, on the CPU.
        best_epoch: the chosen epoch, counted from 1.
        validation_auc: mean AUC of the validation split after each epoch; None where undefined.
        loss: mean training loss of each epoch.
        seconds: of training alone, without validation.
        images: how many images were trained on, over all epochs.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    validation_auc: list[float | None] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0


class Clock:
    """Seconds that it ran.

    Attributes:
        seconds: between starts and stops so far.
    """

    def __init__(self) -> None:
        self.seconds = self._begun = 0.0

    def start(self) -> None:
        self._begun = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._begun


@dataclass
class EpochProgress:
    """How far an epoch has come.

    Attributes:
        total: loss times images, summed over the batches that are done: a float32 scalar on the device, of this
            process's parts of them.
        steps: batches that are done.
        random: state of torch's random numbers where the epoch goes on; None at its beginning.
        losses: of the batches since the last look, each a scalar on the device.
        clock: how long the epoch has taken.
    """

    total: Tensor
    steps: int = 0
    random: dict[str, Tensor] | None = None
    losses: list[Tensor] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def add(self, loss: Tensor, images: int) -> None:
        """One more batch is done."""
        self.total += loss * images
        self.losses.append(loss)
        self.steps += 1


class CheckpointManager:
    """Keeps a stage's state in its checkpoint.

    Args:
        device: where the arithmetic happens.
        learner: what is trained.
        path: of the checkpoint.
        identity: of the training, see `identity_of`; a checkpoint of another one is refused.

    Attributes:
        trained: what is trained already.
        passed: how far the next epoch has come.

    Raises:
        UserError: processes see different files, or the checkpoint is another training's.
    """

    def __init__(self, device: Device, learner: Learner, path: Path, identity: str) -> None:
        self.device, self.learner, self.path, self.identity = device, learner, path, identity
        self.trained, self.passed, self.saved = TrainedStage(), new_progress(device), time.monotonic()
        state = load_checkpoint(path)
        if device.broadcast(state is not None) != (state is not None):
            raise UserError(f"{path} is not to be seen from every machine: put --results where all of them see it")
        if state is not None:
            self._restore(state)

    def save(self) -> None:
        """Write the state, in the main process; every process has to call it."""
        total = self.device.all_reduce_sum(self.passed.total.clone())
        if self.device.is_main:
            random = random_state(self.device) if self.passed.steps else None
            state = {
                "format": CHECKPOINT_FORMAT,
                "of": self.identity,
                "network": self.learner.network.state_dict(),
                "optimizer": self.learner.optimizer.state_dict(),
                "scheduler": self.learner.scheduler.state_dict(),
                "trained": vars(self.trained),
                "passed": {"total": total, "steps": self.passed.steps, "random": random},
                "seconds": self.passed.clock.seconds,
            }
            save_checkpoint(self.path, state)
        self.saved = time.monotonic()

    def wanted(self) -> tuple[int | None, bool]:
        """The signal that asks to stop, if any, and whether it is time to save; the same in every process.

        One process asks itself after each step, several ask the main one at each look: agreeing takes time.
        """
        if self.device.shard.world_size > 1 and self.passed.steps % CHECK_EVERY:
            return None, False
        return self.device.broadcast((signals.pending_signal(), time.monotonic() - self.saved >= CHECKPOINT_EVERY))

    def last(self) -> str:
        """Where the last good checkpoint is, in words."""
        return f"the last good checkpoint is {self.path}" if self.path.exists() else "no checkpoint was written yet"

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("format") != CHECKPOINT_FORMAT or state.get("of") != self.identity:
            raise self._foreign("another run, version or choice of examples made it")
        try:
            self.learner.network.load_state_dict(state["network"])
            self.learner.optimizer.load_state_dict(state["optimizer"])
            self.learner.scheduler.load_state_dict(state["scheduler"])
            self.trained, self.passed = TrainedStage(**state["trained"]), EpochProgress(**state["passed"])
            self.passed.clock.seconds = state["seconds"]
            self.passed.total = self.passed.total.to(self.device.torch_device) * self.device.is_main
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise self._foreign(str(error).strip().splitlines()[0]) from error

    def _foreign(self, why: str) -> UserError:
        return UserError(f"{self.path} is no checkpoint of this stage ({why}): remove it, or start over with --fresh")


def new_progress(device: Device) -> EpochProgress:
    """An epoch at its beginning."""
    return EpochProgress(torch.zeros((), device=device.torch_device))


class NonFinite(NamedTuple):
    """Where the loss, or the weights, were seen to be no numbers.

    Attributes:
        what: "the loss is nan", "the weights are not finite".
        step: number of the batch, from 0.
    """

    what: str
    step: int


def check_finite(device: Device, learner: Learner, passed: EpochProgress, with_weights: bool) -> NonFinite | None:
    """Whether all is made of numbers still; waits for the device. Every process has to call it."""
    total = float(device.all_reduce_sum(passed.total.clone()))
    if not np.isfinite(total):
        finite = torch.isfinite(device.all_reduce_sum(torch.stack(passed.losses))).cpu().numpy()
        first = int(finite.argmin()) if not finite.all() else len(finite) - 1  # a sum may overflow where no loss does
        return NonFinite(f"the loss is {total}", passed.steps - len(finite) + first)
    passed.losses.clear()
    if with_weights and not _all_finite(learner):
        return NonFinite("the weights are not finite", passed.steps - 1)
    return None


def training_identity(counts: dict[str, Any], rows: np.ndarray) -> str:
    """SHA-256 over what a training follows from: plain values, and the examples."""
    digest = hashlib.sha256(json_bytes(counts))
    digest.update(np.ascontiguousarray(rows, np.int64).tobytes())
    return digest.hexdigest()


def random_state(device: Device) -> dict[str, Tensor]:
    """The state of torch's random numbers, of the CPU and of the GPU that is in use."""
    states = {"cpu": torch.get_rng_state()}
    if device.torch_device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device.torch_device)
    return states


def set_random_state(device: Device, states: dict[str, Tensor]) -> None:
    """Go on drawing where `random_state` was taken; a GPU that was not there then keeps its own."""
    torch.set_rng_state(states["cpu"])
    if device.torch_device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device.torch_device)


def _all_finite(learner: Learner) -> bool:
    state = [value for kept in learner.optimizer.state.values() for value in kept.values()]
    tensors = [*learner.network.state_dict().values(), *state]
    floating = [value for value in tensors if isinstance(value, Tensor) and value.is_floating_point()]
    where = next(learner.network.parameters()).device  # some optimisers count their steps elsewhere
    return bool(torch.stack([torch.isfinite(value).all().to(where) for value in floating]).all())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state; the one that was there stays beside it as `previous(path)`. Raises UserError: no room."""
    write_atomic(path, lambda sink: torch.save(state, sink), previous=previous_path(path), sealed=True)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The last state that is whole, or None where there is none; what is damaged is told in a line.

    Nothing but tensors and plain values is ever unpickled.

    Raises:
        UserError: a whole file that holds something else.
    """
    there = [place for place in (path, previous_path(path)) if place.exists()]
    for place in there:
        try:
            check_seal(place)
        except (CorruptFile, OSError) as error:
            then = "the one before it is used" if place != there[-1] else "the stage starts over"
            say(f"checkpoint {place} is damaged ({error}): {then}")
        else:
            return _read_checkpoint(place)
    return None


def previous_path(path: Path) -> Path:
    """Where the state before the last one lies."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is no checkpoint ({why}): remove it, or start over with --fresh") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is no checkpoint: remove it, or start over with --fresh")
    return state
