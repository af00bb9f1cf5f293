"""`chxbench predict`: inference on images with a trained run, written as a table, JSON files and figures.

One batch of images is in memory at a time, and its predictions are written before the next one is read: a folder may be
larger than memory, and an interruption loses no finished prediction.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.loader import center_crop
from ...engine.inference import HeatmapReader
from ...registry import load_plugins
from ...utils.errors import UserError, first_few
from ...utils.progress import progress, say
from ..trained_run import TrainedRun, load_trained_run
from .annotations import AnnotationIndex, load_annotations
from .images import ImageSource, ReadImage, UnreadableSource, find_sources, read_batches
from .output import Prediction, PredictionWriter

RETURNED = 4  # number of predictions returned, for the terminal


@dataclass(frozen=True)
class PredictConfig:
    """Configuration of `predict`, as the user gives it.

    Attributes:
        images: files, folders of images, or image ids of the run's dataset.
        run: folder of a completed run.
        out: folder of the tables and figures.
        leading: number of findings that a figure shows.
        pictures: whether to draw figures.
        data_dir: folder of the run's dataset, to add labels and boxes to the images in it; None for none.
        options: options of the method to change, such as which heatmap to show.
        plugins: plugin files to import first.
    """

    images: Sequence[str]
    run: Path
    out: Path = Path("predictions")
    leading: int = 3
    pictures: bool = True
    data_dir: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    plugins: Sequence[Path] = ()


def predict_images(config: PredictConfig) -> list[Prediction]:
    """Write `predictions.csv`, and for each image `<name>.json` and `<name>.heatmaps.png`.

    Args:
        config: configuration of the predictions.

    Returns:
        The first few predictions.

    Raises:
        UserError: the run or the paths are invalid, raised before anything is written; or some images cannot be read,
            raised after all others were predicted.
    """
    load_plugins(config.plugins)
    run = load_trained_run(config.run, config.options)
    index = load_annotations(run.record, run.dataset, config.data_dir)
    sources = find_sources(config.images, index)
    _announce(run)
    first: list[Prediction] = []
    problems: list[str] = []
    with (
        PredictionWriter(run, config.out, config.leading, config.pictures, config.options) as writer,
        progress("predicting", len(sources)) as advance,
    ):
        for image, prediction in _predict(run, index, sources):
            if isinstance(image, UnreadableSource):
                problems.append(image.problem)
                say(image.problem)
            elif prediction is not None:
                writer.write(image, prediction)
                first += [prediction] if len(first) < RETURNED else []
            advance(1)
    say(f"predicted {len(sources) - len(problems):,} of {len(sources):,} images, see {config.out}")
    if problems:
        raise UserError(f"{len(problems):,} of {len(sources):,} images cannot be used: {first_few(problems)}")
    return first


def _announce(run: TrainedRun) -> None:
    dataset = run.record.dataset
    caveat = f"; note that {dataset.caveat}" if dataset.caveat else ""
    say(f"{run.record.method.title}, trained on {dataset.title}, recipe {run.recipe.name}{caveat}")


def _predict(
    run: TrainedRun, index: AnnotationIndex, sources: Sequence[ImageSource]
) -> Iterator[tuple[ReadImage, Prediction] | tuple[UnreadableSource, None]]:
    """Yield each image with its prediction, in the order of the sources."""
    reader = HeatmapReader(run.device, run.method, run.network, run.pixels.crop)
    for batch in read_batches(sources, index, run.pixels.size):
        predictions = iter(_predict_batch(run, reader, [image for image in batch if isinstance(image, ReadImage)]))
        for image in batch:
            yield (image, next(predictions)) if isinstance(image, ReadImage) else (image, None)


def _predict_batch(run: TrainedRun, reader: HeatmapReader, images: Sequence[ReadImage]) -> list[Prediction]:
    if not images:
        return []
    crops = np.stack([center_crop(image.pixels, run.pixels) for image in images])
    logits, heat = reader.read(torch.from_numpy(crops))
    findings = list(run.record.auc)
    predictions = []
    for row, image in enumerate(images):
        probabilities = dict(zip(findings, logits[row].sigmoid().tolist(), strict=True))
        predictions.append(
            Prediction(image.source.image_id, probabilities, None if heat is None else heat[row].numpy())
        )
    return predictions
