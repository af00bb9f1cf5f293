"""Backbones by name: networks of timm's without their classifier, with attention blocks and initial weights."""

from pathlib import Path
from typing import Literal

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file
from timm.layers import SEModule
from timm.models.senet import SEModule as LegacySEModule
from torch import Tensor, nn

from ..benchmark.method import LoadedWeights, MethodError
from .torchvision_trunks import TRUNKS, imagenet_weights

GATE_BIAS = 4.0  # sigmoid(4) = 0.982: an open gate
GATES = (SEModule, LegacySEModule)  # squeeze and excitation, in ResNets and in the legacy SE networks
PATIENCE = 5.0  # seconds for the first answer of the host of pretrained weights

OutputStride = Literal[8, 16, 32]


def build_backbone(
    name: str,
    weights: str,
    attention: bool = False,
    gates: Literal["open", "random"] = "open",
    output_stride: OutputStride = 32,
) -> nn.Module:
    """A network without its classifier; `forward_features` gives (B, `num_features`, h, w).

    Args:
        name: timm's name of the architecture, with the tag of its weights ("resnet101.tv_in1k"); or
            "torchvision/alexnet" or "torchvision/googlenet", which timm lacks.
        weights: "imagenet" (downloaded by timm), "none", or the path of a .safetensors file.
        attention: a squeeze-and-excitation block in every residual block, before the addition: put there, unless the
            architecture has them by itself ("legacy_seresnet101.in1k").
        gates: how these blocks begin, see `open_gates`; weights that hold them win.
        output_stride: pixels of the image per place of the features; below 32 the last stages keep their resolution
            and dilate their convolutions instead.

    Raises:
        MethodError: unknown name, weights that cannot be had or do not fit, attention or a stride that the network
            does not take.
    """
    pretrained = _imagenet(name) if weights == "imagenet" else None  # first: what cannot be had is told at once
    backbone = _create(name, attention, output_stride)
    if attention and gates == "open":
        open_gates(backbone)
    if weights != "none":  # after the gates: a file that holds trained ones keeps them
        _load(backbone, *(pretrained or _from_file(weights)))
    return backbone


def open_gates(network: nn.Module) -> None:
    """Let every squeeze-and-excitation block pass nearly everything (0.982) at first.

    Random gates multiply each residual branch by about 0.5, which destroys what a pretrained network knows.
    """
    for module in network.modules():
        if isinstance(module, GATES):
            nn.init.zeros_(module.fc2.weight)
            nn.init.constant_(module.fc2.bias, GATE_BIAS)


def _create(name: str, attention: bool, output_stride: int) -> nn.Module:
    stride = {"output_stride": output_stride} if output_stride != 32 else {}
    if name in TRUNKS:
        backbone = None if stride else TRUNKS[name]()
    else:
        backbone = _try(name, **stride, **({"block_args": {"attn_layer": "se"}} if attention else {}))
    if backbone is None and attention and name not in TRUNKS:
        backbone = _try(name, **stride)  # a network that takes no block_args may have its gates built in
    if backbone is None and not stride:
        raise MethodError(f"backbone {name!r} cannot be built without a classifier: choose another of timm's")
    if backbone is None:
        raise MethodError(
            f"backbone {name!r} takes no output_stride={output_stride} (recipe quick asks for 16): "
            "add --option output_stride=32, or choose a ResNet of timm's"
        )
    if attention and not any(isinstance(module, GATES) for module in backbone.modules()):
        raise MethodError(f"backbone {name!r} takes no squeeze-and-excitation blocks: choose a ResNet of timm's")
    if hasattr(backbone, "pre_logits"):  # VGG's fully connected layers, which features do not pass
        backbone.pre_logits = nn.Identity()
    return backbone


def _try(name: str, **extra: object) -> nn.Module | None:
    """The network, or None if its constructor does not take these arguments."""
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **extra)
    except RuntimeError as error:
        raise MethodError(f"backbone {name!r} cannot be built: {error}") from error
    except (TypeError, AssertionError, NotImplementedError):
        return None


def _imagenet(name: str) -> tuple[dict[str, Tensor], str]:
    """The pretrained weights of a timm name and the full name they are pinned by."""
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if name not in TRUNKS and (config is None or not (config.hf_hub_id or config.has_weights)):
        raise MethodError(f"timm has no ImageNet weights of {name!r}: name another backbone, or model.weights=none")
    try:
        if name in TRUNKS:
            return imagenet_weights(name)
        if config.hf_hub_id:
            _answers(config.hf_hub_id)
        return timm.create_model(name, pretrained=True).state_dict(), f"timm/{config.architecture}.{config.tag}"
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MethodError(
            f"the ImageNet weights of {name} cannot be had ({cause}): "
            "without network, copy the cache of Hugging Face here (HF_HOME) or give a copy of them with "
            "--set model.weights=FILE.safetensors; --set model.weights=none is another experiment"
        ) from error


def _answers(repository: str) -> None:
    """Ask once for weights that are not in the cache: timm's own download would try for most of a minute."""
    names = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(try_to_load_from_cache(repository, name), str) for name in names):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, names[0]), timeout=PATIENCE)
    except EntryNotFoundError:
        return  # an older format: the host did answer


def _from_file(path: str) -> tuple[dict[str, Tensor], str]:
    if not path.endswith(".safetensors"):
        raise MethodError(f"model.weights = {path!r} is neither imagenet, none nor a .safetensors file")
    try:
        return load_file(Path(path)), Path(path).name
    except Exception as error:
        raise MethodError(f"weights {path} cannot be read: {error}") from error


def _load(backbone: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Copy the weights in; only attention blocks may stay as they are, only a classifier may be left over."""
    stages = {name for name, module in backbone.named_children() if not isinstance(module, nn.Identity)}
    wanted = backbone.state_dict()
    spared = tuple(f"{name}." for name, module in backbone.named_modules() if isinstance(module, GATES))
    absent = [key for key in wanted if key not in weights and not key.startswith(spared) and not _counts(key)]
    misfits = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
    left_over = [key for key in weights if key not in wanted and key.split(".")[0] in stages and not _counts(key)]
    if absent or misfits or left_over:
        raise MethodError(
            f"weights {source} do not fit the backbone: {len(absent)} of its tensors are not there, {len(misfits)} "
            f"have another shape, {len(left_over)} have no place in it; {(absent + misfits + left_over)[0]} first"
        )
    there = {key: value for key, value in weights.items() if key in wanted}
    backbone.load_state_dict(there, strict=False)
    backbone.loaded_weights = LoadedWeights(source, tuple(there))


def _counts(key: str) -> bool:
    """BatchNorm's count of batches: older files lack it, and nothing here uses it."""
    return key.endswith("num_batches_tracked")
