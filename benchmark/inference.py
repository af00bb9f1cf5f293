"""Images from outside through a finished run: the findings' probabilities, and pictures of where they were seen.

Images stream: one batch is in memory at a time, and what is known of an image is written before the next batch is read.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import DataLoader
from PIL import Image

from .dataset import DataError
from .environment import cores
from .errors import UserError, first_few
from .finished import Finished, load_finished
from .heatmaps import Reader
from .images import find_images, read_image
from .localization import Crop, predict_boxes
from .overlays import Panel, draw_panels
from .pixels import Shrink, as_is, centre
from .progress import progress, say
from .registry import load_plugins
from .truth import Truth, know_truth

BATCH = 16
FEW = 3 * BATCH  # images up to this number are not worth worker processes
SHOWN = 512  # the longer side of a radiograph in a picture, pixels
KEPT = 4  # answers handed back, to be shown


@dataclass(frozen=True)
class Question:
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


class Source(NamedTuple):
    """One image to answer: its name, the stem of the files written for it, and how to read it."""

    name: str
    stem: str
    read: Callable[[], np.ndarray]


class Seen(NamedTuple):
    """One image as read: shrunk for the network and for the picture; or the sentence that says why not."""

    source: Source
    shrunk: np.ndarray | None = None
    shown: np.ndarray | None = None
    problem: str = ""


class Answer(NamedTuple):
    """What a run says of one image: probability of each finding, and heat (C, h, w) where the method has any."""

    name: str
    probabilities: dict[str, float]
    heat: np.ndarray | None


def predict_images(question: Question) -> list[Answer]:
    """Write `predictions.csv`, and for each image `<name>.json` and `<name>.png`; the first few answers.

    Raises:
        UserError: whatever is wrong with the run or the paths, before anything is written; images that cannot be read,
            after all others have been answered.
    """
    load_plugins(question.plugins)
    finished = load_finished(question.run, question.options)
    truth = know_truth(finished.record, question.data_dir)
    sources = _sources(question.images, truth)
    question.out.mkdir(parents=True, exist_ok=True)
    first, problems = [], []
    with (question.out / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", *finished.record.auc])
        with progress("predicting", len(sources)) as advance:
            for seen, answer in _answers(finished, sources):
                if answer is None:
                    problems.append(seen.problem)
                else:
                    table.writerow([answer.name, *(f"{value:.6f}" for value in answer.probabilities.values())])
                    _write(question, finished, truth, seen, answer)
                    first = [*first, answer] if len(first) < KEPT else first
                advance(1)
    say(f"{len(sources) - len(problems):,} images answered, see {question.out}")
    if problems:
        raise UserError(f"{len(problems):,} of {len(sources):,} images cannot be used: {first_few(problems)}")
    return first


def _sources(asked: Sequence[str], truth: Truth) -> list[Source]:
    """Files and folders as they lie on disk; other names as the dataset's image ids. Equal stems are numbered."""
    named: list[tuple[str, Callable[[], np.ndarray]]] = []
    for text in asked:
        if not Path(text).exists() and truth.knows(text):
            named.append((text, _Known(truth, text)))
        else:
            named += [(path.name, _File(path)) for path in find_images([Path(text)])]
    taken: Counter[str] = Counter()
    sources = []
    for name, read in named:
        stem = Path(name).stem
        taken[stem] += 1
        sources.append(Source(name, stem if taken[stem] == 1 else f"{stem}-{taken[stem]}", read))
    return sources


class _File(NamedTuple):
    path: Path

    def __call__(self) -> np.ndarray:
        return read_image(self.path)


class _Known(NamedTuple):
    truth: Truth
    image_id: str

    def __call__(self) -> np.ndarray:
        return self.truth.read(self.image_id)


class _Images(torch.utils.data.Dataset):
    def __init__(self, sources: Sequence[Source], size: int) -> None:
        self.sources, self.shrink = sources, Shrink(size)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, position: int) -> Seen:
        source = self.sources[position]
        try:
            gray = source.read()
        except DataError as error:
            return Seen(source, problem=str(error))
        picture = Image.fromarray(gray)
        picture.thumbnail((SHOWN, SHOWN))
        return Seen(source, self.shrink(gray), np.asarray(picture))


def _answers(finished: Finished, sources: Sequence[Source]) -> Iterator[tuple[Seen, Answer | None]]:
    """Each image with its answer, None where it could not be read, in the order of the sources."""
    setting, findings = finished.pixels, list(finished.record.auc)
    reader = Reader(finished.device, finished.method, finished.network, setting.crop)
    workers = cores() if len(sources) > FEW else 0
    images = _Images(sources, setting.size)
    for batch in DataLoader(images, batch_size=BATCH, collate_fn=as_is, num_workers=workers):
        readable = [seen for seen in batch if seen.shrunk is not None]
        answers = iter(())
        if readable:
            crops = np.stack([centre(seen.shrunk, setting) for seen in readable])
            logits, heat = reader.read(torch.from_numpy(crops))
            heats = [None] * len(readable) if heat is None else heat.numpy()
            answers = iter(
                [
                    Answer(seen.source.name, dict(zip(findings, values, strict=True)), one)
                    for seen, values, one in zip(readable, logits.sigmoid().tolist(), heats, strict=True)
                ]
            )
        yield from ((seen, None if seen.shrunk is None else next(answers)) for seen in batch)


def _write(question: Question, finished: Finished, truth: Truth, seen: Seen, answer: Answer) -> None:
    crop = Crop(finished.pixels.size, finished.pixels.crop)
    leading = _leading(question, truth, answer)
    content = {
        "image": answer.name,
        "run": finished.record.run_id,
        "method": finished.record.method.name,
        "probabilities": answer.probabilities,
        "labels": truth.labels(answer.name),
        "boxes": {finding: _found(finished, answer, finding, crop).tolist() for finding in leading},
        "true_boxes": {finding: boxes.tolist() for finding, boxes in truth.boxes(answer.name).items()},
    }
    stem = question.out / seen.source.stem
    stem.with_name(f"{stem.name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if question.pictures:
        panels = _panels(finished, truth, seen, answer, leading)
        title = f"{answer.name}: {finished.record.method.title}, run {finished.record.run_id}"
        draw_panels(panels, crop, stem.with_name(f"{stem.name}.png"), title, columns=len(panels), side=3.4)


def _leading(question: Question, truth: Truth, answer: Answer) -> list[str]:
    """The findings to show: the likeliest ones, and those that the image is known to have."""
    likeliest = sorted(answer.probabilities, key=lambda finding: -answer.probabilities[finding])
    labels = truth.labels(answer.name) or {}
    known = [finding for finding in likeliest[question.leading :] if labels.get(finding) == 1]
    return likeliest[: question.leading] + known[: question.leading]


def _found(finished: Finished, answer: Answer, finding: str, crop: Crop) -> np.ndarray:
    if answer.heat is None:
        return np.empty((0, 4))
    return predict_boxes(answer.heat[None, list(finished.record.auc).index(finding)], crop).boxes


def _panels(finished: Finished, truth: Truth, seen: Seen, answer: Answer, leading: Sequence[str]) -> list[Panel]:
    labels, boxes = truth.labels(answer.name), truth.boxes(answer.name)
    positive = [finding.replace("_", " ") for finding, label in (labels or {}).items() if label == 1]
    told = "labels unknown" if labels is None else "labels: " + (", ".join(positive) or "no finding")
    nothing = np.empty((0, 4))
    panels = [Panel(told, seen.shown, None, np.concatenate([nothing, *boxes.values()]))]
    for finding in leading:
        heat = None if answer.heat is None else answer.heat[list(finished.record.auc).index(finding)]
        label = {None: "", 1: " (labelled)", 0: " (not labelled)"}.get((labels or {}).get(finding), "")
        title = f"{finding.replace('_', ' ')} {answer.probabilities[finding]:.2f}{label}"
        panels.append(Panel(title, seen.shown, heat, boxes.get(finding, nothing)))
    return panels
