"""Variances of AUCs without resampling, for independent images or images grouped by patient. Pure functions of arrays.

Independent images: DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837), by midranks (Sun and Xu 2014, IEEE
Signal Processing Letters 21:1389), which need only a sort, not comparisons of every positive image with every negative
one. Images of patients: Obuchowski 1997 (Biometrics 53:567), which sums the same components by patient and adds the
covariance of a patient's positive and negative images. With one image per patient both are the same number.

Both are large-sample results: if only a few patients have positives, prefer the bootstrap interval.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata

from chxbench.benchmark.metrics.bootstrap import encode_patients
from chxbench.benchmark.metrics.intervals import UNDEFINED, Interval

ROUNDING = 1e-12  # a variance below this, relative to those that it was computed from, counts as 0


def covariance(
    scores: np.ndarray, labels: np.ndarray, clusters: Sequence | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Compute the AUCs of K scores of the same images, and the covariance of these estimates.

    Args:
        scores: (N, K), any monotone scale, finite.
        labels: (N,), 1, 0 or NaN for unknown; unknown labels are ignored.
        clusters: (N,) the patient of each image; None if all images are independent.

    Returns:
        AUCs (K,) in 0..1 and their covariance (K, K). None if a class is missing, or if all positives or all negatives
        are of one patient, so that the variation between patients cannot be estimated.
    """
    labeled = ~np.isnan(labels)
    patient_index = np.arange(labeled.sum()) if clusters is None else encode_patients(np.asarray(clusters)[labeled])
    positive = labels[labeled] == 1
    classes = _Class(patient_index[positive]), _Class(patient_index[~positive])
    if any(one.patients < 2 for one in classes):
        return None
    parts = [_components(scores[labeled, k], positive) for k in range(scores.shape[1])]
    areas = np.array([of_positives.mean() for of_positives, _ in parts])
    excess = [
        one.by_patient(np.stack(components, axis=1) - areas, patient_index.max() + 1)
        for one, components in zip(classes, zip(*parts, strict=True), strict=True)
    ]
    return areas, _combine(excess, classes, len(np.unique(patient_index)))


def interval(scores: np.ndarray, labels: np.ndarray, clusters: Sequence | np.ndarray | None = None) -> Interval:
    """Compute the AUC of scores (N,) with its 95 % interval, normal on the scale of the AUC and clipped to 0..1.

    All are None if `covariance` is None. Perfect separation has the interval 1 to 1, which is too narrow: consider the
    number of positives as well.
    """
    estimate = covariance(scores[:, None], labels, clusters)
    if estimate is None:
        return UNDEFINED
    area = float(estimate[0][0])
    margin = float(norm.ppf(0.975) * np.sqrt(max(0.0, estimate[1][0, 0])))
    return Interval(area, max(0.0, area - margin), min(1.0, area + margin))


def p_value(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, clusters: Sequence | np.ndarray | None = None
) -> float | None:
    """Test whether two scores (N,) of the same images have the same AUC: two-sided p, normal approximation.

    The result is 1 if the AUCs are equal, and None if `covariance` is None or the variance of the difference cannot be
    estimated (both separate the classes perfectly, or not at all).
    """
    estimate = covariance(np.stack([first, second], axis=1), labels, clusters)
    if estimate is None:
        return None
    areas, covariances = estimate
    if areas[0] == areas[1]:
        return 1.0
    variance = covariances[0, 0] + covariances[1, 1] - 2 * covariances[0, 1]
    if variance <= ROUNDING * (covariances[0, 0] + covariances[1, 1]):
        return None
    return float(2 * norm.sf(abs(areas[0] - areas[1]) / np.sqrt(variance)))


class _Class(NamedTuple):
    """The n images of one class.

    Attributes:
        patient_index: (n,) each image's patient index.
    """

    patient_index: np.ndarray

    @property
    def images(self) -> int:
        return len(self.patient_index)

    @property
    def patients(self) -> int:
        """Number of patients with an image of this class."""
        return len(np.unique(self.patient_index))

    def by_patient(self, values: np.ndarray, patients: int) -> np.ndarray:
        """Sum values (n, K) over the images of each patient: (patients, K)."""
        sums = np.zeros((patients, values.shape[1]))
        np.add.at(sums, self.patient_index, values)
        return sums


def _components(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the structural components of DeLong et al. 1988 for one score (n,).

    Returns:
        For each positive image the fraction of negatives below it, and for each negative image the fraction of
        positives above it; ties count half.
    """
    ranks: np.ndarray = rankdata(scores)
    below: np.ndarray = ranks[positive] - rankdata(scores[positive])
    above = positive.sum() - (ranks[~positive] - rankdata(scores[~positive]))
    return below / (~positive).sum(), above / positive.sum()


def _combine(excess: Sequence[np.ndarray], classes: Sequence[_Class], patients: int) -> np.ndarray:
    """Compute the covariance (K, K) of Obuchowski 1997 from sums of components per patient.

    S10 / M + S01 / N + (S11 + its transpose) / (M N), with M positive and N negative images and each S scaled by
    I / (I - 1) over the I patients that it is summed over. S11 is summed over all of them, so its factor is never the
    largest, and no variance is negative except by rounding.

    Args:
        excess: for positives and for negatives (P, K), each patient's sums of components less the AUC.
        classes: positives and negatives.
        patients: number of patients with an image of either class.
    """
    within: list[np.ndarray] = [
        part.T @ part * one.patients / (one.patients - 1) / one.images**2
        for part, one in zip(excess, classes, strict=True)
    ]
    across: np.ndarray = excess[0].T @ excess[1] * patients / (patients - 1) / (classes[0].images * classes[1].images)
    covariance: np.ndarray = within[0] + within[1] + across + across.T
    return covariance
