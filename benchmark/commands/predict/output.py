"""Files that `chxbench predict` writes: a table of all images, and for each one a JSON file and a figure."""

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from ...metrics.localization import Frame, predict_boxes
from ...records.figures.overlays import Panel, draw_panels, finding_panel
from ...records.schema import Record
from ...utils.options import to_dict
from ...utils.text import changed_options, display_name, encodable
from ..trained_run import TrainedRun
from .annotations import Annotations
from .images import PICTURE, ReadImage

TABLE = "predictions.csv"
NO_BOXES = np.empty((0, 4))


class Prediction(NamedTuple):
    """Prediction for one image.

    Attributes:
        name: the image's file name, or its id in the run's dataset.
        probabilities: probability of each finding.
        heat: heatmaps (C, h, w); None if the method has none.
    """

    name: str
    probabilities: dict[str, float]
    heat: np.ndarray | None


class PredictionWriter(AbstractContextManager["PredictionWriter"]):
    """Writes predictions to a folder one at a time.

    Args:
        run: run that predicts.
        out: output folder; created if it does not exist.
        leading: number of findings whose heatmaps and boxes are shown.
        pictures: whether to draw figures.
        options: the method's options that the user changed.
    """

    def __init__(self, run: TrainedRun, out: Path, leading: int, pictures: bool, options: Mapping[str, Any]) -> None:
        self.run, self.out, self.leading, self.pictures, self.options = run, out, leading, pictures, options
        self.frame = Frame(run.pixels.size, run.pixels.crop)
        self.findings = list(run.record.auc)
        self.prevalence = _training_prevalence(run.record)
        out.mkdir(parents=True, exist_ok=True)
        self._file = (out / TABLE).open("w", newline="", encoding="utf-8")
        self._table = csv.writer(self._file)
        self._table.writerow(["image", "path", *self.findings])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, image: ReadImage, prediction: Prediction) -> None:
        """Write a row of the table, the JSON file and the figure of an image."""
        values = (f"{value:.6f}" for value in prediction.probabilities.values())
        self._table.writerow([encodable(prediction.name), encodable(image.source.name), *values])
        shown = leading_findings(prediction.probabilities, image.annotations, self.leading)
        content = json.dumps(self._content(image, prediction, shown), indent=1) + "\n"
        (self.out / f"{image.source.stem}.json").write_text(content, encoding="utf-8")
        if self.pictures:
            self._draw(image, prediction, shown)

    def _content(self, image: ReadImage, prediction: Prediction, shown: Sequence[str]) -> dict[str, Any]:
        record = self.run.record
        return {
            "image": encodable(prediction.name),
            "path": encodable(image.source.name),
            "run": record.run_id,
            "method": {"name": record.method.name, "options": to_dict(self.run.method)},
            "trained_on": {
                "dataset": record.dataset.name,
                "recipe": self.run.recipe.name,
                "caveat": record.dataset.caveat,
            },
            "probabilities": prediction.probabilities,
            "prevalence": {finding: self.prevalence[finding] for finding in prediction.probabilities},
            "boxes": {finding: self._predicted_boxes(prediction, finding).tolist() for finding in shown},
            "annotations": image.annotations and _annotation_fields(record.dataset.name, image.annotations),
        }

    def _heat(self, prediction: Prediction, finding: str) -> np.ndarray | None:
        return None if prediction.heat is None else prediction.heat[self.findings.index(finding)]

    def _predicted_boxes(self, prediction: Prediction, finding: str) -> np.ndarray:
        heat = self._heat(prediction, finding)
        return NO_BOXES if heat is None else predict_boxes(heat[None], self.frame).boxes

    def _draw(self, image: ReadImage, prediction: Prediction, shown: Sequence[str]) -> None:
        """Draw the X-ray with its ground-truth boxes, then with the heatmap of each finding shown."""
        labels, boxes = (image.annotations.labels, image.annotations.boxes) if image.annotations else ({}, {})
        all_boxes = np.concatenate([NO_BOXES, *boxes.values()])
        panels = [Panel(_annotation_title(image.annotations), image.figure, None, all_boxes)]
        for finding in shown:
            label = {1: " (labeled)", 0: " (not labeled)", None: ""}[labels.get(finding)]
            odds = prediction.probabilities[finding], self.prevalence[finding]
            heat, true_boxes = self._heat(prediction, finding), boxes.get(finding, NO_BOXES)
            panels.append(finding_panel(finding, label, image.figure, heat, true_boxes, odds))
        record = self.run.record
        method = ", ".join(filter(None, (record.method.title, changed_options(self.options))))
        title = f"{prediction.name}: {method}, trained on {record.dataset.title}, run {record.run_id}"
        path = self.out / f"{image.source.stem}{PICTURE}"
        draw_panels(panels, self.frame, path, title, columns=min(len(panels), 4), side=3.4)


def _training_prevalence(record: Record) -> dict[str, float]:
    """Return the fraction of the training images that have each finding, unknown labels counted as absent."""
    counts = record.dataset.counts["train"]
    return {finding: counts.positives[finding] / counts.images for finding in record.auc}


def leading_findings(probabilities: Mapping[str, float], annotations: Annotations | None, count: int) -> list[str]:
    """Choose the findings to show: the `count` most likely ones, and up to as many less likely labeled ones."""
    ranked = sorted(probabilities, key=lambda finding: -probabilities[finding])
    positives = annotations.positives if annotations else []
    missed = [finding for finding in ranked[count:] if finding in positives]
    return ranked[:count] + missed[:count]


def _annotation_fields(dataset: str, annotations: Annotations) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "split": annotations.split,
        "labels": annotations.labels,
        "boxes": {finding: boxes.tolist() for finding, boxes in annotations.boxes.items()},
    }


def _annotation_title(annotations: Annotations | None) -> str:
    if annotations is None:
        return "labels unknown"
    findings = ", ".join(display_name(finding) for finding in annotations.positives)
    return f"{annotations.split}: {findings or 'no finding'}"
