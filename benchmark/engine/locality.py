"""Which outputs of a network are maps of the image, measured on noise.

Shapes do not tell what a map is: (B, 17, 64) or (B, 3, 17, 64) may be tokens, attention heads or channels, and a square
tensor may be an attention matrix, transposed, or in any order. So parts of an image are changed, one at a time. In a
map of the image, the change is where the part is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isqrt
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .device import Device
from .random_state import keep_random_state

GRID = 4  # an image is divided into GRID x GRID patches
NOISE_IMAGES = 3  # images in which each patch is changed
MIN_FOLLOW = 0.1  # distance that the change moves in a map, of the distance between the patches
MIN_CORRELATION = 0.7  # of the positions of patch and change; at 0.71 half of the variance is along the right axis
MAX_SLOPE = 1.25  # distance that the change moves in a map of the complete image; maps coarser than GRID round it
MAX_OFFSET = 0.95  # of a map's place, by which the change may be beside the patch; strides shift maps by about 0.5
ALWAYS_NEAR = 0.03  # of the image's side, which is near in a fine map, too
MIN_MARGIN = 0.2  # change in the outermost places of a map of the image, of the change in all places
TINY = 1e-30  # instead of a division by 0


class Reading(NamedTuple):
    """A reading of a tensor's axes as a square map.

    Attributes:
        order: order of the tensor's axes that gives (B, D, tokens) or (B, D, h, w).
        start: number of tokens before the first place.
        side: h = w.
    """

    order: tuple[int, ...]
    start: int
    side: int

    def places(self, features: Tensor) -> Tensor:
        """Return the map (B, D, side, side) in the features."""
        tokens: Tensor = features.permute(self.order).flatten(2)
        places: Tensor = tokens[:, :, self.start : self.start + self.side**2].unflatten(2, (self.side, self.side))
        return places


class Motion(NamedTuple):
    """How the change in a map moves with the changed patch of the image.

    Attributes:
        slope: (2, 2), distance moved along y and x (rows) per distance of the patch along y and x (columns); the
            identity for a perfect map.
        offset: (2,), y and x of the change for a patch in the middle of the image, as fractions of the map's sides.
        margin: change in the row or column of places that changes most of the four at the map's sides, relative to that
            of the mean row or column.
        spread: (2,), standard deviation of the change's y and x that all noise images share, divided by the patch's.
    """

    slope: Tensor
    offset: Tensor
    margin: float
    spread: Tensor

    @property
    def follow(self) -> float:
        """Smaller slope of the two axes, each along itself."""
        return self.slope.diagonal().min().item()

    @property
    def correlation(self) -> Tensor:
        """(2,), correlation of the positions of patch and change, along y and x; 0 if the change does not move."""
        return self.slope.diagonal() / self.spread.clamp(min=1e-6)

    @property
    def is_local(self) -> bool:
        """Whether the change clearly follows the patch along both axes."""
        return self.follow >= MIN_FOLLOW and self.correlation.min().item() >= MIN_CORRELATION

    def is_centered(self, places: int) -> bool:
        """Whether a map of places x places may show the complete image and nothing else.

        A map of a part of it moves too far, and one with an empty margin on one side is beside the patch. A map with a
        margin on all sides does not change there.
        """
        if places >= GRID and (self.slope.diagonal().max().item() > MAX_SLOPE or self.margin < MIN_MARGIN):
            return False
        return self.offset.abs().max().item() <= max(MAX_OFFSET / places, ALWAYS_NEAR)


@contextmanager
def untouched(device: Device, network: nn.Module) -> Iterator[None]:
    """Run the block in evaluation mode; modes, buffers and random state are restored afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with keep_random_state(device):
        network.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for name, buffer in buffers.items():
                    network.get_buffer(name).copy_(buffer)


@contextmanager
def each_output(network: nn.Module, visit: Callable[[str, int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `visit` in the block with the name of each module, the number of its call, and the tensor it returned.

    What `visit` returns, unless it is None, replaces the tensor.
    """
    calls: dict[str, int] = {}

    def hook_of(name: str) -> Callable[[nn.Module, object, object], Tensor | None]:
        def hook(module: nn.Module, inputs: object, output: object) -> Tensor | None:
            call = calls[name] = calls.get(name, -1) + 1
            # Tensors of inference mode never get a gradient.
            usable = isinstance(output, Tensor) and output.is_floating_point() and not output.is_inference()
            return visit(name, call, output) if usable and isinstance(output, Tensor) else None

        return hook

    hooks = [module.register_forward_hook(hook_of(name)) for name, module in network.named_modules() if name]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def probe_images(side: int) -> Tensor:
    """Return noise images, each followed by its copies with one changed patch.

    The noise has several scales, because deep layers average fine noise.

    Returns:
        uint8 (NOISE_IMAGES, 1 + GRID**2, side, side).
    """
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        octaves = [torch.rand(NOISE_IMAGES, 1, size, size, generator=generator) for size in (GRID, 2 * GRID, side)]
        return torch.stack([F.interpolate(octave, (side, side)) for octave in octaves]).mean(0)

    images, other = noise().repeat(1, 1 + GRID**2, 1, 1), noise()
    edges = [round(k * side / GRID) for k in range(GRID + 1)]
    for patch in range(GRID**2):
        rows, columns = (slice(edges[k], edges[k + 1]) for k in divmod(patch, GRID))
        images[:, 1 + patch, rows, columns] = other[:, 0, rows, columns]
    return (255 * images).byte()


def change_energy(features: Tensor) -> Tensor:
    """Return where changed images differ from the first one.

    Args:
        features: (1 + GRID**2, D, ...) of one group of `probe_images`.

    Returns:
        Squared differences, summed over the D channels, with sum 1 (0 if nothing changes): (GRID**2, ...), on the CPU.
    """
    energy = (features[1:].float() - features[:1].float()).square().sum(1)
    return (energy / energy.sum().clamp(min=TINY)).cpu()


def motion(energy: Tensor) -> Motion:
    """Measure how the centroid of the change moves with the patch; patches count as much as they change.

    Args:
        energy: (N, GRID**2, h, w), `change_energy` of N noise images.
    """
    energy = energy.double()
    count, total = len(energy), energy.sum((2, 3))
    weight = total.sum(0) / total.sum().clamp(min=TINY)
    along_y, along_x = energy.sum(3) @ _centers(energy.shape[2]), energy.sum(2) @ _centers(energy.shape[3])
    change = torch.stack([along_y, along_x], dim=1) / total.clamp(min=TINY)[:, None]
    patch = torch.stack([_centers(GRID).repeat_interleave(GRID), _centers(GRID).repeat(GRID)])
    middle, patch_middle = change.mean(0) @ weight, patch @ weight
    change, patch = (position - (position @ weight)[..., None] for position in (change, patch))
    variance = (patch.square() @ weight).clamp(min=TINY)
    slope = (change.mean(0) * weight) @ patch.T / variance
    # What differs between noise images is no movement: their covariance instead of their variance.
    pairs = (change.sum(0).square() - change.square().sum(0)) / (count * (count - 1))
    shared = torch.maximum(pairs @ weight / variance, slope.square().sum(1))
    return Motion(slope, middle - slope @ patch_middle, _margin(energy), shared.sqrt())


def _margin(energy: Tensor) -> float:
    """Return the largest change at the four sides of a map, energy (N, GRID**2, h, w), relative to a mean line's."""
    lines = energy.sum((0, 1, 3)), energy.sum((0, 1, 2))
    sides = [line[end] / line.mean().clamp(min=TINY) for line in lines for end in (0, -1)]
    return float(torch.stack(sides).max())


def _centers(count: int) -> Tensor:
    """Return the centers of the equal parts of a line from -0.5 to 0.5."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5


Changes: TypeAlias = dict[tuple[int, ...], Tensor]  # by order of the axes, change_energy (N, GRID**2, tokens or h, w)


def output_changes(device: Device, network: nn.Module, side: int) -> dict[tuple[str, int], Changes]:
    """Measure where the outputs of modules change with the parts of an image.

    Args:
        device: where the network runs.
        network: network on the device, in any mode.
        side: side of the images in pixels.

    Returns:
        The changes by the module's name and the number of its call, in the order of the calls.
    """
    changes: dict[tuple[str, int], dict[tuple[int, ...], list[Tensor]]] = {}

    def visit(name: str, call: int, output: Tensor) -> None:
        for order in _orders(output.shape, 1 + GRID**2):
            energy = change_energy(output.permute(order))
            changes.setdefault((name, call), {}).setdefault(order, []).append(energy)

    with untouched(device, network), torch.no_grad():
        for group in probe_images(side):
            with each_output(network, visit):
                network(device.images(group))
    return {
        output: {order: torch.stack(parts) for order, parts in orders.items()} for output, orders in changes.items()
    }


def _orders(shape: torch.Size, batch: int) -> Iterator[tuple[int, ...]]:
    """Yield the orders of axes in which a tensor may be channels of a square map, or channels of tokens."""
    orders = {4: ((0, 1, 2, 3), (0, 3, 1, 2)), 3: ((0, 2, 1), (1, 2, 0), (0, 1, 2))}.get(len(shape), ())
    for order in orders:
        places = [shape[axis] for axis in order[2:]]
        if shape[order[0]] == batch and min(places) > 1 and places[0] == places[-1]:
            yield order


def map_reading(changes: Changes) -> Reading | None:
    """Return how an output is read so that its changes follow the parts of the image best; None if they do not."""
    best, best_follow = None, 0.0
    for order, energy in changes.items():
        tokens = energy.flatten(2)
        for start, side in _grids(energy.shape[2:]):
            grid = tokens[:, :, start : start + side**2].unflatten(2, (side, side))
            # Tokens read from one too early may follow as well, but less far.
            moved = motion(grid)
            if moved.is_local and moved.is_centered(side) and moved.follow > best_follow:
                best, best_follow = Reading(order, start, side), moved.follow
    return best


def _grids(shape: torch.Size) -> Iterator[tuple[int, int]]:
    """Yield start and side of the squares that may be a map: all of it, or most tokens, after or before the others."""
    if len(shape) == 2:
        yield 0, shape[0]
        return
    for side in range(isqrt(shape[0]), 1, -1):
        if 2 * side**2 >= shape[0]:
            yield from ((start, side) for start in sorted({0, shape[0] - side**2}))


@contextmanager
def shaken(network: nn.Module, scale: float, seed: int = 0) -> Iterator[None]:
    """Add noise to the network's parameters in the block.

    They are changed where they are: with `torch.func.functional_call`, noise remains in modules under two names.

    Args:
        network: network whose parameters are restored after the block.
        scale: standard deviation of the noise, relative to what keeps the size of features from layer to layer.
        seed: seed of the noise.
    """
    saved = [(weight, weight.detach().clone()) for weight in network.parameters()]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight, _ in saved:
            fan_in = weight[0].numel() if weight.ndim > 1 else 1
            weight.add_((torch.randn(weight.shape, generator=generator) * scale / fan_in**0.5).to(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in saved:
                weight.copy_(before)
