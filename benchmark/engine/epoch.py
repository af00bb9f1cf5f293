"""One pass over a stage's examples: their order, their batches, and what every pass of a run shares.

Randomness is counted, not consumed: the order and the shifts are functions of (seed, stage, epoch), so a pass can be
taken up at any batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data.loader import Batch, BatchSpan, read_batches, shard_within_batches, shifted_crops
from ..method import Method
from ..recipe import Recipe
from .device import Device


@dataclass(frozen=True)
class TrainContext:
    """What every stage of a run shares.

    Attributes:
        device: where the arithmetic happens.
        method: builds networks and computes the loss.
        recipe: how to train.
        seed: the run's seed.
        pixels: the map, uint8 (N, size, size).
        targets: labels to train and validate on, float32 (N, C).
        validation: row numbers of the validation split.
        image_ids: of all images (N,), for messages.
    """

    device: Device
    method: Method
    recipe: Recipe
    seed: int
    pixels: np.ndarray
    targets: np.ndarray
    validation: np.ndarray
    image_ids: np.ndarray


@dataclass(frozen=True)
class Epoch:
    """One pass over a stage's examples, in an order drawn for it.

    Attributes:
        material: what the stages share.
        count: the stage's and the epoch's number, from 0; with the seed they decide the order and the shifts.
        rows: row numbers to train on, repeats allowed.
        title: what the progress bar says.
    """

    context: TrainContext
    count: tuple[int, int]
    rows: np.ndarray
    title: str = ""

    @cached_property
    def order(self) -> np.ndarray:
        return np.random.default_rng([self.context.seed, *self.count, 0]).permutation(self.rows)

    @cached_property
    def spans(self) -> list[BatchSpan]:
        return shard_within_batches(len(self.rows), self.context.recipe.train.batch_size, self.context.device.shard)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """The batches from number `first` on, on the CPU."""
        context, setting = self.context, self.context.recipe.pixels
        crop = shifted_crops(self.order, setting, context.seed, *self.count, 1)
        on_gpu = context.device.torch_device.type == "cuda"
        return read_batches(context.pixels, context.targets, crop, setting.crop, self.spans[first:], pin=on_gpu)

    def images(self, steps: int) -> int:
        """How many images the first steps have."""
        return sum(len(span.global_) for span in self.spans[:steps])

    def names(self, step: int) -> list[str]:
        """Image ids of a batch."""
        whole = self.spans[step].whole
        return [str(self.context.image_ids[row]) for row in self.order[whole.start : whole.stop]]
