"""The folder where decoded images are kept: `pixels.u8` (N, size, size), `stamps.u64` (N) and `manifest.json`.

A row of the map is valid when its stamp equals the one its source has now. What was cut short or is garbage is made
anew; nothing in the folder is believed beyond that.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock

from .dataset import DataError, Dataset, Index
from .errors import first_few
from .files import write_whole

VERSION = 1  # part of every cache's key: raise it when decoding or shrinking changes


@contextmanager
def opened(
    dataset: Dataset, index: Index, size: int, cache: Path
) -> Iterator[tuple[Path, np.memmap, np.memmap, np.ndarray]]:
    """The cache of an index, held against other processes: folder, pixels, stamps, and what the stamps should be."""
    expected = _stamps(dataset, index)
    folder = cache / f"{dataset.name}-{size}-{_key(dataset, index, size)}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        yield folder, *_open(folder, len(index.images), size), expected


def save(pixels: np.memmap, stamps: np.memmap, expected: np.ndarray, rows: list[int]) -> None:
    """Stamp these rows, and only once their pixels are on disk; empties the list."""
    pixels.flush()
    stamps[rows] = expected[rows]
    stamps.flush()
    rows.clear()


def _open(folder: Path, count: int, size: int) -> tuple[np.memmap, np.memmap]:
    """The map (count, size, size) and the stamps (count), writable; both anew where either is not whole."""
    files = {folder / "pixels.u8": count * size * size, folder / "stamps.u64": 8 * count}
    whole = all(path.exists() and path.stat().st_size == length for path, length in files.items())
    needed, free = sum(files.values()), shutil.disk_usage(folder).free
    if not whole and needed > free:
        raise DataError(
            f"the pixels need {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free: choose another --cache"
        )
    mode = "r+" if whole else "w+"
    pixels = np.memmap(folder / "pixels.u8", np.uint8, mode, shape=(count, size, size))
    if not whole:
        _reserve(folder / "pixels.u8", count * size * size)
    return pixels, np.memmap(folder / "stamps.u64", np.uint64, mode, shape=(count,))


def _reserve(path: Path, length: int) -> None:
    """Take the space now, where the system can: a disk that fills up later would end the process without a word."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, length)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                path.unlink()
                raise DataError(f"{path} cannot be made ({error.strerror}): choose another --cache") from error


def _key(dataset: Dataset, index: Index, size: int) -> str:
    """Names the cache of these images from this place: a second folder with the same file names has its own."""
    paths, first = index.images["path"], index.images["image_id"].iloc[0]
    origin = dataset.stamp(first, None) if paths.isna().any() else os.path.commonpath(paths.tolist())
    names = "\n".join([str(VERSION), str(size), origin, *index.images["image_id"]])
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def _stamps(dataset: Dataset, index: Index) -> np.ndarray:
    """A 64-bit digest of each image's stamp (N,), never 0, which marks a row that is not done."""
    missing, digests = [], []
    for image, path in zip(index.images["image_id"], index.images["path"], strict=True):
        try:
            text = dataset.stamp(image, path)
        except OSError:
            missing.append(path)
            continue
        digests.append(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1)
    if missing:
        raise DataError(f"{len(missing):,} image files have gone: {first_few(missing)}")
    return np.array(digests, np.uint64)


def write_manifest(path: Path, dataset: Dataset, index: Index, pixels: np.memmap) -> str:
    """Mark the cache as whole; the SHA-256 of its pixels."""
    content = {
        "version": VERSION,
        "dataset": dataset.name,
        "images": len(pixels),
        "size": pixels.shape[1],
        "shrunk_by": "box average, as by MONAI's Resize in mode area",
        "first": index.images["image_id"].iloc[0],
        "last": index.images["image_id"].iloc[-1],
        "sha256": hashlib.sha256(pixels).hexdigest(),
    }
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    return content["sha256"]


def sha256_in(manifest: Path) -> str | None:
    """The SHA-256 that a manifest holds; None where there is none, or one that was cut short."""
    try:
        digest = json.loads(manifest.read_bytes())["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None
