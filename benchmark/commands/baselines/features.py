"""Features that need no network, and scores from them by logistic regression. Pure functions of arrays and tables."""

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ...dataset import Index
from ...metrics.auc import mean_auc

CELLS = 8  # per side of a thumbnail
CHUNK = 100  # images whose thumbnails are computed at a time
STRENGTHS = (0.0001, 0.001, 0.01, 0.1)  # inverse strengths of L2 regularization to choose from
MAX_CATEGORIES = 20  # a text trait with more values identifies images


def thumbnails(pixels: np.ndarray) -> np.ndarray:
    """Average gray values and their contrast with the surroundings in each cell of a grid of 8x8 cells.

    The surroundings of a pixel are a square of two cells' width. The three averages are those of its gray value, of its
    absolute difference from their mean, and of its difference divided by their standard deviation.

    Args:
        pixels: decoded images, uint8 (N, S, S), S >= 8.

    Returns:
        float32 (N, 192).
    """
    side = pixels.shape[1] // CELLS
    parts = []
    for start in range(0, len(pixels), CHUNK):
        gray = np.asarray(pixels[start : start + CHUNK, : side * CELLS, : side * CELLS], np.float32)
        size = (0, 2 * side, 2 * side)
        difference = gray - uniform_filter(gray, size)
        spread = np.sqrt(uniform_filter(difference**2, size)) + 1  # of gray values: never 0
        values = np.stack([gray, np.abs(difference), difference / spread], axis=1)
        cells = values.reshape(len(gray), 3, CELLS, side, CELLS, side).mean(axis=(3, 5))
        parts.append(cells.reshape(len(gray), -1))
    return np.concatenate(parts)


def trait_features(index: Index) -> np.ndarray | None:
    """Encode the traits of each image, such as age, sex and view; float32 (N, F), None without a usable trait.

    Numbers are given with their square, and 0 where unknown; texts as one indicator per value.
    """
    columns: list[np.ndarray] = []
    for trait in index.traits:
        values = index.images[trait]
        if pd.api.types.is_numeric_dtype(values):
            centered = ((values - values.mean()) / (values.std() or 1)).fillna(0).to_numpy(np.float32)
            columns += [centered, centered**2, values.isna().to_numpy(np.float32)]
        elif values.nunique() <= MAX_CATEGORIES:
            columns += [(values == value).to_numpy(np.float32) for value in sorted(values.dropna().unique())]
    return np.stack(columns, axis=1) if columns else None


def fit_scores(features: np.ndarray, index: Index) -> np.ndarray:
    """Fit a logistic regression per finding on the training images, and score all images.

    The regularization has the highest mean AUC on the validation images. Without features, or with one class in
    training, scores are the log-odds of the prevalence in training.

    Args:
        features: float (N, F), one row per image of the index.
        index: images with labels and splits.

    Returns:
        Log-odds, float64 (N, C).
    """
    targets, train, val = index.targets(), index.rows("train"), index.rows("val")
    scaled = StandardScaler().fit(features[train]).transform(features) if features.shape[1] else features
    strengths = STRENGTHS if features.shape[1] else STRENGTHS[:1]
    found = [
        np.stack([_fit(scaled, targets[:, c], train, strength) for c in range(targets.shape[1])], axis=1)
        for strength in strengths
    ]
    return max(found, key=lambda scores: mean_auc(scores[val], targets[val]) or 0.0)


def _fit(features: np.ndarray, labels: np.ndarray, train: np.ndarray, strength: float) -> np.ndarray:
    """Score all images for one finding with labels (N,), 1, 0 or NaN: log-odds (N,)."""
    known = train[~np.isnan(labels[train])]
    positives = float(labels[known].sum())
    if not features.shape[1] or positives in (0, len(known)):
        return np.full(len(labels), np.log((positives + 0.5) / (len(known) - positives + 0.5)))
    model = LogisticRegression(C=strength, max_iter=1000).fit(features[known], labels[known])
    return np.asarray(model.decision_function(features), np.float64)
