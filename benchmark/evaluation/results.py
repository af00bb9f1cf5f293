"""Results of an evaluation, as pydantic models: the very parts of a record that are computed and computed again.

Values that are undefined are None (null in JSON), never 0, 0.5 or NaN.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """Base of every part of a record: unknown keys are errors, instances are immutable.

    A part can also be built from any object with the same attributes (a NamedTuple of metrics/, for example).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), from_attributes=True)


class IntervalPart(Part):
    """A value and its 95 % percentile interval over bootstrap resamples of patients."""

    value: Number | None
    low: Number | None
    high: Number | None


class FindingAuc(IntervalPart):
    """AUC of one finding."""

    positives: Count


class MeanInterval(IntervalPart):
    """Mean over the findings in which the metric is defined."""

    findings: Count  # over how many findings the mean was taken


class ScoreMetrics(Part):
    """The main metric: AUC on the test split."""

    auc: Annotated[dict[Name, FindingAuc], Field(min_length=1)]  # by finding
    mean_auc: MeanInterval
    mean_auc_without_rare: MeanInterval  # without dataset.rare; equal to mean_auc where no finding is rare


class FindingMetrics(Part):
    """Secondary metrics of one finding."""

    undefined_reason: str | None  # why AUC and average precision are undefined; null where they are defined
    prevalence: Number | None  # share of positives among the images with a label
    average_precision: IntervalPart
    brier: Number | None
    calibration_error: Number | None  # expected calibration error
    threshold: Number | None  # log-odds, fixed on the validation split
    sensitivity: IntervalPart  # on the test split, at that threshold
    specificity: IntervalPart


class MeanMetrics(Part):
    """Means over the findings in which each metric is defined; null where it is defined in none."""

    average_precision: MeanInterval
    brier: Number | None
    calibration_error: Number | None
    sensitivity: Number | None
    specificity: Number | None


class GroupPart(Part):
    """One subgroup of the test images."""

    images: Count
    patients: Count
    mean_auc: MeanInterval


class SecondaryMetrics(Part):
    """Average precision, calibration, operating points and subgroups on the test split."""

    target_specificity: Number  # share of the validation split's negatives that score below the threshold, at least
    mean: MeanMetrics
    findings: dict[Name, FindingMetrics]
    subgroups: dict[str, dict[str, GroupPart]]  # by trait (sex, age, view, ...), then by group


class OverlapRates(Part):
    """Rates at each overlap threshold."""

    accuracy: list[Number]  # found boxes / boxes of the finding
    false_positives: list[Number | None]  # false boxes / boxes of all findings; null in bounds of intervals


class Hits(Part):
    """Localization scores of one kind of heatmap."""

    pointing_game: Number
    iobb: OverlapRates  # at t_iobb
    iou: OverlapRates  # at t_iou


class FindingHits(Part):
    """Localization of one finding, next to two baselines; null where it has no box."""

    boxes: Count
    method: Hits | None
    random: Hits | None  # baseline: random maps on the same grid
    center: Hits | None  # baseline: one box in the center of every image


class MeanHits(FindingHits):
    """Means over the findings that have boxes."""

    findings: Count  # over how many findings the mean was taken
    low: Hits | None  # bounds of the 95 % interval of the method's mean
    high: Hits | None


class Localization(Part):
    """Boxes of the test split, found on heatmaps by the protocol of Wang et al. 2017 (metrics/localization.py)."""

    heatmap: str  # the method's own maps, or Grad-CAM
    images: Count  # test images with a box
    grid: list[Count]  # height and width of a heatmap
    thresholds: list[Count]  # of 0..255
    t_iobb: list[Number]
    t_iou: list[Number]
    findings: dict[Name, FindingHits]
    mean: MeanHits
