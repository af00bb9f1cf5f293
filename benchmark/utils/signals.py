"""Requests to stop: SIGTERM, which schedulers send, and SIGINT, which is Ctrl-C.

Inside `defer_signals()` the first signal is only remembered, so that the work can stop at a point from which it can
resume; anywhere else it stops the program at once. A second one ends the program as the system does. Where a launcher
started several processes, further signals are ignored: it sends each process a second one by itself.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The program was asked to stop, and did; the message says how to resume.

    Attributes:
        status: the exit status by the convention of shells: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(
        self, number: int, message: str = "stopped: the same command resumes from the last checkpoint"
    ) -> None:
        super().__init__(message)
        self.status = 128 + number


class _State:
    """The process's state; signals are sent to processes, so one is enough.

    Attributes:
        pending: number of the first signal that was received; None before.
        deferred: whether the program is inside `defer_signals`.
    """

    pending: int | None = None
    deferred = False


@contextmanager
def handle_signals() -> Iterator[None]:
    """Handle both signals inside the block; afterwards the handlers are what they were.

    Outside of the main thread nothing changes: Python allows handlers there only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.pending, before = None, {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        _State.pending = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Remember a signal that arrives inside the block: see `pending_signal` and `raise_if_signalled`."""
    _State.deferred = True
    try:
        yield
    finally:
        _State.deferred = False


def raise_if_signalled() -> None:
    """Raise Interrupted if a signal is pending."""
    if _State.pending is not None:
        raise Interrupted(_State.pending)


def pending_signal() -> int | None:
    """Return the number of the pending signal, or None."""
    return _State.pending


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _State.pending is not None and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        signal.signal(number, signal.SIG_DFL)  # the second one: what the system does without a handler
        os.kill(os.getpid(), number)
    _State.pending = _State.pending or number
    if not _State.deferred:
        raise Interrupted(number)
