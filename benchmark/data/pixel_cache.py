"""Decode and shrink each image once, into a uint8 memory map that loader.py reads from.

Decoding can stop at any time and resume. A second call decodes only images whose file has changed. A cache is a folder
of four files::

    pixels.u8      pixel map, uint8 (N, size, size)
    stamps.u64     per image, a digest of its file's size and modification time; 0 if not decoded yet
    manifest.json  SHA-256 of the pixels of a complete cache, written last
    lock           held by the process that fills the cache

The public functions come first, then decoding and shrinking, then the files.
"""

import errno
import hashlib
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from monai.data import DataLoader
from monai.transforms import Resize

from ..dataset import DataError, Dataset, Index
from ..utils.environment import cores
from ..utils.errors import first_few
from ..utils.files import write_atomic
from ..utils.progress import progress, say
from ..utils.source_code import PLUGIN_PREFIX
from ..utils.text import count
from .identity import cache_key
from .loader import identity_collate

IMAGES_PER_TASK = 8  # images that a worker returns at a time: few, so that all workers finish at about the same time
FLUSH_EVERY = 512  # images between two flushes to disk, the most that a crash loses


class Decoded(NamedTuple):
    """Decoded images of an index.

    Attributes:
        pixels: pixel map, uint8 (N, size, size), read-only; row 0 of an image is its top.
        sha256: SHA-256 of the bytes of `pixels`.
    """

    pixels: np.ndarray
    sha256: str


class UnreadableImage(NamedTuple):
    """Image that cannot be used.

    Attributes:
        image_id: id of the image in the index.
        path: file of the image; None if it has none.
        problem: why the image cannot be used, in one sentence.
    """

    image_id: str
    path: str | None
    problem: str


def prepare_pixels(dataset: Dataset, index: Index, size: int, cache: Path) -> Decoded:
    """Return the pixels of all images of an index; those not in the cache yet are decoded on all cores.

    Args:
        dataset: dataset that reads the images.
        index: N images, in the order of the result's rows.
        size: side in pixels of the square that each image is shrunk to.
        cache: folder of all caches.

    Raises:
        DataError: some images cannot be read (the others stay in the cache), or the disk space is not enough.
    """
    decoded, unreadable = decode_all(dataset, index, size, cache)
    if decoded is None:
        problems = [image.problem for image in unreadable]
        raise DataError(f"{len(unreadable):,} of {len(index.images):,} images cannot be used: {first_few(problems)}")
    return decoded


def decode_all(dataset: Dataset, index: Index, size: int, cache: Path) -> tuple[Decoded | None, list[UnreadableImage]]:
    """Decode the images that are not in the cache yet, and return those that cannot be used instead of raising.

    Args:
        dataset: dataset that reads the images.
        index: N images, in the order of the result's rows.
        size: side in pixels of the square that each image is shrunk to.
        cache: folder of all caches.

    Returns:
        The pixels and an empty list, or None and all unreadable images.

    Raises:
        DataError: image files are missing, or the disk space is not enough.
    """
    with open_cache(dataset, index, size, cache) as opened:
        missing = np.flatnonzero(opened.stamps != opened.expected)
        manifest = opened.folder / "manifest.json"
        digest = read_manifest(manifest)
        if len(missing) or digest is None:
            manifest.unlink(missing_ok=True)
            unreadable = _decode(dataset, index, opened, missing)
            if unreadable:
                return None, unreadable
            digest = write_manifest(manifest, dataset, index, opened.pixels)
        else:
            say(f"pixels: all {len(opened.stamps):,} images are in {opened.folder}")
        return Decoded(np.memmap(opened.folder / "pixels.u8", np.uint8, "r", shape=opened.pixels.shape), digest), []


def copy_cached(dataset: Dataset, full: Index, subset: Index, size: int, cache: Path) -> None:
    """Copy pixels from the cache of an index into the cache of a subset, so that they are not decoded again.

    Args:
        dataset: dataset that reads the images of both.
        full: index whose cache is copied from.
        subset: some of its images, in the same order.
        size: side of the decoded images in pixels.
        cache: folder of all caches.
    """
    rows = np.flatnonzero(full.images["image_id"].isin(subset.images["image_id"]))
    with open_cache(dataset, full, size, cache) as source, open_cache(dataset, subset, size, cache) as target:
        is_wanted = target.stamps != target.expected
        is_available = source.stamps[rows] == target.expected
        wanted = np.flatnonzero(is_wanted & is_available)
        for start in range(0, len(wanted), FLUSH_EVERY):
            chunk = wanted[start : start + FLUSH_EVERY]
            target.pixels[chunk] = source.pixels[rows[chunk]]
            target.mark_done(chunk.tolist())


def decode_sample(dataset: Dataset, index: Index, size: int, sample: Collection[str]) -> dict[str, str]:
    """Decode those of some images that an index has, without the cache: SHA-256 of their pixels by image id.

    Args:
        dataset: dataset that reads the images.
        index: index of the dataset.
        size: side in pixels of the square that each image is shrunk to.
        sample: ids of the images.

    Raises:
        DataError: an image cannot be read.
    """
    rows = np.flatnonzero(index.images["image_id"].isin(sample))
    images = _ShrunkImages(dataset, index, size, rows)
    digests = {}
    for position, row in enumerate(rows):
        _, pixels = images[position]
        if isinstance(pixels, str):
            raise DataError(pixels)
        digests[images.ids[row]] = hashlib.sha256(pixels.tobytes()).hexdigest()
    return digests


def is_picklable(dataset: Dataset) -> bool:
    """Return whether worker processes can use the dataset: forked ones always, spawned ones if they can import it."""
    is_single_file_plugin = type(dataset).__module__.startswith(PLUGIN_PREFIX)
    return not is_single_file_plugin or multiprocessing.get_start_method() == "fork"


class OpenCache(NamedTuple):
    """Cache of an index, open for writing and locked against other processes.

    Attributes:
        folder: folder of the cache's files.
        pixels: pixel map, uint8 (N, size, size).
        stamps: digest of the source of each decoded row, uint64 (N,); 0 if a row is not decoded.
        expected: stamps of a complete cache, uint64 (N,).
    """

    folder: Path
    pixels: np.memmap
    stamps: np.memmap
    expected: np.ndarray

    def mark_done(self, rows: list[int]) -> None:
        """Stamp decoded rows, after their pixels are on disk: a crash must not leave a stamp without pixels."""
        self.pixels.flush()
        self.stamps[rows] = self.expected[rows]
        self.stamps.flush()


def _decode(dataset: Dataset, index: Index, opened: OpenCache, missing: np.ndarray) -> list[UnreadableImage]:
    """Decode the missing rows (n,) into the cache; return the images that cannot be used."""
    is_worth_workers = len(missing) > 4 * IMAGES_PER_TASK and is_picklable(dataset)
    images = _ShrunkImages(dataset, index, opened.pixels.shape[1], missing)
    loader = DataLoader(
        images,
        batch_size=IMAGES_PER_TASK,
        collate_fn=identity_collate,
        num_workers=cores() if is_worth_workers else 0,
    )
    decoded: list[int] = []  # since the last flush
    unreadable = []
    with progress("decoding", len(missing)) as advance:
        try:
            for task in loader:
                for row, image in task:
                    if isinstance(image, str):
                        unreadable.append(UnreadableImage(images.ids[row], images.paths[row], image))
                    else:
                        opened.pixels[row] = image
                        decoded.append(row)
                if len(decoded) >= FLUSH_EVERY:
                    opened.mark_done(decoded)
                    decoded.clear()
                advance(len(task))
        finally:  # also if interrupted: decoded images are not decoded again
            opened.mark_done(decoded)
    return unreadable


class _ShrunkImages(torch.utils.data.Dataset):
    """Row number and shrunk pixels of each missing image, or the sentence that explains why it cannot be used."""

    def __init__(self, dataset: Dataset, index: Index, size: int, missing: np.ndarray) -> None:
        self.dataset, self.missing = dataset, missing
        self.ids = index.images["image_id"].to_numpy()
        self.paths = index.images["path"].to_numpy()
        self.shrink = Shrink(size)

    def __len__(self) -> int:
        return len(self.missing)

    def __getitem__(self, position: int) -> tuple[int, np.ndarray | str]:
        row = int(self.missing[position])
        try:
            gray = self.dataset.read(self.ids[row], self.paths[row])
        except DataError as error:
            return row, str(error)
        if gray.ndim != 2 or gray.dtype != np.uint8:
            return row, f"image {self.ids[row]} was read as {gray.dtype} {gray.shape}, not as uint8 (H, W)"
        return row, self.shrink(gray)


class Shrink:
    """Resizes gray bytes (H, W) to (size, size): by box averages, or bilinearly if an image is smaller than that."""

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
    """Average equal boxes of whole pixels, (H, W) to (size, size): the result of Resize, in less time.

    As in Resize, a mean halfway between two integers is rounded to the even one.
    """
    height, width = gray.shape[0] // size, gray.shape[1] // size
    sums = np.zeros((size, size), np.uint32)
    lines = np.zeros((size, gray.shape[1]), np.uint32)
    for row in range(height):
        lines += gray[row::height]
    for column in range(width):
        sums += lines[:, column::width]
    means: np.ndarray = sums / (height * width)
    return means.round().astype(np.uint8)


@contextmanager
def open_cache(dataset: Dataset, index: Index, size: int, cache: Path) -> Iterator[OpenCache]:
    """Open the cache of an index, which is created if it does not exist, and lock it against other processes."""
    expected = _stamps(dataset, index)
    folder = cache / f"{dataset.name}-{size}-{cache_key(dataset, index, size)}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        pixels, stamps = _open_maps(folder, len(index.images), size)
        yield OpenCache(folder, pixels, stamps, expected)


def _open_maps(folder: Path, images: int, size: int) -> tuple[np.memmap, np.memmap]:
    """Open pixels (images, size, size) and stamps (images,) for writing; recreate both if either is incomplete."""
    lengths = {folder / "pixels.u8": images * size * size, folder / "stamps.u64": 8 * images}
    is_complete = all(path.exists() and path.stat().st_size == length for path, length in lengths.items())
    needed, free = sum(lengths.values()), shutil.disk_usage(folder).free
    if not is_complete and needed > free:
        raise DataError(
            f"the pixels need {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free: choose a different --cache"
        )
    mode: Literal["r+", "w+"] = "r+" if is_complete else "w+"
    pixels = np.memmap(folder / "pixels.u8", np.uint8, mode, shape=(images, size, size))
    if not is_complete:
        _reserve(folder / "pixels.u8", images * size * size)
    return pixels, np.memmap(folder / "stamps.u64", np.uint64, mode, shape=(images,))


def _reserve(path: Path, length: int) -> None:
    """Allocate the file's blocks now, if the system supports it.

    Otherwise the file is sparse, and a write to the map kills the process with SIGBUS if the disk is full.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, length)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                path.unlink()
                raise DataError(f"{path} cannot be allocated ({error.strerror}): choose a different --cache") from error


def _stamps(dataset: Dataset, index: Index) -> np.ndarray:
    """Compute a 64-bit digest of each image's stamp (N,); never 0, which marks a row that is not decoded."""
    missing, digests = [], []
    for image, path in zip(index.images["image_id"], index.images["path"], strict=True):
        try:
            text = dataset.stamp(image, path)
        except OSError:
            missing.append(path)
            continue
        digests.append(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1)
    if missing:
        raise DataError(f"{count(len(missing), 'missing image file')}: {first_few(missing)}")
    return np.array(digests, np.uint64)


def write_manifest(path: Path, dataset: Dataset, index: Index, pixels: np.memmap) -> str:
    """Mark the cache as complete; return the SHA-256 of its pixels."""
    digest = hashlib.sha256(pixels.data).hexdigest()
    content = {
        "dataset": dataset.name,
        "images": len(pixels),
        "size": pixels.shape[1],
        "shrunk_by": "box average, as by MONAI's Resize in mode area",
        "first": index.images["image_id"].iloc[0],
        "last": index.images["image_id"].iloc[-1],
        "sha256": digest,
    }
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return digest


def read_manifest(path: Path) -> str | None:
    """Return the SHA-256 in a manifest; None if there is no intact manifest."""
    try:
        digest = json.loads(path.read_bytes())["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None
