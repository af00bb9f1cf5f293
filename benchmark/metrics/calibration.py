"""Calibration: does a probability of 0.3 mean three in ten? Pure functions of arrays.

Bins hold about equally many images each. Bins of equal width, as in the usual figure, would put nearly all images of a
rare finding into the lowest one and leave a handful to the others (Nixon et al. 2019, *Measuring Calibration in Deep
Learning*, call bins of equal count adaptive). Images with the same probability share a bin, so that the order of the
images does not matter.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata


class Reliability(NamedTuple):
    """Predicted and observed shares of positives in B bins, none of them empty, from the lowest probability up.

    Attributes:
        predicted: (B,) mean probability of the bin's images.
        observed: (B,) share of these images that are positive.
        counts: (B,) number of these images.
        low, high: (B,) 95 % interval of the observed share (Wilson 1927), treating images as independent: those of one
            patient are not, so it is too narrow. A guide for the eye, not a test.
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
        labels: (N,), 1, 0 or NaN for unknown; unknown images are left out.

    Returns:
        A number in 0..1, None without a known label. With one class it is defined, too, and for a rare finding it is
        small whatever the method.
    """
    known = ~np.isnan(labels)
    return float(np.mean((probabilities[known] - labels[known]) ** 2)) if known.any() else None


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float | None:
    """Average the distance between predicted and observed share, weighted by the bins' counts: 0..1, 0 is perfect.

    Naeini, Cooper and Hauskrecht 2015 (AAAI, *Obtaining Well Calibrated Probabilities*), over bins of equal count.
    Arguments and None as for `brier`; `bins` is their maximum number.
    """
    predicted, observed, counts, *_ = reliability(probabilities, labels, bins)
    return float(np.average(np.abs(predicted - observed), weights=counts)) if len(counts) else None


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """Compute the curve of observed against predicted shares; without a known label it has no bin.

    Args:
        probabilities: (N,), 0..1.
        labels: (N,), 1, 0 or NaN for unknown; unknown images are left out.
        bins: their maximum number; bins that would be empty are left out.

    Raises:
        ValueError: fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins: there must be at least one")
    known = ~np.isnan(labels)
    predictions, outcomes = probabilities[known].astype(np.float64), labels[known]
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


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the ends of the 95 % score interval (Wilson 1927) of shares (B,) among counts (B,)."""
    z = norm.ppf(0.975)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.maximum(middle - margin, 0), np.minimum(middle + margin, 1)
