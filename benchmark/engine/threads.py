"""Number of CPU threads of a run: chosen at its start, the same when it resumes."""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..utils.files import regular, write_atomic
from ..utils.progress import say
from .device import Device, time_layers

THREADS_FILE = "threads.json"  # in a run's folder
MIN_ROUNDS, MAX_ROUNDS = 5, 15  # steps timed with each number of threads
MAX_SECONDS = 2.0  # after which no more rounds begin


@contextmanager
def run_threads(device: Device, setting: int, folder: Path) -> Iterator[None]:
    """Set torch's CPU threads in the block, and remember their number: with another, results differ in their last bits.

    All cores are fastest on a machine of few cores that does nothing else. Beside another busy program, threads wait
    for each other most of the time, and one alone is faster. So it is measured on a CPU; on a GPU nothing changes.

    Args:
        device: where the network runs.
        setting: `compute.threads`; 0 to measure.
        folder: the run's folder.

    Raises:
        UserError: the number cannot be saved.
    """
    available = torch.get_num_threads()
    remembered = _read(folder / THREADS_FILE)
    threads = device.broadcast(remembered or setting or (available if device.on_gpu else fastest_threads(device)))
    if threads < available and not (remembered or setting):
        say(f"training with {threads} of {available} threads, which is faster at present")
    if device.is_main and not remembered:
        write_atomic(folder / THREADS_FILE, json.dumps(threads).encode())
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(available)  # the next run of the process chooses anew


def fastest_threads(device: Device) -> int:
    """Measure with how many of torch's threads a training step is fastest, beside whatever else runs.

    All of them, and the powers of 2 below, are tried. Medians are compared: other programs slow down most steps.
    """
    available = torch.get_num_threads()
    if available == 1:
        return 1
    times: dict[int, list[float]] = {available: []}
    times |= {2**power: [] for power in range((available - 1).bit_length())}
    try:
        step = time_layers(device.torch_device)
        started = time.perf_counter()
        for done in range(MAX_ROUNDS):
            if done >= MIN_ROUNDS and time.perf_counter() - started > MAX_SECONDS:
                break
            for threads, seconds in times.items():
                torch.set_num_threads(threads)
                seconds.append(step(device.precision == "bfloat16"))
    finally:
        torch.set_num_threads(available)
    return min(times, key=lambda threads: statistics.median(times[threads]))


def _read(file: Path) -> int | None:
    """Read the number of threads of a run that is resumed; None for a new run, or if the file is damaged."""
    try:
        threads = json.loads(regular(file).read_bytes())
    except (OSError, ValueError):
        return None
    return threads if isinstance(threads, int) and threads > 0 else None
