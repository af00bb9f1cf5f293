"""Decode and shrink every image once, into one uint8 memory map; batches.py reads from it.

Preparing can stop anywhere and go on, a second call does nothing, and an image whose file has changed is decoded again,
alone (pixel_cache.py).
"""

import errno
import hashlib
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from monai.data import DataLoader
from monai.transforms import Resize

from ..dataset import DataError, Dataset, Index
from ..registry import PLUGIN_PREFIX
from ..utils.environment import cores
from ..utils.errors import first_few
from ..utils.files import write_atomic
from ..utils.progress import progress, say

IMAGES_PER_TASK = 8  # images a worker hands over at a time: few, so that the workers end together
FLUSH_EVERY = 512  # images decoded between two waits for the disk: what a crash can cost


class Decoded(NamedTuple):
    """The pixel map, uint8 (N, size, size), read-only, row 0 of an image at its top; and the SHA-256 of its bytes."""

    pixels: np.ndarray
    sha256: str


class UnreadableImage(NamedTuple):
    """An image that cannot be used: the file's path, if it has one, and what is wrong with it, in one sentence."""

    image_id: str
    path: str | None
    problem: str


def prepare_pixels(dataset: Dataset, index: Index, size: int, cache: Path) -> Decoded:
    """The pixels of all images of the index, decoding those that are not in the cache yet, on all cores.

    Args:
        dataset: reads the images.
        index: N images, in the order of the result's rows.
        size: the side of the square that each image is shrunk to, in pixels.
        cache: the folder that holds the caches.

    Raises:
        DataError: naming the images that cannot be read (the others stay in the cache), or too little space.
    """
    decoded, unusable = decode_all(dataset, index, size, cache)
    if decoded is None:
        problems = [image.problem for image in unusable]
        raise DataError(f"{len(unusable):,} of {len(index.images):,} images cannot be used: {first_few(problems)}")
    return decoded


def decode_all(dataset: Dataset, index: Index, size: int, cache: Path) -> tuple[Decoded | None, list[UnreadableImage]]:
    """The same, but the images that cannot be used are told apart: there are no pixels then, or no such images."""
    with open_cache(dataset, index, size, cache) as (folder, pixels, stamps, expected):
        todo = np.flatnonzero(stamps != expected)
        manifest = folder / "manifest.json"
        digest = manifest_sha256(manifest)
        if len(todo) or digest is None:
            manifest.unlink(missing_ok=True)
            unusable = _decode(dataset, index, pixels, stamps, expected, todo)
            if unusable:
                return None, unusable
            digest = write_manifest(manifest, dataset, index, pixels)
        else:
            say(f"pixels: all {len(stamps):,} images are in {folder}")
        return Decoded(np.memmap(folder / "pixels.u8", np.uint8, "r", shape=pixels.shape), digest), []


def copy_cached(dataset: Dataset, whole: Index, part: Index, size: int, cache: Path) -> None:
    """Into the cache of some of an index's images, in the same order, what the cache of all of them has."""
    rows = np.flatnonzero(whole.images["image_id"].isin(part.images["image_id"]))
    with (
        open_cache(dataset, whole, size, cache) as (_, pixels, stamps, _),
        open_cache(dataset, part, size, cache) as (_, part_pixels, part_stamps, expected),
    ):
        todo = np.flatnonzero((part_stamps != expected) & (stamps[rows] == expected))
        for begin in range(0, len(todo), FLUSH_EVERY):
            some = todo[begin : begin + FLUSH_EVERY]
            part_pixels[some] = pixels[rows[some]]
            save_rows(part_pixels, part_stamps, expected, some.tolist())


def identity_collate(batch: Any) -> Any:
    """The loader's collation: a list stays one."""
    return batch


def _decode(
    dataset: Dataset, index: Index, pixels: np.memmap, stamps: np.memmap, expected: np.ndarray, todo: np.ndarray
) -> list[UnreadableImage]:
    """Fill the rows to do; the images for which that cannot be done."""
    workers = cores() if len(todo) > 4 * IMAGES_PER_TASK and is_picklable(dataset) else 0
    source = _Shrunk(dataset, index, pixels.shape[1], todo)
    rows, bad = [], []
    with progress("decoding", len(todo)) as advance:
        try:
            for done in DataLoader(
                source, batch_size=IMAGES_PER_TASK, collate_fn=identity_collate, num_workers=workers
            ):
                for row, image in done:
                    if isinstance(image, str):
                        bad.append(UnreadableImage(source.ids[row], source.paths[row], image))
                    else:
                        pixels[row] = image
                        rows.append(row)
                if len(rows) >= FLUSH_EVERY:
                    save_rows(pixels, stamps, expected, rows)
                advance(len(done))
        finally:
            save_rows(pixels, stamps, expected, rows)
    return bad


class _Shrunk(torch.utils.data.Dataset):
    """Row number and shrunk pixels of the images still to do, or the sentence that says why there are none."""

    def __init__(self, dataset: Dataset, index: Index, size: int, todo: np.ndarray) -> None:
        self.dataset, self.todo = dataset, todo
        self.ids = index.images["image_id"].to_numpy()
        self.paths = index.images["path"].to_numpy()
        self.shrink = Shrink(size)

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, position: int) -> tuple[int, np.ndarray | str]:
        row = int(self.todo[position])
        try:
            gray = self.dataset.read(self.ids[row], self.paths[row])
        except DataError as error:
            return row, str(error)
        if gray.ndim != 2 or gray.dtype != np.uint8:
            return row, f"image {self.ids[row]} was read as {gray.dtype} {gray.shape}, not as gray bytes (H, W)"
        return row, self.shrink(gray)


class Shrink:
    """Gray bytes (H, W) to (size, size): by box averages, and bilinearly where an image is smaller than that."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.average = Resize((size, size), mode="area")
        self.enlarge = Resize((size, size), mode="bilinear", align_corners=False)

    def __call__(self, gray: np.ndarray) -> np.ndarray:
        if not any(side % self.size for side in gray.shape):
            return _box_means(gray, self.size)
        resize = self.average if min(gray.shape) >= self.size else self.enlarge
        resized = resize(torch.tensor(gray, dtype=torch.float32)[None])
        return np.asarray(resized[0]).round().clip(0, 255).astype(np.uint8)


def _box_means(gray: np.ndarray, size: int) -> np.ndarray:
    """Means of equal boxes of whole pixels, gray bytes (H, W) to (size, size): what Resize gives, in less time.

    A mean halfway between two bytes becomes the even one, as there.
    """
    height, width = gray.shape[0] // size, gray.shape[1] // size
    lines = sum(gray[k::height].astype(np.uint32) for k in range(height))
    sums = sum(lines[:, k::width] for k in range(width))
    return (sums / (height * width)).round().astype(np.uint8)


def is_picklable(dataset: Dataset) -> bool:
    """Whether worker processes can have the dataset: a plugin from a single file is known to forked ones alone."""
    single_file = type(dataset).__module__.startswith(PLUGIN_PREFIX)
    return not single_file or multiprocessing.get_start_method() == "fork"


CACHE_VERSION = 1  # part of every cache's key: raise it when decoding or shrinking changes


@contextmanager
def open_cache(
    dataset: Dataset, index: Index, size: int, cache: Path
) -> Iterator[tuple[Path, np.memmap, np.memmap, np.ndarray]]:
    """The cache of an index, held against other processes: folder, pixels, stamps, and what the stamps should be."""
    expected = _stamps(dataset, index)
    folder = cache / f"{dataset.name}-{size}-{_key(dataset, index, size)}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        yield folder, *_open(folder, len(index.images), size), expected


def save_rows(pixels: np.memmap, stamps: np.memmap, expected: np.ndarray, rows: list[int]) -> None:
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
    names = "\n".join([str(CACHE_VERSION), str(size), origin, *index.images["image_id"]])
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
        "version": CACHE_VERSION,
        "dataset": dataset.name,
        "images": len(pixels),
        "size": pixels.shape[1],
        "shrunk_by": "box average, as by MONAI's Resize in mode area",
        "first": index.images["image_id"].iloc[0],
        "last": index.images["image_id"].iloc[-1],
        "sha256": hashlib.sha256(pixels).hexdigest(),
    }
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return content["sha256"]


def manifest_sha256(manifest: Path) -> str | None:
    """The SHA-256 that a manifest holds; None where there is none, or one that was cut short."""
    try:
        digest = json.loads(manifest.read_bytes())["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None
