"""What methods share: heads that turn features into maps, poolings that turn maps into logits.

A network of this wing is a backbone (images -> features, backbones.py), a head (features -> log-odds at each place) and
a pooling (places -> image), so that classification and localisation come out of one forward pass.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..benchmark.method import Output

PARSENET_SCALE = 10.0  # initial length of the normalised features: of the order of unnormalised ones

Pool = Literal["mean_probability", "mean_logit", "lse", "max"]


class MapClassifier(nn.Module):
    """Backbone, head and pooling in a row: images (B, 3, H, W) to Output with logits (B, C) and maps (B, C, h, w).

    Args:
        backbone: gives features (B, D, h, w).
        head: features to log-odds at each place.
        pool: places to image.
        cam: show the head's `activation_map` in place of the maps that are pooled; the logits stay the same.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, pool: Callable[[Tensor], Tensor], cam: bool = False
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.pool, self.cam = backbone, head, pool, cam

    def forward(self, images: Tensor) -> Output:
        features = self.backbone.forward_features(images)
        with full_precision(features):
            features = features.float()
            maps = self.head(features)
            return Output(self.pool(maps), self.head.activation_map(features) if self.cam else maps)


def full_precision(features: Tensor) -> torch.autocast:
    """No autocast for what follows the features: scores rounded to bfloat16 tie, in some heads more than in others."""
    return torch.autocast(features.device.type, enabled=False)


class GlobalLocalHead(nn.Module):
    """The space attention module: every place sees its own features and their mean over the image.

    The mean is broadcast back, without a convolution, and concatenated (Ma et al. 2019, section 2.2): features
    (B, D, h, w) to log-odds (B, C, h, w) by one linear classifier for all places.

    Args:
        features: D.
        findings: C.
        normalize: bring both halves to length 1 at each place and scale each channel by a learned factor before the
            concatenation, as ParseNet does (Liu et al. 2015, section 3.3), so that neither half drowns the other.
    """

    def __init__(self, features: int, findings: int, normalize: bool = False) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(2 * features, findings, 1)
        self.scale = nn.Parameter(torch.full((1, 2 * features, 1, 1), PARSENET_SCALE)) if normalize else None

    def forward(self, features: Tensor) -> Tensor:
        return self._classify(features, features.mean((2, 3), keepdim=True).expand_as(features))

    def activation_map(self, features: Tensor) -> Tensor:
        """The class activation map: what the classifier would say of a place if the whole image were like it.

        With the concatenation as written and log-odds averaged, its mean over the places is the image's log-odds: it
        is the map of "average pooling between the last stage and the classifier" (Ma et al. 2019, Fig. 4).
        """
        return self._classify(features, features)

    def _classify(self, local: Tensor, everywhere: Tensor) -> Tensor:
        if self.scale is None:
            return self.classifier(torch.cat([local, everywhere], dim=1))
        both = torch.cat([F.normalize(local, dim=1), F.normalize(everywhere, dim=1)], dim=1)
        return self.classifier(both * self.scale)


def mean_logit(maps: Tensor) -> Tensor:
    """Average the log-odds: (B, C, h, w) to (B, C)."""
    return maps.float().mean((2, 3))


def mean_probability(maps: Tensor) -> Tensor:
    """Log-odds of the places' mean probability: (B, C, h, w) to (B, C), in log space and float32.

    With p the mean of sigmoid(z): log p - log(1 - p), each a logsumexp of log-sigmoids, their log(h w) cancelling.
    Binary cross-entropy on the result is binary cross-entropy on p.
    """
    places = maps.float().flatten(2)
    return F.logsigmoid(places).logsumexp(2) - F.logsigmoid(-places).logsumexp(2)


def log_sum_exp(maps: Tensor, sharpness: float) -> Tensor:
    """Between mean (sharpness -> 0) and maximum (-> infinity), (B, D, h, w) to (B, D) (Wang et al. 2017, sec. 4.1)."""
    places = maps.float().flatten(2)
    return ((sharpness * places).logsumexp(2) - math.log(places.shape[2])) / sharpness


def maximum(maps: Tensor) -> Tensor:
    """The highest log-odds: (B, C, h, w) to (B, C)."""
    return maps.float().amax((2, 3))


def pooling(name: Pool, sharpness: float) -> Callable[[Tensor], Tensor]:
    """The pooling that a user names with `--option pool=NAME`; sharpness is that of "lse"."""
    if name == "lse":
        return partial(log_sum_exp, sharpness=sharpness)
    return {"mean_probability": mean_probability, "mean_logit": mean_logit, "max": maximum}[name]
