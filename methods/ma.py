"""MA: the whole of Ma et al. 2019, SAM's network trained in two stages (hard example attention, section 2.3).

Stage 1 trains on the training set A and scores it. B are the positives that it misses; stage 2 trains anew on A + B.
With the mean of probabilities few scores pass 0.5, so B holds nearly all positives: the record says how many, and the
gain of stage 2 is worth what it gains over as many positives drawn at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import nn

from ..benchmark.method import Method, Selection, Stage
from ..benchmark.registry import METHODS
from .blocks import POOLINGS, GlobalLocalHead, MapClassifier, build_backbone


@METHODS.register("ma")
@dataclass(frozen=True)
class MultiAttention(Method):
    """Options:

    backbone, gates, pool: as in `sam`.
    threshold: a positive is missed when its probability is not above this; 0.5 in the paper.
    count: B holds an image once ("image") or once for each missed finding ("finding"); not stated in the paper.
    restart: stage 2 begins at the run's initial weights ("initial") or at stage 1's ("previous"); not stated.
    """

    title: ClassVar[str] = "MA (FAM + SAM + HEM)"
    paper: ClassVar[str] = "Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = "ma"

    backbone: str = "resnet101.tv_in1k"
    gates: Literal["open", "random"] = "open"
    pool: Literal["mean_probability", "mean_logit", "lse", "max"] = "mean_probability"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    count: Literal["image", "finding"] = "image"
    restart: Literal["initial", "previous"] = "initial"

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        backbone = build_backbone(self.backbone, weights, attention=True, gates=self.gates)
        return MapClassifier(backbone, GlobalLocalHead(backbone.num_features, len(findings)), POOLINGS[self.pool])

    def stages(self) -> Sequence[Stage]:
        return (Stage("all"), Stage("all + hard", self.add_hard_positives, self.restart))

    def add_hard_positives(self, scores: np.ndarray, labels: np.ndarray) -> Selection:
        """C = A + B: every row once, then the rows of missed positives again; log-odds and labels (N, C)."""
        missed = (labels == 1) & (scores <= np.log(self.threshold / (1 - self.threshold)))
        repeats = missed.any(axis=1) if self.count == "image" else missed.sum(axis=1)
        everything = np.arange(len(labels))
        return Selection(np.concatenate([everything, np.repeat(everything, repeats)]), missed)
