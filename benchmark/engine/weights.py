"""Weights of a network: copy, save, hash, and what was loaded before training."""

import hashlib
from pathlib import Path

from torch import Tensor, nn

from ..method import LoadedWeights
from ..utils.files import write_atomic


def loaded_weights(network: nn.Module) -> tuple[str | None, list[str]]:
    """What was loaded into the network, and the names of its tensors that were not."""
    sources, loaded = [], set()
    for name, module in network.named_modules():
        found = getattr(module, "loaded_weights", None)
        if isinstance(found, LoadedWeights):
            sources.append(found.source)
            loaded |= {f"{name}.{tensor}".lstrip(".") for tensor in found.tensors}
    return ", ".join(sources) or None, [name for name, _ in network.named_parameters() if name not in loaded]


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """SHA-256 over the names and bytes of the tensors, by name: equal for equal weights, however they were stored."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write a network's weights as safetensors, whole or not at all. Raises UserError: no room."""
    from safetensors.torch import save

    write_atomic(path, save(weights))


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """The network's weights as tensors on the CPU that later training cannot change."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()}
