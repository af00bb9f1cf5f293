"""What `run.json` holds, version 1: plain numbers, null where there is no number, no key unknown."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..recipe import SECTIONS
from ..utils.errors import UserError
from ..utils.options import build
from ..utils.text import title_problem

SCHEMA = 1
Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


def _check_title(title: str) -> str:
    if why := title_problem(title):
        raise ValueError(why)
    return title


Title = Annotated[str, AfterValidator(_check_title)]


def _check_recipe(recipe: dict[str, Any] | None) -> dict[str, Any] | None:
    """A recipe has its name, what was changed, and every section with values that fit."""
    if recipe is None:
        return None
    if not isinstance(recipe.get("name"), str) or not isinstance(recipe.get("changed"), dict):
        raise ValueError("a recipe without a name, or without what was changed")
    for section, cls in SECTIONS.items():
        if not isinstance(recipe.get(section), dict):
            raise ValueError(f"a recipe without the section {section}")
        try:
            build(cls, recipe[section], f"{section}.")
        except UserError as error:
            raise ValueError(str(error)) from error
    return recipe


class Part(BaseModel):
    """What every part of a record is: no unknown key, and not to be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Interval(Part):
    """A value and its 95 % interval from resampled patients."""

    value: Number | None
    low: Number | None
    high: Number | None


class FindingAuc(Interval):
    positives: Count


class MeanInterval(Interval):
    findings: Count  # over how many findings the mean was taken


class MethodPart(Part):
    name: Name
    title: Title
    paper: str
    reported: str | None  # key of the paper's own numbers in literature.csv
    built_in: bool  # whether it belongs to chxbench, whose commit or version then tells what ran
    source_sha256: Sha256  # of the file that defines it
    options: dict[str, Any]  # all of them
    changed: dict[str, Any]  # those the user set
    compared_with: list[Name]  # the methods over which a gain has to be shown
    control: bool | None = None  # whether it is there to be beaten; null in early records, whose titles say so


class LabelsPart(Part):
    file: str
    sha256: Sha256
    version: str


class SplitPart(Part):
    name: str
    sha256: Sha256


class Counts(Part):
    images: Count
    patients: Count
    positives: dict[str, Count]
    with_finding: Count  # images with at least one positive
    absent: Count  # listed images that were not there and were left out on demand


class DatasetPart(Part):
    name: Name
    title: str
    caveat: str  # what a result on it does not show
    options: dict[str, Any]
    labels: LabelsPart
    split: SplitPart
    pixels_sha256: Sha256 | None  # of the decoded and shrunk images, all of them in order; null without images
    counts: dict[Literal["train", "val", "test"], Counts]  # of scores from elsewhere: only what was scored
    skipped: list[str] = []  # images that could not be read and were left out on demand, sorted


class WeightsPart(Part):
    init: str  # imagenet, none, or a file's name
    source: str | None  # what was loaded: the full name of pretrained weights, or a file's name
    untouched: list[str] | None  # tensors that were not loaded and began at their initial values; null if none was
    sha256: Sha256  # of the initial weights, all tensors in order
    final_sha256: Sha256  # of the weights that were scored


class StagePart(Part):
    name: str
    start: Literal["initial", "previous"]
    examples: Count  # images an epoch, repeats counted
    hard_positives: dict[str, Count] | None  # positives that made it repeat images: per finding, and these "images"
    epochs: Count
    best_epoch: Count
    validation_auc: list[Number | None]
    loss: list[Number]
    seconds: Number  # of training, without validation
    images_per_second: Number


class EnvironmentPart(Part):
    versions: dict[str, str]
    hardware: dict[str, str | int | float]
    precision: Literal["bfloat16", "float32"] | None
    layout: str | None
    code: dict[str, str | bool | None]  # git commit, and whether the code was changed since


class ScoresPart(Part):
    file: Literal["scores.parquet"]
    sha256: Sha256


class SourcePart(Part):
    """Where scores from elsewhere were read."""

    file: str
    sha256: Sha256
    image_column: str
    columns: str  # how the findings' columns are named: "prob_{finding}"
    scale: Literal["probability", "logit"]


class FindingStatistics(Part):
    """What else the scores of one finding say; null where undefined."""

    undefined: str | None  # why it has no AUC
    prevalence: Number | None  # positives among the images whose label is known
    average_precision: Interval
    brier: Number | None
    calibration_error: Number | None
    threshold: Number | None  # log-odds, fixed on the validation split
    sensitivity: Interval  # of the test split at that threshold
    specificity: Interval


class MeanStatistics(Part):
    """Means over the findings that have the number; null where none has."""

    average_precision: MeanInterval
    brier: Number | None
    calibration_error: Number | None
    sensitivity: Number | None
    specificity: Number | None


class GroupPart(Part):
    """The patients of one group."""

    images: Count
    patients: Count
    mean_auc: MeanInterval


class StatisticsPart(Part):
    """What else follows from the scores of the test split (statistics/)."""

    specificity: Number  # that the thresholds leave on the validation split, at least
    mean: MeanStatistics
    findings: dict[str, FindingStatistics]
    subgroups: dict[Literal["sex", "age", "view"], dict[str, GroupPart]]  # those that the label file tells of


class Rates(Part):
    """At each level of overlap."""

    accuracy: list[Number]  # found boxes / boxes of the finding
    false_positives: list[Number | None]  # false boxes / boxes of all findings; null in the ends of intervals


class Hits(Part):
    pointing_game: Number
    iobb: Rates  # at t_iobb
    iou: Rates  # at t_iou


class FindingHits(Part):
    """Null where the finding has no box."""

    boxes: Count
    method: Hits | None
    random: Hits | None  # the floor: maps of noise on the same grid
    centre: Hits | None  # the floor: one box in the middle of every image


class MeanHits(FindingHits):
    findings: Count  # over how many findings the mean was taken
    low: Hits | None  # 95 % interval of the method's mean, from resampled patients
    high: Hits | None


class LocalizationPart(Part):
    """The boxes of the test split, found on heatmaps as Wang et al. 2017 do (statistics/localization.py)."""

    heatmap: str  # the method's maps, or Grad-CAM
    images: Count  # test images with a box
    grid: list[Count]  # places of a heatmap, height and width
    thresholds: list[Count]
    t_iobb: list[Number]
    t_iou: list[Number]
    findings: dict[str, FindingHits]
    mean: MeanHits
    file: Literal["maps.npz"]
    sha256: Sha256  # of the arrays in it


class Record(Part):
    """One run, whole; or scores from elsewhere, of whose training nothing is known."""

    schema_: Literal[1] = Field(alias="schema")
    run_id: Name
    created: str
    command: str
    seed: int | None
    selection: str  # the rule that picked the epoch, in words
    method: MethodPart
    dataset: DatasetPart
    recipe: Annotated[dict[str, Any] | None, AfterValidator(_check_recipe)]
    weights: WeightsPart | None
    stages: list[StagePart]
    auc: Annotated[dict[str, FindingAuc], Field(min_length=1)]
    mean_auc: MeanInterval
    mean_auc_without_rare: MeanInterval
    statistics: StatisticsPart | None = None  # null in early records
    localization: LocalizationPart | None
    speed: dict[str, Any] | None
    scores: ScoresPart
    source: SourcePart | None = None  # null where chxbench trained and scored
    environment: EnvironmentPart
    checksum: Sha256  # of all of the above

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        """A run says how it was trained; scores from elsewhere do not pretend to."""
        trained = (self.seed, self.recipe, self.weights, self.stages or None)
        trained += (self.dataset.pixels_sha256, self.environment.precision, self.environment.layout)
        known = [part is not None for part in trained]
        if self.source is None and not all(known):
            raise ValueError("a run without seed, recipe, weights, stages, pixels, precision or layout")
        if self.source is not None and (any(known) or self.localization):
            raise ValueError("scores from elsewhere that claim to have been trained or localised here")
        if not {"test"} <= self.dataset.counts.keys() or (self.source is None and len(self.dataset.counts) < 3):
            raise ValueError("dataset.counts lacks a split")
        return self
