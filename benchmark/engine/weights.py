"""Copy, save and hash a network's weights, and find those that were loaded before training."""

import hashlib
from pathlib import Path

from torch import Tensor, nn

from ..method import LoadedWeights
from ..utils.files import write_atomic


def loaded_weights(network: nn.Module) -> tuple[str | None, list[str]]:
    """Find the weights that a method loaded into its network before training.

    Returns:
        The sources, joined by commas, or None if nothing was loaded; and the names of the parameters that were not
        loaded.
    """
    sources: list[str] = []
    loaded: set[str] = set()
    for name, module in network.named_modules():
        pretrained = getattr(module, "loaded_weights", None)
        if isinstance(pretrained, LoadedWeights):
            sources.append(pretrained.source)
            loaded |= {f"{name}.{tensor}".lstrip(".") for tensor in pretrained.tensors}
    return ", ".join(sources) or None, [name for name, _ in network.named_parameters() if name not in loaded]


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """Hash the names and bytes of tensors on the CPU, by name: equal for equal weights, however they were stored."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write weights as safetensors, atomically. Raises UserError if the file cannot be written."""
    from safetensors.torch import save

    write_atomic(path, save(weights))


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """Copy a network's weights to the CPU, where later training cannot change them."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()}
