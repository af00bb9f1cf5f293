"""Two methods on the same images: differences of their AUCs, with intervals and p-values. Pure functions of arrays.

The same draws of patients judge both, so what makes a draw hard for both of them cancels. Fourteen findings are
fourteen chances to be lucky: their p-values are corrected together (Holm 1979).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..metrics import auc as auc_metrics
from ..metrics import delong
from .bootstrap import percentile_interval


class Difference(NamedTuple):
    """Two AUCs, or two means of AUCs, and their difference; all None but for the reason where it is undefined.

    Attributes:
        first, second: the AUCs, in 0..1.
        value: first - second.
        low, high: ends of the 95 % percentile interval of the differences, draw by draw.
        p: two-sided p of no difference, from the draws; at least 2 / (draws + 1), so that significance at 5 % after
            correction for 14 findings needs 559 draws or more.
        p_corrected: the same corrected for the number of findings; None for a mean.
        p_analytic: by the normal law from the variance of Obuchowski 1997; None for a mean, and where that variance
            cannot be estimated (see delong.py).
        reason: why there is no difference, in words; None where there is one.
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
    """Differences of each finding, in order, of their mean, and of their mean without the findings left out."""

    each: list[Difference]
    mean: Difference
    mean_without: Difference


def compare(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    patients: Sequence,
    resamples: int,
    leave_out: Sequence[int] = (),
    seed: int = 0,
) -> Comparison:
    """Compare two methods' scores (N, C) of the same images, finding by finding and in the mean.

    Args:
        first, second: (N, C), each on any monotone scale, finite.
        labels: (N, C), 1, 0 or NaN for unknown.
        patients: (N,) the patient of each image; patients are drawn whole, with replacement.
        resamples: number of draws.
        leave_out: columns of the findings to leave out of the second mean.
        seed: of the draws; with the seed of `metrics.evaluate` they are its draws.
    """
    columns = range(labels.shape[1])
    pair = np.array([[_area(scores[:, c], labels[:, c]) for c in columns] for scores in (first, second)])
    drawn = np.subtract(
        *(auc_metrics.bootstrap(scores, labels, patients, resamples, seed) for scores in (first, second))
    )
    each = [_difference(pair[:, c], drawn[:, c], auc_metrics.undefined_reason(labels[:, c])) for c in columns]
    corrected = holm([one.p for one in each])
    analytic = [delong.p_value(first[:, c], second[:, c], labels[:, c], patients) for c in columns]
    kept = [c for c in columns if c not in leave_out]
    return Comparison(
        [each[c]._replace(p_corrected=corrected[c], p_analytic=analytic[c]) for c in columns],
        _mean(pair, drawn),
        _mean(pair[:, kept], drawn[:, kept]),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6:65), at most 1.

    In the order in which they came. None stays None and is not counted.
    """
    corrected: list[float | None] = [None] * len(p_values)
    known = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, position) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[position] = highest
    return corrected


def two_sided_p(drawn: np.ndarray) -> float | None:
    """p of no difference: twice the share of the differences (R,) that lie on the rarer side of 0.

    NaN is a draw without a difference; None if all are. 0 counts for both sides, and the observed data for one draw,
    (1 + count) / (1 + R), so that p is never 0 (Davison and Hinkley 1997, section 4.2). At most 1.
    """
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return None
    rarer = min((known <= 0).sum(), (known >= 0).sum())
    return min(1.0, float(2 * (1 + rarer) / (1 + len(known))))


def _area(scores: np.ndarray, labels: np.ndarray) -> float:
    area = auc_metrics.auc(scores, labels)
    return np.nan if area is None else area


def _difference(pair: np.ndarray, drawn: np.ndarray, reason: str | None) -> Difference:
    """Of two AUCs (2,) and the differences of their draws (R,)."""
    if reason is not None:
        return Difference(None, None, None, None, None, None, None, None, reason)
    first, second = pair.tolist()
    return Difference(first, second, *percentile_interval(first - second, drawn), two_sided_p(drawn), None, None, None)


def _mean(pair: np.ndarray, drawn: np.ndarray) -> Difference:
    """The same of the means over the findings that are defined; pair (2, C), drawn (R, C)."""
    defined = ~np.isnan(pair).any(axis=0)
    if not defined.any():
        return _difference(pair, drawn, "no finding with positive and negative images")
    return _difference(pair[:, defined].mean(axis=1), auc_metrics.mean_defined(drawn[:, defined]), None)
