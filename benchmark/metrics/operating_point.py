"""Sensitivity and specificity at a threshold chosen before the test: pure functions of arrays.

An AUC averages over all thresholds, while a clinic uses one. The threshold is chosen on the validation split for a
target specificity and applied unchanged to the test split, where the specificity may differ, so both rates are
reported.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .bootstrap import bootstrap_counts, encode_patients
from .intervals import UNDEFINED, Interval, Statistic, interval

ROUNDING = 1e-9  # keeps 0.07 * 100 at 7 images, although the product is 7.000000000000001


class Rates(NamedTuple):
    """Fraction of positive images at or above a threshold, and of negative images below it, in 0..1.

    A rate is None if its class has no images.
    """

    sensitivity: float | None
    specificity: float | None


class OperatingPoint(NamedTuple):
    """Rates with 95 % intervals over patients of the test split (intervals.py), for a fixed threshold."""

    sensitivity: Interval
    specificity: Interval


def threshold(scores: np.ndarray, labels: np.ndarray, specificity: float) -> float | None:
    """Find the lowest threshold with at least this fraction of the negative images below it.

    An image is called positive when its score is at or above the threshold, which is the next float64 above the score
    of the last negative image that must stay below.

    Args:
        scores: (N,), scores of the validation split, finite.
        labels: (N,), 1, 0 or NaN for unknown; unknown labels are ignored.
        specificity: target fraction, above 0 and up to 1.

    Returns:
        A threshold on the scale of the scores, None without a negative image.

    Raises:
        ValueError: `specificity` is outside that range.
    """
    if not 0 < specificity <= 1:
        raise ValueError(f"a specificity of {specificity}: it must be above 0 and at most 1")
    negatives = np.sort(scores[labels == 0]).astype(np.float64)
    if not len(negatives):
        return None
    below = int(np.ceil(specificity * len(negatives) - ROUNDING))
    return float(np.nextafter(negatives[max(below, 1) - 1], np.inf))


def rates(scores: np.ndarray, labels: np.ndarray, threshold: float) -> Rates:
    """Apply a threshold to scores and labels (N,), 1, 0 or NaN; unknown labels are ignored."""
    called = scores.astype(np.float64) >= threshold
    return Rates(_fraction(called[labels == 1]), _fraction(~called[labels == 0]))


def evaluate(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: Sequence | np.ndarray,
    thresholds: Sequence[float | None],
    resamples: int,
    seed: int = 0,
) -> list[OperatingPoint]:
    """Compute sensitivity and specificity of every finding at its threshold, with 95 % intervals.

    Args:
        scores: (N, C), scores of the test split.
        labels: (N, C), 1, 0 or NaN for unknown.
        patients: (N,) the patient of each image; patients are resampled with all of their images.
        thresholds: one per finding, from `threshold` on the validation split; None leaves both rates undefined.
        resamples: number of bootstrap replicates; those without an image of the class are ignored.
        seed: seed of the bootstrap; with the seed of `auc.evaluate` the replicates are the same.
    """
    patient_index = encode_patients(patients)
    counts = np.concatenate(list(bootstrap_counts(patient_index, resamples, seed)), axis=1)
    return [
        OperatingPoint(UNDEFINED, UNDEFINED)
        if cut is None
        else _operating_point(scores[:, c].astype(np.float64) >= cut, labels[:, c], patient_index, counts)
        for c, cut in enumerate(thresholds)
    ]


def _operating_point(
    called: np.ndarray, labels: np.ndarray, patient_index: np.ndarray, counts: np.ndarray
) -> OperatingPoint:
    """Compute the rates of the images (N,) that are called positive, with intervals."""
    return OperatingPoint(
        _fraction_interval(called, labels == 1, patient_index, counts),
        _fraction_interval(~called, labels == 0, patient_index, counts),
    )


def _fraction_interval(
    correct: np.ndarray, of_class: np.ndarray, patient_index: np.ndarray, counts: np.ndarray
) -> Interval:
    """Compute the fraction of a class's images (N,) that are correct; `counts` (P, R) are the patients' replicates."""
    fraction = _fraction(correct[of_class])
    if fraction is None:
        return UNDEFINED
    images = np.bincount(patient_index[of_class], minlength=len(counts)) @ counts
    hits = np.bincount(patient_index[of_class & correct], minlength=len(counts)) @ counts
    patients = len(np.unique(patient_index[of_class]))
    return interval(Statistic(fraction, hits / np.where(images > 0, images, np.nan), patients))


def _fraction(correct: np.ndarray) -> float | None:
    return float(correct.mean()) if len(correct) else None
