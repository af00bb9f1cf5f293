"""Read batches of crops from the pixel map, and divide them among processes.

Batches are read one ahead of the batch in use. Random numbers depend only on (seed, stage, epoch, position), not on
generator state, so that results depend neither on the number of processes nor on where a run was interrupted.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from monai.data import DataLoader
from torch import Tensor

from ..recipe import Pixels

T = TypeVar("T")


class Crop(NamedTuple):
    """Crops of images of the pixel map.

    Attributes:
        rows: row numbers of the pixel map, int (N,).
        tops, lefts: upper left corners of the crops in pixels, int (N,).
    """

    rows: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray


def center_crops(rows: np.ndarray, setting: Pixels) -> Crop:
    """Return the crops of evaluation: the center of each image."""
    corners = np.full(len(rows), _center_corner(setting))
    return Crop(np.asarray(rows), corners, corners)


def center_crop(image: np.ndarray, setting: Pixels) -> np.ndarray:
    """Cut the crop of evaluation out of one image: (size, size) to (crop, crop)."""
    corner = _center_corner(setting)
    return image[corner : corner + setting.crop, corner : corner + setting.crop]


def shifted_crops(rows: np.ndarray, setting: Pixels, *key: int) -> Crop:
    """Return the crops of training, shifted from the center by whole pixels uniform in -max_shift..max_shift.

    Args:
        rows: row numbers (N,), repeats allowed; each position has a separate shift.
        setting: size, crop and max_shift of the recipe.
        key: counts that identify the pass (seed, stage, epoch); with the position it determines the shift.
    """
    shifts = np.random.default_rng(key).integers(-setting.max_shift, setting.max_shift + 1, (2, len(rows)))
    corner = _center_corner(setting)
    return Crop(np.asarray(rows), corner + shifts[0], corner + shifts[1])


def _center_corner(setting: Pixels) -> int:
    return (setting.size - setting.crop) // 2


class Shard(NamedTuple):
    """Rank of this process, and the number of processes."""

    rank: int = 0
    world_size: int = 1


SINGLE_PROCESS = Shard()


class BatchSpan(NamedTuple):
    """Positions of one batch among the crops.

    Attributes:
        global_: positions of all images of the batch.
        local: positions of the images that this process computes.
        is_padding: whether the batch has fewer images than processes, so that none is left for this process. It then
            computes the first image with weight 0, because every process must join the gradient reduction.
    """

    global_: range
    local: range
    is_padding: bool = False


class Batch(NamedTuple):
    """Images and labels of one step.

    Attributes:
        images: this rank's part of the batch, uint8 (b, side, side).
        targets: labels of the complete batch, float32 (B, C): the loss may depend on all of them.
        local: rows of `targets` that belong to `images`.
        is_padding: whether the images have weight 0, see BatchSpan.
    """

    images: Tensor
    targets: Tensor
    local: slice
    is_padding: bool = False


def shard_within_batches(total: int, size: int, shard: Shard = SINGLE_PROCESS) -> list[BatchSpan]:
    """Divide each batch among the processes, for training: every step equals that of a single process.

    Args:
        total: number of crops.
        size: images per batch, over all processes.
        shard: this process.
    """
    spans = []
    for batch in _ranges(batch_sizes(total, size)):
        start, stop = (batch.start + len(batch) * rank // shard.world_size for rank in (shard.rank, shard.rank + 1))
        local = range(start, stop)
        spans.append(BatchSpan(batch, local) if local else BatchSpan(batch, batch[:1], is_padding=True))
    return spans


def shard_batches(total: int, size: int, shard: Shard = SINGLE_PROCESS) -> list[BatchSpan]:
    """Distribute complete batches over the processes, for scoring: each batch gives the same bits in any process.

    Args:
        total: number of crops.
        size: images per batch.
        shard: this process.
    """
    return [BatchSpan(batch, batch) for batch in _ranges(batch_sizes(total, size))[shard.rank :: shard.world_size]]


def batch_sizes(total: int, most: int) -> list[int]:
    """Return the lengths of consecutive batches of `most` that cover `total`; a remainder of 1 joins the batch before.

    With a batch of 1, BatchNorm has no variance if the features are 1x1.
    """
    full, remainder = divmod(total, most)
    sizes = [most] * full + ([remainder] if remainder else [])
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def read_batches(
    pixels: np.ndarray, targets: np.ndarray, crop: Crop, side: int, spans: Sequence[BatchSpan], pin: bool = False
) -> Iterator[Batch]:
    """Read crops in their order, one batch ahead of the batch in use.

    Args:
        pixels: pixel map, uint8 (N, size, size).
        targets: labels of all images, float32 (N, C).
        crop: crops in the order of the batches.
        side: side of the crops in pixels.
        spans: batches as positions in `crop`.
        pin: whether to copy into page-locked memory, from which copies to a GPU are asynchronous.

    Yields:
        Batches on the CPU.
    """
    dataset = _Crops(pixels, targets, crop, side)
    loader = DataLoader(dataset, batch_sampler=spans, collate_fn=identity_collate, num_workers=0, pin_memory=pin)
    return _prefetch(iter(loader))


def gather_crops(pixels: np.ndarray, crop: Crop, side: int) -> Tensor:
    """Copy crops out of the map: uint8 (B, side, side)."""
    batch = np.empty((len(crop.rows), side, side), np.uint8)
    for position, (row, top, left) in enumerate(zip(*crop, strict=True)):
        batch[position] = pixels[row, top : top + side, left : left + side]
    return torch.from_numpy(batch)


def identity_collate(batch: T) -> T:
    """Return the samples unchanged instead of collating them; a function, because worker processes pickle it."""
    return batch


class _Crops(torch.utils.data.Dataset):
    """Crops for the loader, which reads a complete batch at once (`__getitems__`)."""

    def __init__(self, pixels: np.ndarray, targets: np.ndarray, crop: Crop, side: int) -> None:
        self.pixels, self.targets, self.crop, self.side = pixels, targets, crop, side

    def __len__(self) -> int:
        return len(self.crop.rows)

    def __getitems__(self, span: BatchSpan) -> Batch:
        batch, local = span.global_, span.local
        images = gather_crops(self.pixels, Crop(*(part[local.start : local.stop] for part in self.crop)), self.side)
        targets = self.targets[self.crop.rows[batch.start : batch.stop]]
        rows = slice(local.start - batch.start, local.stop - batch.start)
        return Batch(images, torch.from_numpy(targets), rows, span.is_padding)


def _prefetch(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches, reading each in a thread while the previous one is in use; its errors are raised here."""
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, batches, None)
        while (batch := pending.result()) is not None:
            pending = thread.submit(next, batches, None)
            yield batch


def _ranges(sizes: Sequence[int]) -> list[range]:
    """Return the positions of consecutive batches of these lengths."""
    return [range(*ends) for ends in pairwise(np.cumsum([0, *sizes]).tolist())]
