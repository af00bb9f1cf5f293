"""MA's second control: stage 2 trains on as many images as MA's C = A + B, but repeats random images of A.

A gain of MA and `ma_random` over this control is not due to longer training; it comes from repeating positives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..benchmark.method import Selection, Stage
from ..benchmark.registry import METHODS
from .ma import MultiAttention, generator_for


@METHODS.register("ma_again")
@dataclass(frozen=True)
class TrainAgain(MultiAttention):
    """Control for MA whose second stage repeats images regardless of their labels.

    Options:
        budget: "equal" adds |B| random images of A, with B the set of hard positives in `ma`; "plain" trains only on A,
            |B| fewer images than `ma`.
    """

    title: ClassVar[str] = "MA control: random images"
    paper: ClassVar[str] = "control of equal budget for Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = None
    control: ClassVar[bool] = True
    compared_with: ClassVar[tuple[str, ...]] = ("sam",)

    budget: Literal["equal", "plain"] = "equal"

    def options_without_effect(self, weights: str) -> Mapping[str, str]:
        unused = dict.fromkeys(("hard", "threshold", "count"), "budget=plain repeats no image")
        return {**super().options_without_effect(weights), **(unused if self.budget == "plain" else {})}

    def stages(self) -> Sequence[Stage]:
        return (Stage("all"), Stage("all again", self.add_any, self.restart))

    def add_any(self, scores: np.ndarray, labels: np.ndarray) -> Selection:
        """Select every row once, then |B| random rows, evenly repeated beyond N; log-odds and labels (N, C)."""
        count = len(self.rows_of(self.missed(scores, labels))) if self.budget == "equal" else 0
        rows = np.arange(len(labels))
        return Selection(np.append(rows, np.resize(generator_for(scores).permutation(rows), count)))
