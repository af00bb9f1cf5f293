"""Atomic and sealed files, locks, and hashes of files and values.

An atomic write leaves the complete old or the complete new file, even if the program is killed, the power fails or the
disk is full. A sealed file ends with the SHA-256 of the bytes before it, so that damage is detected when it is read.
A lock is held by one process at a time, and released by the system if that process is killed.
"""

import errno
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BufferedWriter
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import UserError
from .paths import regular
from .progress import say

SEAL_MARK = b"chxbench sealed\n"  # between the content of a sealed file and its digest
SEAL_BYTES = len(SEAL_MARK) + hashlib.sha256().digest_size
CHUNK_BYTES = 1 << 22  # read at a time
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a write that more disk space avoids
PATIENCE = 2.0  # seconds after which a process says what it waits for
CHECKPOINT_FILE = "checkpoint.pt"  # in a stage's folder; written by training, checked without torch by `status`


class CorruptFile(Exception):  # noqa: N818  a state of the file, not always an error
    """Sealed file whose content has changed; the message explains how that was detected."""


class Sink:
    """A file-like target that hashes what it writes, stores the first failure and discards what follows it.

    It never raises while it is written to: torch's zip writer aborts the process if a write fails under it.

    Attributes:
        digest: SHA-256 of the bytes written so far.
        error: the first failure, for the caller to raise once the writer has returned.
    """

    def __init__(self, file: BufferedWriter) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            if self.error is None:
                self.file.write(data)
                self.digest.update(data)
        except OSError as error:
            self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Do nothing: the file is flushed once, when it is complete."""


Writer = Callable[[Sink], object]


def write_atomic(path: Path, content: Writer | bytes, previous: Path | None = None, sealed: bool = False) -> None:
    """Write a file so that readers see the complete old file or the complete new one, on disk.

    Args:
        path: target file.
        content: bytes of the file, or a function that writes them to a `Sink`.
        previous: where to move the old file once the new one is complete; None to overwrite it.
        sealed: whether to append a seal, see `check_seal`.

    Raises:
        UserError: the file cannot be written. The old file is unchanged in this case, and no partial file remains.
    """
    if path.exists() and not path.is_file():  # /dev/null, or a pipe, would be replaced by a file
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise UserError(f"{path} is {kind}: choose a different path, or remove it")
    part = path.with_name(f"{path.name}.part")
    try:
        with as_user_error(path):
            _write(part, content, sealed)
            if previous is not None and path.exists():
                path.replace(previous)
            part.replace(path)
            _sync(path.parent)
    except BaseException:  # also KeyboardInterrupt: a partial file must not remain
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextmanager
def as_user_error(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a UserError that names the file of the error, or else `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        advice = "free disk space" if error.errno in NO_ROOM else "correct this"
        raise UserError(
            f"{error.filename or path} cannot be written ({reason}): {advice}, then rerun the same command to resume"
        ) from error


@contextmanager
def hold_lock(path: Path, work: str, wait: bool = True) -> Iterator[None]:
    """Hold a lock inside the block; the lock file is created if it does not exist, also its folder.

    Args:
        path: lock file.
        work: what the lock protects, for messages, as "the pixels of phantom".
        wait: whether to wait for another process that holds the lock, and to say so; False to refuse. Ctrl-C ends the
            waiting.

    Raises:
        UserError: another process holds the lock and `wait` is False, or the file cannot be created or opened.
    """
    with as_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=PATIENCE)  # `is_locked` holds it for an instant
        except Timeout:
            holder = lock_holder(path)
            if not wait:
                raise UserError(f"{holder} is working on {work}: wait for it or stop it") from None
            say(f"waiting for {work}: {holder} is working on it (Ctrl-C stops waiting)")
            lock.acquire()
    note = _holder_note(path)
    try:
        with suppress(OSError):  # it only informs others
            note.write_text(_this_process(), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            note.unlink()
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock. Raises OSError if the lock file cannot be opened."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except PermissionError:  # of another user: what its holder has left must do
        return _holder_note(path).exists()


def lock_holder(path: Path) -> str:
    """Describe the process that holds a lock: host, process id, since when; "another process" if that is unknown."""
    try:
        return regular(_holder_note(path)).read_text(encoding="utf-8")[:200] or "another process"
    except (OSError, ValueError):
        return "another process"


def check_seal(path: Path) -> None:
    """Check that the content of a sealed file matches its checksum.

    Raises:
        CorruptFile: the file has no seal, or its checksum does not match.
        OSError: the file cannot be read.
    """
    digest, left = hashlib.sha256(), path.stat().st_size - SEAL_BYTES
    with regular(path).open("rb") as file:
        while left > 0:
            chunk = file.read(min(left, CHUNK_BYTES))
            if not chunk:
                break
            digest.update(chunk)
            left -= len(chunk)
        seal = file.read()
    if len(seal) != SEAL_BYTES or not seal.startswith(SEAL_MARK):
        raise CorruptFile("it has no seal")
    if seal != SEAL_MARK + digest.digest():
        raise CorruptFile("its checksum does not match")


def seal_problem(path: Path) -> str | None:
    """Explain why a sealed file is damaged or unreadable; return None if it is intact."""
    try:
        check_seal(path)
    except CorruptFile as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return None


def is_intact(path: Path) -> bool:
    """Return whether a sealed file exists and matches its checksum."""
    return seal_problem(path) is None


def previous_version(path: Path) -> Path:
    """Return where the file that `path` replaced is stored: `checkpoint.pt` becomes `checkpoint.previous.pt`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def file_sha256(path: Path) -> str:
    """Hash a file's bytes in chunks. Raises OSError if it cannot be read."""
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: Any) -> str:
    """Hash a JSON-serializable value, independently of the order of its keys."""
    return hashlib.sha256(json_bytes(value)).hexdigest()


def json_bytes(value: Any) -> bytes:
    """Encode a value as JSON with sorted keys, so that equal values have equal bytes."""
    return json.dumps(value, sort_keys=True).encode()


def _holder_note(lock: Path) -> Path:
    """Return the file that says who holds a lock: opening the lock file itself may empty it."""
    return lock.with_name(f".{lock.name}.holder")


def _this_process() -> str:
    now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    return f"process {os.getpid()} on {platform.node()} (since {now} UTC)"


def _write(part: Path, content: Writer | bytes, sealed: bool) -> None:
    with part.open("wb") as file:
        sink = Sink(file)
        if isinstance(content, bytes):
            sink.write(content)
        else:
            content(sink)
        if sealed:
            sink.write(SEAL_MARK + sink.digest.digest())
        if sink.error is not None:
            raise sink.error
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Wait until the folder's entries are on disk: until then a rename can be lost in a power failure."""
    with suppress(PermissionError):  # Windows cannot open folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
