"""Compute a run's heatmaps of the test images with boxes, draw an example per finding, and add them to its record."""

import re
from collections.abc import Callable

import numpy as np
from torch import nn

from ...data.pixel_cache import prepare_pixels
from ...engine.blame import blame
from ...engine.device import Device
from ...engine.experiment import Experiment
from ...engine.inference import Heatmaps, Predictor
from ...engine.memory import is_out_of_memory
from ...engine.rehearsal import NOT_FINITE
from ...evaluation import artifacts
from ...evaluation.artifacts import HeatmapSet
from ...method import ContractError
from ...metrics.localization import Frame
from ...records import record as records
from ...records.figures.overlays import draw_panels, finding_panel
from ...records.schema import Record
from ...utils.errors import UserError, describe_error
from ...utils.progress import say
from ...utils.text import plain
from ..trained_run import load_weights

MAX_FLAT = 0.05  # fraction of heatmaps without contrast above which the user is warned
NOT_COMPLETED = "the heatmaps were not completed"
FOLDERS = re.compile(r"(?<![\w.~])~?(?:[A-Za-z]:)?[/\\]\S*[/\\]")  # of a path in a message


def localize_again(experiment: Experiment, device: Device, record: Record) -> Record:
    """Compute the heatmaps of a trained run whose record has none, as `localize` does, from its saved weights."""

    def load() -> tuple[nn.Module, np.ndarray]:
        network = experiment.method.build(experiment.index.findings, "none")
        network.load_state_dict(load_weights(experiment.work, record))
        size = experiment.recipe.pixels.size
        decoded = prepare_pixels(experiment.dataset, experiment.index, size, experiment.config.cache)
        return device.place(network), decoded.pixels

    say(f"its localization is missing ({record.localization_problem}): trying again")
    return localize(experiment, device, record, load)


def localize(
    experiment: Experiment, device: Device, record: Record, load: Callable[[], tuple[nn.Module, np.ndarray]]
) -> Record:
    """Add heatmaps of the test images that have boxes to a record, and draw examples to `heatmaps.png`.

    The scores are never lost to them: whatever fails is said, and becomes the record's `localization_problem`.

    Args:
        experiment: experiment of the run.
        device: where the network runs.
        record: the record in the run's folder.
        load: returns the trained network on the device, and the pixel map, uint8 (N, size, size).

    Returns:
        The record as it is in the run's folder now.
    """
    try:
        heatmaps = _compute(experiment, device, *load())
        return records.replace_localization(experiment.work, record, heatmaps, None)
    except Exception as error:  # of the method, of memory, of the disk, or of a library that evaluates or draws
        problem = _describe(error)
        say(f"the scores are recorded without heatmaps, which the same command tries again: {problem}")
    try:
        return records.replace_localization(experiment.work, record, None, FOLDERS.sub("", problem))
    except UserError:  # a full disk: the record says that the heatmaps are missing, but not why
        return record


def _describe(error: Exception) -> str:
    """Return the sentence that says why there are no heatmaps."""
    if is_out_of_memory(error):
        return "the memory cannot hold the heatmaps"
    return plain(str(error) if isinstance(error, UserError) else describe_error(error))


def _compute(experiment: Experiment, device: Device, network: nn.Module, pixels: np.ndarray) -> HeatmapSet:
    """Compute and draw the heatmaps. Raises ContractError if the network has none, or they are not finite."""
    rows = artifacts.boxed_rows(experiment.index)
    predictor = Predictor(device, network, pixels, experiment.recipe, len(experiment.index.findings))
    with blame(experiment.method, "compute its heatmaps"):
        heatmaps = predictor.heatmaps(experiment.method, rows, "heatmaps of the boxed test images")
    _check_maps(heatmaps.maps)
    heatmap_set = artifacts.build_heatmap_set(experiment.index, rows, heatmaps.maps, heatmaps.kind)
    _draw_examples(experiment, heatmaps, heatmap_set, pixels[rows])
    return heatmap_set


def _check_maps(maps: np.ndarray) -> None:
    """Reject heatmaps (n, C, h, w) that are not finite, and warn about constant ones."""
    if not np.isfinite(maps).all():
        raise ContractError(NOT_FINITE)
    flat = float((maps.max((2, 3)) == maps.min((2, 3))).mean())
    if flat > MAX_FLAT:
        say(f"{100 * flat:.0f} % of the heatmaps have no contrast: they localize nothing")


def _draw_examples(experiment: Experiment, heatmaps: Heatmaps, heatmap_set: HeatmapSet, pixels: np.ndarray) -> None:
    """Draw, for each finding, the boxed test image with the highest probability.

    Not a random image: the figure shows where the method looks if it does detect the finding.
    """
    panels, prevalence = [], (experiment.index.targets()[experiment.index.rows("train")] == 1).mean(axis=0)
    for column, finding in enumerate(experiment.index.findings):
        boxes = np.flatnonzero(heatmap_set.box_finding == column)
        if len(boxes):
            logits = heatmaps.logits[:, column]
            image = max(heatmap_set.box_image[boxes], key=lambda row: logits[row])
            probability = 1 / (1 + np.exp(-logits[image]))
            image_boxes = heatmap_set.boxes[boxes[heatmap_set.box_image[boxes] == image]]
            odds = float(probability), float(prevalence[column])
            heat = heatmap_set.maps[image, column]
            panels.append(finding_panel(finding, "", pixels[image], heat, image_boxes, odds))
    frame = Frame(experiment.recipe.pixels.size, experiment.recipe.pixels.crop)
    title = (
        f"{experiment.method.title}, recipe {experiment.recipe.name}, seed {experiment.config.seed} ({heatmaps.kind}): "
        "highest-scoring boxed test image per finding, with its probability"
    )
    key = artifacts.heatmaps_sha256(heatmap_set)
    draw_panels(panels, frame, experiment.work / "heatmaps.png", title, columns=min(5, len(panels)), key=key)
