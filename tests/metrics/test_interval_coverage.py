"""Do 95 % intervals over test patients hold the truth in 95 % of the studies? By simulation.

Each test has a short form and one of 2,000 studies (`pytest -m long`). tests/helpers/interval_studies.py says what a
study is, and test_interval_coverage_over_seeds.py simulates intervals over patients and training seeds.
"""

import numpy as np
import pytest
from scipy.stats import norm

from chxbench.benchmark.metrics import auc as auc_metrics
from chxbench.benchmark.metrics import calibration, operating_point
from chxbench.benchmark.metrics.intervals import MIN_PATIENTS, MIN_PATIENTS_IN_MEAN, average_findings, interval
from chxbench.benchmark.metrics.localization import Boxes, evaluate_means
from tests.helpers.interval_studies import (
    calibrated,
    check,
    labels_of,
    matches_of,
    patients_of,
    random_labels_of,
    scores_of,
    share_of,
    true_auc,
)

FORMS = [pytest.param(250, 0.025, id="short"), pytest.param(2000, 0, id="long", marks=pytest.mark.long)]
RESAMPLES = 200


@pytest.mark.parametrize(("studies", "slack"), FORMS)
@pytest.mark.parametrize("auc", [0.7, 0.85, 0.95])
def test_the_auc_of_a_finding_from_its_smallest_number_of_patients_on(auc, studies, slack):
    rng, shift, found = np.random.default_rng(1), norm.ppf(auc) * np.sqrt(2), []
    for study in range(studies):
        of_image = patients_of(rng, 200)
        labels = labels_of(rng, of_image, [MIN_PATIENTS])
        scores = scores_of(rng, labels, of_image, shift)
        found.append(interval(*auc_metrics.evaluate(scores, labels, of_image, RESAMPLES, study)))
    check(share_of(found, auc), slack)


def study_of_means(rng, patients, positives, study, shift=0.8):
    """Mean AUC, average precision and Brier score of findings that so many patients have on average."""
    of_image = patients_of(rng, patients)
    labels = random_labels_of(rng, of_image, positives)
    scores = scores_of(rng, labels, of_image, shift)
    probabilities = calibrated(scores, positives, patients, shift)
    each = {
        "auc": auc_metrics.evaluate(scores, labels, of_image, RESAMPLES, study),
        "precision": auc_metrics.evaluate(scores, labels, of_image, RESAMPLES, study, auc_metrics.measure_precision),
        "brier": calibration.evaluate_brier(probabilities, labels, of_image, RESAMPLES, study),
    }
    return {name: average_findings(findings, patients) for name, findings in each.items()}


@pytest.mark.parametrize(("studies", "slack"), FORMS)
@pytest.mark.parametrize(
    ("patients", "positives"),
    [
        pytest.param(134, [13] * 6 + [20, 40], id="few positives"),
        pytest.param(206, [24] * 6 + [36, 69], id="as the phantom"),
        pytest.param(600, [20, 30, 60, 60, 90, 120], id="more patients"),
        pytest.param(MIN_PATIENTS, [12] * 4, id="the smallest subgroup"),
    ],
)
def test_means_over_findings(patients, positives, studies, slack):
    rng = np.random.default_rng(2)
    found = [study_of_means(rng, patients, positives, study) for study in range(studies)]
    for name in ("auc", "precision", "brier"):
        of_metric = [study[name] for study in found]
        truth = true_auc(0.8) if name == "auc" else np.mean([one.value for one in of_metric])
        check(share_of([interval(one) for one in of_metric], truth), slack)


@pytest.mark.parametrize(("studies", "slack"), FORMS)
@pytest.mark.parametrize(
    ("patients", "positives"),
    [
        pytest.param(134, [29, 10, 29, 52, 17, 12, 93, 12, 19, 32, 7, 9, 14, 3], id="as the trial"),
        pytest.param(134, [3] * 14, id="3 patients per finding"),
        pytest.param(200, [MIN_PATIENTS], id="the smallest number of patients with a finding"),
    ],
)
def test_the_brier_score_of_findings_that_few_patients_have(patients, positives, studies, slack):
    """Whether it is shown depends on the patients with any finding, here about 32 or more."""
    rng, found = np.random.default_rng(8), []
    for study in range(studies):
        of_image = patients_of(rng, patients)
        labels = labels_of(rng, of_image, rng.binomial(patients, np.array(positives) / patients))
        probabilities = calibrated(scores_of(rng, labels, of_image, 0.8), positives, patients, 0.8)
        each = calibration.evaluate_brier(probabilities, labels, of_image, RESAMPLES, study)
        found.append(average_findings(each, patients))
    check(share_of([interval(one) for one in found], np.mean([one.value for one in found])), slack)


@pytest.mark.parametrize(("studies", "slack"), FORMS)
def test_sensitivity_and_specificity(studies, slack):
    rng, found = np.random.default_rng(3), []
    for study in range(studies):
        of_image = patients_of(rng, 200)
        labels = labels_of(rng, of_image, [40])
        scores = scores_of(rng, labels, of_image, 1)
        found += operating_point.evaluate(scores, labels, of_image, [0.8], RESAMPLES, study)
    check(share_of([one.sensitivity for one in found], norm.sf(0.8 - 1)), slack)
    check(share_of([one.specificity for one in found], norm.cdf(0.8)), slack)


@pytest.mark.parametrize(("studies", "slack"), FORMS)
def test_pointing_game_and_box_accuracy(studies, slack):
    """Findings with the smallest number of patients with boxes, 1 to 3 boxes a patient, hits that patients share."""
    rng, found = np.random.default_rng(4), []
    rates, counts = np.array([0.2, 0.4, 0.6, 0.5]), [MIN_PATIENTS_IN_MEAN, 15, 30, 60]
    for study in range(studies):
        finding, image = [], []
        for c, count in enumerate(counts):
            repeats = rng.integers(1, 4, count)
            finding += [c] * repeats.sum()
            image += np.repeat(np.arange(count), repeats).tolist()
        image, finding = np.array(image), np.array(finding)
        boxes = Boxes(np.arange(len(image)), finding, np.zeros((len(image), 4)), image)
        skill = rng.standard_normal((100, 4))[image, finding] + rng.standard_normal(len(image))
        pointed = norm.cdf(skill / np.sqrt(2)) < rates[finding]
        means = evaluate_means(matches_of(pointed, 4), boxes, RESAMPLES, study)
        found.append([interval(one) for one in means[:2]])
    for of_metric in zip(*found, strict=True):
        check(share_of(of_metric, rates.mean()), slack)


def test_percentiles_with_few_positive_patients_miss_the_truth():
    """Why no interval is one of percentiles: from 5 positive patients, fewer than 90 % hold the truth."""
    rng, held = np.random.default_rng(7), []
    for study in range(250):
        of_image = patients_of(rng, 200)
        labels = labels_of(rng, of_image, [5])
        (found,) = auc_metrics.evaluate(scores_of(rng, labels, of_image, 1), labels, of_image, RESAMPLES, study)
        low, high = np.quantile(found.replicates, [0.025, 0.975])
        held.append(low <= true_auc(1) <= high)
    assert np.mean(held) < 0.9
