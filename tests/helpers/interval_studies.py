"""Simulated studies, to ask whether intervals hold the truth.

In a study, patients have 1 to 5 images each. A finding is on all images of a patient, which score d higher; half of the
variance of a score belongs to the patient. Each pair of a positive and a negative image is then of two patients, and
their difference is normal with mean d and variance 2: the true AUC is Phi(d / sqrt 2). A run of a method trains with a
seed, which moves its d, so that its AUC differs from that of its next seed.

The truth of average precision and of the Brier score, which depend on the number of images and on the prevalence of the
study, is their mean over all studies.
"""

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from chxbench.benchmark.metrics.intervals import MIN_PATIENTS_IN_MEAN
from chxbench.benchmark.metrics.localization import LEVELS, BoxMatches


def patients_of(rng, patients):
    return np.repeat(np.arange(patients), rng.integers(1, 6, patients))


def labels_of(rng, of_image, positives):
    """Labels (N, C): of each finding, this many random patients have it."""
    chosen = [rng.permutation(of_image.max() + 1) < count for count in positives]
    return np.stack(chosen, axis=1)[of_image].astype(float)


def random_labels_of(rng, of_image, positives):
    """Labels (N, C): of each finding, this many patients have it on average, but no fewer than a mean needs."""
    patients = of_image.max() + 1
    return labels_of(
        rng, of_image, [max(rng.binomial(patients, n / patients), MIN_PATIENTS_IN_MEAN) for n in positives]
    )


def scores_of(rng, labels, of_image, shift):
    noise = rng.standard_normal((of_image.max() + 1, labels.shape[1]))[of_image] + rng.standard_normal(labels.shape)
    return shift * labels + np.sqrt(0.5) * noise


def true_auc(shift):
    return norm.cdf(shift / np.sqrt(2))


def share_of(intervals, truth):
    """Share of the intervals that hold the truth; those without ends are left out."""
    shown = [one for one in intervals if one.low is not None]
    assert len(shown) > 0.5 * len(intervals)
    return np.mean([one.low <= truth <= one.high for one in shown])


def check(share, slack):
    assert 0.93 - slack <= share <= 0.97 + slack, share


def calibrated(scores, positives, patients, shift, variance=1, bias=0):
    """Probabilities from scores of this variance in each class; their log-odds are off by `bias`."""
    odds = np.array(positives) / (patients - np.array(positives))
    return expit((shift * scores - shift**2 / 2) / variance + np.log(odds) + bias)


def matches_of(hit, findings):
    """Matches of boxes of which these are hit (M,), at every level and in the pointing game; no false positives."""
    found = np.repeat(hit[:, None], len(LEVELS), axis=1)
    return BoxMatches(found, np.zeros((findings, len(LEVELS)), int), hit)
