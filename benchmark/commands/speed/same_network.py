"""Find methods whose networks are the same, so that they are measured once.

Two networks are the same if their modules are of the same classes with the same settings, their tensors have the same
names and shapes, the same functions compute their loss, and one step of training and one forward pass call the same
operators of torch with the same shapes and settings, in the same order. The last condition covers what the modules do
not show, such as a function that pools. When in doubt, two networks count as different and are measured separately.
"""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from .measure import MeasuredMethod, build_learner, random_batch, step

IMAGES = 2  # of the batch whose operators are listed
PLAIN = (bool, int, float, str, type(None))  # types of the settings of a module that are compared
SETTINGS = (*PLAIN, torch.dtype, torch.device, torch.layout, torch.memory_format)  # and of an operator


class _Operators(TorchDispatchMode):
    """Lists the operators that are called, with the shapes and the settings of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        described = tree_map(_describe, (args, kwargs or {}))
        self.calls.append(f"{operator} {described}")
        return operator(*args, **(kwargs or {}))


def _describe(value: object) -> object:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.device.type}"
    return value if isinstance(value, SETTINGS) else type(value).__name__  # others would show an address in memory


def network_signature(subject: MeasuredMethod) -> Hashable:
    """Return a value that is equal, in this process, for methods whose networks and losses are the same."""
    learner, batch = build_learner(subject), random_batch(subject, IMAGES)
    network = learner.network
    with _Operators() as operators:
        step(subject, learner, batch)
        with torch.no_grad():
            subject.device.forward(network.eval(), batch.images)
    tensors = [(name, tensor.dtype, tensor.shape) for name, tensor in network.state_dict().items()]
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    modules = [(type(module), _settings(module)) for module in network.modules()]
    kind = type(subject.method)
    return (*map(tuple, (tensors, trained, modules, operators.calls)), repr(network), kind.loss, kind.label_weights)


def _settings(module: torch.nn.Module) -> tuple[tuple[str, object], ...]:
    """Return the attributes of a module that are numbers, texts or truth values."""
    return tuple((name, value) for name, value in sorted(vars(module).items()) if isinstance(value, PLAIN))
