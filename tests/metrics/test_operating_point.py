"""Thresholds by brute force and by hand, rates against scikit-learn, intervals against a plain loop."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from chxbench.benchmark.metrics import operating_point
from chxbench.benchmark.metrics.intervals import UNDEFINED, Statistic, interval
from chxbench.benchmark.metrics.operating_point import OperatingPoint, Rates

rated = st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 1.0, np.nan])), max_size=40)


def arrays(images):
    return np.array(images, float).reshape(-1, 2).T


@given(rated, st.sampled_from([0.01, 0.07, 0.5, 0.9, 0.95, 1.0]))
@example([(0, 0.0)] * 100, 0.07)
def test_a_threshold_keeps_its_promise_and_no_lower_one_does(images, specificity):
    scores, labels = arrays(images)
    cut = operating_point.threshold(scores, labels, specificity)
    negatives = scores[labels == 0]
    assert (cut is None) == (len(negatives) == 0)
    if cut is not None:
        assert (negatives < cut).mean() >= specificity
        assert (negatives < np.nextafter(cut, -np.inf)).mean() < specificity


def test_a_share_that_is_an_integer_number_of_images_is_that_number():
    # 0.07 * 100 is a little more than 7 in floating point.
    assert operating_point.threshold(np.arange(100.0), np.zeros(100), 0.07) == np.nextafter(6, 7)


def test_a_threshold_by_hand():
    scores, labels = np.array([1.0, 2.0, 2.0, 5.0, 9.0]), np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    assert operating_point.threshold(scores, labels, 0.75) == np.nextafter(2, 3)
    assert operating_point.threshold(scores, labels, 0.76) == np.nextafter(5, 6)
    assert operating_point.rates(scores, labels, operating_point.threshold(scores, labels, 1.0)) == Rates(1.0, 1.0)


def test_thresholds_of_single_precision_scores_are_not_rounded_onto_a_score():
    scores, labels = np.array([0.1, 0.2, 0.3], np.float32), np.zeros(3)
    cut = operating_point.threshold(scores, labels, 1.0)
    assert operating_point.rates(scores, labels, cut) == Rates(None, 1.0)


@pytest.mark.parametrize("specificity", [0, -0.1, 1.1, np.nan])
def test_a_share_out_of_range_is_rejected(specificity):
    with pytest.raises(ValueError, match="specificity"):
        operating_point.threshold(np.array([1.0]), np.array([0.0]), specificity)


@given(rated, st.integers(-4, 4))
def test_rates_equal_scikit_learns_confusion_matrix(images, cut):
    scores, labels = arrays(images)
    found = operating_point.rates(scores, labels, cut)
    known = ~np.isnan(labels)
    if not known.any():
        assert found == Rates(None, None)
        return
    (tn, fp), (fn, tp) = confusion_matrix(labels[known], scores[known] >= cut, labels=[0, 1])
    assert found == Rates(tp / (tp + fn) if tp + fn else None, tn / (tn + fp) if tn + fp else None)


def test_replicates_resample_patients_with_all_their_images():
    """Against a plain loop: draw patients, take all their images, count."""
    rng = np.random.default_rng(1)
    patients = rng.integers(0, 45, 250)
    labels = rng.choice([0.0, 1.0, np.nan], (250, 2), p=[0.5, 0.4, 0.1])
    scores = rng.standard_normal((250, 2)) + np.nan_to_num(labels)
    found = operating_point.evaluate(scores, labels, patients, [0.4, -0.2], 200, seed=7)
    for c, cut in enumerate([0.4, -0.2]):
        generator, drawn = np.random.default_rng(7), []
        for _ in range(200):
            chosen = generator.integers(0, 45, 45)
            rows = np.concatenate([np.flatnonzero(patients == patient) for patient in chosen])
            drawn.append(operating_point.rates(scores[rows, c], labels[rows, c], cut))
        whole = operating_point.rates(scores[:, c], labels[:, c], cut)
        of_class = [len(np.unique(patients[labels[:, c] == value])) for value in (1, 0)]
        for ours, value, draws, count in zip(found[c], whole, zip(*drawn, strict=True), of_class, strict=True):
            assert ours == pytest.approx(interval(Statistic(value, np.array(draws), count)), abs=1e-12)
            assert None not in ours


def test_draws_without_the_class_are_left_out_and_a_missing_class_is_undefined():
    scores, labels = np.array([[1.0], [0.0], [0.0]]), np.array([[1.0], [0.0], [0.0]])
    (found,) = operating_point.evaluate(scores, labels, ["a", "b", "b"], [0.5], 50)
    assert found == OperatingPoint((1, None, None), (1, None, None))
    (found,) = operating_point.evaluate(scores, np.zeros((3, 1)), ["a", "b", "b"], [0.5], 50)
    assert found.sensitivity == UNDEFINED and found.specificity.value == pytest.approx(2 / 3)


def test_no_threshold_and_no_image_are_undefined():
    undefined = [OperatingPoint(UNDEFINED, UNDEFINED)]
    assert operating_point.evaluate(np.ones((2, 1)), np.array([[1.0], [0.0]]), ["a", "b"], [None], 50) == undefined
    assert operating_point.evaluate(np.ones((0, 1)), np.ones((0, 1)), [], [0.5], 50) == undefined
