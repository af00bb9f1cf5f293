"""BSL + FAM + SAM: every place is classified from its own and the global features (Ma et al. 2019, section 2.2).

As written (linear classifier, then the average) the paper's module is the baseline again with a double head: the
average of linear functions is the linear function of the average. Here each place gives a probability first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from ..benchmark.method import Method
from ..benchmark.registry import METHODS
from .blocks import POOLINGS, GlobalLocalHead, MapClassifier, build_backbone


@METHODS.register("sam")
@dataclass(frozen=True)
class SpaceAttention(Method):
    """Options:

    backbone: a ResNet of timm's.
    gates: how the attention blocks begin, see `fam`.
    pool: how places become an image. The paper averages and does not say what: "mean_probability" averages
        probabilities; "mean_logit" averages log-odds (the degenerate reading); "lse" (sharpness 10) and "max" do not
        average.
    """

    title: ClassVar[str] = "BSL + FAM + SAM"
    paper: ClassVar[str] = "Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = "sam"

    backbone: str = "resnet101.tv_in1k"
    gates: Literal["open", "random"] = "open"
    pool: Literal["mean_probability", "mean_logit", "lse", "max"] = "mean_probability"

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        backbone = build_backbone(self.backbone, weights, attention=True, gates=self.gates)
        return MapClassifier(backbone, GlobalLocalHead(backbone.num_features, len(findings)), POOLINGS[self.pool])
