"""A run, watched: its beginning and its end go into its log, and how an epoch comes on while it is trained."""

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .batches import Batch
from .device import Device
from .environment import versions
from .log import INTERVAL, LOG, Log, listened, listening, note
from .memory import peak
from .plan import Plan
from .progress import say
from .step import Learner
from .track import tracked


@contextmanager
def watched(plan: Plan, device: Device) -> Iterator[None]:
    """Keep the run's log while it is trained and scored; in a process that only helps the main one, do nothing."""
    if not device.main:
        yield
        return
    with tracked(plan) as trackers, listening(Log(plan.work / LOG, say), *trackers):
        note("started", **_described(plan, device))
        try:
            yield
        except KeyboardInterrupt:
            note("interrupted", why="by the user")
            raise
        except BaseException as error:
            note("failed", why=str(error) or type(error).__name__)
            raise
        note("finished")


class Pace:
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
        if not listened():
            return
        self._step += 1
        self._loss += loss * len(batch.targets)
        self._mine += 0 if batch.idle else len(batch.images)
        self._images += len(batch.targets)
        if self._step == self._steps or time.monotonic() - self._last >= INTERVAL:
            self._note()

    def _note(self) -> None:
        loss = float(self._loss) / max(self._mine, 1)
        now = time.monotonic()
        note(
            "step",
            stage=self._stage,
            epoch=self._epoch,
            step=self._step,
            steps=self._steps,
            loss=loss,
            lr=float(self._learner.optimizer.param_groups[0]["lr"]),
            images_per_second=round(self._images / max(now - self._last, 1e-9), 2),
            memory=peak(self._device.torch_device),
        )
        self._last, self._images = now, 0


def _described(plan: Plan, device: Device) -> dict[str, object]:
    """What the log says when a run begins or goes on."""
    order, where = plan.order, device.describe()
    return {
        "command": _command(list(order.typed)) if order.typed else [],
        "folder": str(Path.cwd()),
        "run": plan.run_id,
        "method": plan.method.name,
        "dataset": plan.dataset.name,
        "seed": order.seed,
        "host": platform.node(),
        "process": os.getpid(),
        **{name: where[name] for name in ("device", "kind", "cores", "processes", "precision")},
        "versions": {name: number for name, number in versions().items() if name in ("python", "torch", "chxbench")},
    }


def _command(typed: list[str]) -> list[str]:
    """The words that go on with this run: as typed, behind what started the processes, and without --fresh."""
    words = [word for word in typed if word != "--fresh"]
    own = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if own > 1:  # several machines are started by one such command on each: it is left to the user to say which
        return ["torchrun", "--nproc-per-node", str(own), "-m", "chxbench", *words]
    as_module = Path(sys.argv[0]).name == "__main__.py"
    return [*([sys.orig_argv[0], "-m"] if as_module else []), "chxbench", *words]
