"""Decode and shrink each image once, into a uint8 memory map that loader.py reads from.

Decoding can stop at any time and resume. A second call decodes only images whose file has changed, and a sample of the
others: what they are read by may have changed without their files (a mask, a variable, code), and then all are decoded
again. A complete cache is used without its lock, so another user's may be read-only. A cache is a folder of four
files::

    pixels.u8      pixel map, uint8 (N, size, size)
    stamps.u64     per image, a digest of its file's size and modification time; 0 if not decoded yet
    manifest.json  SHA-256 of the pixels of a complete cache, written last
    lock           held by the process that fills the cache

The public functions come first, then decoding and shrinking, then the files.
"""

import errno
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from monai.data import DataLoader
from monai.transforms import Resize

from ..dataset import DataError, Dataset, Index
from ..utils.environment import cores
from ..utils.errors import first_few
from ..utils.files import hold_lock, write_atomic
from ..utils.paths import regular
from ..utils.progress import progress, say
from ..utils.source_code import PLUGIN_PREFIX
from ..utils.text import count
from .identity import cache_key, sample_rows
from .loader import identity_collate
from .source import read_gray, stamp

PIXELS, STAMPS, MANIFEST = "pixels.u8", "stamps.u64", "manifest.json"
IMAGES_PER_TASK = 8  # images that a worker returns at a time: few, so that all workers finish at about the same time
FLUSH_EVERY = 512  # images between two flushes to disk, the most that a crash loses
MAX_ROUNDING = 2  # gray levels by which other versions of a decoder may differ


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
    place = _place(dataset, index, size, cache)
    digest = place.digest()
    if digest is not None and _read_otherwise(dataset, index, place.pixels()):
        digest = None
    if digest is None:
        with _open(place) as opened:
            is_done = opened.stamps == opened.expected
            changed = _read_otherwise(dataset, index, opened.pixels, is_done)
            digest = None if changed else place.digest()  # another process may have completed it meanwhile
            if digest is None:
                manifest = place.folder / MANIFEST
                with _writing(place):
                    manifest.unlink(missing_ok=True)
                if changed:
                    say(f"image {changed} is read differently than for {place.folder}: decoding all images again")
                    opened.stamps[:] = 0
                unreadable = _decode(dataset, index, opened, np.flatnonzero(opened.stamps != opened.expected))
                if unreadable:
                    return None, unreadable
                digest = write_manifest(manifest, dataset, index, opened.pixels)
                return Decoded(place.pixels(), digest), []
    say(f"pixels: all {len(place.expected):,} images are in {place.folder}")
    return Decoded(place.pixels(), digest), []


def cached_sha256(dataset: Dataset, index: Index, size: int, cache: Path) -> str | None:
    """Return the SHA-256 of the pixels as the files are now; None if there is no cache of these images.

    Images whose files have changed since they were decoded are decoded again. Arguments and errors are those of
    `prepare_pixels`.
    """
    folder = cache / cache_name(dataset, index, size)
    return prepare_pixels(dataset, index, size, cache).sha256 if folder.exists() else None


def cache_name(dataset: Dataset, index: Index, size: int) -> str:
    """Return the name of the folder of an index's cache."""
    return f"{dataset.name}-{size}-{cache_key(dataset, index, size)}"


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


def _read_otherwise(
    dataset: Dataset, index: Index, pixels: np.ndarray, is_done: np.ndarray | None = None
) -> str | None:
    """Decode a sample of decoded images again; return the name of the first whose pixels are others now, or None.

    Args:
        dataset: dataset that reads the images.
        index: index of N images.
        pixels: their pixels (N, size, size).
        is_done: which of them are decoded (N,); None if all are.

    Raises:
        DataError: an image is read differently each time.
    """
    rows = sample_rows(len(pixels))
    images = _ShrunkImages(dataset, index, pixels.shape[1], rows if is_done is None else rows[is_done[rows]])
    for position in range(len(images)):
        row, now = images[position]
        if not _is_same(now, pixels[row]):
            if not _is_same(now, images[position][1]):
                raise DataError(
                    f"image {images.ids[row]} is read differently each time: a dataset's read() must return the same "
                    "pixels for the same file; random changes belong to the method"
                )
            return str(images.ids[row])
    return None


def _is_same(one: np.ndarray | str, other: np.ndarray | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):  # it cannot be read
        return isinstance(one, str) and isinstance(other, str)
    return int(np.abs(one.astype(np.int16) - other).max()) <= MAX_ROUNDING


def is_picklable(dataset: Dataset) -> bool:
    """Return whether worker processes can use the dataset: forked ones always, spawned ones if they can import it."""
    is_single_file_plugin = type(dataset).__module__.startswith(PLUGIN_PREFIX)
    return not is_single_file_plugin or multiprocessing.get_start_method() == "fork"


class _Place(NamedTuple):
    """Where the cache of an index is, and what it contains once it is complete.

    Attributes:
        folder: folder of the cache's files.
        expected: stamps of a complete cache, uint64 (N,).
        size: side in pixels of each image.
    """

    folder: Path
    expected: np.ndarray
    size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the pixel map."""
        return len(self.expected), self.size, self.size

    def digest(self) -> str | None:
        """Return the SHA-256 of the pixels of a complete cache; None if it is incomplete, damaged or unreadable."""
        try:
            stamps = regular(self.folder / STAMPS).read_bytes()
            is_complete = (self.folder / PIXELS).stat().st_size == math.prod(self.shape)
        except OSError:
            return None
        return read_manifest(self.folder / MANIFEST) if is_complete and stamps == self.expected.tobytes() else None

    def pixels(self) -> np.memmap:
        """Map the pixels of a complete cache, read-only."""
        return np.memmap(self.folder / PIXELS, np.uint8, "r", shape=self.shape)


def _place(dataset: Dataset, index: Index, size: int, cache: Path) -> _Place:
    return _Place(cache / cache_name(dataset, index, size), _stamps(dataset, index), size)


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
    workers = cores() if is_worth_workers else 0
    images = _ShrunkImages(dataset, index, opened.pixels.shape[1], missing)
    in_hand = InHand(images, images.ids[missing], workers)
    loader = DataLoader(in_hand, batch_size=IMAGES_PER_TASK, collate_fn=identity_collate, num_workers=workers)
    decoded: list[int] = []  # since the last flush
    unreadable, blank = [], []
    with progress("decoding", len(missing)) as advance, in_hand.named():
        try:
            for task in loader:
                for row, image in task:
                    if isinstance(image, str):
                        unreadable.append(UnreadableImage(images.ids[row], images.paths[row], image))
                    else:
                        opened.pixels[row] = image
                        blank += [images.ids[row]] if image.min() == image.max() else []
                        decoded.append(row)
                if len(decoded) >= FLUSH_EVERY:
                    opened.mark_done(decoded)
                    decoded.clear()
                advance(len(task))
        finally:  # also if interrupted: decoded images are not decoded again
            opened.mark_done(decoded)
    if blank:
        say(f"{count(len(blank), 'image')} without any contrast: {first_few(blank)}")
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
            gray = read_gray(self.dataset, self.ids[row], self.paths[row])
        except DataError as error:
            return row, str(error)
        return row, self.shrink(gray)


class InHand(torch.utils.data.Dataset):
    """Images that are read by worker processes, each of which notes the image that it has in hand.

    Args:
        images: dataset of N images for a loader.
        ids: name of each image (N,).
        workers: number of worker processes.
    """

    def __init__(self, images: torch.utils.data.Dataset, ids: Sequence[str], workers: int) -> None:
        self.images, self.ids = images, ids
        # Process id, position in hand, and position for which memory was too little; -1 if none.
        self.notes = torch.full((max(workers, 1), 3), -1).share_memory_()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Any:
        worker = torch.utils.data.get_worker_info()
        note = self.notes[worker.id if worker else 0]
        note[0], note[1] = os.getpid(), position
        try:
            image = self.images[position]
        except MemoryError:  # the process goes on with its next image
            note[2] = position
            raise
        note[1] = -1
        return image

    @contextmanager
    def named(self) -> Iterator[None]:
        """Turn the end of a worker inside the block, or its lack of memory, into a DataError that names its images."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            no_memory = isinstance(error, MemoryError)
            if not no_memory and not str(error).startswith("DataLoader worker"):
                raise
            killed = [int(pid) for pid in re.findall(r"\d+", str(error))]
            rows = [(pid, failed if no_memory else busy) for pid, busy, failed in self.notes.tolist()]
            rows = [row for row in rows if row[1] >= 0]
            names = [self.ids[row] for pid, row in rows if pid in killed] or [self.ids[row] for _, row in rows]
            what = "too little memory" if no_memory else "a reading process was killed"
            raise DataError(
                f"{what} while image {first_few(names) if names else 'unknown'} was read: free memory and check the "
                "file, then rerun the same command"
            ) from error


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


def open_cache(dataset: Dataset, index: Index, size: int, cache: Path) -> AbstractContextManager[OpenCache]:
    """Open the cache of an index, which is created if it does not exist, and lock it against other processes."""
    return _open(_place(dataset, index, size, cache))


@contextmanager
def _open(place: _Place) -> Iterator[OpenCache]:
    with ExitStack() as stack:
        with _writing(place):
            place.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(place.folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place.folder))
            stack.enter_context(hold_lock(place.folder / "lock", f"the pixels in {place.folder}"))
            pixels, stamps = _open_maps(place.folder, len(place.expected), place.size)
        yield OpenCache(place.folder, pixels, stamps, place.expected)


@contextmanager
def _writing(place: _Place) -> Iterator[None]:
    """Turn an OSError inside the block into a DataError that names the cache."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the pixel cache {place.folder} is incomplete or out of date, and cannot be written ({error.filename}: "
            f"{error.strerror}): choose a different --cache, or have its owner run `chxbench prepare`"
        ) from error


def _open_maps(folder: Path, images: int, size: int) -> tuple[np.memmap, np.memmap]:
    """Open pixels (images, size, size) and stamps (images,) for writing; recreate both if either is incomplete."""
    lengths = {folder / PIXELS: images * size * size, folder / STAMPS: 8 * images}
    is_complete = all(path.exists() and path.stat().st_size == length for path, length in lengths.items())
    needed, free = sum(lengths.values()), shutil.disk_usage(folder).free
    if not is_complete and needed > free:
        raise DataError(
            f"the pixels need {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free: choose a different --cache"
        )
    mode: Literal["r+", "w+"] = "r+" if is_complete else "w+"
    pixels = np.memmap(folder / PIXELS, np.uint8, mode, shape=(images, size, size))
    if not is_complete:
        _reserve(folder / PIXELS, images * size * size)
    return pixels, np.memmap(folder / STAMPS, np.uint64, mode, shape=(images,))


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
            text = stamp(dataset, image, path)
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
        digest = json.loads(regular(path).read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None
