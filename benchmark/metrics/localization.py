"""Localization: heatmaps vs. boxes by the protocol of Wang et al. 2017 (section 4.2), and the pointing game.

Pure functions of arrays. Boxes are rows x, y, w, h, (x, y) the upper left corner, as fractions of the whole image. A
heatmap covers the crop that the network saw; predicted boxes are mapped back to the whole image, so that an annotated
box outside the crop counts as missed.

Not stated in the paper and chosen here: maps are enlarged bilinearly to the crop's pixels before they are normalized;
regions are 4-connected; a region that is the same at both thresholds is one box. The pointing game (Zhang et al. 2016)
checks for each finding on each image whether the center of the highest location is inside one of its boxes, without
tolerance; a map without contrast points nowhere.

Only elementwise arithmetic in float64 is used: sums whose order a library may choose could move a pixel across a
threshold on a different machine, and a record could no longer be verified from its heatmaps.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from .bootstrap import encode_patients
from .intervals import Statistic, average_findings

THRESHOLDS = (60, 180)  # of 0..255, each applied by itself
IOBB = (0.1, 0.25, 0.5, 0.75, 0.9)  # thresholds T(IoBB) of Wang et al. 2017, Table 3
IOU = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # thresholds T(IoU), the same table
LEVELS = np.array(IOBB + IOU)  # the 12 overlap thresholds
CENTER = (0.25, 0.25, 0.5, 0.5)  # the box of the baseline that does not depend on the image
MAX_PIXELS = 400_000  # of maps enlarged at a time, 8 maps of 224x224: 3 MB, which stay in a core's cache


class Boxes(NamedTuple):
    """Annotated (ground-truth) boxes: M boxes on N images.

    Attributes:
        image, finding: (M,) which of the N images and of the C findings.
        boxes: (M, 4) fractions of the whole image.
        patients: (N,) the patient of each image, by name or number.
    """

    image: np.ndarray
    finding: np.ndarray
    boxes: np.ndarray
    patients: np.ndarray


class Frame(NamedTuple):
    """Position of the center crop in its image: sides of the resized image and of the crop, in pixels."""

    size: int
    side: int

    @property
    def corner(self) -> np.ndarray:
        """The crop's upper left corner as the box of size 0 there, in fractions of the whole image."""
        start = (self.size - self.side) // 2 / self.size
        return np.array([start, start, 0, 0])

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Convert boxes (n, 4) from fractions of the crop to fractions of the whole image."""
        converted: np.ndarray = boxes * (self.side / self.size) + self.corner
        return converted

    def to_crop(self, boxes: np.ndarray) -> np.ndarray:
        """Convert boxes (n, 4) from fractions of the whole image to fractions of the crop, beyond 0..1 outside it."""
        converted: np.ndarray = (boxes - self.corner) / (self.side / self.size)
        return converted


class PredictedBoxes(NamedTuple):
    """Predicted boxes of one finding: (n,) the image of each, and (n, 4) fractions of the whole image."""

    image: np.ndarray
    boxes: np.ndarray


class BoxMatches(NamedTuple):
    """Detected annotated boxes and unmatched predicted boxes.

    Attributes:
        found: bool (M, 12), whether an annotated box is detected at each T(IoBB), then at each T(IoU).
        false: int (C, 12), unmatched predicted boxes of each finding on all images: those that overlap none of its
            annotated boxes enough.
        pointed: bool (M,), whether the highest location is inside any annotated box of that finding on that image.
    """

    found: np.ndarray
    false: np.ndarray
    pointed: np.ndarray


class Score(NamedTuple):
    """Matches as rates, per finding (C, ...) or averaged over findings (...); NaN for a finding without a box.

    Attributes:
        accuracy: (..., 12) fraction of the finding's annotated boxes that are detected.
        false_positives: (..., 12) unmatched predicted boxes of the finding per annotated box of any finding, as Wang et
            al. 2017 count them.
        pointing_game: (...) fraction of the images with boxes of the finding whose highest location is in one of them.
    """

    accuracy: np.ndarray
    false_positives: np.ndarray
    pointing_game: np.ndarray


def match_boxes(maps: np.ndarray, truth: Boxes, frame: Frame) -> BoxMatches:
    """Match heatmaps with annotated boxes.

    Args:
        maps: (N, C, h, w), heatmaps of the crop, on any scale.
        truth: annotated boxes on the N images.
        frame: position of the crop.
    """
    peaks = np.stack([highest(maps[:, c], frame) for c in range(maps.shape[1])], axis=1)
    return _match_findings(lambda c: predict_boxes(maps[:, c], frame), peaks, truth)


def random_baseline(grid: tuple[int, int], num_findings: int, truth: Boxes, frame: Frame, seed: int = 0) -> BoxMatches:
    """Match maps of independent uniform noise on the same grid (h, w), the baseline for any localization."""
    noise = np.random.default_rng(seed).random((len(truth.patients), num_findings, *grid), np.float32)
    return match_boxes(noise, truth, frame)


def center_baseline(num_findings: int, truth: Boxes) -> BoxMatches:
    """Match the same box on every image: centered, half as wide and half as high as the image."""
    images = len(truth.patients)
    same_box = PredictedBoxes(np.arange(images), np.tile(CENTER, (images, 1)))
    return _match_findings(lambda c: same_box, np.full((images, num_findings, 2), 0.5), truth)


def prior_baseline(grid: tuple[int, int], num_findings: int, truth: Boxes, frame: Frame) -> BoxMatches:
    """Match maps that show where the boxes of a finding are on the images of all other patients.

    Such a map knows the finding, but not the image: cells of the grid (h, w) count the boxes on them, in parts.
    """
    patient_index = encode_patients(truth.patients)
    inside = frame.to_crop(truth.boxes)
    columns, rows = (_covered(inside[:, axis], inside[:, axis + 2], grid[1 - axis]) for axis in (0, 1))
    of_patients = np.zeros((patient_index.max(initial=0) + 1, num_findings, *grid))
    np.add.at(of_patients, (patient_index[truth.image], truth.finding), rows[:, :, None] * columns[:, None, :])
    # Rounded, so that a finding that no other patient has gives a map without contrast.
    return match_boxes(np.round(of_patients.sum(axis=0) - of_patients[patient_index], 9), truth, frame)


def _covered(starts: np.ndarray, lengths: np.ndarray, cells: int) -> np.ndarray:
    """Return the part of each cell that intervals (n,) cover, as fractions of a side: (n, cells) in 0..1."""
    edges = np.arange(cells + 1) / cells
    low = np.maximum(starts[:, None], edges[:-1])
    covered: np.ndarray = (np.minimum((starts + lengths)[:, None], edges[1:]) - low).clip(min=0) * cells
    return covered


def score(matches: BoxMatches, truth: Boxes) -> Score:
    """Compute the rates of each finding, (C, ...)."""
    findings = len(matches.false)
    boxed = np.where(np.bincount(truth.finding, minlength=findings) > 0, 1.0, np.nan)[:, None]
    hits, weights = np.zeros((2, findings, 1 + len(LEVELS)))
    np.add.at(hits, truth.finding, _hits(matches) * _weights(truth))
    np.add.at(weights, truth.finding, _weights(truth))
    rates = boxed * hits / np.where(weights > 0, weights, 1)
    return Score(rates[:, 1:], boxed * matches.false / len(truth.finding), rates[:, 0])


def mean_score(scores: Score) -> Score:
    """Average over the findings that have boxes; each part (C, ...) loses its first axis."""
    return Score(*(np.nanmean(part, axis=0) for part in scores))


def evaluate_means(matches: BoxMatches, truth: Boxes, resamples: int, seed: int = 0) -> list[Statistic]:
    """Compute the mean pointing game and the mean accuracies over the findings, with bootstrap replicates.

    Patients are resampled with all of their images.

    Args:
        matches: matches of the heatmaps, from `match_boxes`.
        truth: the annotated boxes.
        resamples: number of bootstrap replicates.
        seed: seed of the bootstrap.

    Returns:
        The pointing game, then the accuracy at each of the 12 levels.
    """
    patient_index = encode_patients(truth.patients)
    patients = patient_index.max() + 1
    samples = np.random.default_rng(seed).integers(0, patients, (resamples, patients))
    counts = np.stack([np.bincount(sample, minlength=patients) for sample in samples])[:, patient_index[truth.image]]
    weights = _weights(truth)
    hits = _hits(matches) * weights
    rates: list[list[Statistic]] = []
    scores = score(matches, truth)
    for c in np.unique(truth.finding):
        of_finding = truth.finding == c
        totals = counts[:, of_finding] @ weights[of_finding]
        defined = totals > 0
        fractions = counts[:, of_finding] @ hits[of_finding] / np.where(defined, totals, 1)
        replicates = np.where(defined, fractions, np.nan)
        values = [scores.pointing_game[c], *scores.accuracy[c]]
        with_box = len(np.unique(patient_index[truth.image[of_finding]]))
        rates.append([Statistic(value, replicates[:, k], with_box) for k, value in enumerate(values)])
    return [average_findings(of_metric, patients) for of_metric in zip(*rates, strict=True)]


def predict_boxes(maps: np.ndarray, frame: Frame, thresholds: Sequence[int] = THRESHOLDS) -> PredictedBoxes:
    """Predict boxes from one finding's maps (N, h, w): around the connected regions above each of the thresholds."""
    boxes = [np.empty((0, 5), int)]
    step = max(1, MAX_PIXELS // frame.side**2)
    buffers = np.empty((2, step, frame.side, frame.side))  # reused: allocating costs more than the arithmetic
    for first in range(0, len(maps), step):
        chunk = maps[first : first + step]
        heat = normalize(_enlarge(chunk, *buffers[:, : len(chunk)]), buffers[0, : len(chunk)])
        boxes += [regions(heat > threshold) + np.array([first, 0, 0, 0, 0]) for threshold in thresholds]
    union = np.unique(np.concatenate(boxes), axis=0)
    return PredictedBoxes(union[:, 0], frame.to_image(union[:, 1:] / frame.side))


def regions(masks: np.ndarray) -> np.ndarray:
    """Find the connected regions of masks.

    A line of a heatmap has few runs of set pixels, so runs are connected instead of pixels: each one to the runs on the
    next line that overlap it.

    Args:
        masks: bool (N, H, W).

    Returns:
        Bounding boxes int (n, 5): the mask, then x, y, w, h in pixels.
    """
    count, height, width = masks.shape
    padded = np.zeros((count, height + 1, width + 1), bool)  # an empty line and column, to separate lines and masks
    padded[:, :height, 1:] = masks
    edges = np.flatnonzero(padded.reshape(-1)[1:] != padded.reshape(-1)[:-1])
    starts, ends = edges[::2], edges[1::2]
    line, left = np.divmod(starts, width + 1)
    low, high = np.column_stack([line, left]), np.column_stack([line + 1, left + ends - starts])
    run, first = _sort_by_region(starts, ends, width + 1)
    top_left, bottom_right = np.minimum.reduceat(low[run], first), np.maximum.reduceat(high[run], first)
    mask, top = np.divmod(top_left[:, 0], height + 1)
    return np.column_stack([mask, top_left[:, 1], top, (bottom_right - top_left)[:, ::-1]])


def _sort_by_region(starts: np.ndarray, ends: np.ndarray, line: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort runs by the region that they belong to.

    Args:
        starts: (n,) where each run starts, in pixels from the beginning of the first line, ascending.
        ends: (n,) where each run ends.
        line: pixels from one line to the next.

    Returns:
        The runs' numbers (n,) in that order, and where in it each region begins.
    """
    # Run k touches `touching[k]` consecutive runs of the next line, from run `below[k]` on: the rows of a CSR matrix.
    below = np.searchsorted(ends, starts + line, "right")
    touching = np.maximum(np.searchsorted(starts, ends + line, "left") - below, 0)
    row = np.append(0, np.cumsum(touching))
    touched = np.arange(row[-1]) + np.repeat(below - row[:-1], touching)
    graph = csr_array((np.ones(len(touched), bool), touched, row), shape=(len(starts), len(starts)))
    _, region = connected_components(graph, directed=False)
    order = np.argsort(region, kind="stable")
    return order, np.flatnonzero(np.diff(region[order], prepend=-1))


def enlarge(maps: np.ndarray, side: int) -> np.ndarray:
    """Enlarge maps (N, h, w) to (N, side, side), bilinearly; values are at pixel centers, edge values are extended."""
    return _enlarge(maps, *np.empty((2, len(maps), side, side)))


def normalize(heat: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Scale each map (N, H, W) to 0..255 by its lowest and highest value; a map without contrast becomes 0.

    The result is written to `out` if it is given, which may be `heat` itself.
    """
    low, high = heat.min((1, 2), keepdims=True), heat.max((1, 2), keepdims=True)
    scaled = np.multiply(255, np.subtract(heat, low, out), out)
    normalized: np.ndarray = np.divide(scaled, np.where(high > low, high - low, 1), out)
    return normalized


def highest(maps: np.ndarray, frame: Frame) -> np.ndarray:
    """Find the center of each map's highest location, the first of equals.

    Args:
        maps: (N, h, w), heatmaps of the crop.
        frame: position of the crop.

    Returns:
        x, y (N, 2) as fractions of the whole image; NaN for a map without contrast.
    """
    _, height, width = maps.shape
    values = maps.reshape(len(maps), -1)
    y, x = np.divmod(values.argmax(axis=1), width)
    points = np.column_stack([(x + 0.5) / width, (y + 0.5) / height, np.zeros((len(maps), 2))])
    points[values.max(axis=1) == values.min(axis=1)] = np.nan
    return frame.to_image(points)[:, :2]


def overlaps(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute IoBB (intersection over the *predicted* box) and IoU of pairs of boxes (n, 4): two (n,) in 0..1."""
    low = np.maximum(predicted[:, :2], truth[:, :2])
    high = np.minimum(predicted[:, :2] + predicted[:, 2:], truth[:, :2] + truth[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=1)
    areas = predicted[:, 2:].prod(axis=1), truth[:, 2:].prod(axis=1)
    return shared / areas[0], shared / (areas[0] + areas[1] - shared)


def _match_findings(predict: Callable[[int], PredictedBoxes], peaks: np.ndarray, truth: Boxes) -> BoxMatches:
    """Match each finding's predicted boxes and the highest locations x, y (N, C, 2) with the annotated boxes."""
    findings = peaks.shape[1]
    found = np.zeros((len(truth.boxes), len(LEVELS)), bool)
    false = np.zeros((findings, len(LEVELS)), int)
    for c in np.unique(truth.finding):  # a finding without annotated boxes has no rates
        of_finding = truth.finding == c
        found[of_finding], false[c] = _match(predict(c), truth.image[of_finding], truth.boxes[of_finding])
    return BoxMatches(found, false, _pointed(peaks[truth.image, truth.finding], truth))


def _match(predicted: PredictedBoxes, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match one finding's predicted boxes with its m annotated ones.

    Returns:
        Whether each annotated box is detected at each threshold, bool (m, 12), and the number of unmatched predicted
        boxes at each threshold (12,).
    """
    p, t = np.nonzero(predicted.image[:, None] == image[None, :])
    iobb, iou = overlaps(predicted.boxes[p], boxes[t])
    matched = np.column_stack([np.tile(iobb, (len(IOBB), 1)).T, np.tile(iou, (len(IOU), 1)).T]) > LEVELS
    found = np.zeros((len(boxes), len(LEVELS)), bool)
    correct = np.zeros((len(predicted.boxes), len(LEVELS)), bool)
    np.logical_or.at(found, t, matched)
    np.logical_or.at(correct, p, matched)
    return found, (~correct).sum(axis=0)


def _pointed(peaks: np.ndarray, truth: Boxes) -> np.ndarray:
    """Return whether the highest location (M, 2) is in any box of the same finding and image as each box: (M,)."""
    inside = ((peaks >= truth.boxes[:, :2]) & (peaks < truth.boxes[:, :2] + truth.boxes[:, 2:])).all(axis=1)
    pair = _pair_index(truth)
    hits: np.ndarray = np.bincount(pair, inside)[pair]
    return hits > 0


def _hits(matches: BoxMatches) -> np.ndarray:
    """Join pointing game and levels, 0 or 1: (M, 13)."""
    return np.column_stack([matches.pointed, matches.found]).astype(float)


def _weights(truth: Boxes) -> np.ndarray:
    """Weight each box (M, 13): in the pointing game all boxes of a finding on an image count as one."""
    pair = _pair_index(truth)
    return np.column_stack([1 / np.bincount(pair)[pair], np.ones((len(pair), len(LEVELS)))])


def _pair_index(truth: Boxes) -> np.ndarray:
    """Return the index of each box's pair of image and finding: (M,)."""
    pairs = np.column_stack([truth.image, truth.finding])
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def _enlarge(maps: np.ndarray, out: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """Enlarge maps (N, h, w) into `out` (N, side, side), which is returned; `spare` is a buffer of the same shape."""
    maps = maps.astype(np.float64)
    (top, down), (left, across) = (_interpolation(cells, out.shape[1]) for cells in maps.shape[1:])
    rows = maps[:, top] * (1 - down)[:, None] + maps[:, np.minimum(top + 1, maps.shape[1] - 1)] * down[:, None]
    np.take(rows, left, 2, out, "clip")
    np.take(rows, np.minimum(left + 1, maps.shape[2] - 1), 2, spare, "clip")
    out *= 1 - across
    spare *= across
    out += spare
    return out


def _interpolation(cells: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Place the centers of `side` pixels among those of `cells` cells along one axis.

    Returns:
        (side,) the cell at or before each pixel, and the weight of the next one in 0..1.
    """
    position = ((np.arange(side) + 0.5) * cells / side - 0.5).clip(0, cells - 1)
    before = position.astype(int)
    return before, position - before
