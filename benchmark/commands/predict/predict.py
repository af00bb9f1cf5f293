"""Images from outside through a finished run: the findings' probabilities, and pictures of where they were seen.

Images stream: one batch is in memory at a time, and what is known of an image is written before the next batch is read.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import DataLoader
from PIL import Image

from ...data.loader import center_crop
from ...data.pixel_cache import Shrink, identity_collate, is_picklable
from ...dataset import DataError
from ...engine.inference import HeatmapReader
from ...metrics.localization import Frame, predict_boxes
from ...records.figures.overlays import Panel, draw_panels
from ...registry import load_plugins
from ...utils.environment import cores
from ...utils.errors import UserError, first_few
from ...utils.image_io import find_images, read_image
from ...utils.options import to_dict
from ...utils.progress import progress, say
from ...utils.text import changed_options, display_name, plain
from ..trained_run import TrainedRun, load_trained_run
from .annotations import AnnotationIndex, Annotations, load_annotations

BATCH = 16
SERIAL_UP_TO = 3 * BATCH  # images up to this number are not worth worker processes
PICTURE_SIDE = 512  # the longer side of a radiograph in a picture, pixels
SAME_IMAGE = 2.0  # mean difference in gray levels up to which two files are the same radiograph (JPEG, DICOM windows)
NO_BOXES = np.empty((0, 4))
RETURNED = 4  # answers handed back, to be shown


@dataclass(frozen=True)
class PredictConfig:
    """What a user asks of `predict`.

    Attributes:
        images: files, folders of them, or image ids of the run's dataset.
        run: the folder of a finished run.
        out: where tables and pictures go.
        leading: how many findings a picture shows.
        pictures: whether to draw any.
        data_dir: where the run's dataset lies: its labels and boxes are then shown for the images it knows.
        options: the method's options to change, such as which heatmap to show.
        plugins: files to import first.
    """

    images: Sequence[str]
    run: Path
    out: Path = Path("predictions")
    leading: int = 3
    pictures: bool = True
    data_dir: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    plugins: Sequence[Path] = ()


class ImageSource(NamedTuple):
    """One image to answer: what the user called it, the stem of the files written for it, and where it is.

    `path` is None for an image id of the run's dataset.
    """

    asked: str
    stem: str
    path: Path | None


class LoadedImage(NamedTuple):
    """One image as read: shrunk for the network and for the picture, and what the dataset knows; or why not."""

    source: ImageSource
    shrunk: np.ndarray | None = None
    shown: np.ndarray | None = None
    facts: Annotations | None = None
    problem: str = ""


class Prediction(NamedTuple):
    """What a run says of one image: probability of each finding, and heat (C, h, w) where the method has any."""

    name: str
    probabilities: dict[str, float]
    heat: np.ndarray | None


def predict_images(question: PredictConfig) -> list[Prediction]:
    """Write `predictions.csv`, and for each image `<name>.json` and `<name>.heatmaps.png`; the first few answers.

    Raises:
        UserError: whatever is wrong with the run or the paths, before anything is written; images that cannot be read,
            after all others have been answered.
    """
    load_plugins(question.plugins)
    finished = load_trained_run(question.run, question.options)
    known = load_annotations(finished.record, question.data_dir)
    sources = _sources(question.images, known)
    dataset = finished.record.dataset
    caveat = f"; note that {dataset.caveat}" if dataset.caveat else ""
    say(f"{finished.record.method.title}, trained on {dataset.title}, recipe {finished.record.recipe.name}{caveat}")
    question.out.mkdir(parents=True, exist_ok=True)
    first, problems = [], []
    with (question.out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "path", *finished.record.auc])
        with progress("predicting", len(sources)) as advance:
            for seen, answer in _predict(finished, known, sources):
                if answer is None:
                    problems.append(seen.problem)
                else:
                    values = (f"{value:.6f}" for value in answer.probabilities.values())
                    table.writerow([answer.name, seen.source.asked, *values])
                    _write(question, finished, seen, answer)
                    first = [*first, answer] if len(first) < RETURNED else first
                advance(1)
    say(f"answered: {len(sources) - len(problems):,} of {len(sources):,} images, see {question.out}")
    if problems:
        raise UserError(f"{len(problems):,} of {len(sources):,} images cannot be used: {first_few(problems)}")
    return first


def _sources(asked: Sequence[str], known: AnnotationIndex) -> list[ImageSource]:
    """Files and folders as they lie on disk; other names as the dataset's image ids. Equal stems are numbered."""
    ids = {text for text in asked if not Path(text).exists() and text in known}
    found = find_images([Path(text) for text in asked if text not in ids])
    named = [(text, plain(Path(text).stem), None) for text in asked if text in ids]
    named += [(str(path), plain(path.stem), path) for path in found]
    taken: set[str] = set()
    sources = []
    for text, stem, path in named:
        free = next(name for name in chain([stem], (f"{stem}-{k}" for k in count(2))) if name not in taken)
        taken.add(free)
        sources.append(ImageSource(text, free, path))
    return sources


class _Images(torch.utils.data.Dataset):
    def __init__(self, sources: Sequence[ImageSource], known: AnnotationIndex, size: int) -> None:
        self.sources, self.known, self.shrink = sources, known, Shrink(size)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, position: int) -> LoadedImage:
        source = self.sources[position]
        try:
            gray = read_image(source.path) if source.path else self.known.read(source.asked)
        except DataError as error:
            return LoadedImage(source, problem=str(error))
        shrunk = self.shrink(gray)
        picture = Image.fromarray(gray)
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        return LoadedImage(source, shrunk, np.asarray(picture), self._facts(source, shrunk))

    def _facts(self, source: ImageSource, shrunk: np.ndarray) -> Annotations | None:
        """A file's name proves nothing: other datasets use the same names, so the pixels must agree as well."""
        name = source.path.name if source.path else source.asked
        if name not in self.known:
            return None
        if source.path is not None and not self._same(name, shrunk):
            return None
        return self.known.facts(name)

    def _same(self, name: str, shrunk: np.ndarray) -> bool:
        try:
            there = self.shrink(self.known.read(name)).astype(float)
        except DataError:  # the dataset's own copy is broken: nothing is known then, and the user's file is answered
            return False
        return np.abs(there - shrunk).mean() <= SAME_IMAGE


def _predict(
    finished: TrainedRun, known: AnnotationIndex, sources: Sequence[ImageSource]
) -> Iterator[tuple[LoadedImage, Prediction | None]]:
    """Each image with its answer, None where it could not be read, in the order of the sources."""
    setting, findings = finished.pixels, list(finished.record.auc)
    reader = HeatmapReader(finished.device, finished.method, finished.network, setting.crop)
    parallel = len(sources) > SERIAL_UP_TO and (known.dataset is None or is_picklable(known.dataset))
    images = _Images(sources, known, setting.size)
    for batch in DataLoader(
        images, batch_size=BATCH, collate_fn=identity_collate, num_workers=cores() if parallel else 0
    ):
        readable = [k for k, seen in enumerate(batch) if seen.shrunk is not None]
        answers: dict[int, Prediction] = {}
        if readable:
            crops = np.stack([center_crop(batch[k].shrunk, setting) for k in readable])
            logits, heat = reader.read(torch.from_numpy(crops))
            for row, k in enumerate(readable):
                source = batch[k].source
                name = source.path.name if source.path else source.asked
                probabilities = dict(zip(findings, logits[row].sigmoid().tolist(), strict=True))
                answers[k] = Prediction(name, probabilities, None if heat is None else heat[row].numpy())
        yield from ((seen, answers.get(k)) for k, seen in enumerate(batch))


def _write(question: PredictConfig, finished: TrainedRun, seen: LoadedImage, answer: Prediction) -> None:
    record, facts = finished.record, seen.facts
    frame = Frame(finished.pixels.size, finished.pixels.crop)
    leading = _leading(question, facts, answer)
    content = {
        "image": answer.name,
        "path": seen.source.asked,
        "run": record.run_id,
        "method": {"name": record.method.name, "options": to_dict(finished.method)},
        "trained_on": {
            "dataset": record.dataset.name,
            "recipe": record.recipe.name,
            "caveat": record.dataset.caveat,
        },
        "probabilities": answer.probabilities,
        "boxes": {finding: _found(finished, answer, finding, frame).tolist() for finding in leading},
        "known": None,
    }
    if facts is not None:
        boxes = {finding: part.tolist() for finding, part in facts.boxes.items()}
        content["known"] = {
            "dataset": record.dataset.name,
            "split": facts.split,
            "labels": facts.labels,
            "boxes": boxes,
        }
    stem = seen.source.stem
    (question.out / f"{stem}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if question.pictures:
        panels = _panels(finished, seen, answer, leading)
        method = ", ".join(filter(None, (record.method.title, changed_options(question.options))))
        title = f"{answer.name}: {method}, trained on {record.dataset.title}, run {record.run_id}"
        draw_panels(panels, frame, question.out / f"{stem}.heatmaps.png", title, columns=min(len(panels), 4), side=3.4)


def _leading(question: PredictConfig, facts: Annotations | None, answer: Prediction) -> list[str]:
    """The findings to show: the likeliest ones, and those that the image is known to have."""
    likeliest = sorted(answer.probabilities, key=lambda finding: -answer.probabilities[finding])
    missed = [finding for finding in likeliest[question.leading :] if facts and facts.labels[finding] == 1]
    return likeliest[: question.leading] + missed[: question.leading]


def _found(finished: TrainedRun, answer: Prediction, finding: str, frame: Frame) -> np.ndarray:
    if answer.heat is None:
        return NO_BOXES
    return predict_boxes(answer.heat[None, list(finished.record.auc).index(finding)], frame).boxes


def _panels(finished: TrainedRun, seen: LoadedImage, answer: Prediction, leading: Sequence[str]) -> list[Panel]:
    """The X-ray alone, then with the heatmap of each leading finding."""
    labels, boxes = (seen.facts.labels, seen.facts.boxes) if seen.facts else ({}, {})
    positive = [display_name(finding) for finding, label in labels.items() if label == 1]
    told = f"{seen.facts.split}: {', '.join(positive) or 'no finding'}" if seen.facts else "labels unknown"
    panels = [Panel(told, seen.shown, None, np.concatenate([NO_BOXES, *boxes.values()]))]
    for finding in leading:
        heat = None if answer.heat is None else answer.heat[list(finished.record.auc).index(finding)]
        label = {1: " (labelled)", 0: " (not labelled)"}.get(labels.get(finding), "")
        title = f"{finding.replace('_', ' ')} {answer.probabilities[finding]:.2f}{label}"
        panels.append(Panel(title, seen.shown, heat, boxes.get(finding, NO_BOXES)))
    return panels
