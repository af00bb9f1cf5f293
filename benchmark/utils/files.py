"""Files that are whole or not there, whatever ends the program while it writes: a kill, no power, no room.

A sealed file ends with the SHA-256 of the bytes before it, so that it is known later whether it is what was written.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedWriter
from pathlib import Path
from typing import Any

from .errors import UserError

SEAL_MARK = b"chxbench sealed\n"  # between what a sealed file holds and its digest
SEAL_BYTES = len(SEAL_MARK) + hashlib.sha256().digest_size  # bytes
CHUNK_BYTES = 1 << 22  # bytes read at a time


class CorruptFile(Exception):
    """A sealed file that does not hold what was written; the message says how that is seen."""


class Sink:
    """What a file is written through. A first failure is kept, and what comes after it goes nowhere.

    torch's zip writer, which takes what it is given in order, ends the program where a write fails under it.
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
        """Nothing: the file is flushed once, when it is whole."""


Writer = Callable[[Sink], object]


def write_atomic(path: Path, fill: Writer | bytes, kept: Path | None = None, sealed: bool = False) -> None:
    """Write a file: a reader sees the old one or the new one, on disk, never half of one.

    Args:
        path: where it lies.
        fill: its bytes, or what writes them.
        kept: where the old one goes, once the new one is whole.
        sealed: whether to end it with a seal.

    Raises:
        UserError: it cannot be written. The old one is still there then, and nothing else.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with as_user_error(path):
            _write(part, fill, sealed)
            if kept is not None and path.exists():
                path.replace(kept)
            part.replace(path)
            _sync(path.parent)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextmanager
def as_user_error(path: Path) -> Iterator[None]:
    """What the system refuses inside becomes a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{path} cannot be written ({why}): make room, then the same command goes on") from error


def check_seal(path: Path) -> None:
    """Raises Damaged if a sealed file does not hold the bytes that were written, OSError if it cannot be read."""
    digest, left = hashlib.sha256(), path.stat().st_size - SEAL_BYTES
    with path.open("rb") as file:
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
        raise CorruptFile("its checksum does not fit")


def _write(part: Path, fill: Writer | bytes, sealed: bool) -> None:
    with part.open("wb") as file:
        sink = Sink(file)
        if isinstance(fill, bytes):
            sink.write(fill)
        else:
            fill(sink)
        if sealed:
            sink.write(SEAL_MARK + sink.digest.digest())
        if sink.error is not None:
            raise sink.error
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Wait until the names in the folder are on disk, where the system can do that."""
    with suppress(PermissionError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def file_sha256(path: Path) -> str:
    """Hash a file's bytes without holding them in memory. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: Any) -> str:
    """Hash a value that JSON can hold; the order of its keys does not matter."""
    return hashlib.sha256(json_bytes(value)).hexdigest()


def json_bytes(value: Any) -> bytes:
    """Encode a value as JSON with sorted keys, so that equal values have equal bytes."""
    return json.dumps(value, sort_keys=True).encode()
