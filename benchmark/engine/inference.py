"""The scores of a trained network: every image once, centre crop, evaluation mode."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from monai.visualize import GradCAM
from monai.visualize.class_activation_maps import ModelWithHooks
from torch import Tensor, nn

from ..data.loader import center_crops, read_batches, shard_batches, shard_within_batches
from ..method import ContractError, Method
from ..recipe import Recipe
from ..utils.progress import progress
from .device import Device


def predict_scores(
    device: Device,
    network: nn.Module,
    pixels: np.ndarray,
    rows: np.ndarray,
    recipe: Recipe,
    title: str,
    findings: int | None = None,
) -> np.ndarray:
    """Log-odds of every finding for the images `rows` (n,) of the map: float32 (n, C), in the order of `rows`.

    Several processes share the batches; each of them gets all scores.

    Raises:
        ContractError: scores that are not numbers, or of another number of findings than `findings`, where it is given.
    """
    crop = center_crops(rows, recipe.pixels)
    nothing = np.empty((len(pixels), 0), np.float32)
    spans = shard_batches(len(rows), recipe.evaluate.batch_size, device.shard)
    loader = read_batches(pixels, nothing, crop, recipe.pixels.crop, spans, device.torch_device.type == "cuda")
    network.eval()
    scores = []
    with torch.inference_mode(), progress(title, sum(len(span.local) for span in spans)) as advance:
        for span, batch in zip(spans, loader, strict=True):
            logits = device.forward(network, batch.images).logits
            if logits.shape[1] != (findings or logits.shape[1]):
                raise ContractError(f"in evaluation the network gives {logits.shape[1]} findings, not {findings}")
            scores.append((span.local.start, logits))
            advance(len(batch.images))
    fetched = [(start, part.cpu().numpy()) for start, part in scores]
    whole = np.concatenate([part for _, part in sorted(device.all_gather(fetched), key=lambda item: item[0])])
    bad = int((~np.isfinite(whole)).any(axis=1).sum())
    if bad:
        raise ContractError(f"{title}: {bad:,} of {len(rows):,} images have scores that are not numbers")
    return whole


OWN_MAPS, GRAD_CAM = "the method's maps", "Grad-CAM"
GRAD_CAM_BATCH = 16


class Heatmaps(NamedTuple):
    """Log-odds (N, C) and heat (N, C, h, w), float32; `kind` says whether it is the method's own or Grad-CAM."""

    logits: np.ndarray
    maps: np.ndarray
    kind: str


class HeatmapReader:
    """Reads scores and heatmaps off a network; `kind` is None if it has neither maps nor layers with places.

    Args:
        device: where it runs.
        method: says what its maps show.
        network: trained.
        side: of the crops that it sees, in pixels.
    """

    def __init__(self, device: Device, method: Method, network: nn.Module, side: int) -> None:
        self.device, self.method, self.network = device, method, network.eval()
        self.layer = None
        gray = torch.zeros(2, side, side, dtype=torch.uint8)
        with torch.inference_mode():
            output = device.forward(network, gray)
        self.kind: str | None = OWN_MAPS
        if output.maps is None:
            self.layer = _last_layer_with_places(network, device.images(gray))
            self.kind = GRAD_CAM if self.layer else None

    def read(self, gray: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-odds (B, C) and heat (B, C, h, w), on the CPU, of gray bytes (B, h, w)."""
        with torch.inference_mode():
            output = self.device.forward(self.network, gray)
        logits, maps = output.logits.cpu(), output.maps
        if self.kind == GRAD_CAM:
            return logits, self._explain(gray, logits.shape[1]).cpu()
        if maps is None:
            return logits, None
        heat = self.method.heat(maps)
        if not isinstance(heat, Tensor) or heat.ndim != 4 or heat.shape[:2] != logits.shape:
            raise ContractError(f"heat() must return a tensor (B, C, h, w) for maps {tuple(maps.shape)}")
        return logits, heat.cpu()

    def _explain(self, gray: Tensor, findings: int) -> Tensor:
        """Grad-CAM of every finding, with its sign; a few images at a time, because their graph is kept.

        Grad-CAM keeps what speaks for a finding. Rare findings have negative log-odds nearly everywhere, and nothing
        would be left of them; a method's own maps keep their sign too. What speaks for the finding, less what speaks
        against it, is the whole map.
        """
        heat = []
        for few in gray.split(GRAD_CAM_BATCH):
            explain = GradCAM(_Explained(self.network, self.layer, self.device.images(few)), self.layer)
            maps = [explain.compute_map(few, c) - explain.compute_map(few, c, against=True) for c in range(findings)]
            heat.append(torch.cat(maps, dim=1).detach())
        return torch.cat(heat)


def predict_heatmaps(
    device: Device, method: Method, network: nn.Module, pixels: np.ndarray, rows: np.ndarray, recipe: Recipe
) -> Heatmaps | None:
    """Scores and heatmaps of the images `rows` (n,) of the map, centre crop; None if the network has no heatmaps."""
    reader = HeatmapReader(device, method, network, recipe.pixels.crop)
    if reader.kind is None:
        return None
    read = list(_read(reader, pixels, rows, recipe))
    logits, maps = (torch.cat(parts).numpy() for parts in zip(*read, strict=True))
    return Heatmaps(logits, maps, reader.kind)


def _read(
    reader: HeatmapReader, pixels: np.ndarray, rows: np.ndarray, recipe: Recipe
) -> Iterator[tuple[Tensor, Tensor]]:
    nothing = np.empty((len(pixels), 0), np.float32)
    crop = center_crops(rows, recipe.pixels)
    with progress("heatmaps of the boxed test images", len(rows)) as advance:
        spans = shard_within_batches(len(rows), recipe.evaluate.batch_size)
        for batch in read_batches(pixels, nothing, crop, recipe.pixels.crop, spans):
            yield reader.read(batch.images)
            advance(len(batch.images))


class _Explained(ModelWithHooks):
    """What MONAI's Grad-CAM asks for activations and gradients: one forward pass for all findings, in float32.

    MONAI's own hooks run the network once a finding, stay on it for good, and fail where the network changes the
    layer's output in place. Here the features are cut out once and handed on as a copy.
    """

    def __init__(self, network: nn.Module, layer: str, images: Tensor) -> None:
        hook = network.get_submodule(layer).register_forward_hook(self._cut)
        try:
            with torch.enable_grad():
                self.logits = network(images).logits
        finally:
            hook.remove()

    def __call__(
        self, x: Tensor, class_idx: int, retain_graph: bool = True, against: bool = False
    ) -> tuple[Tensor, tuple, tuple]:
        score = self.logits[:, class_idx].sum()
        (gradient,) = torch.autograd.grad(-score if against else score, self.features, retain_graph=True)
        return self.logits, (self.features,), (gradient.contiguous(),)

    def _cut(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        self.features = output.detach().contiguous().requires_grad_(True)
        return self.features.clone()


def _last_layer_with_places(network: nn.Module, images: Tensor) -> str | None:
    """Name of the module that is the last to return features (B, D, h, w) with h w > 1."""
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
    return last[-1] if last else None
