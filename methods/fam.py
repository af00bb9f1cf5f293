"""BSL + FAM: a squeeze-and-excitation block in every residual block of the baseline (Ma et al. 2019, section 2.1).

Channel c of a branch is multiplied by s_c, s = sigmoid(W2 relu(W1 z)), z the branch's mean over its places; reduction
16, after the last normalisation, before the residual addition (Hu et al., CVPR 2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from ..benchmark.method import Method
from ..benchmark.registry import METHODS
from .backbones import OutputStride, build_backbone
from .blocks import MapClassifier, mean_logit


@METHODS.register("fam")
@dataclass(frozen=True)
class FeatureAttention(Method):
    """Options:

    backbone: a ResNet of timm's, into which the blocks are put, or one that has them and their ImageNet weights:
        legacy_seresnet101.in1k, the only such SE-ResNet-101 of timm's (it takes no output_stride but 32).
    gates: how the attention blocks begin; not stated in the paper. "open" (0.982) keeps pretrained features whole,
        "random" multiplies each residual branch by about 0.5. Weights that hold the blocks win.
    output_stride: as in `bsl`.
    """

    title: ClassVar[str] = "BSL + FAM"
    paper: ClassVar[str] = "Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = "fam"
    compared_with: ClassVar[tuple[str, ...]] = ("bsl",)

    backbone: str = "resnet101.tv_in1k"
    gates: Literal["open", "random"] = "open"
    output_stride: OutputStride = 32

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        backbone = self.build_backbone(weights)
        return MapClassifier(backbone, nn.Conv2d(backbone.num_features, len(findings), 1), mean_logit)

    def build_backbone(self, weights: str) -> nn.Module:
        """The ResNet with its attention blocks: the same in every method above this one."""
        return build_backbone(self.backbone, weights, True, self.gates, self.output_stride)
