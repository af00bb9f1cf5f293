"""Metrics of scores: AUC, average precision, calibration, operating points and subgroups of the test split.

Records are written and verified with these functions. `chxbench.evaluate_scores` is `evaluate_arrays`.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from ..metrics import auc as auc_metrics
from ..metrics import calibration, operating_point
from ..metrics.intervals import MIN_PATIENTS, Interval, Statistic, average_findings, interval
from ..recipe import Evaluate, Recipe
from ..utils.errors import UserError, first_few
from .artifacts import findings_of, label_column, score_column, traits_of
from .results import (
    FindingAuc,
    FindingMetrics,
    GroupPart,
    IntervalPart,
    MeanInterval,
    MeanMetrics,
    ScoreMetrics,
    SecondaryMetrics,
)

TARGET_SPECIFICITY = 0.9  # minimum specificity of each threshold on the validation split
AGE = "age"  # this trait is binned; other traits are grouped by value
AGES = ((0, 20), (20, 40), (40, 60), (60, 80), (80, 121))  # years, lower bound included, upper bound not
MAX_GROUPS = 20  # a trait with more values is ignored: it identifies images rather than groups


class SplitScores(NamedTuple):
    """Scores and labels of one split.

    Attributes:
        findings: the C findings, in the order of the columns.
        scores: log-odds, float64 (N, C).
        labels: 1, 0 or NaN for unknown, float64 (N, C).
        patients: patient of each image, strings (N,).
    """

    findings: list[str]
    scores: np.ndarray
    labels: np.ndarray
    patients: np.ndarray

    @property
    def num_patients(self) -> int:
        """Number of patients."""
        return len(np.unique(self.patients))


# Metrics of a run for intervals over several runs, by name: mean_auc, mean_auc_without_rare, average_precision, brier,
# the mean AUC of a subgroup (`subgroup_name`), and those of localization.py.
Statistics = dict[str, Statistic]


def split_scores(table: pd.DataFrame, split: str = "test") -> SplitScores:
    """Return one split of a score table as arrays, sorted by image id so that runs can be paired."""
    findings = findings_of(table)
    part = table[table["split"] == split].sort_values("image_id")
    labels, scores = (
        part[[column(finding) for finding in findings]].to_numpy(np.float64) for column in (label_column, score_column)
    )
    return SplitScores(findings, scores, labels, part["patient_id"].to_numpy(str))


def evaluate_scores(table: pd.DataFrame, resamples: int, rare: Sequence[str] = ()) -> tuple[ScoreMetrics, Statistics]:
    """Compute AUC on the test split of a score table, and `Statistics` of its means.

    Args:
        table: score table, see `artifacts.score_table`.
        resamples: number of bootstrap resamples of patients.
        rare: findings excluded from `mean_auc_without_rare`.
    """
    return _evaluate_auc(split_scores(table), resamples, rare)


def evaluate_secondary_metrics(table: pd.DataFrame, resamples: int) -> tuple[SecondaryMetrics, Statistics]:
    """Compute average precision, calibration, operating points and subgroups on the test split, with `Statistics`.

    Args:
        table: score table, see `artifacts.score_table`.
        resamples: number of bootstrap resamples of patients.
    """
    metrics, statistics = _evaluate_secondary(split_scores(table), split_scores(table, "val"), resamples)
    test = table[table["split"] == "test"]
    subgroups: dict[str, dict[str, GroupPart]] = {}
    for trait in traits_of(table):
        subgroups[trait], of_groups = _evaluate_groups(test, trait, resamples)
        statistics |= of_groups
    return metrics.model_copy(update={"subgroups": subgroups}), statistics


def subgroup_name(trait: str, group: str) -> str:
    """Name the mean AUC of a subgroup in `Statistics`."""
    return f"mean_auc, {trait}: {group}"


def evaluate_arrays(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[object] | np.ndarray,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    findings: Sequence[str] | None = None,
    rare: Sequence[str] = (),
    resamples: int = 1000,
) -> dict[str, Any]:
    """Evaluate arrays of scores by the protocol of the leaderboard.

    Args:
        scores: log-odds (N, C), finite.
        labels: 1, 0, or NaN for unknown, (N, C).
        patients: patient of each image, (N,); the bootstrap resamples patients.
        validation: scores and labels of the validation split, each (M, C), which are used to choose the thresholds;
            None to leave sensitivity and specificity undefined.
        findings: names of the C findings; None for "finding_0", "finding_1", ...
        rare: findings excluded from `mean_auc_without_rare`.
        resamples: number of bootstrap resamples of patients.

    Returns:
        The keys auc, mean_auc, mean_auc_without_rare and secondary_metrics of a record (docs/records.md), without
        subgroups; undefined values are None.

    Raises:
        UserError: if shapes do not match, scores are not finite, labels are not 0, 1 or NaN, a finding is listed twice,
            or a rare finding is not among the findings.
    """
    test = _check_arrays("", scores, labels, findings)
    names = np.asarray(patients)
    if names.shape != (len(test.labels),):
        raise UserError(f"patients have the shape {names.shape}: pass one patient per image, ({len(test.labels)},)")
    if resamples < 1:
        raise UserError(f"resamples = {resamples}: pass at least 1")
    unlisted = sorted(set(rare) - set(test.findings))
    if unlisted:
        raise UserError(f"rare findings are not among the findings ({first_few(unlisted)}): correct rare or findings")
    test = test._replace(patients=names.astype(str))
    val = _check_arrays("validation ", *(validation or (test.scores[:0], test.labels[:0])), test.findings)
    auc, _ = _evaluate_auc(test, resamples, rare)
    secondary, _ = _evaluate_secondary(test, val, resamples)
    return {**auc.model_dump(), "secondary_metrics": secondary.model_dump()}


def resamples_of(recipe: Recipe | None) -> int:
    """Return the number of bootstrap resamples: the recipe's, or the default for external predictions."""
    return Evaluate.resamples if recipe is None else recipe.evaluate.resamples


def _check_arrays(what: str, scores: np.ndarray, labels: np.ndarray, findings: Sequence[str] | None) -> SplitScores:
    """Convert scores and labels to a split without patients.

    Args:
        what: name of the split for error messages, empty or followed by a space.
        scores: log-odds (N, C).
        labels: 1, 0, or NaN for unknown, (N, C).
        findings: names of the C findings; None for "finding_0", "finding_1", ...

    Raises:
        UserError: if shapes do not match, or values are invalid.
    """
    try:
        scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}scores or labels are not numbers ({error}): pass two arrays (N, C)") from error
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise UserError(
            f"{what}scores have the shape {scores.shape}, labels {labels.shape}: pass arrays of the same shape (N, C)"
        )
    names = [f"finding_{c}" for c in range(scores.shape[1])] if findings is None else list(findings)
    if len(names) != scores.shape[1] or len(set(names)) != len(names) or not names:
        raise UserError(f"{len(names)} findings for {scores.shape[1]} columns of {what}scores: name each column once")
    if not np.isfinite(scores).all():
        raise UserError(f"{int((~np.isfinite(scores)).sum()):,} {what}scores are not finite: pass log-odds")
    if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
        raise UserError(f"{what}labels other than 0, 1 and NaN: use NaN where a label is unknown")
    return SplitScores(names, scores, labels, np.array([], str))


def _evaluate_auc(test: SplitScores, resamples: int, rare: Sequence[str]) -> tuple[ScoreMetrics, Statistics]:
    each = dict(zip(test.findings, _evaluate_findings(test, resamples), strict=True))
    common = [statistic for finding, statistic in each.items() if finding not in rare]
    statistics = {
        "mean_auc": average_findings(list(each.values()), test.num_patients),
        "mean_auc_without_rare": average_findings(common, test.num_patients),
    }
    metrics = ScoreMetrics(
        auc={finding: _finding_auc(test, c, each[finding]) for c, finding in enumerate(test.findings)},
        mean_auc=_mean_interval(statistics["mean_auc"], list(each.values())),
        mean_auc_without_rare=_mean_interval(statistics["mean_auc_without_rare"], common),
    )
    return metrics, statistics


def _evaluate_findings(
    test: SplitScores, resamples: int, measure: auc_metrics.Measure = auc_metrics.measure_auc
) -> list[Statistic]:
    return auc_metrics.evaluate(test.scores, test.labels, test.patients, resamples, measure=measure)


def _finding_auc(test: SplitScores, c: int, statistic: Statistic) -> FindingAuc:
    labels = test.labels[:, c]
    positives, negatives = (len(np.unique(test.patients[labels == value])) for value in (1, 0))
    return FindingAuc(
        **interval(statistic)._asdict(),
        positives=int((labels == 1).sum()),
        positive_patients=positives,
        negative_patients=negatives,
    )


def _evaluate_secondary(test: SplitScores, val: SplitScores, resamples: int) -> tuple[SecondaryMetrics, Statistics]:
    """Compute the secondary metrics, without subgroups."""
    precision = _evaluate_findings(test, resamples, auc_metrics.measure_precision)
    brier = calibration.evaluate_brier(expit(test.scores), test.labels, test.patients, resamples)
    statistics = {
        "average_precision": average_findings(precision, test.num_patients),
        "brier": average_findings(brier, _patients_of_brier(test)),
    }
    per_finding = list(_metrics_per_finding(test, val, precision, brier, resamples))
    metrics = SecondaryMetrics(
        target_specificity=TARGET_SPECIFICITY,
        mean=MeanMetrics(
            average_precision=_mean_interval(statistics["average_precision"], precision),
            brier=_mean_interval(statistics["brier"], brier),
            calibration_error=_mean(metrics.calibration_error for metrics in per_finding),
            calibration_error_floor=_mean(metrics.calibration_error_floor for metrics in per_finding),
            sensitivity=_mean(metrics.sensitivity.value for metrics in per_finding),
            specificity=_mean(metrics.specificity.value for metrics in per_finding),
        ),
        findings=dict(zip(test.findings, per_finding, strict=True)),
        subgroups={},
    )
    return metrics, statistics


def _patients_of_brier(test: SplitScores) -> int:
    """Return the number of patients; 0, for no interval, if fewer than `MIN_PATIENTS` have any finding.

    The images of a finding that hardly any patient has still have a Brier score, and its errors are those of its
    positives: the mean varies with the patients who have a finding, whichever it is.
    """
    with_finding = np.unique(test.patients[(test.labels == 1).any(axis=1)])
    return test.num_patients if len(with_finding) >= MIN_PATIENTS else 0


def _metrics_per_finding(
    test: SplitScores, val: SplitScores, precision: Sequence[Statistic], brier: Sequence[Statistic], resamples: int
) -> Iterator[FindingMetrics]:
    columns = range(len(test.findings))
    # Thresholds are chosen on the validation split only. Without its negatives there are none.
    thresholds = [operating_point.threshold(val.scores[:, c], val.labels[:, c], TARGET_SPECIFICITY) for c in columns]
    rates = operating_point.evaluate(test.scores, test.labels, test.patients, thresholds, resamples)
    probabilities = expit(test.scores)
    for c in columns:
        labels = test.labels[:, c]
        yield FindingMetrics(
            undefined_reason=auc_metrics.undefined_reason(labels),
            prevalence=_mean(labels[~np.isnan(labels)].tolist()),
            average_precision=interval(precision[c]).value,
            brier=interval(brier[c]).value,
            calibration_error=calibration.expected_calibration_error(probabilities[:, c], labels),
            calibration_error_floor=calibration.calibration_error_floor(probabilities[:, c], labels),
            threshold=thresholds[c],
            sensitivity=_interval(rates[c].sensitivity),
            specificity=_interval(rates[c].specificity),
        )


def _evaluate_groups(test: pd.DataFrame, trait: str, resamples: int) -> tuple[dict[str, GroupPart], Statistics]:
    """Compute the mean AUC within each non-empty group of the test images."""
    groups, statistics = {}, {}
    for group, belongs in _groups(test[trait]):
        part = test[belongs]
        if len(part):
            arrays = split_scores(part)
            each = _evaluate_findings(arrays, resamples)
            mean = average_findings(each, arrays.num_patients)
            groups[group] = GroupPart(
                images=len(part), patients=arrays.num_patients, mean_auc=_mean_interval(mean, each)
            )
            statistics[subgroup_name(trait, group)] = mean
    return groups, statistics


def _groups(trait: pd.Series) -> Iterator[tuple[str, pd.Series]]:
    """Yield the groups of a trait (N,) and a mask (N,) of their images; images with a missing value are in no group."""
    if trait.name == AGE and pd.api.types.is_numeric_dtype(trait):
        for low, high in AGES:
            yield f"{low} to {high - 1}", trait.between(low, high, inclusive="left")
        return
    values = sorted(trait.dropna().unique())
    for value in values if len(values) <= MAX_GROUPS else ():
        yield str(value), trait == value


def _interval(interval: Interval) -> IntervalPart:
    return IntervalPart(**interval._asdict())


def _mean_interval(mean: Statistic, findings: Sequence[Statistic]) -> MeanInterval:
    defined = sum(not np.isnan(finding.value) for finding in findings)
    return MeanInterval(**interval(mean)._asdict(), findings=defined)


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the defined values; None if all are undefined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
