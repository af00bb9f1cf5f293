"""Backbones by name: networks of timm without their classifier, with attention blocks and initial weights."""

from typing import Annotated, Literal, cast

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from pydantic import Field
from timm.layers import AvgPool2dSame, SEModule
from timm.models.senet import SEModule as LegacySEModule
from torch import Tensor, nn

from ..benchmark.method import MethodError
from .torchvision_trunks import TRUNKS, imagenet_weights

GATE_BIAS = 4.0  # sigmoid(4) = 0.982: an open gate
GATES = (SEModule, LegacySEModule)  # squeeze-and-excitation, in ResNets and in the legacy SE networks
TIMEOUT = 5.0  # seconds until the host of pretrained weights must answer

OutputStride = Literal[8, 16, 32]
Width = Annotated[float, Field(gt=0, le=1)]
CHANNELS = (64, 128, 256, 512)  # of the four stages of a ResNet, before their expansion
STEM_CHANNELS = 32  # of the convolutions of a deep stem


class Backbone(nn.Module):
    """Type of the networks that `build_backbone` returns; timm's networks have no common base class.

    Attributes:
        num_features: D, channels of the features.
        weights_source: full name of the pretrained weights; missing if the weights are random.
    """

    num_features: int
    weights_source: str

    def forward_features(self, images: Tensor) -> Tensor:
        """Convert images (B, 3, H, W) to features (B, D, h, w)."""
        raise NotImplementedError


def build_backbone(
    name: str,
    weights: str,
    attention: bool = False,
    gates: Literal["open", "random"] = "open",
    output_stride: OutputStride = 32,
    width: Width = 1.0,
) -> Backbone:
    """Build a network without its classifier.

    Args:
        name: timm's name of the architecture, with the tag of its weights ("resnet101.tv_in1k"); or
            "torchvision/alexnet" or "torchvision/googlenet", which timm lacks.
        weights: "imagenet" (downloaded by timm) or "none".
        attention: whether every residual block has a squeeze-and-excitation block before the addition; they are
            inserted, unless the architecture has them ("legacy_seresnet101.in1k").
        gates: initialization of these blocks, see `open_gates`; pretrained weights of the blocks replace it.
        output_stride: pixels of the image per location of the features; below 32 the last stages keep their resolution
            and dilate their convolutions instead.
        width: channels of a ResNet's stages and of its stem if that is deep ("resnet18d"; others keep 64), as a
            fraction of the usual number.

    Raises:
        MethodError: an unknown name, weights that cannot be loaded or do not match, attention, a stride or a width that
            the network does not support.
    """
    if weights == "imagenet" and width != 1:
        raise MethodError(f"width={width:g} has no ImageNet weights: use width=1, or --set model.weights=none")
    pretrained = _imagenet(name) if weights == "imagenet" else None  # first, to report missing weights at once
    backbone = _create(name, attention, output_stride, width)
    if attention and gates == "open":
        open_gates(backbone)
    if pretrained is not None:  # after the gates, which pretrained ones replace
        if gates == "random" and any(key in pretrained[0] for key in _gate_tensors(backbone)):
            raise MethodError(f"gates=random has no effect: {pretrained[1]} has pretrained gates; leave it out")
        _load(backbone, *pretrained)
    return backbone


def open_gates(network: nn.Module) -> None:
    """Initialize every squeeze-and-excitation block to pass nearly everything (0.982).

    Random gates multiply each residual branch by about 0.5, which destroys pretrained features.
    """
    for module in network.modules():
        if isinstance(module, GATES):
            nn.init.zeros_(module.fc2.weight)
            nn.init.constant_(module.fc2.bias, GATE_BIAS)


def gate_spread(network: nn.Module, images: Tensor) -> float:
    """Measure how much the gates of squeeze-and-excitation blocks depend on the image.

    Args:
        network: network with such blocks, in evaluation mode.
        images: images (B, 3, H, W), B > 1.

    Returns:
        The standard deviation of a gate over the images, averaged over channels and blocks; 0 for constant gates.
    """
    spreads: list[Tensor] = []
    sigmoids = [
        getattr(block, "gate", None) or block.sigmoid for block in network.modules() if isinstance(block, GATES)
    ]
    hooks = [
        sigmoid.register_forward_hook(lambda *call: spreads.append(call[2].float().std(dim=0).mean()))
        for sigmoid in sigmoids
    ]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return float(torch.stack(spreads).mean())


def _gate_tensors(network: nn.Module) -> set[str]:
    """Return the names of the tensors of a network's squeeze-and-excitation blocks."""
    blocks = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, GATES))
    return {key for key in network.state_dict() if key.startswith(blocks)}


def _create(name: str, attention: bool, output_stride: int, width: float) -> Backbone:
    """Create the network with random weights. Raises MethodError if it does not support the arguments."""
    shape: dict[str, object] = {"output_stride": output_stride} if output_stride != 32 else {}
    if width != 1:
        shape["channels"] = tuple(max(1, round(width * channels)) for channels in CHANNELS)
        shape["stem_width"] = max(1, round(width * STEM_CHANNELS))
    if name in TRUNKS:
        backbone = None if shape else TRUNKS[name]()
    else:
        backbone = _try(name, **shape, **({"block_args": {"attn_layer": "se"}} if attention else {}))
    if backbone is None and attention and name not in TRUNKS:
        backbone = _try(name, **shape)  # a network without the argument block_args may have its gates built in
    if backbone is None and not shape:
        raise MethodError(f"backbone {name!r} cannot be built without a classifier: choose a different one of timm")
    if backbone is None:
        raise MethodError(
            f"backbone {name!r} does not support {_shape_options(output_stride, width)} (set by the recipe or by you): "
            "add --option output_stride=32 --option width=1, or choose a ResNet of timm"
        )
    if attention and not any(isinstance(module, GATES) for module in backbone.modules()):
        raise MethodError(f"backbone {name!r} does not support squeeze-and-excitation blocks: choose a ResNet of timm")
    if hasattr(backbone, "pre_logits"):  # VGG's fully connected layers, which features do not pass
        backbone.pre_logits = nn.Identity()
    _center_maps(backbone)
    return cast("Backbone", backbone)


def _center_maps(network: nn.Module) -> None:
    """Remove the pooling from shortcuts that do not stride, of dilated ResNets such as "resnet18d".

    It averages each place with the next ones, which moves the maps by a third to three quarters of a place to the left
    and up, and heatmaps off the findings that they show.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, AvgPool2dSame) and (child.kernel_size, child.stride) == ((2, 2), (1, 1)):
                setattr(module, name, nn.Identity())


def _shape_options(output_stride: int, width: float) -> str:
    """Name the options of a network's shape that differ from the usual ones."""
    stride = [f"output_stride={output_stride}"] if output_stride != 32 else []
    return " and ".join(stride + ([f"width={width:g}"] if width != 1 else []))


def _try(name: str, **extra: object) -> nn.Module | None:
    """Create a network of timm; None if its constructor does not accept these arguments."""
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **extra)
        return network
    except (TypeError, AssertionError, NotImplementedError):
        return None
    except Exception as error:  # an unknown name or tag, and of libraries that look names up on a host (hf_hub:...)
        raise MethodError(f"backbone {name!r} cannot be built ({_first_line(error)}): choose a name of timm") from error


def _imagenet(name: str) -> tuple[dict[str, Tensor], str]:
    """Download pretrained weights once; returns them and the full name that pins them.

    Raises:
        MethodError: the weights do not exist or cannot be downloaded.
    """
    try:
        return imagenet_weights(name) if name in TRUNKS else _timm_weights(name)
    except MethodError:
        raise
    except Exception as error:  # of several libraries that download
        raise MethodError(
            f"the ImageNet weights of {name} cannot be loaded ({_first_line(error)}): "
            "without network, copy the cache of Hugging Face here (HF_HOME) or pass a copy of them with "
            "--set model.weights=FILE.safetensors; --set model.weights=none is a different experiment"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(" .:") or type(error).__name__


def _timm_weights(name: str) -> tuple[dict[str, Tensor], str]:
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # an unknown tag
        config = None
    if config is None or not (config.hf_hub_id or config.has_weights):
        raise MethodError(
            f"timm has no ImageNet weights of {name!r}: choose a different backbone, or model.weights=none"
        )
    if config.hf_hub_id:
        _check_host(config.hf_hub_id)
    return timm.create_model(name, pretrained=True).state_dict(), f"timm/{config.architecture}.{config.tag}"


def _check_host(repository: str) -> None:
    """Query weights that are not in the cache once: timm's download would retry for most of a minute."""
    names = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(repository, name), str) for name in names):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, names[0]), timeout=TIMEOUT)
    except EntryNotFoundError:
        return  # the weights have an older format, but the host answered


def _load(backbone: Backbone, weights: dict[str, Tensor], source: str) -> None:
    """Load pretrained weights into a backbone: only attention blocks may be missing, a classifier may be left over.

    Raises:
        MethodError: other tensors are missing.
    """
    expected = backbone.state_dict()
    # Older weights lack BatchNorm's count of batches, which nothing here uses.
    optional = _gate_tensors(backbone)
    missing = [key for key in expected if key not in weights and key not in optional]
    if missing := [key for key in missing if not key.endswith("num_batches_tracked")]:
        raise MethodError(f"weights {source} lack {len(missing)} tensors of the backbone; {missing[0]} first")
    backbone.load_state_dict({key: value for key, value in weights.items() if key in expected}, strict=False)
    backbone.weights_source = source
