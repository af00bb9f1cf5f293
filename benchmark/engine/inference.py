"""Inference with a trained network: log-odds of images, and heatmaps from the network's maps or from Grad-CAM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..data.loader import BatchSpan, center_crops, read_batches, shard_batches
from ..method import ContractError, Method, PartCheck
from ..recipe import Recipe
from ..utils.progress import progress
from .device import Device
from .grad_cam import Layer, find_layer, grad_cam
from .output_checks import cuts_border

OWN_MAPS, GRAD_CAM = "the method's maps", "Grad-CAM"
NO_LAYER = (
    "no layer of the network is a map of the image that its log-odds depend on: return maps, Output(logits, maps)"
)
CROPPED = "the network does not see the border of the image: its maps would be of another area"
CHECKED = 64  # images on which the parts of a method are checked
T = TypeVar("T")


class Heatmaps(NamedTuple):
    """Scores and heatmaps of N images.

    Attributes:
        logits: log-odds, float32 (N, C).
        maps: heatmaps, float32 (N, C, h, w).
        kind: source of the heatmaps, OWN_MAPS or GRAD_CAM.
    """

    logits: np.ndarray
    maps: np.ndarray
    kind: str


@dataclass(frozen=True)
class Predictor:
    """Applies a network to images of the pixel map: center crop, evaluation mode.

    Attributes:
        device: where the network runs.
        network: network on the device.
        pixels: pixel map, uint8 (N, size, size).
        recipe: recipe that sets crop and batch size.
        num_findings: number of findings C that the network must return; None to accept any.
    """

    device: Device
    network: nn.Module
    pixels: np.ndarray
    recipe: Recipe
    num_findings: int | None = None

    def scores(self, rows: np.ndarray, title: str) -> np.ndarray:
        """Compute the log-odds of images; several processes share the batches, and each returns all scores.

        Args:
            rows: row numbers of the map (n,).
            title: text of the progress bar; empty for none.

        Returns:
            Log-odds, float32 (n, C), in the order of `rows`.

        Raises:
            ContractError: scores are not finite, or the number of findings is wrong.
        """
        self.network.eval()
        # Sharded by complete batches: the bits of a score depend on the size of the batch it is computed in.
        spans = shard_batches(len(rows), self.recipe.evaluate.batch_size, self.device.shard)
        with torch.inference_mode():
            logits = self._map_batches(self._logits, rows, spans, title)
        # Copied to the CPU only now: a copy waits for the GPU, which would idle between two batches.
        parts = [(span.local.start, part.cpu().numpy()) for span, part in zip(spans, logits, strict=True)]
        in_order = sorted(self.device.all_gather(parts), key=lambda part: part[0])
        scores = np.concatenate([part for _, part in in_order])
        not_finite = int((~np.isfinite(scores)).any(axis=1).sum())
        if not_finite:
            where = f"{title}: " if title else ""
            raise ContractError(f"{where}{not_finite:,} of {len(rows):,} images have scores that are not finite")
        return scores

    def check_parts(self, method: Method, rows: np.ndarray) -> list[PartCheck]:
        """Measure what a method's parts do on the first batch of these rows (n,), n > 1, in this process only.

        Raises:
            ContractError: `method.check_parts` returns something else than finite checks.
        """
        self.network.eval()
        span = shard_batches(min(len(rows), self.recipe.evaluate.batch_size, CHECKED), CHECKED)[:1]

        def check(gray: Tensor) -> Sequence[PartCheck]:
            with torch.no_grad():  # in float32: bfloat16 would round small effects away
                return method.check_parts(self.network, self.device.images(gray))

        (found,) = self._map_batches(check, rows, span, "")
        if not all(isinstance(one, PartCheck) and np.isfinite([one.value, one.minimum]).all() for one in found):
            raise ContractError("check_parts() must return a sequence of PartCheck with finite numbers")
        return list(found)

    def heatmaps(self, method: Method, rows: np.ndarray, title: str) -> Heatmaps:
        """Compute scores and heatmaps of images, in this process only.

        Args:
            method: method that converts maps to heatmaps.
            rows: row numbers of the map (n,).
            title: text of the progress bar.

        Returns:
            Heatmaps in the order of `rows`.

        Raises:
            ContractError: the network has neither maps of the image nor a layer for Grad-CAM, or `method.heat` returns
                something else than heat.
        """
        reader = HeatmapReader(self.device, method, self.network, self.recipe.pixels.crop)
        if reader.kind is None:
            raise ContractError(str(reader.reason))
        spans = shard_batches(len(rows), self.recipe.evaluate.batch_size)
        read = self._map_batches(reader.read, rows, spans, title)
        logits = torch.cat([batch_logits for batch_logits, _ in read])
        maps = torch.cat([heat for _, heat in read if heat is not None])
        return Heatmaps(logits.numpy(), maps.numpy(), reader.kind)

    def _logits(self, images: Tensor) -> Tensor:
        logits = self.device.forward(self.network, images).logits
        if self.num_findings is not None and logits.shape[1] != self.num_findings:
            raise ContractError(
                f"in evaluation mode the network returns {logits.shape[1]} findings, not {self.num_findings}"
            )
        return logits

    def _map_batches(
        self, compute: Callable[[Tensor], T], rows: np.ndarray, spans: Sequence[BatchSpan], title: str
    ) -> list[T]:
        """Apply `compute` to the center crops of each span, uint8 (b, crop, crop), under a progress bar."""
        setting = self.recipe.pixels
        no_targets = np.empty((len(self.pixels), 0), np.float32)
        crops = center_crops(rows, setting)
        batches = read_batches(self.pixels, no_targets, crops, setting.crop, spans, pin=self.device.on_gpu)
        results = []
        with progress(title, sum(len(span.local) for span in spans)) as advance:
            for batch in batches:
                results.append(compute(batch.images))
                advance(len(batch.images))
        return results


class HeatmapReader:
    """Computes scores and heatmaps of single batches.

    Args:
        device: where the network runs.
        method: method that converts maps to heatmaps.
        network: trained network on the device.
        side: side of the crops in pixels.

    Attributes:
        kind: OWN_MAPS, or GRAD_CAM for a network without maps; None if no map or layer is a map of the image.
        reason: why there are no heatmaps, one sentence; None if there are.
        layer: output of a module that Grad-CAM explains; None with OWN_MAPS.
    """

    def __init__(self, device: Device, method: Method, network: nn.Module, side: int) -> None:
        self.device, self.method, self.network = device, method, network.eval()
        self.layer: Layer | None = None
        self.kind: str | None = OWN_MAPS
        self.reason: str | None = None
        gray = torch.zeros(2, side, side, dtype=torch.uint8)
        with torch.inference_mode():
            output = device.forward(network, gray)
        if cuts_border(device, network, side):
            self.kind, self.reason = None, CROPPED
        elif output.maps is None:
            self.layer = find_layer(device, network, side)
            self.kind, self.reason = (GRAD_CAM, None) if self.layer else (None, NO_LAYER)

    def read(self, gray: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute scores and heatmaps of gray bytes, uint8 (B, side, side).

        Returns:
            Log-odds (B, C) and heat (B, C, h, w), both on the CPU; heat is None if `kind` is None.

        Raises:
            ContractError: `method.heat` returns something else than heat.
        """
        with torch.inference_mode():
            output = self.device.forward(self.network, gray)
        logits, maps = output.logits.cpu(), output.maps
        if self.layer is not None:
            return logits, grad_cam(self.device, self.network, self.layer, gray).cpu()
        if maps is None or self.kind is None:
            return logits, None
        heat = self.method.heat(maps)
        if not isinstance(heat, Tensor) or heat.ndim != 4 or heat.shape[:2] != logits.shape:
            raise ContractError(f"heat() must return a tensor (B, C, h, w) for maps {tuple(maps.shape)}")
        return logits, heat.cpu()
