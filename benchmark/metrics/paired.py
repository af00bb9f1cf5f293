"""Paired differences of two methods' AUCs on the same images, with intervals and p-values. Pure functions of arrays.

Both methods are evaluated on the same bootstrap replicates, so that variation that affects both cancels. The p-values
of several findings are corrected for multiple testing (Holm 1979).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import auc as auc_metrics
from . import delong
from .bootstrap import percentile_interval


class Difference(NamedTuple):
    """Two AUCs, or two means of AUCs, and their difference; if it is undefined, all but the reason are None.

    Attributes:
        first, second: the AUCs, in 0..1.
        value: first - second.
        low, high: ends of the 95 % percentile interval of the replicates' differences.
        p: two-sided bootstrap p-value of no difference, from the R replicates; at least 2 / (R + 1), so that
            significance at 5 % after correction for 14 findings needs 559 replicates or more.
        p_corrected: `p` corrected for the number of findings; None for a mean.
        p_analytic: normal approximation with the variance of Obuchowski 1997; None for a mean, and if that variance
            cannot be estimated (see delong.py).
        reason: why the difference is undefined; None if it is defined.
    """

    first: float | None
    second: float | None
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    p_corrected: float | None
    p_analytic: float | None
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
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    patients: Sequence | np.ndarray,
    resamples: int,
    leave_out: Sequence[int] = (),
    seed: int = 0,
) -> Comparison:
    """Compare two methods' scores of the same images, per finding and in the mean.

    Args:
        first: (N, C), any monotone scale, finite.
        second: (N, C), on the same or a different scale.
        labels: (N, C), 1, 0 or NaN for unknown.
        patients: (N,) the patient of each image; patients are resampled with all of their images.
        resamples: number of bootstrap replicates.
        leave_out: columns of the findings to exclude from the second mean.
        seed: seed of the bootstrap; with the seed of `auc.evaluate` the replicates are the same.
    """
    columns = range(labels.shape[1])
    pair = np.array([[_area(scores[:, c], labels[:, c]) for c in columns] for scores in (first, second)])
    replicates = np.subtract(
        *(auc_metrics.bootstrap(scores, labels, patients, resamples, seed) for scores in (first, second))
    )
    each = [_difference(pair[:, c], replicates[:, c], auc_metrics.undefined_reason(labels[:, c])) for c in columns]
    corrected = holm([one.p for one in each])
    analytic = [delong.p_value(first[:, c], second[:, c], labels[:, c], patients) for c in columns]
    included = [c for c in columns if c not in leave_out]
    return Comparison(
        [each[c]._replace(p_corrected=corrected[c], p_analytic=analytic[c]) for c in columns],
        _mean(pair, replicates),
        _mean(pair[:, included], replicates[:, included]),
    )


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


def two_sided_p(replicates: np.ndarray) -> float | None:
    """Compute the bootstrap p-value of no difference: twice the fraction of replicates on the rarer side of 0.

    A difference of 0 counts on both sides. The observed data count as one replicate, (1 + count) / (1 + R), so that p
    is never 0 (Davison and Hinkley 1997, section 4.2).

    Args:
        replicates: (R,) differences, NaN where undefined.

    Returns:
        A number above 0 and up to 1, or None if no replicate is defined.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return None
    rarer = min((defined <= 0).sum(), (defined >= 0).sum())
    return min(1.0, float(2 * (1 + rarer) / (1 + len(defined))))


def _area(scores: np.ndarray, labels: np.ndarray) -> float:
    area = auc_metrics.auc(scores, labels)
    return np.nan if area is None else area


def _difference(pair: np.ndarray, replicates: np.ndarray, reason: str | None) -> Difference:
    """Compare two AUCs (2,) whose differences in the replicates are (R,)."""
    if reason is not None:
        return Difference(None, None, None, None, None, None, None, None, reason)
    first, second = pair.tolist()
    interval = percentile_interval(first - second, replicates)
    return Difference(first, second, *interval, two_sided_p(replicates), None, None, None)


def _mean(pair: np.ndarray, replicates: np.ndarray) -> Difference:
    """Compare the means over the findings that are defined; pair (2, C), replicates (R, C)."""
    defined = ~np.isnan(pair).any(axis=0)
    if not defined.any():
        return _difference(pair, replicates, "no finding with positive and negative images")
    return _difference(pair[:, defined].mean(axis=1), auc_metrics.mean_defined(replicates[:, defined]), None)
