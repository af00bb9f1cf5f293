"""MA's first control: stage 2 sees as many positives again as MA's would, drawn at random instead of hard ones.

What MA gains over this control it gains by choosing hard examples; what both gain over `ma_again` comes from seeing
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
    """Options:

    backbone, gates, output_stride, pool, sharpness, fuse, heatmap, threshold, count, restart: as in `ma`, whose set B
        tells how many to draw.
    """

    title: ClassVar[str] = "MA control: random positives"
    paper: ClassVar[str] = "control of equal budget for Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = None
    control: ClassVar[bool] = True
    compared_with: ClassVar[tuple[str, ...]] = ("ma_again",)

    def stages(self) -> Sequence[Stage]:
        return (Stage("all"), Stage("all + random positives", self.add_random_positives, self.restart))

    def add_random_positives(self, scores: np.ndarray, labels: np.ndarray) -> Selection:
        """Every row once, then |B| rows with a positive, drawn without replacement; log-odds and labels (N, C)."""
        positive = labels == 1
        wanted = len(self.rows_of(self.missed(scores, labels)))
        if self.count == "image":
            rows = generator_for(scores).choice(np.flatnonzero(positive.any(axis=1)), wanted, replace=False)
            drawn = positive & np.isin(np.arange(len(labels)), rows)[:, None]
        else:
            pairs = generator_for(scores).choice(np.flatnonzero(positive), wanted, replace=False)
            drawn = np.zeros_like(positive)
            drawn.flat[pairs] = True
        return Selection(np.append(np.arange(len(labels)), self.rows_of(drawn)), drawn)
