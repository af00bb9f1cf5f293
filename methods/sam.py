"""BSL + FAM + SAM: every location is classified from its local and the global features (Ma et al. 2019, section 3.2).

As written (linear classifier, then the average) the paper's module is the baseline with a redundant head: the average
of linear functions is the linear function of the average. Here each location gives a probability first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import PositiveFloat
from torch import Tensor, nn

from ..benchmark.method import PartCheck
from ..benchmark.registry import METHODS
from .blocks import GlobalLocalHead, MapClassifier, Pool, pooling
from .fam import FeatureAttention

MIN_SHARE = 0.01  # a half with less of the variance decides nothing


@METHODS.register("sam")
@dataclass(frozen=True)
class SpaceAttention(FeatureAttention):
    """FAM with a classifier at every location that also sees the global features.

    Options:
        pool: pooling of locations to the image. The paper does not state what it averages: "mean_probability" averages
            probabilities, "mean_logit" log-odds (the degenerate reading); "lse" and "max" do not average.
        sharpness: r of pool=lse, between the mean (small) and the maximum (large); 10 in Wang et al. 2017.
        fuse: how local and global features are joined, "concat" as the paper writes it, or "parsenet", which first
            normalizes both and learns a scale per channel, as the ParseNet that the paper cites.
        heatmap: which maps to show, without effect on scores: "score" for the log-odds before pooling (probabilities
            would be 1 nearly everywhere in a clear case), "cam" for the class activation map; the two sides of the
            paper's Fig. 4.
    """

    title: ClassVar[str] = "BSL + FAM + SAM"
    reported: ClassVar[str | None] = "sam"
    display_options: ClassVar[tuple[str, ...]] = ("heatmap",)
    compared_with: ClassVar[tuple[str, ...]] = ("fam",)

    pool: Pool = "mean_probability"
    sharpness: PositiveFloat = 10.0
    fuse: Literal["concat", "parsenet"] = "concat"
    heatmap: Literal["score", "cam"] = "score"

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        backbone = self.build_backbone(weights)
        head = GlobalLocalHead(backbone.num_features, len(findings), self.fuse == "parsenet")
        return MapClassifier(backbone, head, pooling(self.pool, self.sharpness), cam=self.heatmap == "cam")

    def check_parts(self, network: nn.Module, images: Tensor) -> Sequence[PartCheck]:
        assert isinstance(network, MapClassifier) and isinstance(network.head, GlobalLocalHead)
        share = network.head.global_share(network.backbone.forward_features(images).float())
        return (
            *super().check_parts(network, images),
            PartCheck("share of the global half in the variance of the local log-odds", share, MIN_SHARE),
            PartCheck("share of the local half in the variance of the local log-odds", 1 - share, MIN_SHARE),
        )

    def options_without_effect(self, weights: str) -> Mapping[str, str]:
        pooled = {} if self.pool == "lse" else {"sharpness": f"only pool=lse has it, and pool is {self.pool}"}
        return {**super().options_without_effect(weights), **pooled}
