"""MA's second control: stage 2 sees the training set A again, as many images as MA's C = A + B, none for its labels.

What MA and `ma_random` gain over this control is not the second stage's longer training: it comes from the positives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..benchmark.method import Selection, Stage
from ..benchmark.registry import METHODS
from .ma import MultiAttention, generator_for


@METHODS.register("ma_again")
@dataclass(frozen=True)
class TrainAgain(MultiAttention):
    """Options:

    backbone, gates, output_stride, pool, sharpness, fuse, heatmap, threshold, count, restart: as in `ma`, whose set B
        tells how many images to add.
    budget: "equal" adds |B| images of A drawn at random; "plain" trains on A alone, |B| fewer than `ma`.
    """

    title: ClassVar[str] = "MA control: A again"
    paper: ClassVar[str] = "control of equal budget for Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = None
    control: ClassVar[bool] = True
    compared_with: ClassVar[tuple[str, ...]] = ("sam",)

    budget: Literal["equal", "plain"] = "equal"

    def stages(self) -> Sequence[Stage]:
        return (Stage("all"), Stage("all again", self.add_any, self.restart))

    def add_any(self, scores: np.ndarray, labels: np.ndarray) -> Selection:
        """Every row once, then |B| rows of any kind, none twice before all have come; log-odds and labels (N, C)."""
        wanted = len(self.rows_of(self.missed(scores, labels))) if self.budget == "equal" else 0
        everything = np.arange(len(labels))
        return Selection(np.append(everything, np.resize(generator_for(scores).permutation(everything), wanted)))
