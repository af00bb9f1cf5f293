"""What methods share: a backbone of timm's, heads that turn features into maps, poolings that turn maps into logits.

A network of this wing is a backbone (images -> features), a head (features -> log-odds at each place) and a pooling
(places -> image), so that classification and localisation come out of one forward pass.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import timm
import torch
from safetensors.torch import load_file
from timm.layers import SEModule
from torch import Tensor, nn
from torch.nn import functional as F

from ..benchmark.method import MethodError, Output

GATE_BIAS = 4.0  # sigmoid(4) = 0.982: an open gate


class MapClassifier(nn.Module):
    """Backbone, head and pooling in a row: images (B, 3, H, W) to Output with logits (B, C) and maps (B, C, h, w)."""

    def __init__(self, backbone: nn.Module, head: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone, self.head, self.pool = backbone, head, pool

    def forward(self, images: Tensor) -> Output:
        features = self.backbone.forward_features(images)
        with full_precision(features):
            maps = self.head(features.float())
            return Output(self.pool(maps), maps)


def full_precision(features: Tensor) -> torch.autocast:
    """No autocast for what follows the features: scores rounded to bfloat16 tie, in some heads more than in others."""
    return torch.autocast(features.device.type, enabled=False)


class GlobalLocalHead(nn.Module):
    """The space attention module: every place sees its own features and their mean over the image.

    The mean is broadcast back, without a convolution, and concatenated (Ma et al. 2019, section 2.2): features
    (B, D, h, w) to log-odds (B, C, h, w) by one linear classifier for all places.
    """

    def __init__(self, features: int, findings: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(2 * features, findings, 1)

    def forward(self, features: Tensor) -> Tensor:
        everywhere = features.mean((2, 3), keepdim=True).expand_as(features)
        return self.classifier(torch.cat([features, everywhere], dim=1))


def build_backbone(
    name: str, weights: str, attention: bool = False, gates: Literal["open", "random"] = "open"
) -> nn.Module:
    """A timm network without its classifier; `forward_features` gives (B, `num_features`, h, w).

    Args:
        name: timm's name of the architecture, with the tag of its weights ("resnet101.tv_in1k").
        weights: "imagenet" (downloaded by timm), "none", or the path of a .safetensors file.
        attention: put a squeeze-and-excitation block into every residual block, before the addition.
        gates: how these blocks begin, see `open_gates`.

    Raises:
        MethodError: unknown name, weights that cannot be had or do not fit, attention in a network that takes none.
    """
    extra = {"block_args": {"attn_layer": "se"}} if attention else {}
    try:
        backbone = timm.create_model(name, pretrained=False, num_classes=0, **extra)
        has_attention = any(isinstance(module, SEModule) for module in backbone.modules())
    except RuntimeError as error:
        raise MethodError(f"backbone {name!r} cannot be built: {error}") from error
    except TypeError:  # a constructor that knows no block_args
        has_attention = False
    if attention and not has_attention:
        raise MethodError(f"backbone {name!r} takes no squeeze-and-excitation blocks: choose a ResNet of timm's")
    if attention and gates == "open":
        open_gates(backbone)
    if weights != "none":  # after the gates: a file that holds trained ones keeps them
        _load(backbone, _imagenet(name) if weights == "imagenet" else _from_file(weights), weights)
    return backbone


def open_gates(network: nn.Module) -> None:
    """Let every squeeze-and-excitation block pass nearly everything (0.982) at first.

    Random gates multiply each residual branch by about 0.5, which destroys what a pretrained network knows.
    """
    for module in network.modules():
        if isinstance(module, SEModule):
            nn.init.zeros_(module.fc2.weight)
            nn.init.constant_(module.fc2.bias, GATE_BIAS)


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


# By the name a user writes as --option pool=NAME.
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean_probability": mean_probability,
    "mean_logit": mean_logit,
    "lse": partial(log_sum_exp, sharpness=10.0),
    "max": maximum,
}


def _imagenet(name: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MethodError(
            f"the ImageNet weights of {name} cannot be had ({cause}): "
            "use --set model.weights=none, or =FILE.safetensors with a copy of them"
        ) from error


def _from_file(path: str) -> dict[str, Tensor]:
    if not path.endswith(".safetensors"):
        raise MethodError(f"model.weights = {path!r} is neither imagenet, none nor a .safetensors file")
    try:
        return load_file(Path(path))
    except Exception as error:
        raise MethodError(f"weights {path} cannot be read: {error}") from error


def _load(backbone: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy the weights in; only attention blocks may stay as they are, only a classifier may be left over."""
    wanted = backbone.state_dict()
    absent = [key for key in wanted if key not in weights and ".se." not in key]
    misfits = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
    if absent or misfits:
        raise MethodError(
            f"weights {source} do not fit the backbone: {len(absent)} of its tensors are not there and "
            f"{len(misfits)} have another shape, {(absent + misfits)[0]} first"
        )
    backbone.load_state_dict({key: value for key, value in weights.items() if key in wanted}, strict=False)
