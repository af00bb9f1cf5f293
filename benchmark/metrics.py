"""AUC and its intervals: pure functions of arrays. They know no file, no torch and no screen.

A finding without positives or without negatives has no AUC: it is None, and it is left out of the mean, which says over
how many findings it was taken. Images of a patient are not independent, so intervals resample patients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CHUNK = 2_000_000  # resample weights held at a time: 16 MB


class Interval(NamedTuple):
    """A value with its 95 % interval; all None where undefined."""

    value: float | None
    low: float | None
    high: float | None


class Evaluation(NamedTuple):
    """Scores of a split, judged.

    Attributes:
        auc: AUC of each finding, in order.
        positives: number of positive images of each finding.
        mean: the mean over the defined findings, and how many they are.
        mean_without: the same without the named finding.
    """

    auc: list[Interval]
    positives: list[int]
    mean: tuple[Interval, int]
    mean_without: tuple[Interval, int]


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve: the probability that a positive image scores above a negative one, ties counting half.

    Args:
        scores: (N,), any monotone scale, finite.
        labels: (N,), 1, 0 or NaN for unknown; unknown images are left out.

    Returns:
        A number in 0..1, or None without positives or without negatives.
    """
    areas = _resampled_auc(scores, labels, np.ones((1, len(labels)), np.int32))
    return None if np.isnan(areas[0]) else float(areas[0])


def mean_auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean AUC over the findings that have one; scores and labels (N, C). None if none has."""
    values = [auc(scores[:, c], labels[:, c]) for c in range(labels.shape[1])]
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def evaluate(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    resamples: int,
    leave_out: int | None = None,
    seed: int = 0,
) -> Evaluation:
    """AUC of every finding and of their mean, with percentile intervals from resampled patients.

    Args:
        scores, labels: (N, C); labels 1, 0 or NaN.
        patients: (N,) the patient of each image; patients are drawn whole, with replacement.
        resamples: number of draws. In a draw where a finding has one class only, it is left out of that draw's mean.
        leave_out: column of the finding to leave out of the second mean (Hernia: 86 test images of 32 patients).
        seed: of the draws; results that are compared use the same.
    """
    columns = range(labels.shape[1])
    whole = np.array([np.nan if (value := auc(scores[:, c], labels[:, c])) is None else value for c in columns])
    drawn = _draws(scores, labels, patients, resamples, seed)
    kept = [c for c in columns if c != leave_out]
    return Evaluation(
        [_interval(whole[c], drawn[:, c]) for c in columns],
        [int((labels[:, c] == 1).sum()) for c in columns],
        _mean(whole, drawn),
        _mean(whole[kept], drawn[:, kept]),
    )


def mean_auc_draws(
    scores: np.ndarray, labels: np.ndarray, patients: Sequence, resamples: int, seed: int = 0
) -> np.ndarray:
    """Mean AUC over the findings in each draw of patients: (resamples,), NaN where none is defined.

    Scores of the same images in the same order see the same draws, so that two such arrays may be subtracted: the
    quantiles of the differences are a paired interval.
    """
    drawn = _draws(scores, labels, patients, resamples, seed)
    known = ~np.isnan(drawn)
    return np.where(known.any(axis=1), np.where(known, drawn, 0).sum(axis=1) / known.sum(axis=1).clip(min=1), np.nan)


def roc(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve's corners: false and true positive rates, both rising from 0 to 1; unknown labels left out."""
    known = ~np.isnan(labels)
    order = np.argsort(-scores[known], kind="stable")
    sorted_scores, positive = scores[known][order], labels[known][order] == 1
    last_of_tie = np.append(np.flatnonzero(np.diff(sorted_scores)), len(order) - 1)
    true = np.cumsum(positive)[last_of_tie]
    false = np.cumsum(~positive)[last_of_tie]
    return np.append(0, false / false[-1]), np.append(0, true / true[-1])


def _draws(scores: np.ndarray, labels: np.ndarray, patients: Sequence, resamples: int, seed: int) -> np.ndarray:
    """AUC of each finding in each draw of patients: (resamples, C), NaN where undefined."""
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    generator = np.random.default_rng(seed)
    count = owner.max() + 1
    step = max(1, CHUNK // len(owner))
    areas = []
    for first in range(0, resamples, step):
        times = np.stack(
            [
                np.bincount(generator.integers(0, count, count), minlength=count)
                for _ in range(min(step, resamples - first))
            ]
        )
        weights = times[:, owner].astype(np.int32)
        areas.append(
            np.stack([_resampled_auc(scores[:, c], labels[:, c], weights) for c in range(labels.shape[1])], axis=1)
        )
    return np.concatenate(areas)


def _resampled_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC under each row of image weights (R, N), whole numbers; (R,), NaN where a class has no weight.

    A positive wins against all negatives that score below it and half of those that tie. With the negatives' weights
    summed along the sorted scores, both are two look-ups at the ends of the positive's run of ties.
    """
    known = np.flatnonzero(~np.isnan(labels))
    order = known[np.argsort(scores[known], kind="stable")]
    ordered = scores[order]
    positive = labels[order] == 1
    negatives = order[~positive]
    below = np.searchsorted(ordered[~positive], ordered[positive], side="left")
    up_to = np.searchsorted(ordered[~positive], ordered[positive], side="right")
    summed = np.zeros((len(weights), len(negatives) + 1), np.int64)
    np.cumsum(weights[:, negatives], axis=1, out=summed[:, 1:])
    of_positives = weights[:, order[positive]].astype(np.int64)
    wins_twice = (of_positives * (summed[:, below] + summed[:, up_to])).sum(axis=1)
    pairs_twice = 2 * of_positives.sum(axis=1) * summed[:, -1]
    return np.where(pairs_twice > 0, wins_twice / np.maximum(pairs_twice, 1), np.nan)


def _mean(whole: np.ndarray, drawn: np.ndarray) -> tuple[Interval, int]:
    defined = ~np.isnan(whole)
    if not defined.any():
        return Interval(None, None, None), 0
    usable = drawn[:, defined]
    known = ~np.isnan(usable)
    counts = known.sum(axis=1)
    means = np.where(known, usable, 0).sum(axis=1)[counts > 0] / counts[counts > 0]
    return _interval(float(whole[defined].mean()), means), int(defined.sum())


def _interval(value: float, drawn: np.ndarray) -> Interval:
    if np.isnan(value):
        return Interval(None, None, None)
    low, high = np.quantile(drawn[~np.isnan(drawn)], [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
