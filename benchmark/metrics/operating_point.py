"""Sensitivity and specificity at a threshold that was chosen before the test: pure functions of arrays.

An AUC is of all thresholds, a reader in a clinic has one. It is chosen on the validation split, for a specificity that
is wanted, and applied to the test split unchanged: there the specificity may turn out another, and both are told.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .bootstrap import UNDEFINED, Interval, bootstrap_counts, encode_patients, percentile_interval

ROUNDING = 1e-9  # 0.07 of 100 images is 7 of them, whatever the product says


class Rates(NamedTuple):
    """Shares of the positive images that score at or above a threshold, and of the negative ones below it; 0..1.

    None without images of that class.
    """

    sensitivity: float | None
    specificity: float | None


class OperatingPoint(NamedTuple):
    """Rates with 95 % intervals from resampled patients of the test split; the threshold is taken as given."""

    sensitivity: Interval
    specificity: Interval


def threshold(scores: np.ndarray, labels: np.ndarray, specificity: float) -> float | None:
    """The lowest threshold that leaves at least this share of the negative images below it.

    An image is called positive when its score is at or above the threshold. It is the next number above the score of
    the last negative image that must stay below.

    Args:
        scores: (N,), of the validation split, finite.
        labels: (N,), 1, 0 or NaN for unknown; unknown images are left out.
        specificity: the share, above 0 and up to 1.

    Returns:
        A threshold on the scale of the scores, None without a negative image.

    Raises:
        ValueError: a share outside that range.
    """
    if not 0 < specificity <= 1:
        raise ValueError(f"a specificity of {specificity}: it must be above 0 and at most 1")
    negatives = np.sort(scores[labels == 0]).astype(np.float64)
    if not len(negatives):
        return None
    below = int(np.ceil(specificity * len(negatives) - ROUNDING))
    return float(np.nextafter(negatives[max(below, 1) - 1], np.inf))


def rates(scores: np.ndarray, labels: np.ndarray, threshold: float) -> Rates:
    """What a threshold does on scores and labels (N,), 1, 0 or NaN; unknown images are left out."""
    called = scores.astype(np.float64) >= threshold
    return Rates(_share(called[labels == 1]), _share(~called[labels == 0]))


def evaluate(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    thresholds: Sequence[float | None],
    resamples: int,
    seed: int = 0,
) -> list[OperatingPoint]:
    """Sensitivity and specificity of every finding at its threshold, with percentile intervals from resampled patients.

    Args:
        scores, labels: (N, C), of the test split; labels 1, 0 or NaN.
        patients: (N,) the patient of each image; patients are drawn whole, with replacement.
        thresholds: one a finding, from `threshold` on the validation split; None leaves both undefined.
        resamples: number of draws; those without an image of the class are left out.
        seed: of the draws; they are those of `metrics.evaluate` with the same.
    """
    owner = encode_patients(patients)
    times = np.concatenate(list(bootstrap_counts(owner, resamples, seed)), axis=1)
    return [
        OperatingPoint(UNDEFINED, UNDEFINED)
        if cut is None
        else _summarize(scores[:, c], labels[:, c], owner, cut, times)
        for c, cut in enumerate(thresholds)
    ]


def _summarize(
    scores: np.ndarray, labels: np.ndarray, owner: np.ndarray, cut: float, times: np.ndarray
) -> OperatingPoint:
    called = scores.astype(np.float64) >= cut
    return OperatingPoint(
        _resampled(called, labels == 1, owner, times),
        _resampled(~called, labels == 0, owner, times),
    )


def _resampled(right: np.ndarray, of_class: np.ndarray, owner: np.ndarray, times: np.ndarray) -> Interval:
    """The share of a class's images (N,) that are right, also under each column of times (P, R) that patients count."""
    images = np.bincount(owner[of_class], minlength=len(times))
    hits = np.bincount(owner[of_class & right], minlength=len(times))
    drawn = hits @ times / np.where(images @ times > 0, images @ times, np.nan)
    share = _share(right[of_class])
    return UNDEFINED if share is None else percentile_interval(share, drawn)


def _share(right: np.ndarray) -> float | None:
    return float(right.mean()) if len(right) else None
