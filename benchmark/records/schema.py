"""Schema 2 of a record, `run.json`: numbers are plain, null means that there is no number, unknown keys are errors.

`python -m chxbench.benchmark.records.schema` prints the JSON Schema (docs/record.schema.json). What is computed from
scores and heatmaps is described in evaluation/results.py.
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


# --- shared by the records of runs and of speed -------------------------------------------------------------------


class RecordHeader(Part):
    """When a record was made, and how."""

    created: str  # UTC, ISO 8601
    command: str  # that makes it again; folders of this machine are left out


class MethodIdentity(Part):
    """What a method computes follows from these."""

    name: Name
    built_in: bool  # part of chxbench, whose commit or version then identifies its source
    source_sha256: Sha256  # of the file that defines it
    options: dict[str, Any]  # all of them


class CodePart(Part):
    """State of the git checkout; nulls where chxbench was installed without one."""

    commit: str | None
    dirty: bool | None  # whether the code was modified since


class Software(Part):
    """The software that made a record."""

    versions: dict[str, str]
    code: CodePart


# --- what was requested and trained -------------------------------------------------------------------------------


class MethodPart(MethodIdentity):
    """The method of a run, or the source of external predictions."""

    title: Title
    paper: str
    reported: str | None  # key of the paper's own values in literature.csv
    changed: dict[str, Any]  # options that the user set
    compared_with: list[Name]  # methods over which a gain has to be shown
    control: bool  # there to be compared with, not to be ranked


class LabelsPart(Part):
    """Identity of the labels."""

    file: str
    sha256: Sha256
    version: str


class SplitPart(Part):
    """Identity of the split."""

    name: str
    sha256: Sha256


class Counts(Part):
    """Size of one split."""

    images: Count
    patients: Count
    positives: dict[Name, Count]  # images, by finding
    with_finding: Count  # images with at least one positive
    absent: Count  # listed images without a file, left out on demand


class DatasetPart(Part):
    """The dataset, as the run saw it."""

    name: Name
    title: str
    caveat: str  # what a result on it does not show
    options: dict[str, Any]
    findings: Annotated[list[Name], Field(min_length=1)]  # in the order of every score matrix
    rare: list[Name]  # findings with so few positives that mean_auc_without_rare leaves them out
    labels: LabelsPart
    split: SplitPart
    pixels_sha256: Sha256 | None  # of the decoded and resized images, in order; null for external predictions
    counts: dict[str, Counts]  # by split; of external predictions, the scored ones only
    skipped: list[str]  # images that could not be read, left out on demand, sorted

    @model_validator(mode="after")
    def _check_findings(self) -> Self:
        if len(set(self.findings)) < len(self.findings):
            raise ValueError("a finding is listed twice")
        if not set(self.rare) <= set(self.findings):
            raise ValueError("a rare finding is not among the findings")
        if "test" not in self.counts or not set(self.counts) <= set(SPLITS):
            raise ValueError(f"counts are not those of {', '.join(SPLITS)}")
        return self


class WeightsPart(Part):
    """Weights before and after training."""

    init: str  # imagenet, none, or the name of a file
    source: str | None  # what was loaded: the full name of pretrained weights, or of a file; null for random weights
    not_loaded: list[str] | None  # tensors that source does not have and that began at random; null without a source
    sha256: Sha256  # of the initial weights, all tensors in order
    final_sha256: Sha256  # of the weights that were scored


class StagePart(Part):
    """One stage of training."""

    name: str
    start: Literal["initial", "previous"]
    examples: Count  # images per epoch, repeats included
    hard_positives: dict[Name, Count] | None  # positives repeated for being hard, by finding, and their "images"
    epochs: Count
    best_epoch: Count  # the selected one, from 1
    validation_auc: list[Number | None]  # mean AUC after each epoch
    loss: list[Number]  # mean of each epoch
    seconds: Number  # of training, without validation
    images_per_second: Number


class SubmissionPart(Part):
    """The file that external predictions were read from."""

    file: str
    sha256: Sha256
    image_column: str
    columns: str  # how the findings' columns are named: "prob_{finding}"
    scale: Literal["probability", "logit"]


class EnvironmentPart(Software):
    """Software and hardware of a run."""

    hardware: dict[str, str | int | float]
    precision: Literal["bfloat16", "float32"] | None
    layout: str | None


class RunDescription(RecordHeader):
    """What was requested and trained: a record before its scores are evaluated.

    Runs have seed, recipe, weights and stages; external predictions have a submission instead.
    """

    run_id: Name
    seed: int | None
    selection: str  # the rule that picked the epoch, as text
    method: MethodPart
    dataset: DatasetPart
    recipe: Recipe | None  # all settings, and in `changed` those that the user set
    weights: WeightsPart | None
    stages: list[StagePart]
    submission: SubmissionPart | None  # null where chxbench trained
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
        trained = {"seed": self.seed, "recipe": self.recipe, "weights": self.weights, "stages": self.stages or None}
        used = {"pixels_sha256": self.dataset.pixels_sha256, "precision": environment.precision}
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
    """The score table that all metrics of scores follow from."""

    file: Literal["scores.parquet"]
    sha256: Sha256


class LocalizationPart(Localization):
    """Localization metrics, and the heatmaps that they follow from."""

    file: Literal["maps.npz"]
    sha256: Sha256  # of the arrays in it


class Record(ScoreMetrics, RunDescription):
    """A run or external predictions, evaluated: the content of `run.json`."""

    schema_: Literal[2] = Field(alias="schema")
    secondary_metrics: SecondaryMetrics
    localization: LocalizationPart | None  # null without boxes in the test split, or without heatmaps
    scores: ScoresPart
    checksum: Sha256  # of all of the above

    @model_validator(mode="after")
    def _check_metrics(self) -> Self:
        if list(self.auc) != self.dataset.findings:
            raise ValueError("auc does not have the findings of the dataset, in their order")
        if self.submission is not None and self.localization is not None:
            raise ValueError("external predictions with localization")
        return self


def json_schema(model: type[BaseModel]) -> str:
    """Return the JSON Schema of a record, as the text of its file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema(Record))
