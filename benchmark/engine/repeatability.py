"""Whether log-odds and heatmaps follow from the image and the saved weights alone, tried on noise.

Otherwise a record's scores cannot be had again: not by `chxbench predict`, not by a run that resumes, and not with
another batch size.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal, TypeAlias, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from ..method import ContractError, Method
from ..utils.errors import first_few
from ..utils.options import field_names
from ..utils.text import count
from .blame import blame
from .device import Device
from .locality import shaken
from .step import Learner
from .weights import copy_weights

Outputs: TypeAlias = dict[str, Tensor]
IMAGES = 4  # scored again and again
SHAKE = 0.1  # noise on the weights, of what keeps the size of features: a classifier may start at zero
MAX_CHANGE = 0.1  # of an output's spread over the images
ROUNDING = 1e-3  # of its largest value: TensorFloat-32 keeps 10 bits, and kernels depend on the size of the batch


def repeat_problem(
    device: Device, method: Method, learner: Learner, build: Callable[[Method], nn.Module], images: Tensor
) -> str | None:
    """Say what else the outputs in evaluation mode depend on.

    Args:
        device: where the network runs.
        method: method that converts maps to heatmaps.
        learner: network that has taken steps of training.
        build: builds a new network of a method.
        images: different gray images, uint8 (B, side, side), more than IMAGES.

    Returns:
        One sentence; None if the same images get the same log-odds and heatmaps again, in other batches, after train()
        and eval(), and in a new network with the saved weights; and the same log-odds whatever the display options.
    """
    with shaken(learner.network, SHAKE):
        return _repeat_problem(device, method, learner, build, images)


def _repeat_problem(
    device: Device, method: Method, learner: Learner, build: Callable[[Method], nn.Module], images: Tensor
) -> str | None:
    network = learner.network
    first = _outputs(device, method, network, images[:IMAGES])
    if what := _differing(first, _outputs(device, method, network, images[:IMAGES])):
        return (
            f"in evaluation mode the {what} of the same images change from call to call: neither chance (dropout) nor "
            "a state that a call changes may enter them"
        )
    for number in (len(images), 1):
        if what := _differing(first, _outputs(device, method, network, images[:number])):
            return (
                f"in evaluation mode the {what} of an image depend on the other images of its batch: normalize by "
                "stored statistics, not by those of the batch"
            )
    weights = copy_weights(network)  # in evaluation mode, as after each epoch
    learner.train()
    if what := _differing(first, _outputs(device, method, network, images[:IMAGES])):
        return f"train() and eval() change the {what} of the same images: they must not change weights"
    new = build(method)
    new.load_state_dict(weights)
    if what := _differing(first, _outputs(device, method, device.place(new), images[:IMAGES])):
        return (
            f"a new network with the saved weights gives other {what}: what they depend on must be in state_dict() "
            "(nn.Parameter or register_buffer) or follow from the options"
        )
    del new
    for option, variant in _display_variants(method):
        new = build(variant)
        new.load_state_dict(weights)
        if _differing({"log-odds": first["log-odds"]}, _outputs(device, variant, device.place(new), images[:IMAGES])):
            return f"option {option} changes the log-odds, so display_options must not list it"
    return None


def _display_variants(method: Method) -> Iterator[tuple[str, Method]]:
    """Yield the method with each other choice of its display options, as far as they are choices.

    Raises:
        ContractError: a name is not that of an option.
    """
    hints = get_type_hints(type(method))
    for name in method.display_options:
        if name not in field_names(type(method), ""):
            raise ContractError(f"display_options has {name!r}, which is not an option")
        choices = get_args(hints[name]) if get_origin(hints[name]) is Literal else ()
        for choice in choices:
            if choice != getattr(method, name):
                yield f"{name}={choice}", replace(method, **{name: choice})


def parameters_problem(learner: Learner) -> str | None:
    """Say which parameters of the network its optimizer does not have, although they are to be trained."""
    learner.network.eval()
    learner.train()
    known = {id(weight) for group in learner.optimizer.param_groups for weight in group["params"]}
    named = learner.network.named_parameters()
    missed = [name for name, weight in named if weight.requires_grad and id(weight) not in known]
    if not missed:
        return None
    return (
        f"the optimizer does not have {first_few(missed)}: create parameters in the network's __init__, and do not "
        "replace them in forward(), train() or eval()"
    )


def _outputs(device: Device, method: Method, network: nn.Module, images: Tensor) -> Outputs:
    """Compute log-odds and heatmaps in evaluation mode and in float32, whatever precision the run has."""
    network.eval()
    with torch.inference_mode():
        logits, maps = network(device.images(images))
        with blame(method, f"compute the heatmaps of {count(len(images), 'image')}"):
            heat = {} if maps is None else {"heatmaps": method.heat(maps).float()}
    return {"log-odds": logits.float(), **heat}


def _differing(first: Outputs, other: Outputs) -> str | None:
    """Return the name of an output that differs by more than rounding on the images that both have; None if none."""
    for name, expected in first.items():
        limit = MAX_CHANGE * expected.std(0).max() + ROUNDING * expected.abs().max()
        number = min(len(expected), len(other["log-odds"]))
        if name not in other or bool((other[name][:number] - expected[:number]).abs().max() > limit):
            return name
    return None
