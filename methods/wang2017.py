"""Wang et al. 2017: the baseline published with the dataset (ChestX-ray8, CVPR 2017, section 4).

ImageNet backbone, a transition layer, log-sum-exp pooling, a prediction layer, and a cross-entropy balanced between
positive and negative labels. The heatmap applies the prediction layer's weights to the transition layer's activations
before pooling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..benchmark.method import Method, Output
from ..benchmark.registry import METHODS
from .backbones import Backbone, OutputStride, Width, build_backbone
from .blocks import full_precision, log_sum_exp


@METHODS.register("wang2017")
@dataclass(frozen=True)
class Wang2017(Method):
    """Transition layer, log-sum-exp pooling and a cross-entropy balanced between positive and negative labels.

    Options:
        backbone: resnet50 was the best of the paper's four. The others, with output_stride=32, are vgg16.tv_in1k, and
            torchvision/alexnet and torchvision/googlenet, which timm lacks.
        width: as in `bsl`.
        output_stride: as in `bsl`; set from the recipe's model.output_stride unless given.
        transition: output channels of the transition layer, a 1x1 convolution with ReLU; the paper states neither
            kernel size nor channels.
        sharpness: r of the log-sum-exp pooling, 10 in the paper.
        reduction: "sum" adds the weighted cross-entropy over batch and findings, as in the paper; "mean" divides it by
            the number of known labels, which keeps the loss on a scale comparable to the other methods.
    """

    title: ClassVar[str] = "Wang et al. 2017"
    paper: ClassVar[str] = "Wang et al., CVPR 2017"
    reported: ClassVar[str | None] = "wang2017"

    backbone: str = "resnet50.tv_in1k"
    width: Width = 1.0
    output_stride: OutputStride = 32
    transition: PositiveInt = 1024
    sharpness: PositiveFloat = 10.0
    reduction: Literal["mean", "sum"] = "mean"

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        backbone = build_backbone(self.backbone, weights, output_stride=self.output_stride, width=self.width)
        return _TransitionNet(backbone, self.transition, len(findings), self.sharpness)

    def label_weights(self, targets: Tensor) -> Tensor:
        return balanced_weights(targets, self.reduction)


class _TransitionNet(nn.Module):
    """Network of Wang et al. 2017, Fig. 3: backbone, transition layer, pooling, prediction layer.

    Args:
        backbone: its `forward_features` returns features (B, D, h, w).
        transition: output channels of the transition layer.
        num_findings: C.
        sharpness: r of the log-sum-exp pooling.
    """

    def __init__(self, backbone: Backbone, transition: int, num_findings: int, sharpness: float) -> None:
        super().__init__()
        self.backbone: Backbone = backbone
        self.sharpness = sharpness
        self.transition = nn.Sequential(nn.Conv2d(backbone.num_features, transition, 1), nn.ReLU())
        self.prediction = nn.Conv2d(transition, num_findings, 1)

    def forward(self, images: Tensor) -> Output:
        activations = self.transition(self.backbone.forward_features(images)).float()
        with full_precision(activations):
            pooled = log_sum_exp(activations, self.sharpness)[:, :, None, None]
            return Output(self.prediction(pooled).flatten(1), self.prediction(activations))


def balanced_weights(targets: Tensor, reduction: str = "mean") -> Tensor:
    """Compute the weights of W-CEL: (|P|+|N|)/|P| for positive labels, (|P|+|N|)/|N| for negative labels.

    |P| and |N| are counted over the label matrix of the whole batch, not per finding.

    Args:
        targets: (B, C) 1, 0 or NaN for unknown, which is not counted.
        reduction: "sum" as in the paper, or "mean" to divide by the number of known labels.

    Returns:
        (B, C) float32; unknown labels have weight 0.
    """
    positive, negative = (targets == 1).float(), (targets == 0).float()
    label_count = positive.sum() + negative.sum()
    of_positives = label_count / positive.sum().clamp(min=1) * positive
    of_negatives = label_count / negative.sum().clamp(min=1) * negative
    total = of_positives + of_negatives
    return total if reduction == "sum" else total / label_count.clamp(min=1)
