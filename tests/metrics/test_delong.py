"""Analytic variances of AUCs: a published worked example, the definition by all pairs, what must not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from chxbench.benchmark.metrics import auc as auc_metrics
from chxbench.benchmark.metrics.intervals import UNDEFINED
from tests.helpers import delong

# 113 patients with an aneurysmal subarachnoid haemorrhage (Turck et al. 2010, Intensive Care Medicine 36:107), as
# in the data set aSAH of the R package pROC: 41 with a poor outcome, then 72 with a good one; S100B as ranks.
POOR_S100B = """
9 6 12 8 26 31 29 3 20 5 3 24 22 28 31 16 31 31 31 3 31 18 1 5 14 31 16 31 4 16 9 6 7 14 31 10 31 19 31 31 26
"""
GOOD_S100B = """
9 10 6 2 27 13 6 6 2 4 2 5 7 3 13 3 7 9 13 2 12 10 21 5 30 27 12 3 25 27 7 4 5 4 2 9 6 10 11 2 2 5 2 5 4 12 5
4 20 7 17 3 6 19 3 2 15 23 6 11 4 10 6 3 2 13 11 27 13 11 30 28
"""
POOR_WFNS = "32455552521254425552525245441442255225555"
GOOD_WFNS = "111151221221112121134141551124112212122111121211324214115422111312244111"


def published():
    """S100B and WFNS grade (113, 2), labels (113,)."""
    s100b = [int(rank) for rank in (POOR_S100B + " " + GOOD_S100B).split()]
    wfns = [int(grade) for grade in POOR_WFNS + GOOD_WFNS]
    return np.array([s100b, wfns], float).T, np.repeat([1.0, 0.0], [41, 72])


def test_the_published_example():
    """AUCs, interval and paired test as pROC's manual prints them (pages of ci.auc and roc.test)."""
    scores, labels = published()
    areas, shared = delong.covariance(scores, labels)
    assert areas == pytest.approx([0.7313686, 0.8236789], abs=5e-8)
    interval = delong.interval(scores[:, 0], labels)
    assert [interval.low, interval.high] == pytest.approx([0.6301, 0.8326], abs=5e-5)
    z = (areas[0] - areas[1]) / np.sqrt(shared[0, 0] + shared[1, 1] - 2 * shared[0, 1])
    assert z == pytest.approx(-2.209, abs=5e-4)
    assert delong.p_value(scores[:, 0], scores[:, 1], labels) == pytest.approx(0.02718, abs=5e-6)


def by_definition(scores, labels, patient_index):
    """Obuchowski's covariance straight from its sums, every positive image against every negative one."""
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    higher = scores[positive][:, None] > scores[negative]
    wins = higher + 0.5 * (scores[positive][:, None] == scores[negative])  # (M, N, K)
    theta, above, below = wins.mean((0, 1)), wins.mean(1), wins.mean(0)
    count, patients = scores.shape[1], np.unique(patient_index)
    s10, s01, s11 = np.zeros((3, count, count))
    for patient in patients:
        x = (above - theta)[patient_index[positive] == patient].sum(0)
        y = (below - theta)[patient_index[negative] == patient].sum(0)
        s10, s01, s11 = s10 + np.outer(x, x), s01 + np.outer(y, y), s11 + np.outer(x, y)
    m, n = len(positive), len(negative)
    ill, well = len(np.unique(patient_index[positive])), len(np.unique(patient_index[negative]))
    s10, s01 = s10 * ill / ((ill - 1) * m), s01 * well / ((well - 1) * n)
    s11 = s11 * len(patients) / (len(patients) - 1)
    return theta, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


@pytest.mark.parametrize("seed", range(5))
def test_midranks_give_what_all_pairs_give(seed):
    rng = np.random.default_rng(seed)
    patient_index = rng.integers(0, 25, 120)
    labels = (rng.random(120) < 0.3).astype(float)
    scores = (rng.standard_normal((120, 3)) + labels[:, None] + rng.standard_normal(25)[patient_index, None]).round(1)
    for ours, wanted in zip(
        delong.covariance(scores, labels, patient_index), by_definition(scores, labels, patient_index), strict=True
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_one_image_a_patient_is_delong_exactly(seed):
    """DeLong's covariance is the sample covariance of each class's components over its images (divisor n - 1).

    Obuchowski's factors I10 / (I10 - 1) and I01 / (I01 - 1) then are the same, and her third sum is 0.
    """
    rng = np.random.default_rng(seed)
    labels = (rng.random(80) < 0.4).astype(float)
    scores = (rng.standard_normal((80, 2)) + labels[:, None]).round(1)
    wins = np.sign(scores[labels == 1][:, None] - scores[labels == 0]) / 2 + 0.5
    wanted = np.cov(wins.mean(1).T) / (labels == 1).sum() + np.cov(wins.mean(0).T) / (labels == 0).sum()
    for clusters in (None, rng.permutation(80)):
        np.testing.assert_allclose(delong.covariance(scores, labels, clusters)[1], wanted, atol=1e-15)


def test_a_case_by_hand():
    # Positives 3, 1; negatives 2, 0. Shares of negatives below: 1, 1/2; of positives above: 1/2, 1. AUC 3/4.
    # Each pair of components has the sample variance 1/8, so the variance is 1/8 / 2 + 1/8 / 2 = 1/8.
    areas, shared = delong.covariance(np.array([[3.0], [1.0], [2.0], [0.0]]), np.array([1.0, 1.0, 0.0, 0.0]))
    assert (areas[0], shared[0, 0]) == (0.75, 0.125)
    # Two patients, each with a positive and a negative image: sums over patients (3, 2) and (1, 0) of the components
    # less 3/4 are 1/4 and -1/4, then -1/4 and 1/4. S10 = S01 = 2/1 / 2 * 1/8 = 1/8, S11 = 2/1 * -1/8 = -1/4.
    # 1/8 / 2 + 1/8 / 2 - 2 * 1/4 / 4 = 0: within these patients the images make up for each other exactly.
    clustered = delong.covariance(
        np.array([[3.0], [1.0], [2.0], [0.0]]), np.array([1.0, 1.0, 0.0, 0.0]), ["a", "b", "a", "b"]
    )
    assert clustered[1][0, 0] == pytest.approx(0, abs=1e-15)


rated = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.sampled_from([0.0, 1.0, np.nan]), st.integers(0, 8)),
    min_size=0,
    max_size=40,
)


def arrays(images):
    values = np.array(images, float).reshape(-1, 4)
    return values[:, :2], values[:, 2], values[:, 3]


@given(rated)
def test_undefined_exactly_where_a_class_has_fewer_than_two_patients(images):
    scores, labels, patients = arrays(images)
    few = min(len(set(patients[labels == 1])), len(set(patients[labels == 0]))) < 2
    assert (delong.covariance(scores, labels, patients) is None) == few
    if few:
        assert delong.interval(scores[:, 0], labels, patients) == UNDEFINED
        assert delong.p_value(scores[:, 0], scores[:, 1], labels, patients) is None


@given(rated)
def test_only_the_order_counts_and_labels_turn_the_areas_alone(images):
    scores, labels, patients = arrays(images)
    found = delong.covariance(scores, labels, patients)
    if found is None:
        return
    for turned, sign in (
        (delong.covariance(np.exp(scores), labels, patients), 1),
        (delong.covariance(scores, 1 - labels, patients), -1),
    ):
        np.testing.assert_allclose(turned[0] - 0.5, sign * (found[0] - 0.5), atol=1e-12)
        np.testing.assert_allclose(turned[1], found[1], atol=1e-12)
    assert found[0][0] == pytest.approx(auc_metrics.auc(scores[:, 0], labels), abs=1e-12)


@given(rated)
def test_a_p_value_is_one_and_the_same_in_both_directions(images):
    scores, labels, patients = arrays(images)
    p = delong.p_value(scores[:, 0], scores[:, 1], labels, patients)
    turned = delong.p_value(scores[:, 1], scores[:, 0], labels, patients)
    assert (p is None and turned is None) or (p == pytest.approx(turned, abs=1e-9) and 0 <= p <= 1)


def test_the_p_value_is_the_normal_law_of_the_difference():
    scores, labels = published()
    patients = np.arange(113) // 3
    areas, shared = delong.covariance(scores, labels, patients)
    contrast = np.array([1, -1])
    z = contrast @ areas / np.sqrt(contrast @ shared @ contrast)
    assert delong.p_value(*scores.T, labels, patients) == pytest.approx(2 * norm.cdf(-abs(z)), rel=1e-9)


def test_no_variance_is_no_p_value_but_equal_areas_are_no_difference():
    labels = np.repeat([1.0, 0.0], 5)
    perfect, blind = labels.copy(), np.zeros(10)
    assert delong.p_value(perfect, blind, labels) is None
    assert delong.p_value(perfect, 3 * perfect, labels) == 1
    assert delong.interval(perfect, labels) == (1, 1, 1)


def test_an_interval_stays_between_0_and_1():
    labels = np.repeat([1.0, 0.0], 4)
    interval = delong.interval(np.array([9.0, 8, 7, 2, 5, 1, 0, -1]), labels)
    assert interval.high == 1 and interval.low < interval.value == 15 / 16
    assert delong.interval(-np.array([9.0, 8, 7, 2, 5, 1, 0, -1]), labels).low == 0


@given(rated)
def test_no_contrast_of_areas_has_a_negative_variance(images):
    scores, labels, patients = arrays(images)
    found = delong.covariance(scores, labels, patients)
    if found is not None:
        assert np.linalg.eigvalsh(found[1]).min() >= -1e-12
