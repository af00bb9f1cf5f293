"""Do 95 % intervals hold the truth in 95 % of the studies, and do tests at 5 % err in 5 %? By simulation.

A study has 300 patients with 1 to 12 images each. Three in ten patients are ill, on all of their images, which score
1 higher; half of the variance of a score belongs to the patient. Each pair of a positive and a negative image is then
of two patients, and their difference is normal with mean 1 and variance 2: the true AUC is Phi(1 / sqrt 2) = 0.760.

Found in 500 studies: resampled patients hold it in 94.6 %, Obuchowski's variance in 94.4 %, DeLong's in 65.8 %;
resampled images hold it in 67 % of the first 100. Two methods of equal AUC differ at 5 % in 5.2 % (draws) and 4.8 %
(analytic), and 6.2 % of the intervals of their difference miss 0.
"""

import numpy as np
import pytest
from scipy.stats import norm

from chxbench.benchmark.metrics import auc as auc_metrics
from chxbench.benchmark.metrics import delong
from chxbench.benchmark.metrics.paired import compare

TRIALS, FEW, PATIENTS, RESAMPLES = 500, 100, 300, 400
TRUE = norm.cdf(1 / np.sqrt(2))


def study(rng, methods=1):
    """Scores (N, methods) that agree in half of their variance, labels (N,), patients (N,)."""
    patients = np.repeat(np.arange(PATIENTS), rng.integers(1, 13, PATIENTS))
    labels = (rng.random(PATIENTS) < 0.3).astype(float)[patients]
    of_patient, of_image = rng.standard_normal((PATIENTS, methods))[patients], rng.standard_normal((len(labels), 1))
    return labels[:, None] + np.sqrt(0.5) * (of_patient + of_image), labels, patients


def resampled(scores, labels, patients, seed):
    return auc_metrics.evaluate(scores, labels[:, None], patients, RESAMPLES, seed=seed).each[0]


@pytest.fixture(scope="module")
def coverage():
    """Shares of the studies whose interval holds the true AUC; few studies show what resampled images miss by far."""
    rng, held = np.random.default_rng(0), {"patients": [], "images": [], "obuchowski": [], "delong": []}
    for trial in range(TRIALS):
        scores, labels, patients = study(rng)
        intervals = {
            "patients": resampled(scores, labels, patients, trial),
            "obuchowski": delong.interval(scores[:, 0], labels, patients),
            "delong": delong.interval(scores[:, 0], labels),
        }
        if trial < FEW:
            intervals["images"] = resampled(scores, labels, np.arange(len(labels)), trial)
        for name, interval in intervals.items():
            held[name].append(interval.low <= TRUE <= interval.high)
    return {name: np.mean(each) for name, each in held.items()}


@pytest.mark.parametrize("name", ["patients", "obuchowski"])
def test_intervals_by_patients_hold_the_truth(coverage, name):
    assert 0.93 <= coverage[name] <= 0.97


@pytest.mark.parametrize("name", ["images", "delong"])
def test_intervals_by_images_do_not(coverage, name):
    assert coverage[name] < 0.8


def test_two_methods_of_equal_auc_differ_significantly_in_one_study_of_twenty():
    """Both p-values, of the paired draws and of the analytic variance."""
    rng, found = np.random.default_rng(1), []
    for trial in range(TRIALS):
        scores, labels, patients = study(rng, methods=2)
        one = compare(scores[:, :1], scores[:, 1:], labels[:, None], patients, RESAMPLES, seed=trial).each[0]
        found.append([one.p <= 0.05, one.p_analytic <= 0.05, not one.low <= 0 <= one.high])
    rejected = np.mean(found, axis=0)
    assert ((rejected >= 0.03) & (rejected <= 0.07)).all(), rejected
