"""BSL: the plain ResNet-101 baseline of Ma et al. 2019, Table 1.

Global average pooling between the last stage and a linear classifier. Written as a classifier at each place whose
log-odds are averaged, which is the same function and gives the class activation maps with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..benchmark.method import Method
from ..benchmark.registry import METHODS
from .blocks import MapClassifier, build_backbone, mean_logit


@METHODS.register("bsl")
@dataclass(frozen=True)
class Baseline(Method):
    """Options: backbone: any convolutional network of timm's, with the tag of its weights."""

    title: ClassVar[str] = "BSL"
    paper: ClassVar[str] = "Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = "bsl"

    backbone: str = "resnet101.tv_in1k"

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        backbone = build_backbone(self.backbone, weights)
        return MapClassifier(backbone, nn.Conv2d(backbone.num_features, len(findings), 1), mean_logit)
