"""AUC and its intervals: pure functions of arrays. They know no file, no torch and no screen.

A finding without positives or without negatives has no AUC: it is None, and it is left out of the mean, which says over
how many findings it was taken. Images of a patient are not independent, so intervals resample patients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

CHUNK = 2_000_000  # images x draws at a time: at most 60 MB


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
    (area,) = _areas(_rank(scores, labels, np.arange(len(labels))), np.ones((len(labels), 1), np.int32))
    return None if np.isnan(area) else float(area)


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


class _Ranks(NamedTuple):
    """Where one finding's images stand among the K different scores of its positives, as sparse whole numbers.

    Attributes:
        positives: (K, P) positive images of each of P patients at each of these scores.
        negatives: (2K + 1, P) negative images below the first score, at it, between it and the second, and so on.
    """

    positives: csr_array
    negatives: csr_array


def _draws(scores: np.ndarray, labels: np.ndarray, patients: Sequence, resamples: int, seed: int) -> np.ndarray:
    """AUC of each finding in each draw of patients: (resamples, C), NaN where undefined."""
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    ranks = [_rank(scores[:, c], labels[:, c], owner) for c in range(labels.shape[1])]
    generator = np.random.default_rng(seed)
    count = owner.max() + 1
    step = max(1, CHUNK // len(owner))
    areas = []
    for first in range(0, resamples, step):
        drawn = [generator.integers(0, count, count) for _ in range(min(step, resamples - first))]
        times = np.stack([np.bincount(draw, minlength=count) for draw in drawn], axis=1, dtype=np.int32)
        areas.append(np.stack([_areas(finding, times) for finding in ranks], axis=1))
    return np.concatenate(areas)


def _rank(scores: np.ndarray, labels: np.ndarray, owner: np.ndarray) -> _Ranks:
    """One finding's scores and labels (N,), with the number of each image's patient (N,)."""
    positive, negative = labels == 1, labels == 0
    cuts, cut = np.unique(scores[positive], return_inverse=True)
    segment = np.searchsorted(cuts, scores[negative], "left") + np.searchsorted(cuts, scores[negative], "right")
    patients = owner.max() + 1
    return _Ranks(
        _count(cut, owner[positive], (len(cuts), patients)),
        _count(segment, owner[negative], (2 * len(cuts) + 1, patients)),
    )


def _count(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_array:
    return csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)


def _areas(ranks: _Ranks, times: np.ndarray) -> np.ndarray:
    """AUC of one finding under each column of times (P, R) that the patients count; (R,), NaN without a class.

    A positive wins against all negatives that score below it and half of those that tie: with the negatives summed
    from the lowest score up, these are the means of two sums. Whole numbers: the order of addition changes nothing.
    """
    positives, up_to = ranks.positives @ times, ranks.negatives @ times
    np.cumsum(up_to, axis=0, out=up_to)
    wins_twice = np.einsum("kr,kr->r", positives, up_to[:-1:2] + up_to[1::2], dtype=np.int64)
    pairs_twice = 2 * positives.sum(axis=0, dtype=np.int64) * up_to[-1]
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
