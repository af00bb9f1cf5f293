"""Paired differences against a plain loop over scikit-learn, Holm's correction by hand, and what they must satisfy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from chxbench.benchmark.metrics import auc as auc_metrics
from chxbench.benchmark.metrics.paired import compare, holm
from tests.helpers import delong


def study(seed=0, findings=3, images=250, patients=40):
    """Two methods' scores (N, C), the second one noisier; labels and patients."""
    rng = np.random.default_rng(seed)
    patient_index = rng.integers(0, patients, images)
    labels = (rng.random((images, findings)) < 0.4).astype(float)
    first = rng.standard_normal((images, findings)) + 2 * labels
    return first, first + 2 * rng.standard_normal((images, findings)), labels, patient_index


def test_a_difference_is_that_of_the_same_patients_draw_by_draw():
    """Against a plain loop: draw patients, take all their images, subtract what scikit-learn gives for the two."""
    first, second, labels, patients = study(findings=1)
    found = compare([first], [second], labels, patients, 300, seed=4).each[0]
    generator, names, drawn = np.random.default_rng(4), np.unique(patients), []
    for _ in range(300):
        chosen = names[generator.integers(0, len(names), len(names))]
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in chosen])
        drawn.append(np.subtract(*(roc_auc_score(labels[rows, 0], scores[rows, 0]) for scores in (first, second))))
    whole = [roc_auc_score(labels[:, 0], scores[:, 0]) for scores in (first, second)]
    assert [found.first, found.second, found.value] == pytest.approx([*whole, whole[0] - whole[1]], abs=1e-12)
    error = np.std(drawn, ddof=1)
    freedom = min(len(np.unique(patients[labels[:, 0] == value])) for value in (0, 1)) - 1
    margin = stats.t.ppf(0.975, freedom) * error
    assert [found.low, found.high] == pytest.approx([found.value - margin, found.value + margin], abs=1e-12)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.value) / error, freedom))


def test_the_standard_error_is_near_the_analytic_one():
    """Obuchowski 1997, which needs no replicates."""
    first, second, labels, patients = study(findings=1, images=2000, patients=400)
    found = compare([first], [second], labels, patients, 2000).each[0]
    _, shared = delong.covariance(np.column_stack([first, second]), labels[:, 0], patients)
    assert (found.high - found.low) / 2 / 1.97 == pytest.approx(np.sqrt([1, -1] @ shared @ [1, -1]), rel=0.05)


def test_the_means_are_over_the_defined_findings():
    first, second, labels, patients = study()
    labels[:, 1] = 0
    found = compare([first], [second], labels, patients, 200, leave_out=(2,))
    undefined = found.each[1]
    assert undefined.reason == "no positive image" and set(undefined[:-1]) == {None}
    areas = np.array([[roc_auc_score(labels[:, c], s[:, c]) for c in (0, 2)] for s in (first, second)])
    assert found.mean[:3] == pytest.approx([*areas.mean(1), areas.mean(1)[0] - areas.mean(1)[1]])
    assert found.mean_without[:3] == pytest.approx(found.each[0][:3])
    replicates = [
        auc_metrics.bootstrap(scores, labels, patients, 200)[:, [0, 2]].mean(axis=1) for scores in (first, second)
    ]
    margin = stats.t.ppf(0.975, len(np.unique(patients)) - 1) * np.std(replicates[0] - replicates[1], ddof=1)
    assert [found.mean.low, found.mean.high] == pytest.approx([found.mean.value - margin, found.mean.value + margin])
    assert found.mean.p_corrected is None


def test_findings_are_corrected_together_and_undefined_ones_are_not_counted():
    first, second, labels, patients = study(findings=4)
    labels[:, 0] = 1
    found = compare([first], [second], labels, patients, 200).each
    assert found[0].p_corrected is None and found[0].reason == "no negative image"
    assert [one.p_corrected for one in found[1:]] == holm([one.p for one in found[1:]])


def test_a_finding_of_few_patients_has_a_difference_but_no_interval_and_is_not_counted():
    first, second, labels, patients = study(findings=3)
    labels[:, 2] = np.isin(patients, range(25))
    few = compare([first], [second], labels, patients, 200)
    assert few.each[2].value is not None and few.each[2][3:7] == (None,) * 4
    assert [one.p_corrected for one in few.each[:2]] == holm([one.p for one in few.each[:2]])
    labels[:, 2] = np.isin(patients, range(4))
    assert few.mean.p is not None and compare([first], [second], labels, patients, 200).mean[3:6] == (None,) * 3


def test_the_variance_between_seeds_widens_the_interval_of_two_methods():
    """Against the formula: both variances are added, with the degrees of freedom of `spread`."""
    first, second, labels, patients = study(findings=1, patients=60)
    rng = np.random.default_rng(1)
    runs = [[scores + 0.5 * rng.standard_normal(scores.shape) for _ in range(3)] for scores in (first, second)]
    found = compare(*runs, labels, patients, 500).each[0]
    values = np.array([[roc_auc_score(labels, scores) for scores in method] for method in runs])
    draws = np.array([[auc_metrics.bootstrap(s, labels, patients, 500)[:, 0] for s in method] for method in runs])
    between = np.square(values - values.mean(axis=1, keepdims=True)).sum() / 4
    shifts = draws - values[:, :, None]
    shared = np.square(shifts - shifts.mean(axis=1, keepdims=True)).sum(axis=(0, 1)).mean() / 4
    sampling = np.subtract(*draws.mean(axis=1)).var(ddof=1)
    of_seeds = max(between - shared, 0) * 2 / 3
    total = sampling + of_seeds
    rarer = auc_metrics.rarer_class(labels[:, 0], patients)
    share = max(min(between * 2 / 3 / total, 1) ** 2, of_seeds / total)
    freedom = 1 / (share / 4 + (sampling / total) ** 2 / (rarer - 1))
    margin = stats.t.ppf(0.975, freedom) * np.sqrt(total)
    assert found.value == pytest.approx(np.subtract(*values.mean(axis=1)))
    assert [found.low, found.high] == pytest.approx([found.value - margin, found.value + margin])


def test_one_run_of_a_method_leaves_training_out():
    first, second, labels, patients = study()
    several = compare([first], [second, second], labels, patients, 100)
    assert several.mean == pytest.approx(compare([first], [second], labels, patients, 100).mean)


def test_without_a_defined_finding_the_difference_is_undefined():
    found = compare([np.zeros((4, 2))], [np.ones((4, 2))], np.full((4, 2), np.nan), list("aabb"), 50)
    assert [one.reason for one in found.each] == ["no known label"] * 2
    for mean in (found.mean, found.mean_without):
        assert mean.value is None and mean.reason == "no finding with positive and negative images"


def test_without_images_the_difference_is_undefined():
    nothing = np.zeros((0, 2))
    assert [one.reason for one in compare([nothing], [nothing], nothing, [], 50).each] == ["no image"] * 2


def test_a_method_does_not_differ_from_itself():
    first, _, labels, patients = study()
    found = compare([first], [first], labels, patients, 100)
    for one in (*found.each, found.mean):
        assert (one.value, one.low, one.high, one.p) == (0, 0, 0, 1)
    assert [one.p_corrected for one in found.each] == [1] * 3


@given(st.integers(0, 200))
def test_the_other_way_round_is_the_same_with_signs_turned(seed):
    first, second, labels, patients = study(seed, findings=2, images=80)
    there = compare([first], [second], labels, patients, 50)
    back = compare([second], [first], labels, patients, 50)
    for one, other in zip((*there.each, there.mean), (*back.each, back.mean), strict=True):
        assert (one.p, one.p_corrected) == (other.p, other.p_corrected)
        turned = [None if end is None else -end for end in (other.value, other.high, other.low)]
        assert [one.value, one.low, one.high] == pytest.approx(turned, abs=1e-12)


def test_holm_by_hand():
    # In order .01 * 4, .02 * 3, .03 * 2, .5 * 1; the third may not be below the second.
    assert holm([0.5, 0.03, 0.01, 0.02]) == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert holm([None, 0.4, None, 0.3]) == pytest.approx([None, 0.6, None, 0.6])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.none() | st.floats(0, 1), max_size=20))
def test_holm_never_helps_keeps_the_order_and_stays_a_probability(p_values):
    corrected = holm(p_values)
    assert [p is None for p in corrected] == [p is None for p in p_values]
    pairs = sorted((p, c) for p, c in zip(p_values, corrected, strict=True) if p is not None)
    assert all(p <= c <= 1 for p, c in pairs)
    assert [c for _, c in pairs] == sorted(c for _, c in pairs)
