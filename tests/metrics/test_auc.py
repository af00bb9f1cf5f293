"""AUC, average precision and intervals against scikit-learn, hand-computed cases, and the properties that any has."""

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from chxbench.benchmark.metrics import auc as auc_metrics
from chxbench.benchmark.metrics import bootstrap
from chxbench.benchmark.metrics.intervals import UNDEFINED, interval

labelled_scores = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60)

evaluate_precision = partial(auc_metrics.evaluate, measure=auc_metrics.measure_precision)


def arrays(pairs):
    scores, labels = zip(*pairs, strict=True)
    return np.array(scores, float), np.array(labels, float)


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_scikit_learn_with_ties(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random(500) < 0.2).astype(float)
    scores = (rng.standard_normal(500) + labels).round(1)
    assert auc_metrics.auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_of_a_case_counted_by_hand():
    # Pairs (positive, negative): 3>1, 3>2, 2>1 won, 2=2 tied: 3.5 of 4.
    assert auc_metrics.auc(np.array([3.0, 2.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0, 0.0])) == 3.5 / 4


@given(labelled_scores)
def test_auc_is_undefined_exactly_where_a_class_is_missing(pairs):
    scores, labels = arrays(pairs)
    assert (auc_metrics.auc(scores, labels) is None) == (len(set(labels)) == 1)


@given(labelled_scores)
def test_auc_sees_only_the_order_and_turns_with_the_labels(pairs):
    scores, labels = arrays(pairs)
    value = auc_metrics.auc(scores, labels)
    if value is not None:
        assert auc_metrics.auc(np.exp(scores), labels) == value
        assert auc_metrics.auc(scores, 1 - labels) == pytest.approx(1 - value, abs=1e-12)
        assert auc_metrics.auc(-scores, labels) == pytest.approx(1 - value, abs=1e-12)


@pytest.mark.parametrize("measure", [auc_metrics.auc, auc_metrics.average_precision])
def test_unknown_labels_count_nowhere(measure):
    scores, labels = np.array([5.0, 1.0, 2.0, 9.0]), np.array([1.0, 0.0, 1.0, np.nan])
    assert measure(scores, labels) == measure(scores[:3], labels[:3])


@given(labelled_scores)
def test_every_image_twice_is_the_same(pairs):
    scores, labels = arrays(pairs * 2)
    assert auc_metrics.auc(scores, labels) == auc_metrics.auc(*arrays(pairs))
    assert auc_metrics.average_precision(scores, labels) == pytest.approx(auc_metrics.average_precision(*arrays(pairs)))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("digits", [0, 1, 8])
def test_average_precision_equals_scikit_learn_with_ties(seed, digits):
    rng = np.random.default_rng(seed)
    labels = (rng.random(500) < 0.1).astype(float)
    scores = (rng.standard_normal(500) + labels).round(digits)
    wanted = average_precision_score(labels, scores)
    assert auc_metrics.average_precision(scores, labels) == pytest.approx(wanted, abs=1e-12)


def test_average_precision_of_a_case_counted_by_hand():
    # Positives at 3 (alone: 1 of 1) and at 2 (with a tied negative: 2 of 3).
    scores, labels = np.array([3.0, 2.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0, 0.0])
    assert auc_metrics.average_precision(scores, labels) == pytest.approx((1 + 2 / 3) / 2)


@given(labelled_scores)
def test_average_precision_sees_only_the_order_and_is_undefined_with_the_auc(pairs):
    scores, labels = arrays(pairs)
    value = auc_metrics.average_precision(scores, labels)
    assert auc_metrics.average_precision(np.exp(scores), labels) == value
    assert (value is None) == (auc_metrics.auc(scores, labels) is None)
    assert value is None or value == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([], "no image"),
        ([np.nan, np.nan], "no known label"),
        ([0, np.nan, 0], "no positive image"),
        ([1, 1, np.nan], "no negative image"),
        ([0, 1, np.nan], None),
    ],
)
def test_a_reason_is_given_exactly_where_auc_is_undefined(labels, reason):
    labels = np.array(labels, float)
    assert auc_metrics.undefined_reason(labels) == reason
    for measure in (auc_metrics.auc, auc_metrics.average_precision):
        assert (measure(np.arange(len(labels)), labels) is None) == (reason is not None)


def test_without_images_all_is_undefined():
    nothing = np.zeros((0, 2))
    for evaluate in (auc_metrics.evaluate, evaluate_precision):
        found = evaluate(nothing, nothing, [], 20)
        assert [(interval(one), one.patients) for one in found] == [(UNDEFINED, 0)] * 2


def test_patients_of_the_rarer_class_are_counted():
    labels = np.array([1, 1, 0, 1, 0, np.nan])
    assert auc_metrics.rarer_class(labels, list("aabbcd")) == 2
    assert auc_metrics.rarer_class(1 - labels, list("aabbcd")) == 2
    assert auc_metrics.rarer_class(np.ones(3), list("abc")) == 0


@pytest.mark.parametrize(
    ("evaluate", "reference"),
    [(auc_metrics.evaluate, roc_auc_score), (evaluate_precision, average_precision_score)],
    ids=["auc", "precision"],
)
def test_replicates_resample_patients_with_all_their_images(evaluate, reference):
    """Against a plain loop: draw patients, take all their images, ask scikit-learn."""
    rng = np.random.default_rng(1)
    patients = rng.integers(0, 30, 120)
    labels = (rng.random((120, 1)) < 0.4).astype(float)
    scores = rng.standard_normal((120, 1)) + labels
    (found,) = evaluate(scores, labels, patients, 300, seed=5)

    draws, generator = [], np.random.default_rng(5)
    names = np.unique(patients)
    for _ in range(300):
        drawn = names[generator.integers(0, len(names), len(names))]
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn])
        draws.append(reference(labels[rows, 0], scores[rows, 0]))
    assert found.value == pytest.approx(reference(labels[:, 0], scores[:, 0]), abs=1e-12)
    np.testing.assert_allclose(found.replicates, draws, atol=1e-12)


rated_images = st.lists(
    st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 1.0, np.nan]), st.integers(0, 5)), min_size=1, max_size=40
)


def auc_by_pairs(scores, labels, weights):
    """Every pair of a positive and a negative image, one won, half tied; NaN without a pair."""
    positive, negative = labels == 1, labels == 0
    higher, lower = scores[positive][:, None], scores[negative]
    pairs = weights[positive][:, None] * weights[negative]
    return (((higher > lower) + 0.5 * (higher == lower)) * pairs).sum() / pairs.sum() if pairs.any() else np.nan


@given(rated_images)
@example([(0, 1.0, 0), (0, 0.0, 0), (2, 0.0, 0)])
@example([(0, 1.0, 0), (1, 1.0, 1)])
@example([(0, 0.0, 0), (1, np.nan, 1)])
def test_every_draw_is_the_auc_of_images_weighted_by_their_patients(images):
    scores, labels, patients = (np.array(part, float) for part in zip(*images, strict=True))
    _, patient_index = np.unique(patients, return_inverse=True)
    generator = np.random.default_rng(3)
    drawn = [generator.integers(0, patient_index.max() + 1, patient_index.max() + 1) for _ in range(20)]
    wanted = [
        auc_by_pairs(scores, labels, np.bincount(draw, minlength=patient_index.max() + 1)[patient_index])
        for draw in drawn
    ]
    found = auc_metrics.bootstrap(scores[:, None], labels[:, None], patients, 20, 3)[:, 0]
    np.testing.assert_array_equal(found, wanted)


@given(rated_images)
def test_every_draw_is_the_average_precision_of_images_counted_as_often(images):
    scores, labels, patients = (np.array(part, float) for part in zip(*images, strict=True))
    found = auc_metrics.bootstrap(scores[:, None], labels[:, None], patients, 10, 3, auc_metrics.measure_precision)[
        :, 0
    ]
    names, generator = np.unique(patients), np.random.default_rng(3)
    for value in found:
        chosen = names[generator.integers(0, len(names), len(names))]
        rows = np.concatenate([np.flatnonzero((patients == patient) & ~np.isnan(labels)) for patient in chosen])
        if auc_metrics.undefined_reason(labels[rows]):
            assert np.isnan(value)
        else:
            assert value == pytest.approx(average_precision_score(labels[rows], scores[rows]), abs=1e-12)


def test_intervals_widen_when_images_of_a_patient_are_alike():
    rng = np.random.default_rng(2)
    labels = np.repeat((rng.random((60, 1)) < 0.5).astype(float), 8, axis=0)
    scores = np.repeat(rng.standard_normal((60, 1)), 8, axis=0) + labels
    (by_patient,) = auc_metrics.evaluate(scores, labels, np.repeat(np.arange(60), 8), 400)
    (by_image,) = auc_metrics.evaluate(scores, labels, np.arange(480), 400)
    assert by_patient.replicates.std() > 2 * by_image.replicates.std()


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_draws_do_not_depend_on_how_many_are_held_at_a_time(seed):
    rng = np.random.default_rng(seed)
    labels, scores = (rng.random((40, 2)) < 0.5).astype(float), rng.standard_normal((40, 2))
    patients = rng.integers(0, 12, 40)
    whole = auc_metrics.bootstrap(scores, labels, patients, 100)
    held = bootstrap.CHUNK
    try:
        bootstrap.CHUNK = 40 * 7
        np.testing.assert_array_equal(auc_metrics.bootstrap(scores, labels, patients, 100), whole)
    finally:
        bootstrap.CHUNK = held


def test_roc_equals_scikit_learn():
    rng = np.random.default_rng(3)
    labels = (rng.random(300) < 0.3).astype(float)
    scores = (rng.standard_normal(300) + labels).round(1)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    ours = auc_metrics.roc(scores, labels)
    np.testing.assert_allclose(ours[0], false, atol=1e-12)
    np.testing.assert_allclose(ours[1], true, atol=1e-12)
