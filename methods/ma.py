"""MA: the complete method of Ma et al. 2019, SAM's network trained in two stages (hard example attention, section 2.3).

Stage 1 trains on the training set A and scores it. B holds the positives that it misses; stage 2 trains from the start
on C = A + B. With the mean of probabilities few scores exceed 0.5, so B holds nearly all positives: the record states
how many. What counts is the gain over the controls of equal budget, `ma_random` and `ma_again`.
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
    """SAM with a second stage of training that repeats hard positives.

    Options:
        threshold: a positive is missed when its probability is not above this; 0.5 in the paper. The training images
            are scored as test images are, center crop and evaluation mode (not stated in the paper).
        count: whether B holds an image once ("image") or once per missed finding ("finding"); not stated in the paper.
        restart: where stage 2 starts, at the run's initial weights ("initial") or at those of stage 1 ("previous"); not
            stated in the paper.
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
        """Select C = A + B: every row once, then the rows of missed positives again; log-odds and labels (N, C)."""
        missed = self.missed(scores, labels)
        return Selection(np.append(np.arange(len(labels)), self.rows_of(missed)), missed)

    def missed(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Find the positives that the network scores no higher than the threshold: bool (N, C)."""
        missed: np.ndarray = (labels == 1) & (scores <= np.log(self.threshold / (1 - self.threshold)))
        return missed

    def rows_of(self, labels: np.ndarray) -> np.ndarray:
        """List the rows that labels, bool (N, C), add to the training set, as often as the option `count` says."""
        repeats = labels.any(axis=1) if self.count == "image" else labels.sum(axis=1)
        return np.repeat(np.arange(len(labels)), repeats)


def generator_for(scores: np.ndarray) -> np.random.Generator:
    """Seed random numbers with the scores: the same run draws the same ones, a run with another seed others."""
    return np.random.default_rng(list(hashlib.sha256(np.ascontiguousarray(scores).tobytes()).digest()))
