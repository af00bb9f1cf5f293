"""Where the disease is: heatmaps against boxes by the protocol of Wang et al. 2017 (section 4.2), the pointing game.

Pure functions of arrays; they know no file, no torch and no screen. Boxes are rows x, y, w, h, (x, y) the upper left
corner, as fractions of the whole image. A heatmap covers the crop that the network saw; what is found on it is brought
back to the whole image, so that a box outside the crop counts as missed and not as absent.

Chosen where the paper is silent: maps are enlarged bilinearly to the crop's pixels before they are normalised; pixels
touch by their sides only; a region that is the same at both thresholds is one box. The pointing game (Zhang et al.
2016) asks of each finding on each image whether the centre of the highest place lies in one of its boxes, without
tolerance; a map without contrast points nowhere.

Elementwise arithmetic in float64 alone: sums that a library may order as it likes could move a pixel across a threshold
on another machine, and a record would no longer follow from its heatmaps.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

THRESHOLDS = (60, 180)  # of 0..255, each by itself
IOBB = (0.1, 0.25, 0.5, 0.75, 0.9)
IOU = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
LEVELS = np.array(IOBB + IOU)
CENTER = (0.25, 0.25, 0.5, 0.5)  # the box of the floor that looks at nothing
HELD = 400_000  # pixels of enlarged maps held at a time, 8 maps of 224x224: 3 MB, which stay in a core's cache


class Boxes(NamedTuple):
    """M boxes on N images.

    Attributes:
        image, finding: (M,) which of the N images and of the C findings.
        boxes: (M, 4) fractions of the whole image.
        patients: (N,) whose image it is, any kind of name.
    """

    image: np.ndarray
    finding: np.ndarray
    boxes: np.ndarray
    patients: np.ndarray


class Frame(NamedTuple):
    """Where the centre crop lies in its image: sides of the shrunk image and of the crop, in pixels."""

    size: int
    side: int

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) from fractions of the crop to fractions of the whole image."""
        start = (self.size - self.side) // 2 / self.size
        return boxes * (self.side / self.size) + np.array([start, start, 0, 0])


class PredictedBoxes(NamedTuple):
    """Boxes of one finding: (n,) on which image, (n, 4) fractions of the whole image."""

    image: np.ndarray
    boxes: np.ndarray


class BoxMatches(NamedTuple):
    """How heatmaps did, box by box.

    Attributes:
        found: bool (M, 12), whether a box was found at each T(IoBB), then at each T(IoU).
        false: int (C, 12), predicted boxes of each finding, on all images, that meet none of its boxes so well.
        pointed: bool (M,), whether the highest place lies in a box of that finding on that image: in any of them.
    """

    found: np.ndarray
    false: np.ndarray
    pointed: np.ndarray


class Score(NamedTuple):
    """Marks as rates, for each finding (C, ...) or as their mean (...); NaN for a finding without a box.

    Attributes:
        accuracy: (..., 12) found boxes / boxes of the finding.
        false_positives: (..., 12) false boxes / boxes of all findings, as Wang et al. 2017 count them.
        pointing_game: (...) images with the finding's highest place in one of its boxes / images with such a box.
    """

    accuracy: np.ndarray
    false_positives: np.ndarray
    pointing_game: np.ndarray


def match_boxes(maps: np.ndarray, truth: Boxes, frame: Frame) -> BoxMatches:
    """Judge heatmaps (N, C, h, w) of the crop, on any scale, against the boxes."""
    peaks = np.stack([highest(maps[:, c], frame) for c in range(maps.shape[1])], axis=1)
    return _match_map(lambda c: predict_boxes(maps[:, c], frame), peaks, truth)


def random_baseline(grid: tuple[int, int], findings: int, truth: Boxes, frame: Frame, seed: int = 0) -> BoxMatches:
    """What maps of independent uniform noise on the same grid (h, w) would get: the floor under every heatmap."""
    noise = np.random.default_rng(seed).random((len(truth.patients), findings, *grid), np.float32)
    return match_boxes(noise, truth, frame)


def center_baseline(findings: int, truth: Boxes) -> BoxMatches:
    """What the same box would get on every image, in its middle and half as wide and high."""
    images = len(truth.patients)
    everywhere = PredictedBoxes(np.arange(images), np.tile(CENTER, (images, 1)))
    return _match_map(lambda c: everywhere, np.full((images, findings, 2), 0.5), truth)


def score(marks: BoxMatches, truth: Boxes) -> Score:
    """Rates of each finding, (C, ...)."""
    findings = len(marks.false)
    known = np.where(np.bincount(truth.finding, minlength=findings) > 0, 1.0, np.nan)[:, None]
    hits, weights = np.zeros((2, findings, 1 + len(LEVELS)))
    np.add.at(hits, truth.finding, _hits(marks) * _weights(truth))
    np.add.at(weights, truth.finding, _weights(truth))
    rates = known * hits / np.where(weights > 0, weights, 1)
    return Score(rates[:, 1:], known * marks.false / len(truth.finding), rates[:, 0])


def mean_score(scores: Score) -> Score:
    """The mean over the findings that have boxes. Each part (C, ...) loses its first axis."""
    return Score(*(np.nanmean(part, axis=0) for part in scores))


def mean_interval(marks: BoxMatches, truth: Boxes, resamples: int, seed: int = 0) -> tuple[Score, Score]:
    """Ends of the 95 % intervals of the mean accuracies and of the mean pointing game; false positives have none.

    Patients are drawn whole. A finding without a box in a draw is left out of that draw's mean.
    """
    _, owner = np.unique(truth.patients, return_inverse=True)
    drawn = np.random.default_rng(seed).integers(0, owner.max() + 1, (resamples, owner.max() + 1))
    times = np.stack([np.bincount(draw, minlength=owner.max() + 1) for draw in drawn])[:, owner[truth.image]]
    weights = _weights(truth)
    hits = _hits(marks) * weights
    rates = []
    for c in np.unique(truth.finding):
        mine = truth.finding == c
        drawn_weights = times[:, mine] @ weights[mine]
        there = drawn_weights > 0
        rates.append(np.where(there, times[:, mine] @ hits[mine] / np.where(there, drawn_weights, 1), np.nan))
    ends = np.nanquantile(np.nanmean(rates, axis=0), [0.025, 0.975], axis=0)
    nothing = np.full(len(LEVELS), np.nan)
    low, high = (Score(end[1:], nothing, end[0]) for end in ends)
    return low, high


def predict_boxes(maps: np.ndarray, frame: Frame) -> PredictedBoxes:
    """Boxes around the connected regions above 60 and above 180, both sets, of one finding's maps (N, h, w)."""
    found = [np.empty((0, 5), int)]
    step = max(1, HELD // frame.side**2)
    held = np.empty((2, step, frame.side, frame.side))  # kept: fresh pages cost more than the arithmetic
    for first in range(0, len(maps), step):
        some = maps[first : first + step]
        heat = normalize(_enlarge(some, *held[:, : len(some)]), held[0, : len(some)])
        found += [regions(heat > threshold) + np.array([first, 0, 0, 0, 0]) for threshold in THRESHOLDS]
    union = np.unique(np.concatenate(found), axis=0)
    return PredictedBoxes(union[:, 0], frame.to_image(union[:, 1:] / frame.side))


def regions(masks: np.ndarray) -> np.ndarray:
    """Bounding boxes of the connected regions of masks, bool (N, H, W): int (n, 5), mask, then x, y, w, h in pixels.

    A line of a heatmap has few runs of set pixels, so runs are joined instead of pixels: each to those that overlap it
    on the next line.
    """
    count, height, width = masks.shape
    apart = np.zeros((count, height + 1, width + 1), bool)  # an empty line and column, so that no run meets another's
    apart[:, :height, 1:] = masks
    edges = np.flatnonzero(apart.reshape(-1)[1:] != apart.reshape(-1)[:-1])
    starts, ends = edges[::2], edges[1::2]
    line, left = np.divmod(starts, width + 1)
    low, high = np.column_stack([line, left]), np.column_stack([line + 1, left + ends - starts])
    run, first = _by_region(starts, ends, width + 1)
    top_left, bottom_right = np.minimum.reduceat(low[run], first), np.maximum.reduceat(high[run], first)
    mask, top = np.divmod(top_left[:, 0], height + 1)
    return np.column_stack([mask, top_left[:, 1], top, (bottom_right - top_left)[:, ::-1]])


def _by_region(starts: np.ndarray, ends: np.ndarray, line: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs (n,) sorted by the region they belong to, and where in that order each region begins.

    Args:
        starts, ends: where each run starts and ends, in pixels from the first line's beginning, rising.
        line: pixels from one line to the next.
    """
    below = np.searchsorted(ends, starts + line, "right")
    touching = np.maximum(np.searchsorted(starts, ends + line, "left") - below, 0)
    row = np.append(0, np.cumsum(touching))
    touched = np.arange(row[-1]) + np.repeat(below - row[:-1], touching)
    graph = csr_array((np.ones(len(touched), bool), touched, row), shape=(len(starts), len(starts)))
    _, region = connected_components(graph, directed=False)
    order = np.argsort(region, kind="stable")
    return order, np.flatnonzero(np.diff(region[order], prepend=-1))


def enlarge(maps: np.ndarray, side: int) -> np.ndarray:
    """Maps (N, h, w) to (N, side, side), bilinearly: a place's value stands at its centre, edges continue outwards."""
    return _enlarge(maps, *np.empty((2, len(maps), side, side)))


def normalize(heat: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Each map (N, H, W) to 0..255 by its own lowest and highest value; a map without contrast to 0.

    Into `out` if it is given, which may be `heat` itself.
    """
    low, high = heat.min((1, 2), keepdims=True), heat.max((1, 2), keepdims=True)
    raised = np.multiply(255, np.subtract(heat, low, out), out)
    return np.divide(raised, np.where(high > low, high - low, 1), out)


def highest(maps: np.ndarray, frame: Frame) -> np.ndarray:
    """The centre of each map's highest place, the first of equals: (N, h, w) to x, y (N, 2) of the whole image.

    NaN for a map without contrast, which has no highest place.
    """
    _, height, width = maps.shape
    places = maps.reshape(len(maps), -1)
    y, x = np.divmod(places.argmax(axis=1), width)
    points = np.column_stack([(x + 0.5) / width, (y + 0.5) / height, np.zeros((len(maps), 2))])
    points[places.max(axis=1) == places.min(axis=1)] = np.nan
    return frame.to_image(points)[:, :2]


def overlaps(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoBB (intersection over the *predicted* box) and IoU of pairs of boxes, both (n, 4): two (n,) in 0..1."""
    low = np.maximum(predicted[:, :2], truth[:, :2])
    high = np.minimum(predicted[:, :2] + predicted[:, 2:], truth[:, :2] + truth[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=1)
    areas = predicted[:, 2:].prod(axis=1), truth[:, 2:].prod(axis=1)
    return shared / areas[0], shared / (areas[0] + areas[1] - shared)


def _match_map(predict: Callable[[int], PredictedBoxes], peaks: np.ndarray, truth: Boxes) -> BoxMatches:
    """Marks from the predicted boxes of each finding and the highest places x, y (N, C, 2)."""
    findings = peaks.shape[1]
    found = np.zeros((len(truth.boxes), len(LEVELS)), bool)
    false = np.zeros((findings, len(LEVELS)), int)
    for c in np.unique(truth.finding):  # a finding that nobody boxed has no accuracy and no false boxes
        mine = truth.finding == c
        found[mine], false[c] = _match(predict(c), truth.image[mine], truth.boxes[mine])
    return BoxMatches(found, false, _pointed(peaks[truth.image, truth.finding], truth))


def _match(predicted: PredictedBoxes, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which true boxes (m,) are found at each level, and how many predicted ones are false there."""
    p, t = np.nonzero(predicted.image[:, None] == image[None, :])
    iobb, iou = overlaps(predicted.boxes[p], boxes[t])
    meets = np.column_stack([np.tile(iobb, (len(IOBB), 1)).T, np.tile(iou, (len(IOU), 1)).T]) > LEVELS
    found = np.zeros((len(boxes), len(LEVELS)), bool)
    right = np.zeros((len(predicted.boxes), len(LEVELS)), bool)
    np.logical_or.at(found, t, meets)
    np.logical_or.at(right, p, meets)
    return found, (~right).sum(axis=0)


def _pointed(peaks: np.ndarray, truth: Boxes) -> np.ndarray:
    """Whether each box's highest place (M, 2) lies in it, or in another box of that finding on that image."""
    inside = ((peaks >= truth.boxes[:, :2]) & (peaks < truth.boxes[:, :2] + truth.boxes[:, 2:])).all(axis=1)
    pair = _pair(truth)
    return np.bincount(pair, inside)[pair] > 0


def _hits(marks: BoxMatches) -> np.ndarray:
    return np.column_stack([marks.pointed, marks.found]).astype(float)


def _weights(truth: Boxes) -> np.ndarray:
    """How much each box counts (M, 13): in the pointing game the boxes of a finding on an image are one together."""
    pair = _pair(truth)
    return np.column_stack([1 / np.bincount(pair)[pair], np.ones((len(pair), len(LEVELS)))])


def _pair(truth: Boxes) -> np.ndarray:
    """A number (M,) for each image and finding that occur together."""
    pairs = np.column_stack([truth.image, truth.finding])
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def _enlarge(maps: np.ndarray, out: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """Maps (N, h, w) enlarged into `out` (N, side, side), which is returned; `spare` is as large, to work in."""
    maps = maps.astype(np.float64)
    (top, down), (left, across) = (_between(places, out.shape[1]) for places in maps.shape[1:])
    rows = maps[:, top] * (1 - down)[:, None] + maps[:, np.minimum(top + 1, maps.shape[1] - 1)] * down[:, None]
    np.take(rows, left, 2, out, "clip")
    np.take(rows, np.minimum(left + 1, maps.shape[2] - 1), 2, spare, "clip")
    out *= 1 - across
    spare *= across
    out += spare
    return out


def _between(places: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `side` pixels' centres, the place before it and how far it is to the next: centres of equal steps."""
    at = ((np.arange(side) + 0.5) * places / side - 0.5).clip(0, places - 1)
    before = at.astype(int)
    return before, at - before
