"""A run's log: what happens, one JSON object a line, in `runs/<run id>/log.jsonl`. No torch.

Whoever works on a run calls `note`; what is noted goes to those who listen: the run's `Log`, and trackers if the user
wants them. Where nobody listens (`chxbench speed`, a process that only helps) it goes nowhere. A log is never
published: it holds the command as it was typed, with the folders of this machine.

Every entry has `time` (UTC, ISO 8601) and `event`; its other values are numbers, texts, or lists of them:

    started      command (words; empty if it was begun from Python), folder, processes, device, precision, versions, ...
    stage        stage (from 1), name, images (an epoch), epochs
    step         stage, epoch (from 1), step of steps, loss (mean so far, over the images of the main process), lr (of
                 the step to come), images_per_second (since the line before), memory (bytes at the peak: of the
                 process, on a GPU what is allocated there); every INTERVAL seconds, and after an epoch's last step
    epoch        stage, epoch of epochs, loss (mean over all images), validation_auc
    progress     doing, done of total, unit: other long work, every INTERVAL seconds
    scoring      images
    finished     the run's record is written
    interrupted, failed    why
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

LOG_FILE = "log.jsonl"
INTERVAL = 10.0  # seconds between two entries of work that goes on
Entry = dict[str, Any]
Listener = Callable[[Entry], None]
_listeners: list[Listener] = []


def log_event(event: str, **values: Any) -> None:
    """Tell those who listen what happened; a number that is none (NaN, infinity) becomes null."""
    if _listeners:
        entry = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        entry |= {name: _number_or_null(value) for name, value in values.items()}
        for listener in tuple(_listeners):
            listener(entry)


def has_listeners() -> bool:
    """Whether anybody hears what is noted."""
    return bool(_listeners)


@contextmanager
def attach_listeners(*listeners: Listener) -> Iterator[None]:
    """Have these hear what is noted meanwhile; they must raise nothing."""
    _listeners.extend(listeners)
    try:
        yield
    finally:
        for listener in listeners:
            _listeners.remove(listener)


class LogFile:
    """Appends entries to a file, each in one write. If the disk is full the user is told once; the work goes on.

    Args:
        path: the file. Its folder exists; a last line that was cut stays as it is, and the next begins below it.
        tell: says a line to the user.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self.path, self.tell = path, tell
        self._cut = _ends_in_a_line(path)
        self._told = False

    def __call__(self, entry: Entry) -> None:
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        try:
            self._append(b"\n" + line if self._cut else line)
        except OSError as error:
            if not self._told:
                self.tell(f"{self.path}: {error.strerror}: the run goes on without its log until that is mended")
            self._told = True

    def _append(self, line: bytes) -> None:
        with self.path.open("ab", buffering=0) as file:
            written = file.write(line)
        self._cut = written < len(line)
        if self._cut:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_log(path: Path) -> list[Entry]:
    """The entries of a log in order; lines that are cut or damaged are left out. Raises OSError."""
    return [entry for line in path.read_bytes().splitlines() if (entry := _parse(line))]


def _parse(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("event"), str) and isinstance(entry.get("time"), str)
    return entry if whole else None


def _ends_in_a_line(path: Path) -> bool:
    """Whether the file ends within a line: the process was ended while it wrote."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False


def _number_or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
