"""What a network returns, measured on noise: maps in the order of the image and of the findings, log-odds."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..method import Method
from .device import Device
from .locality import (
    GRID,
    MIN_CORRELATION,
    MIN_FOLLOW,
    TINY,
    Motion,
    change_energy,
    motion,
    probe_images,
    shaken,
    untouched,
)

CLEAR_SPREAD = 0.4  # spread of the change's position that is not weak, in maps of GRID x GRID
MIN_FINDINGS = 3  # with fewer, order and sign may be right or wrong by chance
MIN_ORDER = 0.9  # correlation of log-odds and heat that is not by chance
MAX_ALIKE = 0.99  # correlation of the heat of two findings with maps of their own
MAX_DISORDER = 0.7  # correlation of a finding's log-odds with its own map below which it may be another's
BORDER = 16  # a border of 1/BORDER of the image's side tells whether the network sees all of it
WEIGHT_DRAWS = 8  # random weights under which log-odds must leave the interval of probabilities


def maps_problem(device: Device, method: Method, network: nn.Module, side: int) -> str | None:
    """Say how a method's own maps are mirrored, transposed, in disorder, or of another area than the image.

    Maps that move only weakly are no problem: an untrained network's may, and those normalized over the image.

    Args:
        device: where the network runs.
        method: method that converts maps to heatmaps.
        network: network on the device, in any mode.
        side: side of the images in pixels.

    Returns:
        One sentence; None if the maps follow the image or move weakly, or if the network returns none.
    """
    changes = []
    with untouched(device, network), torch.no_grad():
        for group in probe_images(side):
            maps = device.forward(network, group).maps
            if maps is None:
                return None
            changes.append(change_energy(method.heat(maps)))
    moved = _moved(changes)
    spread = moved.spread.square().mean().sqrt().item()
    # A patch covers several places of a finer map; in disorder, their mean moves less.
    clear = CLEAR_SPREAD * min(1, GRID / max(changes[0].shape[1:]))
    if spread < clear:
        return None
    if moved.correlation.min().item() >= MIN_CORRELATION:
        # A map need not be square: a square image may become any grid.
        return None if moved.is_centered(min(changes[0].shape[1:])) else _beside(moved)
    (down, across_down), (across_right, right) = moved.slope.T.tolist()
    return (
        "the maps are not in the order of the image: a change further down in the image is "
        f"{_direction(down, across_down, ('further down', 'further up', 'further to the side'))} in the maps, and one "
        f"further right {_direction(right, across_right, ('further right', 'further left', 'further up or down'))}: "
        "check how Output.maps (B, C, h, w) is reshaped or transposed, with row 0 at the top"
    )


def _beside(moved: Motion) -> str:
    """Describe how far maps lie beside the image that they should cover."""
    down, right = moved.offset.tolist()
    slope = moved.slope.diagonal().max().item()
    return (
        f"the maps do not cover the image: a change in its middle is {abs(down):.0%} of their height and "
        f"{abs(right):.0%} of their width off their middle, distances are {slope:.1f} times those in the image, and "
        f"the outermost places change {moved.margin:.0%} as much as others: "
        "check padding and cropping; Output.maps (B, C, h, w) must cover all of the image and nothing else"
    )


def _moved(changes: list[Tensor]) -> Motion:
    return motion(torch.stack(changes))


def _direction(along: float, across: float, words: tuple[str, str, str]) -> str:
    """Choose the words for a movement: along the axis, against it, or across; or say that it has no direction."""
    if max(abs(along), abs(across)) < MIN_FOLLOW:
        return "anywhere"
    return words[2] if abs(across) > abs(along) else words[along < 0]


def findings_problem(device: Device, method: Method, network: nn.Module, side: int) -> str | None:
    """Say that a method's own maps have the findings in another order than the log-odds, or the opposite sign.

    As parts of an image change, a finding's mean or maximum heat changes with its log-odds. Only a clear case is told:
    maps may be pooled in other ways, or be the same for all findings.

    Args:
        device: where the network runs.
        method: method that converts maps to heatmaps.
        network: network on the device, in any mode.
        side: side of the images in pixels.

    Returns:
        One sentence; None if order and sign are right or cannot be told, or if the network returns no maps.
    """
    logits: list[Tensor] = []
    means: list[Tensor] = []
    peaks: list[Tensor] = []
    with untouched(device, network), shaken(network, 0.1), torch.no_grad():  # a classifier may start at zero
        for group in probe_images(side):
            output = network(device.images(group))
            if output.maps is None:
                return None
            logits.append(output.logits[1:] - output.logits[:1])
            heat = method.heat(output.maps).float()
            for pooled, changes in ((heat.mean((2, 3)), means), (heat.amax((2, 3)), peaks)):
                changes.append(pooled[1:] - pooled[:1])
    problems = (_order_problem(torch.cat(logits), torch.cat(changes)) for changes in (means, peaks))
    return next(filter(None, problems), None)


def _order_problem(logits: Tensor, heat: Tensor) -> str | None:
    """Say which finding's log-odds (n, C) change with another map's heat (n, C), or against that of their own."""
    agreement = _correlation(logits, heat)
    own, alike = agreement.diagonal(), _correlation(heat, heat).abs().fill_diagonal_(0).amax(1)
    if len(own) < MIN_FINDINGS or own.min() > MAX_DISORDER:
        return None
    # A map that is that of other findings as well, as attention is, may change against the log-odds of some.
    against = (own < -MIN_ORDER) & (alike < MAX_ALIKE)
    if own.max() < -MIN_ORDER or against.any():
        return (
            f"the maps of finding {against.int().argmax()} (from 0) are low where its log-odds are high: check the "
            "sign of Output.maps and of heat()"
        )
    logit, map_of = linear_sum_assignment(agreement, maximize=True)
    if agreement[logit, map_of].min() < MIN_ORDER:
        return None
    moved = (map_of != logit).argmax()
    return (
        f"the maps are not in the order of the findings: the log-odds of finding {moved} (from 0) change with map "
        f"{map_of[moved]}: check channels of Output.maps (B, C, h, w) against those of logits"
    )


def _correlation(logits: Tensor, heat: Tensor) -> Tensor:
    """Return the correlation of each finding's log-odds (n, C) with each map's mean (n, C): (C, C), on the CPU."""
    scaled = [values.double().cpu() - values.double().cpu().mean(0) for values in (logits, heat)]
    first, second = (values / values.norm(dim=0).clamp(min=TINY) for values in scaled)
    agreement: Tensor = first.T @ second
    return agreement


def cuts_border(device: Device, network: nn.Module, side: int) -> bool:
    """Tell whether an image reaches the log-odds without its outermost part, because the network cuts that off.

    Args:
        device: where the network runs.
        network: network on the device, in any mode.
        side: side of the images in pixels.
    """
    images = probe_images(side)[:, 0]
    others, width = images.flip(0), max(1, side // BORDER)
    inner = slice(width, side - width)
    other_border = others.clone()
    other_border[:, inner, inner] = images[:, inner, inner]
    with untouched(device, network), shaken(network, 1.0), torch.no_grad():  # a classifier may start at zero
        first, border, all_of_it = (network(device.images(gray)).logits for gray in (images, other_border, others))
    return torch.equal(first, border) and not torch.equal(first, all_of_it)


def logits_problem(device: Device, network: nn.Module, side: int) -> str | None:
    """Say that a network returns probabilities where log-odds are expected.

    What is bounded is a property of the network, not of its weights: those are drawn at random, so that log-odds leave
    the interval from 0 to 1.

    Args:
        device: where the network runs.
        network: network on the device, in any mode.
        side: side of the images in pixels.

    Returns:
        One sentence; None if log-odds are not bounded like probabilities.
    """
    images = device.images(probe_images(side)[:, 0])
    draws = []
    with untouched(device, network), torch.no_grad():
        for seed in range(WEIGHT_DRAWS):
            with shaken(network, 3.0, seed):
                draws.append(network(images).logits.float())
    logits = torch.cat(draws)
    logits = logits[logits.isfinite().all(1)]
    if not len(logits) or logits.min() < 0 or logits.max() > 1 or logits.std(0).max() == 0:
        return None
    if logits.shape[1] > 1 and (logits.sum(1) - 1).abs().max() < 1e-3:
        return (
            "the logits are probabilities that add up to 1 over the findings: return log-odds, without a final softmax"
        )
    return "the logits always lie between 0 and 1, as probabilities do: return log-odds, without a final sigmoid"
