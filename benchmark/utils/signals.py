"""Being asked to stop: SIGTERM, as schedulers send it, and SIGINT, which is Ctrl-C.

Inside `held()` the first signal is noted, and the work that goes on there stops where it can go on later; anywhere else
it stops at once. A second one ends the program as the system does. Where a launcher started several processes, more
signals change nothing: it sends each a second one by itself.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The program was asked to stop, and did; the message says where it stands.

    Attributes:
        status: what it exits with, as a shell counts: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(self, number: int, where: str = "stopped: the same command goes on from the last checkpoint") -> None:
        super().__init__(where)
        self.status = 128 + number


class _State:
    """Signals come to the process, so there is one of these."""

    asked: int | None = None
    held = False


@contextmanager
def handle_signals() -> Iterator[None]:
    """Hear the signals inside, where the program may (the main thread); afterwards all is as it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.asked, before = None, {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        _State.asked = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """A signal that comes inside is noted, and nothing else: `asked` tells, `stop_if_asked` follows it."""
    _State.held = True
    try:
        yield
    finally:
        _State.held = False


def raise_if_signalled() -> None:
    """Raises Stopped if a signal was noted."""
    if _State.asked is not None:
        raise Interrupted(_State.asked)


def pending_signal() -> int | None:
    """The number of the signal that asks to stop, if one came."""
    return _State.asked


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _State.asked is not None and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _State.asked = _State.asked or number
    if not _State.held:
        raise Interrupted(number)
