"""Calibration: how well predicted probabilities agree with observed frequencies. Pure functions of arrays.

All bins contain about the same number of images (adaptive bins: Nixon et al. 2019, *Measuring Calibration in Deep
Learning*). Bins of equal width, as in the usual figure, would put nearly all images of a rare finding into the lowest
one. Images with the same probability share a bin, so that the order of the images does not matter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata

from .bootstrap import bootstrap_counts, encode_patients
from .intervals import Statistic

DRAWS = 500  # of labels, to average the calibration error of a perfect forecaster


class Reliability(NamedTuple):
    """Predicted and observed fractions of positives in B non-empty bins, from the lowest probability up.

    Attributes:
        predicted: (B,) mean probability of the bin's images.
        observed: (B,) fraction of the bin's images that are positive.
        counts: (B,) number of the bin's images.
        low, high: (B,) 95 % interval of the observed fraction (Wilson 1927), treating images as independent. Images of
            a patient are not, so it is too narrow: a guide for the eye, not a test.
    """

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray
    low: np.ndarray
    high: np.ndarray


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Compute the mean squared difference of probabilities and labels (Brier 1950): 0 is perfect, 1 is the worst.

    Args:
        probabilities: (N,), 0..1.
        labels: (N,), 1, 0 or NaN for unknown; unknown labels are ignored.

    Returns:
        A number in 0..1, None without a known label. It is also defined with one class, and for a rare finding it is
        small whatever the method.
    """
    labeled = ~np.isnan(labels)
    return float(np.mean((probabilities[labeled] - labels[labeled]) ** 2)) if labeled.any() else None


def evaluate_brier(
    probabilities: np.ndarray, labels: np.ndarray, patients: Sequence | np.ndarray, resamples: int, seed: int = 0
) -> list[Statistic]:
    """Compute the Brier score of every finding, with bootstrap replicates of the patients.

    Args:
        probabilities: (N, C), 0..1.
        labels: (N, C), 1, 0 or NaN for unknown.
        patients: (N,) the patient of each image; patients are resampled with all of their images.
        resamples: number of bootstrap replicates.
        seed: seed of the bootstrap; with the seed of `auc.evaluate` the replicates are the same.
    """
    index = encode_patients(patients)
    known = ~np.isnan(labels)
    losses = np.where(known, (probabilities - np.where(known, labels, 0)) ** 2, 0)
    of_patients = np.zeros((2, index.max(initial=-1) + 1, labels.shape[1]))
    np.add.at(of_patients[0], index, losses)
    np.add.at(of_patients[1], index, known)
    parts = [counts.T @ of_patients for counts in bootstrap_counts(index, resamples, seed)]
    sums, images = np.concatenate(parts, axis=1)
    replicates = np.where(images > 0, sums / np.where(images > 0, images, 1), np.nan)
    values = [brier(probabilities[:, c], labels[:, c]) for c in range(labels.shape[1])]
    with_label = (of_patients[1] > 0).sum(axis=0)
    return [
        Statistic(np.nan if value is None else value, replicates[:, c], int(with_label[c]))
        for c, value in enumerate(values)
    ]


def calibration_error_floor(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 15, seed: int = 0
) -> float | None:
    """Average the calibration error that these probabilities have if they are exactly right.

    With few images per bin, observed fractions differ from the probabilities by chance, so that a perfectly calibrated
    forecaster has an error above 0 as well. Labels are drawn from the probabilities `DRAWS` times, independently;
    labels of a patient's images are not independent, and the floor would be higher.
    Arguments and None as for `expected_calibration_error`; `seed` is that of the draws.
    """
    known = probabilities[~np.isnan(labels)].astype(np.float64)
    if not len(known):
        return None
    generator, bin_index = np.random.default_rng(seed), _bin_index(known, bins)
    errors = [
        np.abs(np.bincount(bin_index, (generator.random(len(known)) < known) - known, bins)).sum() for _ in range(DRAWS)
    ]
    return float(np.mean(errors) / len(known))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float | None:
    """Average the distance of predicted and observed fraction, weighted by the bins' counts: 0..1, 0 is perfect.

    Naeini, Cooper and Hauskrecht 2015 (AAAI, *Obtaining Well Calibrated Probabilities*), over bins of equal count.
    Arguments and None as for `brier`; `bins` is their maximum number.
    """
    predicted, observed, counts, *_ = reliability(probabilities, labels, bins)
    return float(np.average(np.abs(predicted - observed), weights=counts)) if len(counts) else None


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """Compute the curve of observed vs. predicted fractions; without a known label it has no bin.

    Args:
        probabilities: (N,), 0..1.
        labels: (N,), 1, 0 or NaN for unknown; unknown labels are ignored.
        bins: maximum number of bins; empty ones are omitted.

    Raises:
        ValueError: `bins` is less than 1.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins: there must be at least one")
    labeled = ~np.isnan(labels)
    predictions, outcomes = probabilities[labeled].astype(np.float64), labels[labeled]
    bin_index = _bin_index(predictions, bins)
    counts = np.bincount(bin_index, minlength=bins)
    filled = counts > 0
    counts = counts[filled]
    predicted = np.bincount(bin_index, predictions, bins)[filled] / counts
    observed = np.bincount(bin_index, outcomes, bins)[filled] / counts
    return Reliability(predicted, observed, counts, *_wilson(observed, counts))


def _bin_index(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """Assign each image (N,) a bin from 0 to bins - 1 by its midrank, which equal probabilities share."""
    ranks: np.ndarray = rankdata(probabilities)
    return ((ranks - 0.5) * bins / max(1, len(probabilities))).astype(int)


def _wilson(fraction: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the ends of the 95 % score interval (Wilson 1927) of fractions (B,) of counts (B,)."""
    z = norm.ppf(0.975)
    middle = (fraction + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z * np.sqrt(fraction * (1 - fraction) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.maximum(middle - margin, 0), np.minimum(middle + margin, 1)
