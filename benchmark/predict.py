"""The scores of a trained network: every image once, centre crop, evaluation mode."""

import numpy as np
import torch
from torch import nn

from .batches import centre_crops, deal_batches, read_batches
from .device import Device
from .method import ContractError
from .progress import progress
from .recipe import Recipe


def predict(
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
    crop = centre_crops(rows, recipe.pixels)
    nothing = np.empty((len(pixels), 0), np.float32)
    spans = deal_batches(len(rows), recipe.evaluate.batch_size, device.share)
    loader = read_batches(pixels, nothing, crop, recipe.pixels.crop, spans, device.torch_device.type == "cuda")
    network.eval()
    scores = []
    with torch.inference_mode(), progress(title, sum(len(span.mine) for span in spans)) as advance:
        for span, batch in zip(spans, loader, strict=True):
            logits = device.forward(network, batch.images).logits
            if logits.shape[1] != (findings or logits.shape[1]):
                raise ContractError(f"in evaluation the network gives {logits.shape[1]} findings, not {findings}")
            scores.append((span.mine.start, logits))
            advance(len(batch.images))
    fetched = [(start, part.cpu().numpy()) for start, part in scores]
    whole = np.concatenate([part for _, part in sorted(device.collect(fetched), key=lambda item: item[0])])
    bad = int((~np.isfinite(whole)).any(axis=1).sum())
    if bad:
        raise ContractError(f"{title}: {bad:,} of {len(rows):,} images have scores that are not numbers")
    return whole
