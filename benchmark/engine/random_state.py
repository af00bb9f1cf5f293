"""The random generators that a method may draw from: torch's, NumPy's global one and Python's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .device import Device


def seed_random(seed: int) -> None:
    """Seed all generators; `seed` has up to 63 bits, of which NumPy takes 32."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  what methods use
    random.seed(seed)


def random_state(device: Device | None) -> dict[str, Any]:
    """Return the state of the generators, and of that of the GPU if one is in use, as tensors, numbers and lists."""
    name, keys, *position = np.random.get_state()  # noqa: NPY002
    version, words, gauss = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *position],
        "python": [version, torch.tensor(words), gauss],
    }
    if device is not None and device.on_gpu:
        states["cuda"] = torch.cuda.get_rng_state(device.torch_device)
    return states


def set_random_state(device: Device | None, states: dict[str, Any]) -> None:
    """Set the generators to what `random_state` returned; a GPU that was not in use then keeps its state."""
    torch.set_rng_state(states["torch"])
    name, keys, *position = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *position))  # noqa: NPY002
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    if device is not None and device.on_gpu and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device.torch_device)


@contextmanager
def keep_random_state(device: Device | None) -> Iterator[None]:
    """Restore the generators after the block; that of a GPU only if the device is given."""
    states = random_state(device)
    try:
        yield
    finally:
        set_random_state(device, states)
