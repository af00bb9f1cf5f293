"""Paired differences of two methods' AUCs on the same images, with intervals and p-values. Pure functions of arrays.

All runs of both methods are evaluated on the same bootstrap replicates, so that variation that affects both cancels. If
both have several runs, intervals and p-values are over test patients and training seeds; otherwise they are over test
patients alone and compare two trained networks, not two methods. The p-values of several findings are corrected for
multiple testing (Holm 1979).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import auc as auc_metrics
from .intervals import Statistic, average_findings, compare_means, mean_statistic, pool_seed_variance

MIN_SEEDS = 2  # runs of a method, for a conclusion about it


class Difference(NamedTuple):
    """Two AUCs, or two means of AUCs, and their difference; if it is undefined, all but the reason are None.

    Attributes:
        first, second: the AUCs, in 0..1, means over the runs.
        value: first - second.
        low, high: ends of the 95 % interval; None if too few patients have or lack the finding (intervals.py).
        p: two-sided p-value of no difference; None without an interval.
        p_corrected: `p` corrected for the number of findings; None for a mean.
        reason: why the difference is undefined; None if it is defined.
    """

    first: float | None
    second: float | None
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None
    reason: str | None


class Comparison(NamedTuple):
    """Differences between two methods.

    Attributes:
        each: difference of each finding, in order.
        mean: difference of the means over the findings.
        mean_without: difference of the means without the excluded findings.
    """

    each: list[Difference]
    mean: Difference
    mean_without: Difference


def compare(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    labels: np.ndarray,
    patients: Sequence | np.ndarray,
    resamples: int,
    leave_out: Sequence[int] = (),
    seed: int = 0,
) -> Comparison:
    """Compare two methods' scores of the same images, per finding and in the mean.

    Args:
        first: scores of each run of the first method (N, C), any monotone scale, finite.
        second: scores of each run of the second method (N, C), on the same or a different scale.
        labels: (N, C), 1, 0 or NaN for unknown.
        patients: (N,) the patient of each image; patients are resampled with all of their images.
        resamples: number of bootstrap replicates.
        leave_out: columns of the findings to exclude from the second mean.
        seed: seed of the bootstrap; with the seed of `auc.evaluate` the replicates are the same.
    """
    sides = [
        [auc_metrics.evaluate(scores, labels, patients, resamples, seed) for scores in runs] for runs in (first, second)
    ]
    columns, all_patients = range(labels.shape[1]), len(np.unique(np.asarray(patients)))
    each = [difference(*([run[c] for run in runs] for runs in sides)) for c in columns]
    reasons = [auc_metrics.undefined_reason(labels[:, c]) for c in columns]
    corrected = holm([one.p for one in each])
    means = [
        difference(*([average_findings([run[c] for c in included], all_patients) for run in runs] for runs in sides))
        for included in (columns, [c for c in columns if c not in leave_out])
    ]
    no_mean = "no finding with positive and negative images"
    return Comparison(
        [each[c]._replace(p_corrected=corrected[c], reason=reasons[c]) for c in columns],
        *(mean._replace(reason=no_mean if mean.value is None else None) for mean in means),
    )


def difference(first: Sequence[Statistic], second: Sequence[Statistic]) -> Difference:
    """Compare a metric of the runs of two methods; replicate r of all runs has the same patients."""
    is_tested = min(len(first), len(second)) >= MIN_SEEDS
    found, error = compare_means(first, second, pool_seed_variance([first, second]) if is_tested else None)
    if np.isnan(found.value):
        return Difference(None, None, None, None, None, None, None, None)
    values = mean_statistic(first).value, mean_statistic(second).value, found.value
    if error is None:
        return Difference(*values, None, None, None, None, None)
    low, high, p = found.value - error.margin, found.value + error.margin, error.p_value(found.value)
    return Difference(*values, low, high, p, None, None)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for multiple testing (Holm 1979, Scandinavian Journal of Statistics 6:65).

    Returns:
        Corrected p-values in the same order, at most 1. None stays None and is not counted.
    """
    corrected: list[float | None] = [None] * len(p_values)
    tested = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, position) in enumerate(tested):
        highest = max(highest, min(1.0, p * (len(tested) - rank)))
        corrected[position] = highest
    return corrected
