"""Measure the peak memory of a GPU or of this process, and control the reuse of freed memory."""

import ctypes
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..utils.errors import UserError
from ..utils.text import count

PROCESS = Path("/proc/self")
RESET_PEAK = "5"  # written to clear_refs to reset the peak of the resident set to its current size: proc(5)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3): free memory kept in the heap (-1: all); blocks outside the heap
MEANINGS = {"cuda": "allocated on the GPU", "cpu": "resident set of the process"}


class PeakMemory:
    """Peak memory in use since this object was created; memory that was free before does not count.

    Args:
        device: where the network runs.

    Attributes:
        meaning: the measured quantity: "allocated on the GPU", "resident set of the process" (Python and its libraries
            included), or "unknown".
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        release_memory()
        self._is_measured = self._reset()
        self.meaning = MEANINGS[device.type] if self._is_measured else "unknown"

    def bytes(self) -> int | None:
        """Return the peak in bytes; None if the system does not report it."""
        return peak_memory(self.device) if self._is_measured else None

    def _reset(self) -> bool:
        """Reset the peak; return whether the system can."""
        if self.device.type == "cuda":  # pragma: no cover (needs a GPU)
            torch.cuda.reset_peak_memory_stats(self.device)
            return True
        if self.device.type != "cpu":
            return False
        try:
            (PROCESS / "clear_refs").write_text(RESET_PEAK)
        except OSError:
            return False
        return True


def peak_memory(device: torch.device) -> int | None:
    """Return the peak so far in bytes, of the GPU or else of the process; None if the system does not report it."""
    if device.type == "cuda":  # pragma: no cover (needs a GPU)
        return torch.cuda.max_memory_allocated(device)
    try:
        peak = re.search(r"^VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(peak[1]) * 1024 if peak else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch raised this because the memory, of a GPU or of the machine, cannot hold a tensor."""
    # For the machine's memory torch raises a plain RuntimeError, recognizable only by its message.
    matches = re.search("can't allocate memory|not enough memory|out of memory", str(error))
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or matches is not None


@contextmanager
def advise_on_memory(work: str, images: int, setting: str) -> Iterator[None]:
    """Turn out of memory inside the block into a UserError, with the value of `setting` that needs about half of it.

    Args:
        work: what is computed: "a training step".
        images: how many images are computed at a time.
        setting: key of the recipe that sets this number.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = f"--set {setting}={images // 2}" if images > 1 else "a smaller pixels.crop"
        raise UserError(f"the memory cannot hold {work} of {count(images, 'image')} at a time: try {advice}") from error


def release_memory() -> None:
    """Return unreferenced memory to the system, so that the next measurement does not include it."""
    gc.collect()
    if torch.cuda.is_available():  # pragma: no cover (needs a GPU)
        torch.cuda.empty_cache()
    _call_glibc("malloc_trim", 0)  # without it, freed memory stays in the resident set


def keep_freed_memory() -> None:
    """Keep freed memory of the CPU for reuse, if the C library is glibc.

    Each training step needs the memory that the previous one freed. If it were returned to the system, its pages would
    be faulted in and zeroed again in every step.
    """
    _call_glibc("mallopt", M_MMAP_MAX, 0)
    _call_glibc("mallopt", M_TRIM_THRESHOLD, -1)


def _call_glibc(name: str, *arguments: int) -> None:
    """Call a function of the C library if it exists."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
