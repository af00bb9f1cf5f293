"""Memory: what is in use at most, on a GPU or in this process, and what becomes of what is free."""

import ctypes
import gc
import re
import sys
from pathlib import Path

import torch

PROCESS = Path("/proc/self")
FORGET_PEAK = "5"  # written to clear_refs: the peak of the resident set becomes its present size
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3): give back beyond so much (-1: never); blocks outside the heap
MEANINGS = {"cuda": "allocated on the GPU", "cpu": "resident set of the process"}


class PeakMemory:
    """The most memory that was in use since this was made; what was free before does not count.

    Args:
        device: where the network computes.

    Attributes:
        meaning: of the number: "allocated on the GPU", "resident set of the process" (Python and its libraries
            included), or "unknown".
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        release_memory()
        self._known = self._forget()
        self.meaning = MEANINGS[device.type] if self._known else "unknown"

    def bytes(self) -> int | None:
        """Bytes at the peak; None where the system does not tell."""
        if not self._known:
            return None
        return peak_memory(self.device)

    def _forget(self) -> bool:
        if self.device.type == "cuda":  # pragma: no cover (needs a GPU)
            torch.cuda.reset_peak_memory_stats(self.device)
            return True
        if self.device.type != "cpu":
            return False
        try:
            (PROCESS / "clear_refs").write_text(FORGET_PEAK)
        except OSError:
            return False
        return True


def peak_memory(device: torch.device) -> int | None:
    """Bytes in use at most so far: allocated on a GPU, else by the process; None where the system does not tell."""
    if device.type == "cuda":  # pragma: no cover (needs a GPU)
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch raises where the memory, a GPU's or the machine's, does not hold a tensor."""
    said = re.search("can't allocate memory|not enough memory|out of memory", str(error))
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or said is not None


def release_memory() -> None:
    """Give back to the system what nothing refers to any more: the next measurement does not inherit it."""
    gc.collect()
    if torch.cuda.is_available():  # pragma: no cover (needs a GPU)
        torch.cuda.empty_cache()
    _glibc("malloc_trim", 0)  # without it, what is free stays in the resident set


def keep_freed_memory() -> None:
    """Keep what the processor frees for what it needs next, where the C library is glibc.

    A training step needs again what the one before it freed. Given back to the system, every page would come back by a
    fault and filled with zeros, step after step.
    """
    _glibc("mallopt", M_MMAP_MAX, 0)
    _glibc("mallopt", M_TRIM_THRESHOLD, -1)


def _glibc(function: str, *numbers: int) -> None:
    """Call a function of the C library, where there is one of this name."""
    known = getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
    if known is not None:
        known(*numbers)
