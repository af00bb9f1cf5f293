"""One pass over a stage's examples: their order, their crops and their batches.

Random numbers depend only on (seed, stage, epoch, position), not on generator state, so that a pass can resume at any
batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data.loader import Batch, BatchSpan, read_batches, shard_within_batches, shifted_crops
from .train_context import TrainContext


@dataclass(frozen=True)
class Epoch:
    """One pass over a stage's examples, in a random order.

    Attributes:
        context: settings and data shared by all stages.
        key: numbers of the stage and the epoch, from 0; with the seed they determine the order and the shifts.
        rows: row numbers to train on (n,), repeats allowed.
        title: text of the progress bar.
    """

    context: TrainContext
    key: tuple[int, int]
    rows: np.ndarray
    title: str = ""

    @cached_property
    def order(self) -> np.ndarray:
        """`rows`, permuted (n,)."""
        # The last number separates the random numbers of the order from those of the shifts.
        return np.random.default_rng([self.context.seed, *self.key, 0]).permutation(self.rows)

    @cached_property
    def spans(self) -> list[BatchSpan]:
        """The batches as positions in `order`, with this rank's part of each."""
        return shard_within_batches(len(self.rows), self.context.recipe.train.batch_size, self.context.device.shard)

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Read the batches from number `first` on; they are on the CPU."""
        context, setting = self.context, self.context.recipe.pixels
        crops = shifted_crops(self.order, setting, context.seed, *self.key, 1)
        remaining = self.spans[first:]
        return read_batches(context.pixels, context.targets, crops, setting.crop, remaining, pin=context.device.on_gpu)

    def count_images(self, steps: int) -> int:
        """Count the images of the first `steps` batches."""
        return sum(len(span.global_) for span in self.spans[:steps])

    def image_ids(self, step: int) -> list[str]:
        """Return the image ids of a batch."""
        positions = self.spans[step].global_
        return [str(self.context.image_ids[row]) for row in self.order[positions.start : positions.stop]]
