"""The scores of a trained network: every image once, centre crop, evaluation mode."""

import numpy as np
import torch
from torch import nn

from .device import Device
from .pixels import batches, centre_crops
from .progress import progress
from .recipe import Recipe


def predict(
    device: Device, network: nn.Module, pixels: np.ndarray, rows: np.ndarray, recipe: Recipe, title: str
) -> np.ndarray:
    """Log-odds of every finding for the images `rows` (n,) of the map: float32 (n, C), in the order of `rows`."""
    crop = centre_crops(rows, recipe.pixels)
    nothing = np.empty((len(pixels), 0), np.float32)
    loader = batches(pixels, nothing, crop, recipe.pixels.crop, recipe.evaluate.batch_size)
    network.eval()
    scores = []
    with torch.inference_mode(), progress(title, len(rows)) as advance:
        for images, _ in loader:
            scores.append(device.forward(network, images).logits.cpu())
            advance(len(images))
    return torch.cat(scores).numpy()
