"""Intervals and tests over test patients and, for several runs of a method, training seeds. Pure functions of arrays.

A metric of a test split varies with the patients in it: its variance is that of bootstrap replicates (bootstrap.py). It
also varies with the seed of the training, and differences between methods are often smaller than those between seeds
(Bouthillier et al. 2021, *Accounting for Variance in Machine Learning Benchmarks*, MLSys 3). A method alone has too few
seeds to estimate this variance, so it is pooled over the methods of a board. Both variances are added; quantiles are
those of Student's t with Satterthwaite's degrees of freedom, or fewer (`spread`). The interval of a metric in 0..1 is
symmetric in its log-odds. It is that of the metric's expectation over test splits of this size, which differs from the
value in the population for a metric that depends on the number of images, such as average precision.

Percentiles of the replicates are not used: with few positive patients they miss the truth far too often.
tests/metrics/test_interval_coverage*.py simulate the intervals; docs/protocol.md lists what they do not cover. Below
`MIN_PATIENTS` coverage was not shown, and there are none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import expit

LEVEL = 0.95
MIN_PATIENTS = 32  # patients with a positive image, and with a negative one, for an interval or test of one finding
MIN_PATIENTS_IN_MEAN = 10  # the same of each finding in a mean over findings
EDGE = 1e-6  # metrics closer to 0 or 1 have no log-odds


class Interval(NamedTuple):
    """A value with its 95 % interval; all are None if the value is undefined, the ends also if no interval is known."""

    value: float | None
    low: float | None
    high: float | None


UNDEFINED = Interval(None, None, None)


class Statistic(NamedTuple):
    """A metric of a test split.

    Attributes:
        value: its value; NaN if undefined.
        replicates: its value in each bootstrap replicate of the patients (R,), NaN where undefined.
        patients: number of patients that it depends on; for one finding, those of the class that has fewer.
    """

    value: float
    replicates: np.ndarray
    patients: int


class SeedVariance(NamedTuple):
    """Variance of a metric between training seeds, pooled over methods.

    Attributes:
        observed: variance of one seed's value around its method's mean, on the same test patients.
        interaction: the part of it that the choice of test patients explains, which their replicates contain as well.
        freedom: degrees of freedom: the number of runs minus the number of methods.
    """

    observed: float
    interaction: float
    freedom: int


class Spread(NamedTuple):
    """Standard error of a metric or a difference, and its degrees of freedom."""

    error: float
    freedom: float

    @property
    def margin(self) -> float:
        """Half of the width of the 95 % interval."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.freedom)) * self.error

    def p_value(self, value: float) -> float:
        """Return the two-sided p-value of a value under the hypothesis that it is 0."""
        return float(2 * stats.t.sf(abs(value) / self.error, self.freedom)) if self.error else float(value == 0)


def pool_seed_variance(groups: Sequence[Sequence[Statistic]]) -> SeedVariance | None:
    """Estimate the variance between seeds from all methods that have several.

    Args:
        groups: for each method, the metric of each of its runs; replicate r of all runs has the same patients.

    Returns:
        The variance; None if no method has several seeds.
    """
    freedom = sum(len(runs) - 1 for runs in groups)
    if not freedom:
        return None
    observed = interaction = 0.0
    for runs in groups:
        values = np.array([run.value for run in runs])
        shifts = np.array([run.replicates for run in runs]) - values[:, None]
        observed += float(np.square(values - values.mean()).sum())
        interaction += float(np.nanmean(np.square(shifts - shifts.mean(axis=0)).sum(axis=0)))
    return SeedVariance(observed / freedom, interaction / freedom, freedom)


def mean_statistic(runs: Sequence[Statistic]) -> Statistic:
    """Average a metric over the runs of a method; replicate r of all runs has the same patients."""
    replicates = np.mean([run.replicates for run in runs], axis=0)
    return Statistic(float(np.mean([run.value for run in runs])), replicates, min(run.patients for run in runs))


def average_findings(findings: Sequence[Statistic], patients: int) -> Statistic:
    """Average a metric over the findings for which it is defined; `patients` is the number of all patients.

    A finding that is undefined in a replicate has its value there, so that all replicates average the same findings.
    The mean counts as one of 0 patients, without interval, if a finding depends on fewer than `MIN_PATIENTS_IN_MEAN`.
    """
    defined = [finding for finding in findings if not np.isnan(finding.value)]
    if not defined:
        return Statistic(np.nan, np.array([np.nan]), 0)
    if min(finding.patients for finding in defined) < MIN_PATIENTS_IN_MEAN:
        patients = 0
    replicates = [np.where(np.isnan(one.replicates), one.value, one.replicates) for one in defined]
    return Statistic(float(np.mean([one.value for one in defined])), np.mean(replicates, axis=0), patients)


def subtract(first: Statistic, second: Statistic) -> Statistic:
    """Return the difference of a metric, first - second, on the same replicates of the same patients."""
    patients = min(first.patients, second.patients)
    return Statistic(first.value - second.value, first.replicates - second.replicates, patients)


def spread(statistic: Statistic, weight: float = 1, seeds: SeedVariance | None = None) -> Spread | None:
    """Return the spread of a metric of one run, of a mean over seeds, or of a difference of such means.

    Args:
        statistic: the metric, mean or difference.
        weight: sum of the squared weights of the runs: 1/S for a mean of S seeds, 1/S + 1/T for a difference.
        seeds: variance between seeds; None to leave training out.

    Returns:
        None if the metric is undefined or depends on fewer than `MIN_PATIENTS` patients.
    """
    defined = statistic.replicates[~np.isnan(statistic.replicates)]
    if np.isnan(statistic.value) or statistic.patients < MIN_PATIENTS or len(defined) < 2:
        return None
    sampling = float(defined.var(ddof=1)) if np.ptp(defined) > EDGE**2 else 0.0  # equal but for rounding
    if seeds is None:
        return Spread(sampling**0.5, statistic.patients - 1)
    between = max(seeds.observed - seeds.interaction, 0) * weight
    total = sampling + between
    if total == 0:
        return Spread(0.0, 1)
    # The whole observed variance is what was estimated from few runs, also where most of it is explained by patients.
    # If little is, the share of the seeds counts unsquared: it is low whenever their variance is estimated too low, and
    # Satterthwaite's square would then give narrow intervals many degrees of freedom.
    share = max(min(seeds.observed * weight / total, 1) ** 2, between / total)
    return Spread(total**0.5, 1 / (share / seeds.freedom + (sampling / total) ** 2 / (statistic.patients - 1)))


def compare_means(
    first: Sequence[Statistic], second: Sequence[Statistic], seeds: SeedVariance | None
) -> tuple[Statistic, Spread | None]:
    """Return the difference between the means of two methods' runs, first - second, and its spread.

    Replicate r of all runs has the same patients. `seeds` and None are those of `spread`.
    """
    found = subtract(mean_statistic(first), mean_statistic(second))
    return found, spread(found, 1 / len(first) + 1 / len(second), seeds)


def interval(statistic: Statistic, weight: float = 1, seeds: SeedVariance | None = None) -> Interval:
    """Return a metric in 0..1 with its 95 % interval, which has no ends at 0, at 1, or without a spread.

    Arguments are those of `spread`.
    """
    value, found = statistic.value, spread(statistic, weight, seeds)
    if np.isnan(value):
        return UNDEFINED
    if found is None or not found.error or not EDGE < value < 1 - EDGE:
        return Interval(value, None, None)
    center, margin = np.log(value / (1 - value)), found.margin / (value * (1 - value))
    low, high = expit(center + np.array([-margin, margin]))
    return Interval(value, float(low), float(high))
