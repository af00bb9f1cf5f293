"""A run's heatmaps: of every test image that has a box for the scores, of one image a finding for people."""

import numpy as np
from torch import nn

from ...engine.device import Device
from ...engine.experiment import Experiment
from ...engine.inference import Heatmaps, predict_heatmaps
from ...evaluation import artifacts
from ...evaluation.artifacts import HeatmapSet
from ...method import ContractError
from ...metrics.localization import Frame
from ...records.figures.overlays import Panel, draw_panels
from ...utils.progress import say

FLAT = 0.05  # the share of heatmaps without contrast beyond which the user is told


def localize(experiment: Experiment, device: Device, network: nn.Module, pixels: np.ndarray) -> HeatmapSet | None:
    """Heatmaps of the test images that have boxes, drawn to `heatmaps.png`; None without boxes or without maps."""
    rows = artifacts.boxed_rows(experiment.index)
    if not len(rows):
        say("localization is not scored: the test split has no boxes")
        return None
    heatmaps = predict_heatmaps(device, experiment.method, network, pixels, rows, experiment.recipe)
    if heatmaps is None:
        say(f"localization is not scored: {experiment.method.name} has neither maps nor layers for Grad-CAM")
        return None
    if not np.isfinite(heatmaps.maps).all():
        raise ContractError("it gives heatmaps that are not numbers: see its heat() and maps")
    flat = float((heatmaps.maps.max((2, 3)) == heatmaps.maps.min((2, 3))).mean())
    if flat > FLAT:
        say(f"{100 * flat:.0f} % of the heatmaps have no contrast: they find nothing and point nowhere")
    maps = artifacts.build_heatmap_set(experiment.index, rows, heatmaps.maps, heatmaps.kind)
    _draw_examples(experiment, heatmaps, maps, pixels[rows])
    return maps


def _draw_examples(experiment: Experiment, heatmaps: Heatmaps, maps: HeatmapSet, pixels: np.ndarray) -> None:
    """Of each finding, the boxed test image that the method is surest of: what it looks at when it does see it."""
    panels = []
    for c, finding in enumerate(experiment.index.findings):
        boxed = np.flatnonzero(maps.box_finding == c)
        if len(boxed):
            image = max(maps.box_image[boxed], key=lambda k: heatmaps.logits[k, c])
            probability = 1 / (1 + np.exp(-heatmaps.logits[image, c]))
            mine = boxed[maps.box_image[boxed] == image]
            title = f"{finding.replace('_', ' ')} {probability:.2f}"
            panels.append(Panel(title, pixels[image], maps.maps[image, c], maps.boxes[mine]))
    frame = Frame(experiment.recipe.pixels.size, experiment.recipe.pixels.crop)
    title = (
        f"{experiment.method.title}, recipe {experiment.recipe.name}, seed {experiment.config.seed} ({heatmaps.kind}): "
        "of each finding the boxed test image it is surest of, and the probability"
    )
    key = artifacts.heatmaps_sha256(maps)
    draw_panels(panels, frame, experiment.work / "heatmaps.png", title, columns=min(5, len(panels)), key=key)
