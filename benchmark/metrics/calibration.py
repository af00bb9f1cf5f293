"""Whether a probability of 0.3 means three in ten: pure functions of arrays.

Bins hold about equally many images each. Bins of equal width, as in the usual figure, would put nearly all images of a
rare finding into the lowest one and let a handful decide the others (Nixon et al. 2019, *Measuring Calibration in Deep
Learning*, call bins of equal count adaptive). Images of the same probability share a bin, so that the order in which
they come changes nothing.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata


class Reliability(NamedTuple):
    """What was said and what was so, bin by bin, from the lowest probability up; B bins, none of them empty.

    Attributes:
        predicted: (B,) mean probability of the bin's images.
        observed: (B,) share of them that are positive.
        count: (B,) how many they are.
        low, high: (B,) 95 % interval of the observed share (Wilson 1927), by images, as if they were independent:
            images of a patient are not, so it is narrower than the truth. A guide for the eye, no test.
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray
    low: np.ndarray
    high: np.ndarray


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean squared distance of probabilities from labels (Brier 1950): 0 is perfect, 1 is surely wrong.

    Args:
        probabilities: (N,), 0..1.
        labels: (N,), 1, 0 or NaN for unknown; unknown images are left out.

    Returns:
        None without a known label. It is defined with one class, and small for any method where a finding is rare.
    """
    known = ~np.isnan(labels)
    return float(np.mean((probabilities[known] - labels[known]) ** 2)) if known.any() else None


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float | None:
    """Mean distance between the predicted and the observed share, weighted by the bins' counts; 0..1, 0 is perfect.

    Naeini, Cooper and Hauskrecht 2015 (AAAI, *Obtaining Well Calibrated Probabilities*), over bins of equal count.
    Arguments and None as for `brier`; `bins` is the most there can be.
    """
    predicted, observed, count, *_ = reliability(probabilities, labels, bins)
    return float(np.average(np.abs(predicted - observed), weights=count)) if len(count) else None


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """The curve of observed against predicted shares, arguments as for `brier`; without a known label it has no bin.

    Raises:
        ValueError: fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins: there must be at least one")
    known = ~np.isnan(labels)
    said, true = probabilities[known].astype(np.float64), labels[known]
    place = _bins(said, bins)
    count = np.bincount(place, minlength=bins)
    filled = count > 0
    count = count[filled]
    predicted = np.bincount(place, said, bins)[filled] / count
    observed = np.bincount(place, true, bins)[filled] / count
    return Reliability(predicted, observed, count, *_wilson(observed, count))


def _bins(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each image (N,), 0 to bins - 1, from its midrank: equal probabilities have equal ones."""
    return ((rankdata(probabilities) - 0.5) * bins / max(1, len(probabilities))).astype(int)


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % score interval of shares (B,) among counts (B,)."""
    z = norm.ppf(0.975)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    margin = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return np.maximum(middle - margin, 0), np.minimum(middle + margin, 1)
