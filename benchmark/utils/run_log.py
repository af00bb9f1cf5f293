"""A run's log: one JSON object per line, in `runs/<run id>/log.jsonl`. No torch.

Code that works on a run calls `log_event`; events go to the attached listeners: the run's `LogFile`, and trackers if
the user wants them. Without a listener (`chxbench speed`, processes other than the main one) they are dropped. A log is
never published: it contains the command as it was typed, and local paths.

Every entry has `time` (UTC, ISO 8601) and `event`. Its other keys depend on the event; their values are any JSON, with
null in place of numbers that are not finite:

    started      command (list of arguments; empty if started from Python), folder, run, method, dataset, seed, host,
                 process, device, kind, cores, processes, precision, versions (package to version)
    stage        stage (from 1), name, images (per epoch), epochs
    step         stage, epoch (from 1), step, steps, loss (mean so far, over the images of the main process), lr (of the
                 next step), images_per_second (since the previous entry), memory (peak in bytes: of the process, or
                 allocated on the GPU); every INTERVAL seconds, and after an epoch's last step
    epoch        stage, epoch, epochs, loss (mean over all images), validation_auc
    progress     doing, done, of, unit; other long work, every INTERVAL seconds
    scoring      images (their number)
    finished     no other key; written once the record is
    interrupted  why
    failed       why
"""

import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .paths import regular

LOG_FILE = "log.jsonl"
INTERVAL = 10.0  # seconds between two entries of work in progress
Entry = dict[str, Any]
Listener = Callable[[Entry], None]
_listeners: list[Listener] = []


def log_event(event: str, **values: Any) -> None:
    """Send an event to the attached listeners, with null in place of numbers that are not finite: JSON has none."""
    if _listeners:
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        entry |= {name: _finite_or_null(value) for name, value in values.items()}
        for listener in tuple(_listeners):
            listener(entry)


def has_listeners() -> bool:
    """Return whether any listener is attached; if not, values that cost time need not be computed."""
    return bool(_listeners)


@contextmanager
def attach_listeners(*listeners: Listener) -> Iterator[None]:
    """Also send events to these listeners inside the block; a listener must not raise."""
    _listeners.extend(listeners)
    try:
        yield
    finally:
        for listener in listeners:
            _listeners.remove(listener)


class LogFile:
    """Listener that appends entries to a file, each in one write.

    If a write fails, one message is shown, later entries are still tried, and the run continues.

    Args:
        path: log file, in an existing folder. An incomplete last line stays; the next entry begins below it.
        show: prints a message for the user.
    """

    def __init__(self, path: Path, show: Callable[[str], None]) -> None:
        self.path, self.show = path, show
        self._incomplete = _ends_within_a_line(path)
        self._warned = False

    def __call__(self, entry: Entry) -> None:
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        try:
            self._append(b"\n" + line if self._incomplete else line)
        except OSError as error:
            if not self._warned:
                self.show(f"{self.path}: {error.strerror}: the run continues without its log until this is fixed")
            self._warned = True

    def _append(self, line: bytes) -> None:
        with regular(self.path).open("ab", buffering=0) as file:
            written = file.write(line)
        self._incomplete = written < len(line)
        if self._incomplete:  # an unbuffered write to a nearly full disk writes a part and raises nothing
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_log(path: Path) -> list[Entry]:
    """Read the entries of a log in order; incomplete and damaged lines are skipped.

    Raises:
        OSError: the file is missing or cannot be read.
    """
    return [entry for line in regular(path).read_bytes().splitlines() if (entry := _parse(line))]


def _parse(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    valid = isinstance(entry, dict) and isinstance(entry.get("event"), str) and isinstance(entry.get("time"), str)
    return entry if valid else None


def _ends_within_a_line(path: Path) -> bool:
    """Return whether the file's last line is incomplete: the process was killed while it wrote."""
    try:
        with regular(path).open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # missing or empty
        return False


def _finite_or_null(value: Any) -> Any:
    """Replace numbers that are not finite by None, also inside lists and dictionaries."""
    if isinstance(value, dict):
        return {key: _finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
