"""Copy, save, read and hash a network's weights."""

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..method import MethodError
from ..utils.errors import did_you_mean, first_few
from ..utils.files import regular, write_atomic

NAMED = ("imagenet", "none")  # initial weights that are not a file
SAFETENSORS = ".safetensors"
PICKLES = (".pt", ".pth", ".pth.tar", ".bin", ".ckpt")  # torch's format, of which only tensors are read


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


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of any name, also one that is not UTF-8, which `load_file` refuses.

    Raises:
        SafetensorError: the content is not that of such a file.
        OSError: the file cannot be read.
    """
    from safetensors.torch import load

    return load(regular(path).read_bytes())


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """Copy a network's weights to the CPU, where later training cannot change them."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()}


def check_weights_setting(weights: str) -> None:
    """Check the recipe's `model.weights` without reading a file.

    Raises:
        MethodError: it is neither the name of initial weights nor a file of a known format that exists.
    """
    if weights in NAMED:
        return
    path = Path(weights)
    if not weights.endswith((SAFETENSORS, *PICKLES)):
        hint = (
            f"end the file's name in {SAFETENSORS} or {PICKLES[0]}" if path.is_file() else did_you_mean(weights, NAMED)
        )
        raise MethodError(f"model.weights = {weights!r} is neither imagenet, none nor a {SAFETENSORS} file: {hint}")
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise MethodError(f"weights {weights} {problem}: pass a file with --set model.weights=FILE{SAFETENSORS}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file: safetensors, or torch's format, in which they may be nested (`state_dict`).

    Raises:
        MethodError: the file cannot be read, or contains no set of tensors, or several.
    """
    check_weights_setting(str(path))
    sets = dict(_tensor_sets(_read(path)))
    if not sets:
        raise MethodError(f"weights {path} contain no tensors: save network.state_dict()")
    if len(sets) > 1:
        raise MethodError(
            f"weights {path} contain several sets of tensors ({first_few(list(sets))}): save the one to load"
        )
    return next(iter(sets.values()))


def _read(path: Path) -> Any:
    from safetensors import SafetensorError

    try:
        if path.name.endswith(SAFETENSORS):
            return load_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)  # nothing that could run code
    except pickle.UnpicklingError as error:
        raise MethodError(
            f"weights {path} are damaged or contain Python objects, which could run code: save network.state_dict()"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MethodError(f"weights {path} cannot be read ({cause}): copy or download the file again") from error


def _tensor_sets(content: Any, name: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the sets of named tensors in what a file contains, with the keys under which they are nested."""
    if not isinstance(content, Mapping):
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if any(tensor.ndim for tensor in tensors.values()):  # not the scalars of a training loop
        yield name, tensors
        return
    for key, value in content.items():
        if isinstance(key, str):  # an optimizer numbers its states
            yield from _tensor_sets(value, f"{name}.{key}".lstrip("."))
