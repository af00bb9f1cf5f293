"""Scores to the record's numbers: AUC, and what else they say about the test split.

The same functions make a record and check it afterwards.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from ..dataset import TRAITS
from ..metrics import auc as auc_metrics
from ..metrics import calibration, operating_point
from ..metrics.auc import Evaluation, Interval
from ..recipe import Evaluate
from ..utils.options import build

LEFT_OUT = "Hernia"  # 86 official test images of 32 patients: one class must not move a mean
SPECIFICITY = 0.9  # that thresholds leave on the validation split


class SplitScores(NamedTuple):
    """One split of a score table.

    Attributes:
        findings: the C findings, in order.
        scores, labels: log-odds and 1, 0 or NaN, float64 (N, C).
        patients: (N,) texts.
    """

    findings: list[str]
    scores: np.ndarray
    labels: np.ndarray
    patients: np.ndarray

    @property
    def left_out(self) -> tuple[int, ...]:
        """The columns of the findings that the second mean leaves out."""
        return (self.findings.index(LEFT_OUT),) if LEFT_OUT in self.findings else ()


def split_scores(table: pd.DataFrame, split: str = "test") -> SplitScores:
    """The rows of one split, as arrays; in the order of the image ids, so that runs can be paired."""
    findings = [name.removeprefix("label ") for name in table.columns if name.startswith("label ")]
    part = table[table["split"] == split].sort_values("image_id")
    labels, scores = (part[[f"{kind} {f}" for f in findings]].to_numpy(np.float64) for kind in ("label", "score"))
    return SplitScores(findings, scores, labels, part["patient_id"].to_numpy(str))


class ScoreEvaluation(NamedTuple):
    """What follows from a score table.

    Attributes:
        keys: the record's keys auc, mean_auc and mean_auc_without_rare.
        draws: the mean AUC in each draw of patients (R,), NaN where undefined; runs are paired by it.
    """

    keys: dict[str, Any]
    draws: np.ndarray


def evaluate_scores(table: pd.DataFrame, resamples: int) -> ScoreEvaluation:
    """AUC and its means of the test split, with intervals from so many draws of patients."""
    test = split_scores(table)
    drawn = auc_metrics.bootstrap(test.scores, test.labels, test.patients, resamples)
    judged = auc_metrics.summarize(test.scores, test.labels, drawn, test.left_out)
    each = zip(test.findings, judged.each, judged.positives, strict=True)
    keys = {
        "auc": {finding: {**value._asdict(), "positives": positives} for finding, value, positives in each},
        "mean_auc": _mean_of(judged.mean),
        "mean_auc_without_rare": _mean_of(judged.mean_without),
    }
    return ScoreEvaluation(keys, auc_metrics.mean_defined(drawn))


def evaluate_secondary_metrics(table: pd.DataFrame, resamples: int) -> dict[str, Any]:
    """The record's key statistics: average precision, calibration, rates at thresholds fixed on validation, groups."""
    test = split_scores(table)
    arrays = test.scores, test.labels, test.patients
    precision = auc_metrics.evaluate(*arrays, resamples, test.left_out, measure=auc_metrics.measure_precision)
    findings = _each_finding(test, split_scores(table, "val"), precision, resamples)
    return {
        "specificity": SPECIFICITY,
        "mean": {
            "average_precision": _mean_of(precision.mean),
            "brier": _mean(each["brier"] for each in findings.values()),
            "calibration_error": _mean(each["calibration_error"] for each in findings.values()),
            "sensitivity": _mean(each["sensitivity"]["value"] for each in findings.values()),
            "specificity": _mean(each["specificity"]["value"] for each in findings.values()),
        },
        "findings": findings,
        "subgroups": {trait: _groups(table, trait, resamples) for trait in TRAITS if trait in table},
    }


def _each_finding(
    test: SplitScores, val: SplitScores, precision: Evaluation, resamples: int
) -> dict[str, dict[str, Any]]:
    columns = range(len(test.findings))
    thresholds = [operating_point.threshold(val.scores[:, c], val.labels[:, c], SPECIFICITY) for c in columns]
    rates = operating_point.evaluate(test.scores, test.labels, test.patients, thresholds, resamples)
    probabilities = expit(test.scores)
    return {
        finding: {
            "undefined": auc_metrics.undefined_reason(test.labels[:, c]),
            "prevalence": _mean(test.labels[~np.isnan(test.labels[:, c]), c]),
            "average_precision": precision.each[c]._asdict(),
            "brier": calibration.brier(probabilities[:, c], test.labels[:, c]),
            "calibration_error": calibration.expected_calibration_error(probabilities[:, c], test.labels[:, c]),
            "threshold": thresholds[c],
            "sensitivity": rates[c].sensitivity._asdict(),
            "specificity": rates[c].specificity._asdict(),
        }
        for c, finding in enumerate(test.findings)
    }


def _groups(table: pd.DataFrame, trait: str, resamples: int) -> dict[str, dict[str, Any]]:
    """Mean AUC within each group of the test images; groups without an image are left out."""
    found = {}
    for group, belongs in GROUPS[trait].items():
        part = table[belongs(table[trait]) & (table["split"] == "test")]
        if part.empty:
            continue
        test = split_scores(part)
        judged = auc_metrics.evaluate(test.scores, test.labels, test.patients, resamples, test.left_out)
        counts = {"images": len(part), "patients": int(part["patient_id"].nunique())}
        found[group] = {**counts, "mean_auc": _mean_of(judged.mean)}
    return found


def _mean_of(mean: tuple[Interval, int]) -> dict[str, Any]:
    return {**mean[0]._asdict(), "findings": mean[1]}


def _mean(values: Iterable[float | None] | Sequence[float]) -> float | None:
    """Over those that are defined; None without any."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


Belongs = Callable[[pd.Series], pd.Series]  # a trait of each image to whether it is of the group; unknown: of none
AGES = ((0, 20), (20, 40), (40, 60), (60, 80), (80, 121))  # years, from the first up to but without the second


def _is(value: str) -> Belongs:
    return lambda trait: trait == value


def _between(low: int, high: int) -> Belongs:
    return lambda trait: trait.between(low, high, inclusive="left")


# Trait -> group -> its images. The names are those of the record and of the leaderboard.
GROUPS: dict[str, dict[str, Belongs]] = {
    "sex": {"F": _is("F"), "M": _is("M")},
    "age": {f"{low} to {high - 1}": _between(low, high) for low, high in AGES},
    "view": {"PA": _is("PA"), "AP": _is("AP")},
}


def resamples_of(recipe: Mapping[str, Any] | None) -> int:
    """How many draws of patients the intervals are from: the recipe's, or the default for scores from elsewhere."""
    return Evaluate.resamples if recipe is None else build(Evaluate, recipe["evaluate"], "evaluate.").resamples
