"""Heatmaps of a trained network: the maps it returns with its scores, or Grad-CAM for one that returns none."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from monai.visualize import GradCAM
from torch import Tensor, nn

from .device import Device
from .method import Method
from .pixels import batches, centre_crops
from .progress import progress
from .recipe import Recipe

OWN, GRAD_CAM = "the method's maps", "Grad-CAM"


class Heatmaps(NamedTuple):
    """Log-odds (N, C) and heat (N, C, h, w), float32; `kind` says whether it is the method's own or Grad-CAM."""

    logits: np.ndarray
    maps: np.ndarray
    kind: str


class Reader:
    """Reads scores and heatmaps off a network; `kind` is None if it has neither maps nor layers with places.

    Args:
        device: where it runs.
        method: says what its maps show.
        network: trained.
        side: of the crops that it sees, in pixels.
    """

    def __init__(self, device: Device, method: Method, network: nn.Module, side: int) -> None:
        self.device, self.method, self.network = device, method, network.eval()
        self.explained = self.layer = None
        gray = torch.zeros(2, side, side, dtype=torch.uint8)
        with torch.inference_mode():
            output = device.forward(network, gray)
        self.kind: str | None = OWN
        if output.maps is None:
            self.layer = _last_layer_with_places(network, device.images(gray))
            self.explained = _explained(network)
            self.kind = GRAD_CAM if self.layer else None

    def read(self, gray: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-odds (B, C) and heat (B, C, h, w), on the CPU, of gray bytes (B, h, w)."""
        with torch.inference_mode():
            output = self.device.forward(self.network, gray)
        logits, maps = output.logits.cpu(), output.maps
        if self.kind == GRAD_CAM:
            return logits, self._explain(gray, logits.shape[1]).cpu()
        return logits, None if maps is None else self.method.heat(maps).cpu()

    def _explain(self, gray: Tensor, findings: int) -> Tensor:
        images = self.device.images(gray).contiguous()
        explain = GradCAM(self.explained, self.layer)
        with self.device.autocast():
            return torch.cat(
                [explain.compute_map(images, class_idx=c).float() for c in range(findings)], dim=1
            ).detach()


def read_heatmaps(
    device: Device, method: Method, network: nn.Module, pixels: np.ndarray, rows: np.ndarray, recipe: Recipe
) -> Heatmaps | None:
    """Scores and heatmaps of the images `rows` (n,) of the map, centre crop; None if the network has no heatmaps."""
    reader = Reader(device, method, network, recipe.pixels.crop)
    if reader.kind is None:
        return None
    read = list(_read(reader, pixels, rows, recipe))
    logits, maps = (torch.cat(parts).numpy() for parts in zip(*read, strict=True))
    return Heatmaps(logits, maps, reader.kind)


def _read(reader: Reader, pixels: np.ndarray, rows: np.ndarray, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    nothing = np.empty((len(pixels), 0), np.float32)
    crop = centre_crops(rows, recipe.pixels)
    with progress("heatmaps of the boxed test images", len(rows)) as advance:
        for images, _ in batches(pixels, nothing, crop, recipe.pixels.crop, recipe.evaluate.batch_size):
            yield reader.read(images)
            advance(len(images))


class _Logits(nn.Module):
    """What MONAI's Grad-CAM explains: a network that returns log-odds and nothing else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


def _explained(network: nn.Module) -> nn.Module:
    """A copy that Grad-CAM may put its hooks on; its gradients are viewed as (B, D, places), so not channels-last."""
    return _Logits(copy.deepcopy(network).to(memory_format=torch.contiguous_format).requires_grad_(True)).eval()


def _last_layer_with_places(network: nn.Module, images: Tensor) -> str | None:
    """Name (below `_Logits`) of the module that is the last to return features (B, D, h, w) with h w > 1."""
    last = []

    def note(name: str):
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                last.append(name)

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    return f"network.{last[-1]}" if last else None
