"""Calibration against scikit-learn and hand-computed bins; ties, one class, nothing at all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from chxbench.benchmark.metrics import calibration


def predictions(seed, images=600):
    rng = np.random.default_rng(seed)
    probabilities = rng.random(images) ** 3
    return probabilities, (rng.random(images) < probabilities).astype(float)


@pytest.mark.parametrize("seed", range(3))
def test_brier_equals_scikit_learn(seed):
    probabilities, labels = predictions(seed)
    assert calibration.brier(probabilities, labels) == pytest.approx(brier_score_loss(labels, probabilities), abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_bins_of_equal_count_equal_scikit_learns_quantiles(seed):
    probabilities, labels = predictions(seed)
    found = calibration.reliability(probabilities, labels, 10)
    observed, predicted = calibration_curve(labels, probabilities, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-12)
    np.testing.assert_allclose(found.observed, observed, atol=1e-12)
    assert found.counts.tolist() == [60] * 10


def test_a_case_by_hand():
    # Two bins of two: .1 and .3 with no positive, .6 and .8 with one: (|.2 - 0| + |.7 - .5|) / 2.
    probabilities, labels = np.array([0.8, 0.1, 0.6, 0.3]), np.array([1.0, 0.0, 0.0, 0.0])
    assert calibration.expected_calibration_error(probabilities, labels, 2) == pytest.approx(0.2)
    # One bin: |.45 - .25|. Four: (.1 + .3 + .6 + .2) / 4.
    assert calibration.expected_calibration_error(probabilities, labels, 1) == pytest.approx(0.2)
    assert calibration.expected_calibration_error(probabilities, labels, 4) == pytest.approx(0.3)


def test_ties_share_a_bin_and_their_bin_weighs_what_it_holds():
    probabilities = np.array([0.2] * 7 + [0.5, 0.6, 0.9])
    labels = np.array([1.0] + [0.0] * 6 + [1.0, 0.0, 1.0])
    found = calibration.reliability(probabilities, labels, 5)
    assert found.counts.tolist() == [7, 1, 2] and found.counts.sum() == 10
    assert found.predicted == pytest.approx([0.2, 0.5, 0.75]) and found.observed == pytest.approx([1 / 7, 1, 0.5])
    wanted = (7 * abs(0.2 - 1 / 7) + abs(0.5 - 1) + 2 * abs(0.75 - 0.5)) / 10
    assert calibration.expected_calibration_error(probabilities, labels, 5) == pytest.approx(wanted)


rated = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 1.0, np.nan])), max_size=40
)


@given(rated, st.integers(1, 20), st.randoms())
def test_the_order_of_images_changes_nothing_and_no_probability_is_in_two_bins(images, bins, random):
    probabilities, labels = np.array(images, float).reshape(-1, 2).T
    found = calibration.reliability(probabilities, labels, bins)
    shuffled = np.array(random.sample(images, len(images)), float).reshape(-1, 2).T
    for ours, others in zip(found, calibration.reliability(*shuffled, bins), strict=True):
        np.testing.assert_allclose(ours, others, atol=1e-12)
    known = probabilities[~np.isnan(labels)]
    assert found.counts.sum() == len(known) and len(found.counts) <= min(bins, len(set(known)))
    edges = np.searchsorted(np.sort(known), np.unique(known))
    assert set(np.cumsum(found.counts)[:-1]) <= set(edges.tolist())


@given(rated)
def test_unknown_labels_count_nowhere(images):
    probabilities, labels = np.array(images, float).reshape(-1, 2).T
    known = ~np.isnan(labels)
    for score in (calibration.brier, calibration.expected_calibration_error):
        assert score(probabilities, labels) == score(probabilities[known], labels[known])
        assert (score(probabilities, labels) is None) == (not known.any())


def test_without_images_all_is_undefined_and_no_bin_exists():
    nothing = np.array([])
    assert calibration.brier(nothing, nothing) is None
    assert calibration.expected_calibration_error(nothing, nothing) is None
    assert [len(part) for part in calibration.reliability(nothing, nothing, 5)] == [0] * 5


def test_one_class_is_calibrated_by_small_probabilities():
    assert calibration.brier(np.array([0.0, 0.2]), np.zeros(2)) == pytest.approx(0.02)
    assert calibration.expected_calibration_error(np.array([0.0, 0.2]), np.zeros(2)) == pytest.approx(0.1)


def test_intervals_of_the_bins_are_wilsons():
    found = calibration.reliability(*predictions(0), 7)
    for observed, count, low, high in zip(found.observed, found.counts, found.low, found.high, strict=True):
        wanted = binomtest(round(observed * count), count).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_fewer_than_one_bin_is_rejected():
    with pytest.raises(ValueError, match="at least one"):
        calibration.reliability(np.array([0.5]), np.array([1.0]), 0)


def test_the_brier_score_resamples_patients_with_all_their_images():
    """Against a plain loop: draw patients, take all their images, average."""
    rng = np.random.default_rng(1)
    patients, labels = rng.integers(0, 20, 90), rng.choice([0.0, 1.0, np.nan], (90, 2))
    probabilities = rng.random((90, 2))
    found = calibration.evaluate_brier(probabilities, labels, patients, 30, seed=3)
    generator, names = np.random.default_rng(3), np.unique(patients)
    for r in range(30):
        chosen = names[generator.integers(0, len(names), len(names))]
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in chosen])
        for c in range(2):
            wanted = calibration.brier(probabilities[rows, c], labels[rows, c])
            assert found[c].replicates[r] == pytest.approx(wanted, abs=1e-12)
    assert [one.value for one in found] == [calibration.brier(probabilities[:, c], labels[:, c]) for c in range(2)]
    nothing = calibration.evaluate_brier(np.zeros((3, 1)), np.full((3, 1), np.nan), list("abc"), 5)[0]
    assert np.isnan(nothing.value) and np.isnan(nothing.replicates).all() and nothing.patients == 0


def test_the_floor_is_the_error_of_a_forecaster_that_is_right():
    rng = np.random.default_rng(2)
    probabilities = rng.beta(1, 6, 600)
    drawn = [
        calibration.expected_calibration_error(probabilities, (rng.random(600) < probabilities).astype(float))
        for _ in range(2000)
    ]
    floor = calibration.calibration_error_floor(probabilities, np.zeros(600))
    assert floor == pytest.approx(np.mean(drawn), rel=0.04) and floor > 0.02
    assert calibration.calibration_error_floor(probabilities, np.full(600, np.nan)) is None
    assert calibration.calibration_error_floor(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0
