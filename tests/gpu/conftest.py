"""The acceptance of a GPU machine: what its tests share. Run it with `tox -e gpu`, or `pytest -m gpu tests/gpu`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tabulate import tabulate

from chxbench.benchmark.engine.device import Device

TABLE = pytest.StashKey[list[list[str]]]()
HEADERS = ["what", "measured", "against", "ratio", "target", ""]


@pytest.fixture(autouse=True)
def gpu():
    """Skip every test here where there is no GPU."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    """The folder of results: that of the variable OUT if it is set."""
    folder = Path(os.environ.get("OUT") or tmp_path_factory.mktemp("out"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def tell(request, out):
    """Add a row to the table at the end, and to the file gpu.txt at once.

    `tell(what, measured, against, ratio, target)` with texts and, for a comparison, two numbers.
    """

    def add(what, measured, against="", ratio=None, target=None):
        compared = [] if ratio is None else [f"{ratio:.3g}"]
        compared += [] if target is None else [f">= {target:g}", "met" if ratio >= target else "missed"]
        rows = request.config.stash.setdefault(TABLE, [])
        rows.append([what, measured, against, *compared])
        (out / "gpu.txt").write_text(tabulate(rows, HEADERS, disable_numparse=True) + "\n")

    return add


def pytest_terminal_summary(terminalreporter, config):
    if rows := config.stash.get(TABLE, []):
        terminalreporter.section(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
        terminalreporter.write_line(tabulate(rows, HEADERS, disable_numparse=True))


@pytest.fixture
def device_of():
    """Make devices of several kinds in one process, which otherwise keeps its first one."""

    def make(kind, precision="float32"):
        AcceleratorState._reset_state(reset_partial_state=True)
        return Device(precision, kind)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def start(cache):
    """Start the command line in a process of its own; its output goes to a file."""
    started = []

    def run(words, log):
        environment = {**os.environ, "COLUMNS": "200", "CHXBENCH_CACHE": str(cache)}
        with Path(log).open("a") as file:
            command = [sys.executable, "-m", "chxbench", *map(str, words)]
            started.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
