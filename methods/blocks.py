"""Building blocks of methods: heads (features to maps) and poolings (maps to logits).

Networks here are a backbone (images to features, backbones.py), a head (features to log-odds at each location) and a
pooling (locations to image), so that one forward pass both classifies and localizes.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..benchmark.method import Output
from .backbones import Backbone

PARSENET_SCALE = 10.0  # initial length of the normalized features, of the order of unnormalized ones

Pool = Literal["mean_probability", "mean_logit", "lse", "max"]


class MapClassifier(nn.Module):
    """Network of backbone, head and pooling: images (B, 3, H, W) to Output with logits (B, C) and maps (B, C, h, w).

    Args:
        backbone: its `forward_features` returns features (B, D, h, w).
        head: features to log-odds at each location.
        pool: maps to image-level log-odds.
        cam: whether to return the head's `activation_map` instead of the maps that are pooled; the logits are the same.
    """

    def __init__(
        self, backbone: Backbone, head: nn.Module, pool: Callable[[Tensor], Tensor], cam: bool = False
    ) -> None:
        super().__init__()
        self.backbone: Backbone = backbone
        self.head: nn.Module = head
        self.pool, self.cam = pool, cam

    def forward(self, images: Tensor) -> Output:
        features = self.backbone.forward_features(images)
        with full_precision(features):
            features = features.float()
            maps = self.head(features)
            if self.cam:
                assert isinstance(self.head, GlobalLocalHead)
                return Output(self.pool(maps), self.head.activation_map(features))
            return Output(self.pool(maps), maps)


def full_precision(features: Tensor) -> torch.autocast:
    """Disable autocast after the features: scores rounded to bfloat16 have ties, in some heads more than in others."""
    return torch.autocast(features.device.type, enabled=False)


class GlobalLocalHead(nn.Module):
    """Space attention module: a classifier of the local features and their mean over the image.

    The mean is broadcast, without a convolution, and concatenated (Ma et al. 2019, section 3.2): features (B, D, h, w)
    to log-odds (B, C, h, w) by one linear classifier for all locations.

    Args:
        num_features: D.
        num_findings: C.
        normalize: whether to scale both halves to length 1 at each location and multiply each channel by a learned
            factor, as ParseNet does (Liu et al. 2015, section 3.3), so that neither half dominates the other.
    """

    def __init__(self, num_features: int, num_findings: int, normalize: bool = False) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(2 * num_features, num_findings, 1)
        self.scale = nn.Parameter(torch.full((1, 2 * num_features, 1, 1), PARSENET_SCALE)) if normalize else None

    def forward(self, features: Tensor) -> Tensor:
        return self._classify(features, features.mean((2, 3), keepdim=True).expand_as(features))

    def activation_map(self, features: Tensor) -> Tensor:
        """Compute the class activation map: each location's log-odds as if the whole image looked like it.

        With concatenation and averaged log-odds, its mean over the locations is the image's log-odds: the map of
        "average pooling between the last stage and the classifier" (Ma et al. 2019, Fig. 4).
        """
        return self._classify(features, features)

    def global_share(self, features: Tensor) -> float:
        """Return the global half's share of the variance of the local log-odds, over images and locations: 0..1."""
        image = features.mean((2, 3), keepdim=True).expand_as(features)
        weights = self.classifier.weight.chunk(2, dim=1)
        local, whole = (
            F.conv2d(half, weight).var((0, 2, 3)).mean()
            for half, weight in zip(self._join(features, image).chunk(2, dim=1), weights, strict=True)
        )
        return float(whole / (local + whole).clamp(min=torch.finfo(local.dtype).tiny))

    def _classify(self, local: Tensor, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self._join(local, image))
        return logits

    def _join(self, local: Tensor, image: Tensor) -> Tensor:
        if self.scale is None:
            return torch.cat([local, image], dim=1)
        return torch.cat([F.normalize(local, dim=1), F.normalize(image, dim=1)], dim=1) * self.scale


def mean_logit(maps: Tensor) -> Tensor:
    """Average the log-odds: (B, C, h, w) to (B, C)."""
    return maps.float().mean((2, 3))


def mean_probability(maps: Tensor) -> Tensor:
    """Compute the log-odds of the mean probability: (B, C, h, w) to (B, C), in log space and float32.

    With p the mean of sigmoid(z): log p - log(1 - p), each a logsumexp of log-sigmoids, their log(h w) cancelling.
    Binary cross-entropy on the result is binary cross-entropy on p.
    """
    logits = maps.float().flatten(2)
    return F.logsigmoid(logits).logsumexp(2) - F.logsigmoid(-logits).logsumexp(2)


def log_sum_exp(maps: Tensor, sharpness: float) -> Tensor:
    """Pool between mean (sharpness near 0) and maximum (infinite): (B, D, h, w) to (B, D).

    Wang et al. 2017, section 4.1.
    """
    values = maps.float().flatten(2)
    pooled: Tensor = ((sharpness * values).logsumexp(2) - math.log(values.shape[2])) / sharpness
    return pooled


def maximum(maps: Tensor) -> Tensor:
    """Take the highest log-odds: (B, C, h, w) to (B, C)."""
    return maps.float().amax((2, 3))


def pooling(name: Pool, sharpness: float) -> Callable[[Tensor], Tensor]:
    """Return the pooling called `name`; `sharpness` is the parameter of "lse"."""
    if name == "lse":
        return partial(log_sum_exp, sharpness=sharpness)
    return {"mean_probability": mean_probability, "mean_logit": mean_logit, "max": maximum}[name]
