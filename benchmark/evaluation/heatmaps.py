"""Heatmaps to the record's localisation: boxes found and missed, beside the floors of noise and of a middle box."""

import copy
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from ..metrics import localization
from ..metrics.localization import IOBB, IOU, THRESHOLDS, Boxes, Frame, Score
from .artifacts import HeatmapSet, heatmaps_sha256

RANDOM_MAPS = 5  # draws that the floor of a random map is averaged over


def evaluate_heatmaps(
    maps: HeatmapSet, findings: list[str], pixels: Mapping[str, int], resamples: int
) -> dict[str, Any]:
    """The record's localization but for its file; `pixels` is the recipe's section of that name.

    Equal heatmaps are judged once in a process: a run judges its own when it writes, publishes and ranks them.
    """
    key = (heatmaps_sha256(maps), tuple(findings), pixels["size"], pixels["crop"], resamples)
    if key not in _evaluated:
        _evaluated[key] = _evaluate(maps, findings, Frame(pixels["size"], pixels["crop"]), resamples)
    return copy.deepcopy(_evaluated[key])


_evaluated: dict[tuple, dict[str, Any]] = {}


def _evaluate(maps: HeatmapSet, findings: list[str], frame: Frame, resamples: int) -> dict[str, Any]:
    truth = maps.truth()
    marks = localization.match_boxes(maps.maps, truth, frame)
    grid = maps.maps.shape[2:]
    scores = {
        "method": localization.score(marks, truth),
        "random": _random_baseline(grid, len(findings), frame, _Hashed(truth)),
        "centre": localization.score(localization.center_baseline(len(findings), truth), truth),
    }
    boxes = np.bincount(truth.finding, minlength=len(findings)).tolist()
    each = {
        finding: {"boxes": boxes[c], **{who: _hits(_of(score, c)) for who, score in scores.items()}}
        for c, finding in enumerate(findings)
    }
    low, high = localization.mean_interval(marks, truth, resamples)
    mean = {who: _hits(localization.mean_score(score)) for who, score in scores.items()}
    return {
        "heatmap": maps.kind,
        "images": len(maps.image_id),
        "grid": list(grid),
        "thresholds": list(THRESHOLDS),
        "t_iobb": list(IOBB),
        "t_iou": list(IOU),
        "findings": each,
        "mean": {
            "boxes": sum(boxes),
            "findings": sum(count > 0 for count in boxes),
            **mean,
            "low": _hits(low),
            "high": _hits(high),
        },
    }


class _Hashed:
    """Boxes as the key of a cache: the floor under them is the same for every record of a board."""

    def __init__(self, truth: Boxes) -> None:
        self.truth = truth
        self.key = tuple(np.asarray(part).tobytes() for part in truth)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@lru_cache(maxsize=8)
def _random_baseline(grid: tuple[int, int], findings: int, frame: Frame, hashed: _Hashed) -> Score:
    truth = hashed.truth
    draws = [
        localization.score(localization.random_baseline(grid, findings, truth, frame, seed), truth)
        for seed in range(RANDOM_MAPS)
    ]
    return Score(*(np.mean(parts, axis=0) for parts in zip(*draws, strict=True)))


def _of(score: Score, finding: int) -> Score:
    return Score(*(part[finding] for part in score))


def _hits(score: Score) -> dict[str, Any] | None:
    """A score as the record holds it; None for a finding without a box."""
    if np.isnan(score.pointing_game):
        return None
    cut = len(IOBB)
    return {
        "pointing_game": float(score.pointing_game),
        "iobb": {"accuracy": _plain(score.accuracy[:cut]), "false_positives": _plain(score.false_positives[:cut])},
        "iou": {"accuracy": _plain(score.accuracy[cut:]), "false_positives": _plain(score.false_positives[cut:])},
    }


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
