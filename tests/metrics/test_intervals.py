"""Intervals by hand: the formulas, who gets none, and what they must satisfy. Coverage: test_interval_coverage*.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from chxbench.benchmark.metrics.intervals import (
    MIN_PATIENTS,
    MIN_PATIENTS_IN_MEAN,
    UNDEFINED,
    Interval,
    SeedVariance,
    Statistic,
    average_findings,
    compare_means,
    interval,
    mean_statistic,
    pool_seed_variance,
    spread,
)


def statistic(value=0.8, sd=0.02, patients=100, seed=0, shift=0.0):
    return Statistic(value, value + shift + sd * np.random.default_rng(seed).standard_normal(300), patients)


def test_the_interval_of_one_run_is_symmetric_in_the_log_odds():
    one = statistic()
    found = interval(one)
    margin = stats.t.ppf(0.975, 99) * one.replicates.std(ddof=1) / (0.8 * 0.2)
    ends = [1 / (1 + np.exp(-(np.log(4) + sign * margin))) for sign in (-1, 1)]
    assert found == pytest.approx((0.8, *ends))


def test_too_few_patients_extremes_and_undefined_values_have_no_interval():
    assert interval(statistic(patients=MIN_PATIENTS)).low is not None
    assert interval(statistic(patients=MIN_PATIENTS - 1)) == Interval(0.8, None, None)
    assert interval(statistic(sd=0)) == Interval(0.8, None, None)
    for extreme in (0.0, 1.0):
        assert interval(statistic(extreme)) == Interval(extreme, None, None)
    assert interval(Statistic(np.nan, np.full(9, np.nan), 100)) == UNDEFINED
    assert interval(Statistic(0.8, np.full(9, np.nan), 100)) == Interval(0.8, None, None)


@given(st.floats(0.001, 0.999), st.floats(0.0001, 0.5), st.integers(MIN_PATIENTS, 1000))
def test_an_interval_stays_between_0_and_1_around_its_value(value, sd, patients):
    _, low, high = interval(statistic(value, sd, patients))
    assert 0 <= low <= value <= high <= 1


def test_seed_variance_is_pooled_and_leaves_out_what_patients_explain():
    common = np.random.default_rng(0).standard_normal(300) * 0.02
    one = [Statistic(value, value + common, 100) for value in (0.7, 0.8)]
    other = [Statistic(value, value + common, 100) for value in (0.5, 0.6, 0.7)]
    found = pool_seed_variance([one, other])
    assert found == pytest.approx(SeedVariance((0.005 + 0.02) / 3, 0, 3))  # all runs move alike with the patients
    apart = [statistic(0.7, seed=1), statistic(0.7, seed=2)]
    assert pool_seed_variance([apart]).interaction == pytest.approx(0.02**2, rel=0.2)
    assert pool_seed_variance([[one[0]], [other[0]]]) is None


def test_both_variances_are_added():
    one, seeds = statistic(), SeedVariance(0.004, 0.001, 4)
    sampling = one.replicates.var(ddof=1)
    total = sampling + 0.003 / 3
    found = spread(one, 1 / 3, seeds)
    assert found.error == pytest.approx(np.sqrt(total))
    assert found.freedom == pytest.approx(1 / (min(0.004 / 3 / total, 1) ** 2 / 4 + (sampling / total) ** 2 / 99))
    total += 0.001 / 3  # now patients explain nothing of what varies between seeds, whose share is not squared
    found = spread(one, 1 / 3, SeedVariance(0.004, 0, 4))
    assert found.freedom == pytest.approx(1 / (0.004 / 3 / total / 4 + (sampling / total) ** 2 / 99))
    less = spread(one, 1 / 3, SeedVariance(0.001, 0.004, 4))
    assert less.error == pytest.approx(np.sqrt(sampling))  # a variance is never negative


def test_the_p_value_fits_the_interval():
    first, second = [statistic(0.8), statistic(0.82)], [statistic(0.7), statistic(0.71)]
    found, error = compare_means(first, second, pool_seed_variance([first, second]))
    assert found.value == pytest.approx(0.105)
    assert error.p_value(error.margin) == pytest.approx(0.05)
    assert error.p_value(0) == 1
    same, none = compare_means(first, first, None)
    assert (same.value, none.error, none.p_value(0.0), none.p_value(0.1)) == (0, 0, 1, 0)


def test_a_mean_over_seeds_has_the_replicates_of_all():
    one, other = statistic(0.7, seed=1), statistic(0.8, seed=2, patients=50)
    found = mean_statistic([one, other])
    assert (found.value, found.patients) == (0.75, 50)
    np.testing.assert_allclose(found.replicates, (one.replicates + other.replicates) / 2)


def test_a_mean_over_findings_is_of_the_same_findings_in_every_replicate():
    first = Statistic(0.8, np.array([0.7, 0.9]), 50)
    second = Statistic(0.6, np.array([np.nan, 0.5]), 20)
    undefined = Statistic(np.nan, np.full(2, np.nan), 0)
    found = average_findings([first, second, undefined], 60)
    assert (found.value, found.patients) == (pytest.approx(0.7), 60)
    np.testing.assert_allclose(found.replicates, [0.65, 0.7])  # the undefined replicate has the value, 0.6
    assert np.isnan(average_findings([undefined], 60).value)


@pytest.mark.parametrize(("patients", "shown"), [(MIN_PATIENTS_IN_MEAN, True), (MIN_PATIENTS_IN_MEAN - 1, False)])
def test_a_finding_of_hardly_any_patient_takes_the_interval_from_the_mean(patients, shown):
    found = average_findings([statistic(), statistic(seed=1, patients=patients)], 100)
    assert (interval(found).low is not None) == shown
