"""Spread of repeated measurements, and the ratio of two things that were measured in turn. Pure functions of arrays.

Both are measured once in each round. What changes from round to round, such as the clock of a processor, changes both,
so that their ratio in a round varies less than either of them. The logarithm of the ratio is averaged over the rounds,
with an interval of Student's t. tests/metrics/test_ratios.py simulates its coverage.
"""

from typing import NamedTuple

import numpy as np

from .intervals import UNDEFINED, Interval, Spread


class Quartiles(NamedTuple):
    """Median and quartiles."""

    low: float
    median: float
    high: float


def quartiles(values: np.ndarray) -> Quartiles:
    """Return the median and the quartiles of values (n,)."""
    return Quartiles(*map(float, np.quantile(values, (0.25, 0.5, 0.75))))


def paired_ratio(values: np.ndarray, others: np.ndarray) -> Interval:
    """Return the geometric mean of the ratios of positive values (n,) to others (n,), with its 95 % interval.

    Undefined for n = 0; for n = 1 there is no interval.
    """
    logs = np.log(values) - np.log(others)
    if not len(logs):
        return UNDEFINED
    mean = float(logs.mean())
    if len(logs) == 1:
        return Interval(float(np.exp(mean)), None, None)
    margin = Spread(float(logs.std(ddof=1)) / len(logs) ** 0.5, len(logs) - 1).margin
    return Interval(*(float(np.exp(end)) for end in (mean, mean - margin, mean + margin)))
