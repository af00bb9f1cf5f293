"""What the acceptance of a GPU machine shares: skips, time limits, programs of its own, and a table of what it found.

    tox -e gpu          (or, where nothing can be installed: pytest -m gpu tests/gpu)

Each row of the table is printed at once, with the seconds so far, and is in the file of its module: right.txt,
fast.txt or paper.txt, in the folder that the variable OUT names.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from on_device import forget_device
from tabulate import tabulate

STARTED = time.monotonic()
HEADERS = ["what", "measured", "compared with", "ratio", "target", ""]
NO_GPU = "needs a CUDA GPU: torch.cuda.is_available() is false"
LIMIT = 60  # seconds of a test that sets none


def pytest_collection_modifyitems(items):
    """Skip without a GPU; a warning of another version of a library is shown and fails nothing."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default"), append=False)
            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """End a test that takes longer than its marker allows: `@pytest.mark.gpu(seconds=90)`."""
    marker = item.get_closest_marker("gpu")
    seconds = marker.kwargs.get("seconds", LIMIT) if marker else 0

    def stop(*_):
        raise TimeoutError(f"this test takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def note(request):
    """Print a line at once, with the seconds since the start."""
    plugins = request.config.pluginmanager
    reporter, capture = plugins.getplugin("terminalreporter"), plugins.getplugin("capturemanager")

    def write(text):
        with capture.global_and_fixture_disabled():
            reporter.write(f"\n[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)

    return write


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    """The folder of the results: that of the variable OUT if it is set."""
    folder = Path(os.environ.get("OUT") or tmp_path_factory.mktemp("out"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def tell(request, note, out):
    """Add a row to the table: `tell(what, measured, against, ratio, target)`, the last two numbers, or absent."""
    rows, name = [], request.module.TABLE

    def add(what, measured, against="", ratio=None, target=None):
        verdict = "" if target is None else "met" if ratio >= target else "missed"
        numbers = ["" if ratio is None else f"{ratio:.3f}", "" if target is None else f">= {target:g}"]
        rows.append([what, measured, against, *numbers, verdict])
        note(" | ".join(filter(None, rows[-1])))
        (out / name).write_text(_title() + tabulate(rows, HEADERS, disable_numparse=True) + "\n")

    yield add
    note(f"the table is {out / name}:\n{tabulate(rows, HEADERS, disable_numparse=True)}\n")


def _title():
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}\n\n"


@pytest.fixture(scope="module")
def start(cache, note):
    """Start `python -m chxbench` with words, or another program; its output goes to a file."""
    started = []

    def run(words, log, program=("-m", "chxbench")):
        environment = {**os.environ, "COLUMNS": "200", "CHXBENCH_CACHE": str(cache)}
        with Path(log).open("a") as file:
            command = [sys.executable, *program, *map(str, words)]
            started.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def finish(note):
    """Wait for a program, with its last line every 10 seconds, and return its log; it must end with this status."""

    def wait(process, log, seconds, status=0):
        deadline, shown = time.monotonic() + seconds, time.monotonic()
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                note(f"... {next(reversed(log.read_text().splitlines()), 'no output yet')[:150]}")
        process.kill()
        assert process.wait() == status, f"after at most {seconds} s:\n{log.read_text()[-4000:]}"
        return log.read_text()

    return wait


@pytest.fixture(autouse=True)
def own_device():
    """Give each test of this process its own device."""
    yield
    forget_device()
