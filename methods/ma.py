"""MA: the whole of Ma et al. 2019, SAM's network trained in two stages (hard example attention, section 2.3).

Stage 1 trains on the training set A and scores it. B are the positives that it misses; stage 2 trains anew on
C = A + B. With the mean of probabilities few scores pass 0.5, so B holds nearly all positives: the record says how
many, and stage 2 is worth what it gains over its controls of equal budget, `ma_random` and `ma_again`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..benchmark.method import Selection, Stage
from ..benchmark.registry import METHODS
from .sam import SpaceAttention


@METHODS.register("ma")
@dataclass(frozen=True)
class MultiAttention(SpaceAttention):
    """Options:

    backbone, gates, output_stride, pool, sharpness, fuse, heatmap: as in `sam`.
    threshold: a positive is missed when its probability is not above this; 0.5 in the paper. The training images are
        scored as test images are: centre crop, evaluation mode (not stated in the paper).
    count: B holds an image once ("image") or once for each missed finding ("finding"); not stated in the paper.
    restart: stage 2 begins at the run's initial weights ("initial") or at stage 1's ("previous"); not stated.
    """

    title: ClassVar[str] = "MA (FAM + SAM + HEM)"
    reported: ClassVar[str | None] = "ma"
    compared_with: ClassVar[tuple[str, ...]] = ("sam", "ma_random", "ma_again")

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    count: Literal["image", "finding"] = "image"
    restart: Literal["initial", "previous"] = "initial"

    def stages(self) -> Sequence[Stage]:
        return (Stage("all"), Stage("all + hard", self.add_hard_positives, self.restart))

    def add_hard_positives(self, scores: np.ndarray, labels: np.ndarray) -> Selection:
        """C = A + B: every row once, then the rows of missed positives again; log-odds and labels (N, C)."""
        missed = self.missed(scores, labels)
        return Selection(np.append(np.arange(len(labels)), self.rows_of(missed)), missed)

    def missed(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The positives that the network scores no higher than the threshold: bool (N, C)."""
        return (labels == 1) & (scores <= np.log(self.threshold / (1 - self.threshold)))

    def rows_of(self, chosen: np.ndarray) -> np.ndarray:
        """The rows that chosen labels, bool (N, C), add to the training set, counted as the option says."""
        repeats = chosen.any(axis=1) if self.count == "image" else chosen.sum(axis=1)
        return np.repeat(np.arange(len(chosen)), repeats)


def generator_for(scores: np.ndarray) -> np.random.Generator:
    """Random numbers that follow from the scores alone: the same run draws the same, another seed draws others."""
    return np.random.default_rng(list(hashlib.sha256(np.ascontiguousarray(scores).tobytes()).digest()))
