"""Signals: the first one is followed where the work can go on later, the second one at once."""

import os
import signal
import subprocess
import sys

import pytest

from chxbench.benchmark.utils.signals import (
    Interrupted,
    defer_signals,
    handle_signals,
    pending_signal,
    raise_if_signalled,
)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_at_once_outside_and_is_noted_inside(number, status):
    before = signal.getsignal(number)
    with handle_signals(), pytest.raises(Interrupted, match="the same command resumes") as stop:
        os.kill(os.getpid(), number)
    assert stop.value.status == status
    with handle_signals():
        with defer_signals():
            assert pending_signal() is None
            os.kill(os.getpid(), number)
            assert pending_signal() == number
        with pytest.raises(Interrupted):
            raise_if_signalled()
    assert pending_signal() is None
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_signal_ends_the_program_at_once_unless_a_launcher_sends_it(processes):
    code = """
import os, signal
from chxbench.benchmark.utils.signals import defer_signals, handle_signals
with handle_signals(), defer_signals():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "WORLD_SIZE": str(processes)})
    assert done.returncode == (-signal.SIGTERM if processes == 1 else 7)
