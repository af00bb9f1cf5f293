"""Compute a run's heatmaps of the test images with boxes, and draw an example per finding."""

import numpy as np
from torch import nn

from ...engine.device import Device
from ...engine.experiment import Experiment
from ...engine.inference import Heatmaps, Predictor
from ...evaluation import artifacts
from ...evaluation.artifacts import HeatmapSet
from ...method import ContractError
from ...metrics.localization import Frame
from ...records.figures.overlays import Panel, draw_panels
from ...utils.progress import say
from ...utils.text import display_name

MAX_FLAT = 0.05  # fraction of heatmaps without contrast above which the user is warned


def localize(experiment: Experiment, device: Device, network: nn.Module, pixels: np.ndarray) -> HeatmapSet | None:
    """Compute heatmaps of the test images that have boxes, and draw examples to `heatmaps.png`.

    Args:
        experiment: experiment of the run.
        device: where the network runs.
        network: trained network on the device.
        pixels: pixel map, uint8 (N, size, size).

    Returns:
        The heatmaps with the boxes; None if no test image has boxes or the network has no heatmaps.

    Raises:
        ContractError: heatmaps are not finite.
    """
    rows = artifacts.boxed_rows(experiment.index)
    if not len(rows):
        say("localization is not scored: the test split has no boxes")
        return None
    predictor = Predictor(device, network, pixels, experiment.recipe, len(experiment.index.findings))
    heatmaps = predictor.heatmaps(experiment.method, rows, "heatmaps of the boxed test images")
    if heatmaps is None:
        say(f"localization is not scored: {experiment.method.name} has neither maps nor layers for Grad-CAM")
        return None
    _check_maps(heatmaps.maps)
    heatmap_set = artifacts.build_heatmap_set(experiment.index, rows, heatmaps.maps, heatmaps.kind)
    _draw_examples(experiment, heatmaps, heatmap_set, pixels[rows])
    return heatmap_set


def _check_maps(maps: np.ndarray) -> None:
    """Reject heatmaps (n, C, h, w) that are not finite, and warn about constant ones."""
    if not np.isfinite(maps).all():
        raise ContractError("its heatmaps are not finite: check heat() and the network's maps")
    flat = float((maps.max((2, 3)) == maps.min((2, 3))).mean())
    if flat > MAX_FLAT:
        say(f"{100 * flat:.0f} % of the heatmaps have no contrast: they localize nothing")


def _draw_examples(experiment: Experiment, heatmaps: Heatmaps, heatmap_set: HeatmapSet, pixels: np.ndarray) -> None:
    """Draw, for each finding, the boxed test image with the highest probability.

    Not a random image: the figure shows where the method looks if it does detect the finding.
    """
    panels = []
    for column, finding in enumerate(experiment.index.findings):
        boxes = np.flatnonzero(heatmap_set.box_finding == column)
        if len(boxes):
            logits = heatmaps.logits[:, column]
            image = max(heatmap_set.box_image[boxes], key=lambda row: logits[row])
            probability = 1 / (1 + np.exp(-logits[image]))
            image_boxes = heatmap_set.boxes[boxes[heatmap_set.box_image[boxes] == image]]
            title = f"{display_name(finding)} {probability:.2f}"
            panels.append(Panel(title, pixels[image], heatmap_set.maps[image, column], image_boxes))
    frame = Frame(experiment.recipe.pixels.size, experiment.recipe.pixels.crop)
    title = (
        f"{experiment.method.title}, recipe {experiment.recipe.name}, seed {experiment.config.seed} ({heatmaps.kind}): "
        "highest-scoring boxed test image per finding, with its probability"
    )
    key = artifacts.heatmaps_sha256(heatmap_set)
    draw_panels(panels, frame, experiment.work / "heatmaps.png", title, columns=min(5, len(panels)), key=key)
