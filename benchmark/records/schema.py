"""Schema 2 of a record, `run.json`: null means undefined or not applicable, and unknown keys are errors.

`python -m chxbench.benchmark.records.schema` prints the JSON Schema (docs/record.schema.json). The parts that
are computed from scores and heatmaps are defined in evaluation/results.py.
"""

import json
import sys
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from ..dataset import SPLITS
from ..evaluation.results import Count, Localization, Name, Number, Part, ScoreMetrics, SecondaryMetrics
from ..recipe import Recipe
from ..utils.text import title_problem

SCHEMA = 2
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _check_title(title: str) -> str:
    if why := title_problem(title):
        raise ValueError(why)
    return title


Title = Annotated[str, AfterValidator(_check_title)]


# --- shared by run records and speed records ----------------------------------------------------------------------


class RecordHeader(Part):
    """When and by which command a record was produced."""

    created: str  # UTC, ISO 8601
    command: str  # command that produces the record again, without local paths


class MethodIdentity(Part):
    """Identity of a method: together, these determine what it computes."""

    name: Name
    built_in: bool  # whether it is part of chxbench
    source_sha256: Sha256  # hash of the code that defines it; of the file of external predictions
    options: dict[str, Any]  # all options, including defaults


class CodePart(Part):
    """State of the git checkout; null if chxbench was installed without one."""

    commit: str | None
    dirty: bool | None  # whether the code differs from the commit


class Software(Part):
    """Software that produced a record."""

    versions: dict[str, str]  # per package
    code: CodePart


# --- what was requested and trained -------------------------------------------------------------------------------


class MethodPart(MethodIdentity):
    """The method of a run, or the source of external predictions."""

    title: Title
    paper: str  # citation
    reported: str | None  # key of the values that its paper reports, in literature.csv
    changed: dict[str, Any]  # options that the user set
    compared_with: list[Name]  # methods that it claims to improve on
    control: bool  # whether it only serves for comparison
    floor: bool  # whether its scores need no network, and are shown on every board of the same test images


class LabelsPart(Part):
    """Identity of the labels."""

    file: str  # name of the label file
    sha256: Sha256  # hash of the label file, or of the table if generated
    version: str


class SplitPart(Part):
    """Identity of the split."""

    name: str
    sha256: Sha256  # hash of the image ids in each split


class Counts(Part):
    """Size of one split."""

    images: Count
    patients: Count
    positives: dict[Name, Count]  # positive images per finding
    with_finding: Count  # images with at least one positive finding
    absent: Count  # listed images without a file, excluded on request


class PixelsPart(Part):
    """The decoded and resized images that the network saw."""

    sha256: Sha256  # hash of all images, in order
    sample: dict[str, Sha256]  # hashes of single images, by which another copy of the dataset can be compared


class DatasetPart(Part):
    """The dataset as used in the run."""

    name: Name
    title: str
    caveat: str  # what results on this dataset do not show
    options: dict[str, Any]
    source_sha256: Sha256  # hash of the code that defines it
    findings: Annotated[list[Name], Field(min_length=1)]  # in the order of the score columns
    rare: list[Name]  # findings with few positives, excluded from mean_auc_without_rare
    labels: LabelsPart
    split: SplitPart
    pixels: PixelsPart | None  # null for external predictions
    counts: dict[str, Counts]  # per split; for external predictions, only splits with scores
    skipped: list[str]  # unreadable images, excluded on request, sorted

    @model_validator(mode="after")
    def _check_findings(self) -> Self:
        if len(set(self.findings)) < len(self.findings):
            raise ValueError("a finding is listed twice")
        if not set(self.rare) <= set(self.findings):
            raise ValueError("a rare finding is not among the findings")
        if "test" not in self.counts or not set(self.counts) <= set(SPLITS):
            raise ValueError(f"counts has a split other than {', '.join(SPLITS)}, or no test split")
        return self


class WeightsPart(Part):
    """Weights before and after training."""

    init: str  # imagenet, none, or the name of a file
    file_sha256: Sha256 | None  # hash of that file
    source: str | None  # full name of the pretrained weights, or file name; null for random weights
    not_loaded: list[str] | None  # randomly initialized tensors that source does not contain; null without a source
    sha256: Sha256  # hash of all initial tensors, in order
    final_sha256: Sha256  # hash of the weights that were scored


class StagePart(Part):
    """One stage of training."""

    name: str
    start: Literal["initial", "previous"]
    examples: Count  # images per epoch, including repeated ones
    hard_positives: dict[Name, Count] | None  # repeated hard positives per finding, and their number of "images"
    epochs: Count
    best_epoch: Count  # selected epoch, counted from 1
    validation_auc: list[Number | None]  # mean AUC after each epoch
    loss: list[Number]  # mean loss of each epoch
    seconds: Number  # training time without validation
    images_per_second: Number


class PartCheckPart(Part):
    """What a part of the trained network does, on validation images."""

    name: str  # what is measured
    value: Number
    minimum: Number  # below this, the part is inactive


class SubmissionPart(Part):
    """The file that external predictions were read from."""

    file: str
    sha256: Sha256
    image_column: str
    columns: str  # name pattern of the findings' columns, such as "prob_{finding}"
    scale: Literal["probability", "logit"]


class EnvironmentPart(Software):
    """Software and hardware of a run."""

    hardware: dict[str, str | int | float]
    precision: Literal["bfloat16", "float32"] | None
    layout: str | None


class RunDescription(RecordHeader):
    """Configuration and training of a run: its record before evaluation.

    Runs have seed, recipe, weights and stages; external predictions have a submission instead.
    """

    run_id: Name
    experiment_sha256: Sha256 | None  # hash of all that the result follows from except seed and pixels; runs only
    seed: int | None
    selection: str  # rule by which the epoch was selected
    method: MethodPart
    dataset: DatasetPart
    recipe: Recipe | None  # all settings; `changed` lists those that the user set
    weights: WeightsPart | None
    stages: list[StagePart]
    part_checks: list[PartCheckPart]  # of the parts that the method adds; empty if it measures none
    submission: SubmissionPart | None  # null for runs trained by chxbench
    environment: EnvironmentPart

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.submission is None:
            self._check_run()
        else:
            self._check_submission()
        return self

    def _training(self) -> dict[str, object]:
        environment = self.environment
        trained = {
            "experiment_sha256": self.experiment_sha256,
            "seed": self.seed,
            "recipe": self.recipe,
            "weights": self.weights,
            "stages": self.stages or None,
        }
        used = {"pixels": self.dataset.pixels, "precision": environment.precision}
        return {**trained, **used, "layout": environment.layout}

    def _check_run(self) -> None:
        missing = [key for key, part in self._training().items() if part is None]
        missing += [split for split in ("train", "val") if split not in self.dataset.counts]
        if missing:
            raise ValueError(f"a run without {', '.join(missing)}")

    def _check_submission(self) -> None:
        extra = [key for key, part in self._training().items() if part is not None]
        if extra:
            raise ValueError(f"external predictions with {', '.join(extra)}")


# --- the record ---------------------------------------------------------------------------------------------------


class ScoresPart(Part):
    """The score table from which the metrics of scores are computed."""

    file: Literal["scores.parquet"]
    sha256: Sha256  # hash of the file


class LocalizationPart(Localization):
    """Localization metrics, and the heatmaps from which they are computed."""

    file: Literal["maps.npz"]
    sha256: Sha256  # hash of the arrays in the file


class Record(ScoreMetrics, RunDescription):
    """An evaluated run or evaluated external predictions: the content of `run.json`.

    `localization_problem` is a sentence: the network has no heatmaps, or they could not be computed, evaluated or
    drawn. The same command tries that part again.
    """

    schema_: Literal[2] = Field(alias="schema")
    secondary_metrics: SecondaryMetrics
    localization: LocalizationPart | None  # null if there are no heatmaps, or no boxes in the test split
    localization_problem: str | None  # why localization is missing although the test split has boxes; otherwise null
    scores: ScoresPart
    checksum: Sha256  # hash of all other keys

    @model_validator(mode="after")
    def _check_metrics(self) -> Self:
        if list(self.auc) != self.dataset.findings:
            raise ValueError("auc does not have the findings of the dataset, in their order")
        if self.submission is not None and self.localization is not None:
            raise ValueError("external predictions with localization")
        if self.localization_problem is not None and (self.submission is not None or self.localization is not None):
            raise ValueError("localization_problem with localization, or of external predictions")
        return self


def json_schema(model: type[BaseModel]) -> str:
    """Return the JSON Schema of a model as the text of a file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema(Record))
