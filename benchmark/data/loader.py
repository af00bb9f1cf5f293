"""Batches of crops, read from the memory map: which crops, in which order, and which of them this process computes.

A batch is copied out of the map whole, one batch ahead of the one that is being computed. Randomness is counted, not
consumed: the shift of a crop is a function of (seed, stage, epoch, position), so that results depend neither on the
number of processes nor on where a run was interrupted.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from monai.data import DataLoader
from torch import Tensor

from ..recipe import Pixels


class Crop(NamedTuple):
    """Rows of the map and the upper left corners of their crops, in pixels: three int arrays (N,)."""

    rows: np.ndarray
    tops: np.ndarray
    lefts: np.ndarray


def center_crops(rows: np.ndarray, setting: Pixels) -> Crop:
    """The crops of evaluation: the middle of each image."""
    corner = np.full(len(rows), (setting.size - setting.crop) // 2)
    return Crop(np.asarray(rows), corner, corner)


def center_crop(image: np.ndarray, setting: Pixels) -> np.ndarray:
    """The crop of evaluation of one image (size, size): (crop, crop)."""
    corner = (setting.size - setting.crop) // 2
    return image[corner : corner + setting.crop, corner : corner + setting.crop]


def shifted_crops(rows: np.ndarray, setting: Pixels, *key: int) -> Crop:
    """The crops of training: shifts uniform in -max_shift..max_shift, a function of the key and the position alone.

    Args:
        rows: row numbers (N,), repeats allowed; each position has a shift of its own.
        setting: size, crop, max_shift.
        key: counts that name the pass (seed, stage, epoch).
    """
    shifts = np.random.default_rng(key).integers(-setting.max_shift, setting.max_shift + 1, (2, len(rows)))
    corner = (setting.size - setting.crop) // 2
    return Crop(np.asarray(rows), corner + shifts[0], corner + shifts[1])


class Shard(NamedTuple):
    """Which of several processes this one is, and how many there are."""

    rank: int = 0
    world_size: int = 1


SINGLE_PROCESS = Shard()


class BatchSpan(NamedTuple):
    """Positions of one batch among the crops.

    Attributes:
        global_: of all its images.
        local: of those that this process computes.
        is_padding: the batch has fewer images than processes and none for this one, which computes the first image with
            weight 0: processes that sum gradients must all take part.
    """

    global_: range
    local: range
    is_padding: bool = False


class Batch(NamedTuple):
    """What one step needs.

    Attributes:
        images: uint8 (b, side, side), this process's part of the batch.
        targets: labels of the whole batch, float32 (B, C): the loss may depend on all of them.
        local: which of the B rows the images are.
        is_padding: whether these images count for nothing (see Span).
    """

    images: Tensor
    targets: Tensor
    local: slice
    is_padding: bool = False


def shard_within_batches(total: int, size: int, shard: Shard = SINGLE_PROCESS) -> list[BatchSpan]:
    """Training: the batches that one process would compute, each divided among the processes."""
    spans = []
    for whole in _ranges(batch_sizes(total, size)):
        cuts = [whole.start + len(whole) * k // shard.world_size for k in (shard.rank, shard.rank + 1)]
        mine = range(*cuts)
        spans.append(BatchSpan(whole, mine) if mine else BatchSpan(whole, whole[:1], is_padding=True))
    return spans


def shard_batches(total: int, size: int, shard: Shard = SINGLE_PROCESS) -> list[BatchSpan]:
    """Scoring: the batches one process would compute, dealt whole, so that each gives the same bits."""
    return [BatchSpan(whole, whole) for whole in _ranges(batch_sizes(total, size))[shard.rank :: shard.world_size]]


def batch_sizes(total: int, most: int) -> list[int]:
    """Lengths of consecutive batches of `most` that cover `total`; a rest of one joins the batch before it.

    Alone it would leave BatchNorm without a variance wherever the last map is 1x1.
    """
    full, rest = divmod(total, most)
    sizes = [most] * full + ([rest] if rest else [])
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def read_batches(
    pixels: np.ndarray, targets: np.ndarray, crop: Crop, side: int, spans: Sequence[BatchSpan], pin: bool = False
) -> Iterator[Batch]:
    """Read the crops in their order, by a MONAI loader that is one batch ahead.

    Args:
        pixels: the map (N, size, size).
        targets: labels of all images, float32 (N, C).
        crop: which crops, in the order in which they are wanted.
        side: the crops' side in pixels.
        spans: the batches, as positions in `crop`.
        pin: copy into page-locked memory, from which a GPU fetches without holding up the program.

    Yields:
        Batches on the CPU.
    """
    source = _Crops(pixels, targets, crop, side)
    loader = DataLoader(source, batch_sampler=spans, collate_fn=_identity, num_workers=0, pin_memory=pin)
    return _one_ahead(iter(loader))


def gather_crops(pixels: np.ndarray, crop: Crop, side: int) -> Tensor:
    """Copy the crops out of the map: uint8 (B, side, side)."""
    batch = np.empty((len(crop.rows), side, side), np.uint8)
    for k, (row, top, left) in enumerate(zip(*crop, strict=True)):
        batch[k] = pixels[row, top : top + side, left : left + side]
    return torch.from_numpy(batch)


class _Crops(torch.utils.data.Dataset):
    """Hands the loader a whole batch at once (`__getitems__`) instead of one image at a time."""

    def __init__(self, pixels: np.ndarray, targets: np.ndarray, crop: Crop, side: int) -> None:
        self.pixels, self.targets, self.crop, self.side = pixels, targets, crop, side

    def __len__(self) -> int:
        return len(self.crop.rows)

    def __getitems__(self, span: BatchSpan) -> Batch:
        whole, mine, idle = span
        images = gather_crops(self.pixels, Crop(*(part[mine.start : mine.stop] for part in self.crop)), self.side)
        targets = self.targets[self.crop.rows[whole.start : whole.stop]]
        return Batch(images, torch.from_numpy(targets), slice(mine.start - whole.start, mine.stop - whole.start), idle)


def _identity(batch: Batch) -> Batch:
    return batch


def _one_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same, each begun while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def _ranges(sizes: Sequence[int]) -> list[range]:
    return [range(*ends) for ends in pairwise(np.cumsum([0, *sizes]).tolist())]
