"""Scores to the record's numbers: AUC, and what else they say about the test split.

The same functions make a record and check it afterwards.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from .dataset import TRAITS
from .statistics import calibration, metrics, operating_point
from .statistics.metrics import Evaluation, Interval
from .statistics.subgroups import GROUPS

LEFT_OUT = "Hernia"  # 86 official test images of 32 patients: one class must not move a mean
SPECIFICITY = 0.9  # that thresholds leave on the validation split


class Scored(NamedTuple):
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
    def left_out(self) -> int | None:
        """The column of the finding that the second mean leaves out."""
        return self.findings.index(LEFT_OUT) if LEFT_OUT in self.findings else None


def scored(table: pd.DataFrame, split: str = "test") -> Scored:
    """The rows of one split, as arrays; in the order of the image ids, so that runs can be paired."""
    findings = [name.removeprefix("label ") for name in table.columns if name.startswith("label ")]
    part = table[table["split"] == split].sort_values("image_id")
    labels, scores = (part[[f"{kind} {f}" for f in findings]].to_numpy(np.float64) for kind in ("label", "score"))
    return Scored(findings, scores, labels, part["patient_id"].to_numpy(str))


class Judged(NamedTuple):
    """What follows from a score table.

    Attributes:
        keys: the record's keys auc, mean_auc and mean_auc_without_hernia.
        draws: the mean AUC in each draw of patients (R,), NaN where undefined; runs are paired by it.
    """

    keys: dict[str, Any]
    draws: np.ndarray


def judge_scores(table: pd.DataFrame, resamples: int) -> Judged:
    """AUC and its means of the test split, with intervals from so many draws of patients."""
    test = scored(table)
    drawn = metrics.draws(test.scores, test.labels, test.patients, resamples)
    judged = metrics.judge(test.scores, test.labels, drawn, test.left_out)
    each = zip(test.findings, judged.each, judged.positives, strict=True)
    keys = {
        "auc": {finding: {**value._asdict(), "positives": positives} for finding, value, positives in each},
        "mean_auc": _mean_of(judged.mean),
        "mean_auc_without_hernia": _mean_of(judged.mean_without),
    }
    return Judged(keys, metrics.mean_defined(drawn))


def judge_statistics(table: pd.DataFrame, resamples: int) -> dict[str, Any]:
    """The record's key statistics: average precision, calibration, rates at thresholds fixed on validation, groups."""
    test = scored(table)
    arrays = test.scores, test.labels, test.patients
    precision = metrics.evaluate(*arrays, resamples, test.left_out, measure=metrics.measure_precision)
    findings = _each_finding(test, scored(table, "val"), precision, resamples)
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


def _each_finding(test: Scored, val: Scored, precision: Evaluation, resamples: int) -> dict[str, dict[str, Any]]:
    columns = range(len(test.findings))
    thresholds = [operating_point.threshold(val.scores[:, c], val.labels[:, c], SPECIFICITY) for c in columns]
    rates = operating_point.evaluate(test.scores, test.labels, test.patients, thresholds, resamples)
    probabilities = expit(test.scores)
    return {
        finding: {
            "undefined": metrics.why_undefined(test.labels[:, c]),
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
        test = scored(part)
        judged = metrics.evaluate(test.scores, test.labels, test.patients, resamples, test.left_out)
        counts = {"images": len(part), "patients": int(part["patient_id"].nunique())}
        found[group] = {**counts, "mean_auc": _mean_of(judged.mean)}
    return found


def _mean_of(mean: tuple[Interval, int]) -> dict[str, Any]:
    return {**mean[0]._asdict(), "findings": mean[1]}


def _mean(values: Iterable[float | None] | Sequence[float]) -> float | None:
    """Over those that are defined; None without any."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
