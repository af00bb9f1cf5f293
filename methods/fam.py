"""BSL + FAM: a squeeze-and-excitation block in every residual block of the baseline (Ma et al. 2019, section 3.1).

Channel c of a branch is multiplied by s_c, s = sigmoid(W2 relu(W1 z)), z the branch's mean over locations;
reduction 16, after the last normalization, before the residual addition (Hu et al., CVPR 2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ..benchmark.method import Method, PartCheck
from ..benchmark.registry import METHODS
from .backbones import Backbone, OutputStride, Width, build_backbone, gate_spread
from .blocks import MapClassifier, mean_logit

MIN_SPREAD = 1e-3  # gates that move less between images multiply a channel by a constant, up to a thousandth


@METHODS.register("fam")
@dataclass(frozen=True)
class FeatureAttention(Method):
    """Baseline with channel attention in every residual block.

    Options:
        backbone: a ResNet of timm, into which the blocks are inserted, or legacy_seresnet101.in1k, the only
            SE-ResNet-101 of timm with ImageNet weights for the blocks (its output_stride is 32).
        width: as in `bsl`.
        gates: initial values of the blocks' sigmoids, not stated in the paper; "open" (0.982) preserves pretrained
            features, "random" multiplies each residual branch by about 0.5. Ignored if weights of the blocks are
            loaded.
        output_stride: as in `bsl`; set from the recipe's model.output_stride unless given.
    """

    title: ClassVar[str] = "BSL + FAM"
    paper: ClassVar[str] = "Ma et al., ICASSP 2019"
    reported: ClassVar[str | None] = "fam"
    compared_with: ClassVar[tuple[str, ...]] = ("bsl",)

    backbone: str = "resnet101.tv_in1k"
    width: Width = 1.0
    gates: Literal["open", "random"] = "open"
    output_stride: OutputStride = 32

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        backbone = self.build_backbone(weights)
        return MapClassifier(backbone, nn.Conv2d(backbone.num_features, len(findings), 1), mean_logit)

    def check_parts(self, network: nn.Module, images: Tensor) -> Sequence[PartCheck]:
        return (PartCheck("spread of the gates over images", gate_spread(network, images), MIN_SPREAD),)

    def build_backbone(self, weights: str) -> Backbone:
        """Build the ResNet with its attention blocks, for this method and those that extend it."""
        return build_backbone(self.backbone, weights, True, self.gates, self.output_stride, self.width)
