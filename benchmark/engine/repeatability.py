"""Whether log-odds follow from the image and the saved weights alone, tried on noise.

Otherwise a record's scores cannot be had again: not by `chxbench predict`, not by a run that resumes, and not with
another batch size.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..utils.errors import first_few
from .device import Device
from .locality import shaken_weights
from .step import Learner
from .weights import copy_weights

IMAGES = 4  # scored again and again
SHAKE = 0.1  # noise on the weights, of what keeps the size of features: a classifier may start at zero
MAX_CHANGE = 0.1  # of the log-odds' spread over the images
ROUNDING = 1e-3  # of the largest log-odds: TensorFloat-32 keeps 10 bits, and kernels depend on the size of the batch


def repeat_problem(device: Device, learner: Learner, build: Callable[[], nn.Module], images: Tensor) -> str | None:
    """Say what else the log-odds in evaluation mode depend on; the network's weights are changed.

    Args:
        device: where the network runs.
        learner: network that has taken steps of training.
        build: builds a new network of the method.
        images: different gray images, uint8 (B, side, side), more than IMAGES.

    Returns:
        One sentence; None if the same images get the same log-odds again, in another batch, after train() and eval(),
        and in a new network with the saved weights.
    """
    network = learner.network
    network.load_state_dict({**network.state_dict(), **shaken_weights(network, SHAKE)})
    first = _scores(device, network, images[:IMAGES])
    limit = MAX_CHANGE * first.std(0).max() + ROUNDING * first.abs().max()

    def differ(scores: Tensor) -> bool:
        return bool((scores - first).abs().max() > limit)

    if differ(_scores(device, network, images[:IMAGES])):
        return (
            "in evaluation mode the log-odds of the same images change from call to call: neither chance (dropout) nor "
            "a state that a call changes may enter them"
        )
    if differ(_scores(device, network, images)[:IMAGES]):
        return (
            "in evaluation mode the log-odds of an image depend on the other images of its batch: normalize by stored "
            "statistics, not by those of the batch"
        )
    weights = copy_weights(network)  # in evaluation mode, as after each epoch
    learner.train()
    if differ(_scores(device, network, images[:IMAGES])):
        return "train() and eval() change the log-odds of the same images: they must not change weights"
    new = build()
    new.load_state_dict(weights)
    if differ(_scores(device, device.place(new), images[:IMAGES])):
        return (
            "a new network with the saved weights gives other log-odds: what they depend on must be in state_dict() "
            "(nn.Parameter or register_buffer) or follow from the options"
        )
    return None


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


def _scores(device: Device, network: nn.Module, images: Tensor) -> Tensor:
    """Compute log-odds (B, C) in evaluation mode and in float32, whatever precision the run has."""
    network.eval()
    with torch.inference_mode():
        scores: Tensor = network(device.images(images)).logits.float()
    return scores
