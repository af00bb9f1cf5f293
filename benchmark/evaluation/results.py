"""Results of an evaluation as pydantic models: the parts of a record that verification recomputes.

Undefined values are None (null in JSON), never 0, 0.5 or NaN.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """Base of every part of a record: unknown keys are errors, instances are immutable.

    A part can also be built from any object with the same attributes, such as a NamedTuple of metrics/.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), from_attributes=True)


class IntervalPart(Part):
    """A value and its 95 % interval over test patients (metrics/intervals.py).

    All three are null if the value is undefined on the test split. Both bounds are null if too few patients have or
    lack a finding, and at 0 and 1.
    """

    value: Number | None
    low: Number | None
    high: Number | None


class FindingAuc(IntervalPart):
    """AUC of one finding."""

    positives: Count  # images
    positive_patients: Count  # patients with at least one of them
    negative_patients: Count  # patients with at least one negative image


class MeanInterval(IntervalPart):
    """Mean of a metric over the findings for which it is defined."""

    findings: Count  # number of findings in the mean


class ScoreMetrics(Part):
    """The main metric: AUC on the test split."""

    auc: Annotated[dict[Name, FindingAuc], Field(min_length=1)]  # per finding
    mean_auc: MeanInterval
    mean_auc_without_rare: MeanInterval  # excludes dataset.rare; equal to mean_auc if no finding is rare


class FindingMetrics(Part):
    """Secondary metrics of one finding."""

    undefined_reason: str | None  # why AUC and average precision are undefined; null if they are defined
    prevalence: Number | None  # fraction of positives among the images with a label
    average_precision: Number | None
    brier: Number | None
    calibration_error: Number | None  # expected calibration error over 15 bins of equal count
    calibration_error_floor: Number | None  # its mean if the predicted probabilities were exactly right
    threshold: Number | None  # log-odds, chosen on the validation split; null if it has no negatives
    sensitivity: IntervalPart  # on the test split, at this threshold
    specificity: IntervalPart


class MeanMetrics(Part):
    """Means of each metric over the findings for which it is defined; null if it is undefined for all."""

    average_precision: MeanInterval
    brier: MeanInterval
    calibration_error: Number | None
    calibration_error_floor: Number | None
    sensitivity: Number | None
    specificity: Number | None


class GroupPart(Part):
    """One subgroup of the test images."""

    images: Count
    patients: Count
    mean_auc: MeanInterval


class SecondaryMetrics(Part):
    """Average precision, calibration, operating points and subgroups on the test split."""

    target_specificity: Number  # minimum fraction of validation negatives that score below the threshold
    mean: MeanMetrics
    findings: dict[Name, FindingMetrics]
    subgroups: dict[str, dict[str, GroupPart]]  # per trait (sex, age, view, ...) and group


class OverlapRates(Part):
    """Rates at each overlap threshold, in the order of t_iobb or t_iou."""

    accuracy: list[Number]  # fraction of ground-truth boxes detected
    # Unmatched predicted boxes of the finding per ground-truth box of any finding; null in interval bounds.
    false_positives: list[Number | None]


class Hits(Part):
    """Localization scores of the method's heatmaps or of a baseline."""

    pointing_game: Number  # fraction of image-finding pairs with the maximum of the heatmap inside a ground-truth box
    iobb: OverlapRates  # at t_iobb
    iou: OverlapRates  # at t_iou


class FindingHits(Part):
    """Localization scores of one finding and of three baselines; null if the finding has no box."""

    boxes: Count
    method: Hits | None
    random: Hits | None  # baseline: random heatmaps of the same size
    center: Hits | None  # baseline: one box in the center of every image
    prior: Hits | None  # baseline: where the boxes of the finding are on the images of other patients


class MeanHits(FindingHits):
    """Means over the findings that have boxes."""

    findings: Count  # number of findings in the mean
    pointing_game: IntervalPart  # of the method
    accuracy: IntervalPart  # of the method, at IoBB > 0.25


class Localization(Part):
    """Localization on the test split by the protocol of Wang et al. 2017 (metrics/localization.py)."""

    heatmap: str  # source of the heatmaps: the method's maps, or Grad-CAM
    images: Count  # test images with at least one box
    grid: list[Count]  # height and width of a heatmap, in cells
    thresholds: list[Count]  # thresholds of the normalized heatmap, in 0..255
    t_iobb: list[Number]  # overlap thresholds: intersection over the predicted box
    t_iou: list[Number]  # overlap thresholds: intersection over union
    findings: dict[Name, FindingHits]
    mean: MeanHits
