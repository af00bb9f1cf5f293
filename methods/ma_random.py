"""MA's first control: stage 2 repeats as many positives as MA's, random ones instead of hard ones.

A gain of MA over this control comes from selecting hard examples; a gain of both over `ma_again` comes from seeing
positives more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..benchmark.method import Selection, Stage
from ..benchmark.registry import METHODS
from .ma import MultiAttention, generator_for


@METHODS.register("ma_random")
@dataclass(frozen=True)
class RandomPositives(MultiAttention):
    """Control for MA whose second stage repeats random positives.

    The options are those of `ma`, whose set B determines how many positives are sampled.
    """

    title: ClassVar[str] = "MA control: random positives"
    paper: ClassVar[str] = "control of equal budget for Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = None
    control: ClassVar[bool] = True
    compared_with: ClassVar[tuple[str, ...]] = ("ma_again",)

    def stages(self) -> Sequence[Stage]:
        return (Stage("all"), Stage("all + random positives", self.add_random_positives, self.restart))

    def add_random_positives(self, scores: np.ndarray, labels: np.ndarray) -> Selection:
        """Select every row once, then |B| rows with a positive, without replacement; log-odds and labels (N, C)."""
        positive = labels == 1
        count = len(self.rows_of(self.missed(scores, labels)))
        if self.count == "image":
            rows = generator_for(scores).choice(np.flatnonzero(positive.any(axis=1)), count, replace=False)
            sampled = positive & np.isin(np.arange(len(labels)), rows)[:, None]
        else:
            pairs = generator_for(scores).choice(np.flatnonzero(positive), count, replace=False)
            sampled = np.zeros_like(positive)
            sampled.flat[pairs] = True
        return Selection(np.append(np.arange(len(labels)), self.rows_of(sampled)), sampled)
