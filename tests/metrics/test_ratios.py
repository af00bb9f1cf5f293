"""Ratios of things measured in turn: by hand, and the coverage of their intervals by simulation."""

import numpy as np
import pytest

from chxbench.benchmark.metrics.ratios import paired_ratio, quartiles

STUDIES = 4000


def test_quartiles_are_those_of_numpy():
    assert quartiles(np.array([4.0, 1.0, 2.0, 3.0, 5.0])) == (2.0, 3.0, 4.0)


def test_a_ratio_is_the_geometric_mean_with_an_interval_of_student():
    found = paired_ratio(np.array([2.0, 8.0, 4.0]), np.array([1.0, 1.0, 1.0]))
    margin = 4.302653 * np.log(2) / np.sqrt(3)  # t of 2 degrees of freedom; the logarithms deviate by log 2
    assert found == pytest.approx((4.0, 4 * np.exp(-margin), 4 * np.exp(margin)))


def test_a_ratio_of_one_round_has_no_interval_and_of_none_no_value():
    assert paired_ratio(np.array([2.0]), np.array([4.0])) == (0.5, None, None)
    assert paired_ratio(np.array([]), np.array([])) == (None, None, None)


def test_what_changes_both_in_a_round_does_not_change_their_ratio():
    clock = np.random.default_rng(0).uniform(0.5, 2, 8)
    assert paired_ratio(3 * clock, 2 * clock) == pytest.approx((1.5, 1.5, 1.5))


def normal(rng, shape):
    return rng.normal(0, 0.01, shape)


def disturbed(rng, shape):
    """Noise of 1 %; in a tenth of the turns something else took up to 20 % of the speed."""
    return normal(rng, shape) - (rng.random(shape) < 0.1) * rng.uniform(0, 0.2, shape)


def skewed(rng, shape):
    return -rng.exponential(0.02, shape)


@pytest.mark.parametrize("rounds", [3, 8, 16])
@pytest.mark.parametrize(
    ("noise", "least", "most"),
    [
        pytest.param(normal, 0.94, 0.96, id="normal"),
        pytest.param(skewed, 0.94, 0.98, id="skewed"),
        pytest.param(disturbed, 0.94, 0.99, id="disturbed"),
    ],
)
def test_intervals_hold_the_ratio_in_95_percent_of_the_studies(noise, least, most, rounds):
    """The machine becomes faster or slower by up to 10 % from round to round; the true ratio is 1.1."""
    rng = np.random.default_rng(0)
    drift = rng.uniform(-0.1, 0.1, (STUDIES, rounds))
    values = 1.1 * np.exp(drift + noise(rng, drift.shape))
    others = np.exp(drift + noise(rng, drift.shape))
    found = [paired_ratio(*study) for study in zip(values, others, strict=True)]
    assert least <= np.mean([low <= 1.1 <= high for _, low, high in found]) <= most
