"""Draws of patients, and the intervals that are read off them: pure functions of arrays.

Images of a patient are not independent, so patients are drawn whole, with replacement (the cluster bootstrap: Field and
Welsh 2007, JRSS B 69:369). Everything that is drawn with the same patients and the same seed sees the same draws, so
that what was measured on them may be subtracted, draw by draw.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

CHUNK = 2_000_000  # images x draws at a time: at most 60 MB


class Interval(NamedTuple):
    """A value with its 95 % interval.

    All None where the value is undefined; the ends alone are None where it is undefined in every draw.
    """

    value: float | None
    low: float | None
    high: float | None


UNDEFINED = Interval(None, None, None)


def encode_patients(patients: Sequence) -> np.ndarray:
    """The number of each image's patient, 0 to P - 1 in the order of their sorted names; (N,)."""
    return np.unique(np.asarray(patients), return_inverse=True)[1]


def bootstrap_counts(owner: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How many times each draw holds each of the P patients: whole numbers (P, R), `resamples` draws in several parts.

    Args:
        owner: (N,) the number of each image's patient.
        resamples: number of draws, each of P patients with replacement.
        seed: of the draws; how many are held at a time changes none of them.
    """
    generator = np.random.default_rng(seed)
    count = owner.max(initial=0) + 1
    step = max(1, CHUNK // max(1, len(owner)))
    for first in range(0, resamples, step):
        drawn = [generator.integers(0, count, count) for _ in range(min(step, resamples - first))]
        yield np.stack([np.bincount(each, minlength=count) for each in drawn], axis=1, dtype=np.int32)


def percentile_interval(value: float, drawn: np.ndarray) -> Interval:
    """A value and the 2.5 % and 97.5 % quantiles of its draws (R,), NaN where undefined.

    Efron and Tibshirani 1993, *An Introduction to the Bootstrap*, chapter 13.
    """
    if np.isnan(value):
        return UNDEFINED
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return Interval(float(value), None, None)
    low, high = np.quantile(known, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
