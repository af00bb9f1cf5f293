"""How much of the processor other processes use while this one measures, from the counters of Linux."""

import os
import time
from pathlib import Path
from typing import Self

STAT = Path("/proc/stat")  # CPU time per core and kind, in ticks: proc(5)
BUSY_KINDS = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal (time taken by other virtual machines)


class OtherProcesses:
    """CPU time of other processes, summed over the blocks entered with `with`.

    Only the cores that this process may use count. Time taken by other virtual machines counts as well.
    """

    def __init__(self) -> None:
        self._seconds = self._capacity = 0.0
        self._is_counted = True

    def __enter__(self) -> Self:
        self._start = (time.perf_counter(), _busy_seconds(), time.process_time())
        return self

    def __exit__(self, *error: object) -> None:
        start, busy, own = self._start
        now_busy, now_own, elapsed = _busy_seconds(), time.process_time(), time.perf_counter() - start
        if busy is None or now_busy is None:
            self._is_counted = False
            return
        self._seconds += (now_busy - busy) - (now_own - own)
        self._capacity += elapsed * len(os.sched_getaffinity(0))

    @property
    def share(self) -> float | None:
        """Their share of the cores' time, 0..1; None if the system does not report it, or before any block."""
        if not self._is_counted or not self._capacity:
            return None
        return min(max(self._seconds / self._capacity, 0.0), 1.0)  # counters have the resolution of a tick


def _busy_seconds() -> float | None:
    """Return the busy time since boot of the cores that this process may use; None if the system does not report it."""
    try:
        usable = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        rows = [line.split() for line in STAT.read_text().splitlines()]
        ticks = [float(row[1 + kind]) for row in rows if row and row[0] in usable for kind in BUSY_KINDS]
        return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None
    except (OSError, AttributeError, IndexError, ValueError):  # AttributeError: not Linux
        return None
