"""Localization metrics of heatmaps, compared with baselines that do not see the image.

These are random heatmaps, one box in the center, and the boxes of other patients with the same finding.
"""

from functools import lru_cache

import numpy as np

from ..metrics import localization
from ..metrics.intervals import Statistic, interval
from ..metrics.localization import IOBB, IOU, THRESHOLDS, Boxes, Frame, Score
from .artifacts import HeatmapSet, heatmaps_sha256
from .results import FindingHits, Hits, IntervalPart, Localization, MeanHits, OverlapRates

RANDOM_MAPS = 5  # number of seeds over which the random baseline is averaged

MAIN_IOBB = 0.25  # level of the accuracy that is compared with the location prior

_Key = tuple[str, tuple[str, ...], Frame, int]
_evaluated: dict[_Key, tuple[Localization, dict[str, Statistic]]] = {}


def evaluate_heatmaps(
    maps: HeatmapSet, findings: list[str], frame: Frame, resamples: int
) -> tuple[Localization, dict[str, Statistic]]:
    """Compute the localization metrics of a test split, and statistics of its means for intervals over several runs.

    The statistics are pointing_game and accuracy (at `MAIN_IOBB`), those of the location prior with the prefix
    prior_. Results are cached in the process, because a run needs them when it writes, publishes and ranks its record.

    Args:
        maps: heatmaps of the test images that have boxes, and the boxes.
        findings: the C findings, in the order of the heatmaps.
        frame: position of the center crop in the resized image.
        resamples: number of bootstrap resamples of patients.
    """
    key = (heatmaps_sha256(maps), tuple(findings), frame, resamples)
    if key not in _evaluated:
        _evaluated[key] = _evaluate(maps, findings, frame, resamples)
    return _evaluated[key]


def _evaluate(
    maps: HeatmapSet, findings: list[str], frame: Frame, resamples: int
) -> tuple[Localization, dict[str, Statistic]]:
    truth = maps.truth()
    matches = localization.match_boxes(maps.maps, truth, frame)
    height, width = maps.maps.shape[2:]
    prior = localization.prior_baseline((height, width), len(findings), truth, frame)
    scores = {
        "method": localization.score(matches, truth),
        "random": _random_baseline((height, width), len(findings), frame, _HashableBoxes(truth)),
        "center": localization.score(localization.center_baseline(len(findings), truth), truth),
        "prior": localization.score(prior, truth),
    }
    boxes = np.bincount(truth.finding, minlength=len(findings)).tolist()
    means, of_prior = (localization.evaluate_means(each, truth, resamples) for each in (matches, prior))
    main = 1 + IOBB.index(MAIN_IOBB)
    statistics = {
        "pointing_game": means[0],
        "accuracy": means[main],
        "prior_pointing_game": of_prior[0],
        "prior_accuracy": of_prior[main],
    }
    metrics = Localization(
        heatmap=maps.kind,
        images=len(maps.image_id),
        grid=[height, width],
        thresholds=list(THRESHOLDS),
        t_iobb=list(IOBB),
        t_iou=list(IOU),
        findings={
            finding: FindingHits(boxes=boxes[c], **{who: _hits(_select(score, c)) for who, score in scores.items()})
            for c, finding in enumerate(findings)
        },
        mean=MeanHits(
            boxes=sum(boxes),
            findings=sum(count > 0 for count in boxes),
            **{who: _hits(localization.mean_score(score)) for who, score in scores.items()},
            pointing_game=_interval(means[0]),
            accuracy=_interval(means[main]),
        ),
    )
    return metrics, statistics


def _interval(statistic: Statistic) -> IntervalPart:
    return IntervalPart(**interval(statistic)._asdict())


class _HashableBoxes:
    """Boxes as a cache key: all records of a board share their baselines."""

    def __init__(self, truth: Boxes) -> None:
        self.truth = truth
        self.key = tuple(np.asarray(part).tobytes() for part in truth)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _HashableBoxes) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@lru_cache(maxsize=8)
def _random_baseline(grid: tuple[int, int], num_findings: int, frame: Frame, boxes: _HashableBoxes) -> Score:
    truth = boxes.truth
    scores = [
        localization.score(localization.random_baseline(grid, num_findings, truth, frame, seed), truth)
        for seed in range(RANDOM_MAPS)
    ]
    return Score(*(np.mean(parts, axis=0) for parts in zip(*scores, strict=True)))


def _select(score: Score, finding: int) -> Score:
    return Score(*(part[finding] for part in score))


def _hits(score: Score) -> Hits | None:
    """Convert the score of one finding, or a mean score, to a part of the record; None if the finding has no box."""
    if np.isnan(score.pointing_game):
        return None
    cut = len(IOBB)  # rates at the levels of IoBB come first, then those of IoU
    return Hits(
        pointing_game=float(score.pointing_game),
        iobb=_rates(score.accuracy[:cut], score.false_positives[:cut]),
        iou=_rates(score.accuracy[cut:], score.false_positives[cut:]),
    )


def _rates(accuracy: np.ndarray, false_positives: np.ndarray) -> OverlapRates:
    false = [None if np.isnan(value) else float(value) for value in false_positives]
    return OverlapRates(accuracy=[float(value) for value in accuracy], false_positives=false)
