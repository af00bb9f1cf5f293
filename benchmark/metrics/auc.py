"""AUC, average precision and their intervals: pure functions of arrays.

A finding without positives or without negatives has no AUC: it is None and excluded from the mean, which is reported
with the number of findings averaged. The same is true of average precision, which without negatives would be 1 for any
scores.

Both are computed from the same counts: how many positive and negative images are at, and between, the distinct scores
of the positive images. They are counted per patient once; each bootstrap replicate is then a matrix product.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from .bootstrap import bootstrap_counts, encode_patients
from .intervals import Statistic

# Counts of positives (K, R) and negatives (2K + 1, R), see `measure_auc`, to the measure in each replicate (R,).
Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


def measure_auc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Compute the area under the ROC curve in each of R replicates.

    A positive wins against all negatives with lower scores and half of those with the same score: the mean of the
    cumulative counts of negatives below the score and up to it. All sums are of integers, so their order does not
    matter.

    Args:
        positives: int (K, R), positive images at each of the K distinct scores that positive images have, ascending.
        negatives: int (2K + 1, R), negative images below the first of these scores, at it, between it and the second,
            and so on.

    Returns:
        (R,) in 0..1, NaN without positives or without negatives.
    """
    up_to = np.cumsum(negatives, axis=0)
    wins_twice = np.einsum("kr,kr->r", positives, up_to[:-1:2] + up_to[1::2], dtype=np.int64)
    pairs_twice = 2 * positives.sum(axis=0, dtype=np.int64) * up_to[-1]
    return np.where(pairs_twice > 0, wins_twice / np.maximum(pairs_twice, 1), np.nan)


def measure_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Compute average precision in each of R replicates; arguments and result as for `measure_auc`.

    For each positive image, take the precision among the images that score at least as high; then average. This is the
    area under the precision-recall curve as a step function, without interpolation (scikit-learn's definition; Davis
    and Goadrich 2006 show why straight lines between its points would be too high).
    """
    true_positives = np.cumsum(positives[::-1], axis=0)[::-1]
    false_positives = np.cumsum(negatives[::-1], axis=0)[::-1][1::2]
    precision = true_positives / np.maximum(true_positives + false_positives, 1)
    total = positives.sum(axis=0, dtype=np.int64)
    mean = np.einsum("kr,kr->r", positives, precision) / np.maximum(total, 1)
    return np.where((total > 0) & (negatives.sum(axis=0, dtype=np.int64) > 0), mean, np.nan)


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Compute the area under the ROC curve: how often a positive scores above a negative, ties counting half.

    Args:
        scores: (N,), any monotone scale, finite.
        labels: (N,), 1, 0 or NaN for unknown; unknown labels are ignored.

    Returns:
        A number in 0..1, or None without positives or without negatives.
    """
    return _none_if_nan(_measure_all(scores, labels, measure_auc))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Compute average precision, as `sklearn.metrics.average_precision_score`; arguments and None as for `auc`.

    A number above 0 and up to 1. Random scores get about the prevalence, not 0.5: compare it between methods on the
    same images, never between findings or datasets.
    """
    return _none_if_nan(_measure_all(scores, labels, measure_precision))


def mean_auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Average the AUC over the findings that have one; scores and labels (N, C). None if none has."""
    values = [auc(scores[:, c], labels[:, c]) for c in range(labels.shape[1])]
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def undefined_reason(labels: np.ndarray) -> str | None:
    """Explain why labels (N,), 1, 0 or NaN, leave AUC and average precision undefined; None if they do not."""
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
    patients: Sequence | np.ndarray,
    resamples: int,
    seed: int = 0,
    measure: Measure = measure_auc,
) -> list[Statistic]:
    """Compute the AUC (or another measure) of every finding, with bootstrap replicates of the patients.

    Args:
        scores: (N, C), any monotone scale, finite.
        labels: (N, C), 1, 0 or NaN for unknown.
        patients: (N,) the patient of each image; patients are resampled with all of their images.
        resamples: number of bootstrap replicates.
        seed: seed of the bootstrap; results to be compared must use the same one.
        measure: `measure_auc` or `measure_precision`; both use the same replicates.
    """
    replicates = bootstrap(scores, labels, patients, resamples, seed, measure)
    columns = range(labels.shape[1])
    values = [_measure_all(scores[:, c], labels[:, c], measure) for c in columns]
    return [Statistic(values[c], replicates[:, c], rarer_class(labels[:, c], patients)) for c in columns]


def rarer_class(labels: np.ndarray, patients: Sequence | np.ndarray) -> int:
    """Count the patients with an image of each class of labels (N,), 1, 0 or NaN; return the smaller count."""
    names = np.asarray(patients)
    return min(len(np.unique(names[labels == value])) for value in (1, 0))


def bootstrap(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: Sequence | np.ndarray,
    resamples: int,
    seed: int = 0,
    measure: Measure = measure_auc,
) -> np.ndarray:
    """Compute a measure of each finding in each replicate: (resamples, C), NaN where undefined.

    Scores of the same images in the same order use the same replicates, so that two such arrays may be subtracted: the
    quantiles of the differences form a paired interval. Arguments as for `evaluate`.
    """
    patient_index = encode_patients(patients)
    ranks = [_rank(scores[:, c], labels[:, c], patient_index) for c in range(labels.shape[1])]
    parts = [
        np.stack([measure(finding.positives @ counts, finding.negatives @ counts) for finding in ranks], axis=1)
        for counts in bootstrap_counts(patient_index, resamples, seed)
    ]
    return np.concatenate(parts)


def roc(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the corners of the ROC curve: false and true positive rates, both ascending from 0 to 1.

    Scores and labels (N,) as for `auc`, with both classes.
    """
    labeled = ~np.isnan(labels)
    order = np.argsort(-scores[labeled], kind="stable")
    sorted_scores, positive = scores[labeled][order], labels[labeled][order] == 1
    last_of_tie = np.append(np.flatnonzero(np.diff(sorted_scores)), len(order) - 1)
    true = np.cumsum(positive)[last_of_tie]
    false = np.cumsum(~positive)[last_of_tie]
    return np.append(0, false / false[-1]), np.append(0, true / true[-1])


class _Ranks(NamedTuple):
    """One finding's images by patient and by their rank among the K distinct scores of its positives, sparse int32.

    Attributes:
        positives: (K, P) positive images of each of P patients at each of these scores.
        negatives: (2K + 1, P) negative images below the first score, at it, between it and the second, and so on.
    """

    positives: csr_array
    negatives: csr_array


def _rank(scores: np.ndarray, labels: np.ndarray, patient_index: np.ndarray) -> _Ranks:
    """Rank one finding's scores and labels (N,); `patient_index` (N,) as for `bootstrap_counts`."""
    positive, negative = labels == 1, labels == 0
    cuts, cut = np.unique(scores[positive], return_inverse=True)
    # Both sides together number the gaps and the cuts alternately: 2k between cuts, 2k + 1 at cut k.
    segment = np.searchsorted(cuts, scores[negative], "left") + np.searchsorted(cuts, scores[negative], "right")
    patients = patient_index.max(initial=0) + 1
    return _Ranks(
        _count(cut, patient_index[positive], (len(cuts), patients)),
        _count(segment, patient_index[negative], (2 * len(cuts) + 1, patients)),
    )


def _count(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """Count the pairs of row and column; the constructor adds up repeated ones."""
    return csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)


def _measure_all(scores: np.ndarray, labels: np.ndarray, measure: Measure) -> float:
    """Measure one finding's scores and labels (N,) with every image once; NaN where undefined."""
    ranks = _rank(scores, labels, np.zeros(len(labels), int))
    once = np.ones((1, 1), np.int32)
    return float(measure(ranks.positives @ once, ranks.negatives @ once)[0])


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value
