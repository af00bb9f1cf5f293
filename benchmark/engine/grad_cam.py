"""Grad-CAM (Selvaraju et al. 2017): heatmaps for networks that return no maps."""

from typing import NamedTuple

import torch
from monai.visualize import GradCAM
from monai.visualize.class_activation_maps import ModelWithHooks
from torch import Tensor, nn

from .device import Device
from .locality import Reading, each_output, map_reading, output_changes, probe_images, shaken, untouched

GRAD_CAM_BATCH = 16  # images whose graph is in memory at a time


class Layer(NamedTuple):
    """An output of a module that Grad-CAM explains.

    Attributes:
        name: name of the module.
        call: number of the call, from 0, as a module may be called several times.
        reading: how its output is read as a map (B, D, h, w).
    """

    name: str
    call: int
    reading: Reading


def grad_cam(device: Device, network: nn.Module, layer: Layer, gray: Tensor) -> Tensor:
    """Compute Grad-CAM of every finding, with its sign.

    Grad-CAM (Selvaraju et al. 2017, section 3) keeps only evidence for a finding, by a ReLU. Rare findings have
    negative log-odds nearly everywhere, so that their maps would be empty, while the maps that methods return are
    signed. Evidence for the finding minus evidence against it is the map without the ReLU.

    Args:
        device: where the network runs.
        network: network with C findings, in evaluation mode.
        layer: output of a module whose features are weighted.
        gray: uint8 (B, side, side).

    Returns:
        Heat (B, C, h, w), on the device, at the layer's resolution.
    """
    heat = []
    for images in gray.split(GRAD_CAM_BATCH):
        model = _GradCAMModel(network, layer, device.images(images))
        explain = GradCAM(model, layer.name)
        maps = [
            explain.compute_map(images, finding) - explain.compute_map(images, finding, against=True)
            for finding in range(model.logits.shape[1])
        ]
        heat.append(torch.cat(maps, dim=1).detach())
    return torch.cat(heat)


class _GradCAMModel(ModelWithHooks):
    """Activations and gradients for MONAI's Grad-CAM, from one float32 forward pass for all findings.

    MONAI's hooks run the network once per finding, stay registered, and fail if the network modifies the layer's output
    in place. Here the features are captured once, and the network continues with a copy.
    """

    def __init__(self, network: nn.Module, layer: Layer, images: Tensor) -> None:
        # Without super().__init__(), which registers MONAI's hooks.
        self.layer = layer
        with each_output(network, self._capture), torch.enable_grad():
            self.logits = network(images).logits

    def __call__(
        self, x: Tensor, class_idx: int, retain_graph: bool = True, against: bool = False
    ) -> tuple[Tensor, tuple[Tensor], tuple[Tensor]]:
        score = self.logits[:, class_idx].sum()
        (gradient,) = torch.autograd.grad(-score if against else score, self.features, retain_graph=True)
        places = self.layer.reading.places
        return self.logits, (places(self.features),), (places(gradient).contiguous(),)

    def _capture(self, name: str, call: int, output: Tensor) -> Tensor | None:
        if (name, call) != (self.layer.name, self.layer.call):
            return None
        self.features = output.detach().contiguous().requires_grad_(True)
        return _copy(self.features)


def _copy(features: Tensor) -> Tensor:
    """Return a copy with a gradient, even where a network works without."""
    with torch.enable_grad():
        return features.clone()


def find_layer(device: Device, network: nn.Module, side: int) -> Layer | None:
    """Find the last output of a module that is a map of the image and gets a gradient from the log-odds at its places.

    A projection (`nn.Linear`) is taken only if there is nothing else: queries, keys and values say less than what they
    are projections of.

    Args:
        device: where the network runs.
        network: network on the device.
        side: side of the images in pixels.

    Returns:
        The output; None if there is none.
    """
    changes = output_changes(device, network, side)
    gradients = _gradients(device, network, side)
    last_first = reversed([output for output in changes if output in gradients])
    for output in sorted(last_first, key=lambda output: isinstance(network.get_submodule(output[0]), nn.Linear)):
        reading = map_reading(changes[output])
        if reading and reading.places(gradients[output]).any():
            return Layer(*output, reading)
    return None


def _gradients(device: Device, network: nn.Module, side: int) -> dict[tuple[str, int], Tensor]:
    """Return the gradient of the log-odds that arrives at the outputs of modules, by name and number of the call.

    The weights are shaken: what matters is whether a gradient can arrive, and a classifier may start at zero.
    """
    features: dict[tuple[str, int], Tensor] = {}

    def visit(name: str, call: int, output: Tensor) -> Tensor:
        feature = features[name, call] = _copy(output)
        return _copy(feature if feature.requires_grad else feature.requires_grad_(True))

    images = device.images(probe_images(side)[:, 0])
    with untouched(device, network), shaken(network, 0.1), each_output(network, visit), torch.enable_grad():
        logits = network(images).logits
        if not logits.requires_grad:
            return {}
        # Different weights for the findings: the sum of their logits may be constant.
        score = (logits * torch.linspace(1, 2, logits.numel(), device=logits.device).view_as(logits)).sum()
        gradients = torch.autograd.grad(score, list(features.values()), allow_unused=True)
    return {output: gradient for output, gradient in zip(features, gradients, strict=True) if gradient is not None}
