"""Calibration: how well predicted probabilities agree with observed frequencies. Pure functions of arrays.

All bins contain about the same number of images (adaptive bins: Nixon et al. 2019, *Measuring Calibration in Deep
Learning*). Bins of equal width, as in the usual figure, would put nearly all images of a rare finding into the lowest
one. Images with the same probability share a bin, so that the order of the images does not matter.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata


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
