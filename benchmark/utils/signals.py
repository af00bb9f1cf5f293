"""Requests to stop: SIGTERM, which schedulers send, and SIGINT, which is Ctrl-C.

Inside `defer_signals()` the first signal is only recorded, so that the work can stop at a point from which it can
resume; outside it stops the program at once. A second signal ends the program with the system's default action. If a
launcher started several processes, further signals are ignored, because launchers send a second one themselves.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised when the program stops because of a signal; the message explains how to resume.

    Attributes:
        status: the exit status by the convention of shells: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(
        self, number: int, message: str = "stopped: the same command resumes from the last checkpoint"
    ) -> None:
        super().__init__(message)
        self.status = 128 + number


class _State:
    """Signal state of the process: signals are sent to processes, so one instance is enough.

    Attributes:
        pending: number of the first signal received; None before any.
        deferred: whether the program is inside `defer_signals`.
    """

    pending: int | None = None
    deferred = False


@contextmanager
def handle_signals() -> Iterator[None]:
    """Handle both signals inside the block, and restore the previous handlers afterwards.

    Does nothing outside of the main thread, the only one where Python allows signal handlers.
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
    """Record a signal that arrives inside the block: see `pending_signal` and `raise_if_signalled`."""
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
        signal.signal(number, signal.SIG_DFL)  # the second signal gets the system's default action
        os.kill(os.getpid(), number)
    _State.pending = _State.pending or number
    if not _State.deferred:
        raise Interrupted(number)
