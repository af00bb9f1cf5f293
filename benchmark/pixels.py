"""Decode and shrink every image once, into one uint8 memory map; batches.py reads from it.

Preparing can stop anywhere and go on, a second call does nothing, and an image whose file has changed is decoded again,
alone (pixel_cache.py).
"""

import multiprocessing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import DataLoader
from monai.transforms import Resize

from .dataset import DataError, Dataset, Index
from .environment import cores
from .errors import first_few
from .pixel_cache import opened, save, sha256_in, write_manifest
from .progress import progress, say
from .registry import PLUGIN_PREFIX

CHUNK = 8  # images a worker hands over at a time: few, so that the workers end together
SAVED = 512  # images decoded between two waits for the disk: what a crash can cost


class Decoded(NamedTuple):
    """The pixel map, uint8 (N, size, size), read-only, row 0 of an image at its top; and the SHA-256 of its bytes."""

    pixels: np.ndarray
    sha256: str


class Unusable(NamedTuple):
    """An image that cannot be used: the file's path, if it has one, and what is wrong with it, in one sentence."""

    image_id: str
    path: str | None
    problem: str


def prepare(dataset: Dataset, index: Index, size: int, cache: Path) -> Decoded:
    """The pixels of all images of the index, decoding those that are not in the cache yet, on all cores.

    Args:
        dataset: reads the images.
        index: N images, in the order of the result's rows.
        size: the side of the square that each image is shrunk to, in pixels.
        cache: the folder that holds the caches.

    Raises:
        DataError: naming the images that cannot be read (the others stay in the cache), or too little space.
    """
    decoded, unusable = attempt(dataset, index, size, cache)
    if decoded is None:
        problems = [image.problem for image in unusable]
        raise DataError(f"{len(unusable):,} of {len(index.images):,} images cannot be used: {first_few(problems)}")
    return decoded


def attempt(dataset: Dataset, index: Index, size: int, cache: Path) -> tuple[Decoded | None, list[Unusable]]:
    """The same, but the images that cannot be used are told apart: there are no pixels then, or no such images."""
    with opened(dataset, index, size, cache) as (folder, pixels, stamps, expected):
        todo = np.flatnonzero(stamps != expected)
        manifest = folder / "manifest.json"
        digest = sha256_in(manifest)
        if len(todo) or digest is None:
            manifest.unlink(missing_ok=True)
            unusable = _decode(dataset, index, pixels, stamps, expected, todo)
            if unusable:
                return None, unusable
            digest = write_manifest(manifest, dataset, index, pixels)
        else:
            say(f"pixels: all {len(stamps):,} images are in {folder}")
        return Decoded(np.memmap(folder / "pixels.u8", np.uint8, "r", shape=pixels.shape), digest), []


def carry_over(dataset: Dataset, whole: Index, part: Index, size: int, cache: Path) -> None:
    """Into the cache of some of an index's images, in the same order, what the cache of all of them has."""
    rows = np.flatnonzero(whole.images["image_id"].isin(part.images["image_id"]))
    with (
        opened(dataset, whole, size, cache) as (_, pixels, stamps, _),
        opened(dataset, part, size, cache) as (_, part_pixels, part_stamps, expected),
    ):
        todo = np.flatnonzero((part_stamps != expected) & (stamps[rows] == expected))
        for begin in range(0, len(todo), SAVED):
            some = todo[begin : begin + SAVED]
            part_pixels[some] = pixels[rows[some]]
            save(part_pixels, part_stamps, expected, some.tolist())


def as_is(batch: Any) -> Any:
    """The loader's collation: a list stays one."""
    return batch


def _decode(
    dataset: Dataset, index: Index, pixels: np.memmap, stamps: np.memmap, expected: np.ndarray, todo: np.ndarray
) -> list[Unusable]:
    """Fill the rows to do; the images for which that cannot be done."""
    workers = cores() if len(todo) > 4 * CHUNK and travels(dataset) else 0
    source = _Shrunk(dataset, index, pixels.shape[1], todo)
    rows, bad = [], []
    with progress("decoding", len(todo)) as advance:
        try:
            for done in DataLoader(source, batch_size=CHUNK, collate_fn=as_is, num_workers=workers):
                for row, image in done:
                    if isinstance(image, str):
                        bad.append(Unusable(source.ids[row], source.paths[row], image))
                    else:
                        pixels[row] = image
                        rows.append(row)
                if len(rows) >= SAVED:
                    save(pixels, stamps, expected, rows)
                advance(len(done))
        finally:
            save(pixels, stamps, expected, rows)
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


def travels(dataset: Dataset) -> bool:
    """Whether worker processes can have the dataset: a plugin from a single file is known to forked ones alone."""
    single_file = type(dataset).__module__.startswith(PLUGIN_PREFIX)
    return not single_file or multiprocessing.get_start_method() == "fork"
