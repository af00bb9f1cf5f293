"""MA: the complete method of Ma et al. 2019, SAM's network trained in two stages (hard example attention, section 3.3).

Stage 1 trains on the training set A and scores it. B is the set of positives that it misses; stage 2 trains from the
initial weights on C = A + B. With mean_probability pooling few scores exceed 0.5, so that B contains nearly all
positives; the record states how many. Compare MA with the controls of equal budget, `ma_random` and `ma_again`.
"""

import hashlib
from collections.abc import Mapping, Sequence
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
        hard: the positives in B, "missed" as in the paper (see threshold), or "worst_half", of each finding the half
            with the lowest scores. Stage 1 may miss nearly all; only a half can be compared with a random half.
        threshold: a positive is missed if its probability is not above this; 0.5 in the paper. The training images
            are scored like test images, with the center crop in evaluation mode (not stated in the paper).
        count: whether B contains an image once ("image") or once per missed finding ("finding"); not stated in the
            paper.
        restart: weights from which stage 2 starts, the run's initial ones ("initial") or those of stage 1 ("previous");
            not stated in the paper.
    """

    title: ClassVar[str] = "MA (FAM + SAM + HEM)"
    reported: ClassVar[str | None] = "ma"
    compared_with: ClassVar[tuple[str, ...]] = ("sam", "ma_random", "ma_again")

    hard: Literal["missed", "worst_half"] = "missed"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    count: Literal["image", "finding"] = "image"
    restart: Literal["initial", "previous"] = "initial"

    def options_without_effect(self, weights: str) -> Mapping[str, str]:
        missed = {} if self.hard == "missed" else {"threshold": f"only hard=missed has it, and hard is {self.hard}"}
        return {**super().options_without_effect(weights), **missed}

    def stages(self) -> Sequence[Stage]:
        return (Stage("all"), Stage("all + hard", self.add_hard_positives, self.restart))

    def add_hard_positives(self, scores: np.ndarray, labels: np.ndarray) -> Selection:
        """Select C = A + B: every row once, then the rows of missed positives again; log-odds and labels (N, C)."""
        missed = self.missed(scores, labels)
        return Selection(np.append(np.arange(len(labels)), self.rows_of(missed)), missed)

    def missed(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Find the positives in B from log-odds and labels (N, C): bool (N, C)."""
        if self.hard == "worst_half":
            return worst_half(scores, labels)
        missed: np.ndarray = (labels == 1) & (scores <= np.log(self.threshold / (1 - self.threshold)))
        return missed

    def rows_of(self, labels: np.ndarray) -> np.ndarray:
        """List the rows that labels, bool (N, C), add to the training set, repeated as the option `count` sets."""
        repeats = labels.any(axis=1) if self.count == "image" else labels.sum(axis=1)
        return np.repeat(np.arange(len(labels)), repeats)


def worst_half(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find of each finding's n positives the n // 2 with the lowest scores; scores and labels (N, C), bool (N, C)."""
    ranks = np.where(labels == 1, scores, np.inf).argsort(axis=0, kind="stable").argsort(axis=0)
    half: np.ndarray = ranks < (labels == 1).sum(axis=0) // 2
    return half


def generator_for(scores: np.ndarray) -> np.random.Generator:
    """Create a generator seeded by a hash of the scores, so that a run can be repeated."""
    return np.random.default_rng(list(hashlib.sha256(np.ascontiguousarray(scores).tobytes()).digest()))
