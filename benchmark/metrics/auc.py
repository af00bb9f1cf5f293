"""AUC, average precision and their intervals: pure functions of arrays. They know no file, no torch and no screen.

A finding without positives or without negatives has neither: it is None, and it is left out of the mean, which says
over how many findings it was taken. (Average precision without negatives would be 1 whatever the scores are.) Images of
a patient are not independent, so intervals resample patients.

Both are measures of the same counts: where the images stand among the different scores of the positive ones.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from .bootstrap import UNDEFINED, Interval, bootstrap_counts, encode_patients, percentile_interval

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Evaluation(NamedTuple):
    """Scores of a split, judged.

    Attributes:
        each: the measure of each finding, in order.
        positives: number of positive images of each finding.
        mean: the mean over the defined findings, and how many they are.
        mean_without: the same without the findings that are left out.
    """

    each: list[Interval]
    positives: list[int]
    mean: tuple[Interval, int]
    mean_without: tuple[Interval, int]


def measure_auc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Area under the ROC curve in each of R draws; (R,), NaN without a class.

    A positive wins against all negatives that score below it and half of those that tie: with the negatives summed
    from the lowest score up, these are the means of two sums. Whole numbers: the order of addition changes nothing.

    Args:
        positives: (K, R) positive images at each of the K different scores that positive images have, rising.
        negatives: (2K + 1, R) negative images below the first of these scores, at it, between it and the second, and
            so on.
    """
    up_to = np.cumsum(negatives, axis=0)
    wins_twice = np.einsum("kr,kr->r", positives, up_to[:-1:2] + up_to[1::2], dtype=np.int64)
    pairs_twice = 2 * positives.sum(axis=0, dtype=np.int64) * up_to[-1]
    return np.where(pairs_twice > 0, wins_twice / np.maximum(pairs_twice, 1), np.nan)


def measure_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Average precision in each of R draws, from the same counts as `measure_auc`; (R,), NaN without a class.

    The precision among the images that score at least as high, averaged over the positive ones: the area under the
    precision-recall curve as a step function, without interpolation (scikit-learn's definition; Davis and Goadrich
    2006 show why straight lines between its points would be too high). Recall rises at scores of positives alone.
    """
    found = np.cumsum(positives[::-1], axis=0)[::-1]
    false = np.cumsum(negatives[::-1], axis=0)[::-1][1::2]
    precision = found / np.maximum(found + false, 1)
    count = positives.sum(axis=0, dtype=np.int64)
    mean = np.einsum("kr,kr->r", positives, precision) / np.maximum(count, 1)
    return np.where((count > 0) & (negatives.sum(axis=0, dtype=np.int64) > 0), mean, np.nan)


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Area under the ROC curve: the probability that a positive image scores above a negative one, ties counting half.

    Args:
        scores: (N,), any monotone scale, finite.
        labels: (N,), 1, 0 or NaN for unknown; unknown images are left out.

    Returns:
        A number in 0..1, or None without positives or without negatives.
    """
    return _plain(_whole(scores, labels, measure_auc))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Average precision, as `sklearn.metrics.average_precision_score`; arguments and None as for `auc`.

    A number above 0 and up to 1. Scores that know nothing get about the share of the positives, not 0.5: compare it
    between methods on the same images, never between findings or datasets.
    """
    return _plain(_whole(scores, labels, measure_precision))


def mean_auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean AUC over the findings that have one; scores and labels (N, C). None if none has."""
    values = [auc(scores[:, c], labels[:, c]) for c in range(labels.shape[1])]
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def undefined_reason(labels: np.ndarray) -> str | None:
    """Why labels (N,), 1, 0 or NaN, leave AUC and average precision undefined, in words; None where they do not."""
    if not len(labels):
        return "no image"
    if np.isnan(labels).all():
        return "no known label"
    if not (labels == 1).any():
        return "no positive image"
    return None if (labels == 0).any() else "no negative image"


def evaluate(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    resamples: int,
    leave_out: Sequence[int] = (),
    seed: int = 0,
    measure: Measure = measure_auc,
) -> Evaluation:
    """AUC (or another measure) of every finding and of their mean, with percentile intervals from resampled patients.

    Args:
        scores, labels: (N, C); labels 1, 0 or NaN.
        patients: (N,) the patient of each image; patients are drawn whole, with replacement.
        resamples: number of draws. In a draw where a finding has one class only, it is left out of that draw's mean.
        leave_out: columns of the findings to leave out of the second mean: those with too few positives.
        seed: of the draws; results that are compared use the same.
        measure: `measure_auc` or `measure_precision`; both see the same draws.
    """
    return summarize(scores, labels, bootstrap(scores, labels, patients, resamples, seed, measure), leave_out, measure)


def summarize(
    scores: np.ndarray,
    labels: np.ndarray,
    drawn: np.ndarray,
    leave_out: Sequence[int] = (),
    measure: Measure = measure_auc,
) -> Evaluation:
    """The same where the draws (R, C) of `draws` are at hand."""
    columns = range(labels.shape[1])
    whole = np.array([_whole(scores[:, c], labels[:, c], measure) for c in columns])
    kept = [c for c in columns if c not in leave_out]
    return Evaluation(
        [percentile_interval(whole[c], drawn[:, c]) for c in columns],
        [int((labels[:, c] == 1).sum()) for c in columns],
        _mean(whole, drawn),
        _mean(whole[kept], drawn[:, kept]),
    )


def bootstrap(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    resamples: int,
    seed: int = 0,
    measure: Measure = measure_auc,
) -> np.ndarray:
    """A measure of each finding in each draw of patients: (resamples, C), NaN where undefined.

    Scores of the same images in the same order see the same draws, so that two such arrays may be subtracted: the
    quantiles of the differences are a paired interval. Arguments as for `evaluate`.
    """
    owner = encode_patients(patients)
    ranks = [_rank(scores[:, c], labels[:, c], owner) for c in range(labels.shape[1])]
    parts = [
        np.stack([measure(finding.positives @ times, finding.negatives @ times) for finding in ranks], axis=1)
        for times in bootstrap_counts(owner, resamples, seed)
    ]
    return np.concatenate(parts)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean of each row of (R, C) over what is not NaN; (R,), NaN where all is."""
    known = ~np.isnan(values)
    sums = np.where(known, values, 0).sum(axis=1)
    return np.where(known.any(axis=1), sums / known.sum(axis=1).clip(min=1), np.nan)


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


def _rank(scores: np.ndarray, labels: np.ndarray, owner: np.ndarray) -> _Ranks:
    """One finding's scores and labels (N,), with the number of each image's patient (N,)."""
    positive, negative = labels == 1, labels == 0
    cuts, cut = np.unique(scores[positive], return_inverse=True)
    segment = np.searchsorted(cuts, scores[negative], "left") + np.searchsorted(cuts, scores[negative], "right")
    patients = owner.max(initial=0) + 1
    return _Ranks(
        _count(cut, owner[positive], (len(cuts), patients)),
        _count(segment, owner[negative], (2 * len(cuts) + 1, patients)),
    )


def _count(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_array:
    return csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)


def _whole(scores: np.ndarray, labels: np.ndarray, measure: Measure) -> float:
    """A measure of one finding's scores and labels (N,), every image once; NaN where undefined."""
    ranks = _rank(scores, labels, np.zeros(len(labels), int))
    once = np.ones((1, 1), np.int32)
    return float(measure(ranks.positives @ once, ranks.negatives @ once)[0])


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value


def _mean(whole: np.ndarray, drawn: np.ndarray) -> tuple[Interval, int]:
    defined = ~np.isnan(whole)
    if not defined.any():
        return UNDEFINED, 0
    return percentile_interval(whole[defined].mean(), mean_defined(drawn[:, defined])), int(defined.sum())
