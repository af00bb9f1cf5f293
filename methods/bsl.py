"""BSL: the plain ResNet-101 baseline of Ma et al. 2019, Table 1.

Global average pooling between the last stage and a linear classifier. It is implemented as a classifier at each
location whose log-odds are averaged: the same function, which also gives the class activation maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..benchmark.method import Method
from ..benchmark.registry import METHODS
from .backbones import OutputStride, Width, build_backbone
from .blocks import MapClassifier, mean_logit


@METHODS.register("bsl")
@dataclass(frozen=True)
class Baseline(Method):
    """Plain ResNet with global average pooling.

    Options:
        backbone: any convolutional network of timm, with the tag of its weights; those of resnet101.tv_in1k are the
            closest to the weights available in 2018. Set from the recipe's model.backbone, if it has one, unless given.
        width: channels of a ResNet's stages, a fraction of the usual number; set from the recipe's model.width unless
            backbone or width is given.
        output_stride: pixels of the image per location of the maps, 32 (the paper's, 7x7 locations of a 224-pixel
            crop), 16 or 8, for which the last stages dilate their convolutions instead of downsampling; set from the
            recipe's model.output_stride unless given.
    """

    title: ClassVar[str] = "BSL"
    paper: ClassVar[str] = "Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = "bsl"

    backbone: str = "resnet101.tv_in1k"
    width: Width = 1.0
    output_stride: OutputStride = 32

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        backbone = build_backbone(self.backbone, weights, output_stride=self.output_stride, width=self.width)
        return MapClassifier(backbone, nn.Conv2d(backbone.num_features, len(findings), 1), mean_logit)
