"""Variances of AUCs without resampling, for independent images and for images of patients: pure functions of arrays.

Independent images: DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837), by midranks (Sun and Xu 2014, IEEE
Signal Processing Letters 21:1389), which need a sort where the definition compares every positive image with every
negative one. Images of patients: Obuchowski 1997 (Biometrics 53:567), which sums the same components by patient and
adds what a patient's positive and negative images share. With one image a patient both are the same number.

Both are large-sample results: with the positives of a few patients, read the resampled interval first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata

from .bootstrap import UNDEFINED, Interval, encode_patients

ROUNDING = 1e-12  # a variance below this, relative to those that it was subtracted from, is none


def covariance(
    scores: np.ndarray, labels: np.ndarray, clusters: Sequence | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """AUCs of K scores of the same images, and the covariance of these estimates.

    Args:
        scores: (N, K), any monotone scale, finite.
        labels: (N,), 1, 0 or NaN for unknown; unknown images are left out.
        clusters: (N,) the patient of each image; None where all images are independent.

    Returns:
        AUCs (K,) in 0..1 and their covariance (K, K); None without a class, and where one patient alone has positives
        or one alone has negatives, since nothing then tells how patients differ.
    """
    known = ~np.isnan(labels)
    owner = np.arange(known.sum()) if clusters is None else encode_patients(np.asarray(clusters)[known])
    positive = labels[known] == 1
    classes = _Class(owner[positive]), _Class(owner[~positive])
    if any(one.patients < 2 for one in classes):
        return None
    parts = [_components(scores[known, k], positive) for k in range(scores.shape[1])]
    areas = np.array([of_positives.mean() for of_positives, _ in parts])
    excess = [
        one.by_patient(np.stack(components, axis=1) - areas, owner.max() + 1)
        for one, components in zip(classes, zip(*parts, strict=True), strict=True)
    ]
    return areas, _add_up(excess, classes, len(np.unique(owner)))


def interval(scores: np.ndarray, labels: np.ndarray, clusters: Sequence | None = None) -> Interval:
    """AUC of scores (N,) with its 95 % interval, normal on the scale of the AUC and clipped to 0..1.

    All None where `covariance` is None. Perfect separation has the interval 1 to 1, which says too little: read the
    number of positives beside it.
    """
    found = covariance(scores[:, None], labels, clusters)
    if found is None:
        return UNDEFINED
    area = float(found[0][0])
    margin = float(norm.ppf(0.975) * np.sqrt(max(0.0, found[1][0, 0])))
    return Interval(area, max(0.0, area - margin), min(1.0, area + margin))


def p_value(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, clusters: Sequence | None = None
) -> float | None:
    """Two-sided p of the hypothesis that two scores (N,) of the same images have the same AUC, by the normal law.

    1 where the AUCs are equal. None where `covariance` is None, or where their difference has no variance that can be
    estimated (both separate the classes perfectly, or not at all).
    """
    found = covariance(np.stack([first, second], axis=1), labels, clusters)
    if found is None:
        return None
    areas, shared = found
    if areas[0] == areas[1]:
        return 1.0
    variance = shared[0, 0] + shared[1, 1] - 2 * shared[0, 1]
    if variance <= ROUNDING * (shared[0, 0] + shared[1, 1]):
        return None
    return float(2 * norm.sf(abs(areas[0] - areas[1]) / np.sqrt(variance)))


class _Class(NamedTuple):
    """The images of one class: (n,) the number of each one's patient."""

    owner: np.ndarray

    @property
    def images(self) -> int:
        return len(self.owner)

    @property
    def patients(self) -> int:
        """How many patients have an image of this class."""
        return len(np.unique(self.owner))

    def by_patient(self, values: np.ndarray, patients: int) -> np.ndarray:
        """Sums of values (n, K) over the images of each patient: (patients, K)."""
        sums = np.zeros((patients, values.shape[1]))
        np.add.at(sums, self.owner, values)
        return sums


def _components(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive image the share of negatives below it, for each negative one that of positives above it.

    Ties count half. These are the structural components of DeLong et al. 1988.
    """
    ranks = rankdata(scores)
    below = ranks[positive] - rankdata(scores[positive])
    above = positive.sum() - (ranks[~positive] - rankdata(scores[~positive]))
    return below / (~positive).sum(), above / positive.sum()


def _add_up(excess: Sequence[np.ndarray], classes: Sequence[_Class], patients: int) -> np.ndarray:
    """Covariance (K, K) from each patient's sums of components less the AUC, for positives and for negatives (P, K).

    Obuchowski 1997: S10 / M + S01 / N + (S11 + its transpose) / (M N), with M positive and N negative images
    and each S scaled by I / (I - 1) over the I patients that it is summed over. S11 is summed over all, so its factor
    is never the largest, and no variance is negative but by rounding.
    """
    within = [
        part.T @ part * one.patients / (one.patients - 1) / one.images**2
        for part, one in zip(excess, classes, strict=True)
    ]
    across = excess[0].T @ excess[1] * patients / (patients - 1) / (classes[0].images * classes[1].images)
    return within[0] + within[1] + across + across.T
