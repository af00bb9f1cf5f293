"""BSL + FAM + SAM: every place is classified from its own and the global features (Ma et al. 2019, section 2.2).

As written (linear classifier, then the average) the paper's module is the baseline again with a double head: the
average of linear functions is the linear function of the average. Here each place gives a probability first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import PositiveFloat
from torch import Tensor, nn

from ..benchmark.registry import METHODS
from .blocks import GlobalLocalHead, MapClassifier, Pool, pooling
from .fam import FeatureAttention


@METHODS.register("sam")
@dataclass(frozen=True)
class SpaceAttention(FeatureAttention):
    """Options:

    backbone, gates, output_stride: as in `fam`.
    pool: how places become an image. The paper averages and does not say what: "mean_probability" averages
        probabilities; "mean_logit" averages log-odds (the degenerate reading); "lse" and "max" do not average.
    sharpness: r of pool=lse, between the mean (small) and the maximum (large); 10 in Wang et al. 2017.
    fuse: how a place's own and the global features meet: "concat" as the paper writes it; "parsenet" normalises both
        and learns a scale for each channel first, as the ParseNet that the paper cites.
    heatmap: which maps to show; it changes no score. "score" are the score maps before the last average (as
        probabilities, where these are averaged), "cam" the class activation map: the two sides of the paper's Fig. 4.
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

    def heat(self, maps: Tensor) -> Tensor:
        return maps.sigmoid() if self.heatmap == "score" and self.pool == "mean_probability" else maps
