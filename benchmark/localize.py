"""A run's heatmaps: of every test image that has a box for the scores, of one image a finding for people."""

import numpy as np
from torch import nn

from . import evidence
from .device import Device
from .evidence import Maps
from .figures.overlays import Panel, draw_panels
from .heatmaps import Heatmaps, read_heatmaps
from .method import ContractError
from .plan import Plan
from .progress import say
from .statistics.localization import Frame

FLAT = 0.05  # the share of heatmaps without contrast beyond which the user is told


def localize(plan: Plan, device: Device, network: nn.Module, pixels: np.ndarray) -> Maps | None:
    """Heatmaps of the test images that have boxes, drawn to `heatmaps.png`; None without boxes or without maps."""
    rows = evidence.boxed_rows(plan.index)
    if not len(rows):
        say("localisation is not scored: the test split has no boxes")
        return None
    heatmaps = read_heatmaps(device, plan.method, network, pixels, rows, plan.recipe)
    if heatmaps is None:
        say(f"localisation is not scored: {plan.method.name} has neither maps nor layers that Grad-CAM could explain")
        return None
    if not np.isfinite(heatmaps.maps).all():
        raise ContractError("it gives heatmaps that are not numbers: see its heat() and maps")
    flat = float((heatmaps.maps.max((2, 3)) == heatmaps.maps.min((2, 3))).mean())
    if flat > FLAT:
        say(f"{100 * flat:.0f} % of the heatmaps have no contrast: they find nothing and point nowhere")
    maps = evidence.collect_maps(plan.index, rows, heatmaps.maps, heatmaps.kind)
    _draw_examples(plan, heatmaps, maps, pixels[rows])
    return maps


def _draw_examples(plan: Plan, heatmaps: Heatmaps, maps: Maps, pixels: np.ndarray) -> None:
    """Of each finding, the boxed test image that the method is surest of: what it looks at when it does see it."""
    panels = []
    for c, finding in enumerate(plan.index.findings):
        boxed = np.flatnonzero(maps.box_finding == c)
        if len(boxed):
            image = max(maps.box_image[boxed], key=lambda k: heatmaps.logits[k, c])
            probability = 1 / (1 + np.exp(-heatmaps.logits[image, c]))
            mine = boxed[maps.box_image[boxed] == image]
            title = f"{finding.replace('_', ' ')} {probability:.2f}"
            panels.append(Panel(title, pixels[image], maps.maps[image, c], maps.boxes[mine]))
    frame = Frame(plan.recipe.pixels.size, plan.recipe.pixels.crop)
    title = (
        f"{plan.method.title}, recipe {plan.recipe.name}, seed {plan.order.seed} ({heatmaps.kind}): "
        "of each finding the boxed test image it is surest of, and the probability"
    )
    key = evidence.maps_sha256(maps)
    draw_panels(panels, frame, plan.work / "heatmaps.png", title, columns=min(5, len(panels)), key=key)
