"""What a record's numbers are computed from, and the computing: `scores.parquet` to AUCs, `maps.npz` to localisation.

The same functions make a record and check it afterwards.
"""

import copy
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from . import localization, metrics
from .dataset import Index
from .localization import IOBB, IOU, THRESHOLDS, Boxes, Frame, Score, normalise

LEFT_OUT = "Hernia"  # 86 official test images of 32 patients: one class must not move a mean
RANDOM_MAPS = 5  # draws that the floor of a random map is averaged over


class Maps(NamedTuple):
    """Heatmaps of the test images that have boxes, and these boxes: all that localisation is computed from.

    Attributes:
        kind: whose maps they are, in words.
        maps: float16 (N, C, h, w), of the centre crop, each from 0 at its lowest to 1 at its highest place.
        image_id, patient_id: (N,) texts.
        box_image, box_finding: int32 (M,), which of the N images and C findings.
        boxes: float64 (M, 4), x, y, w, h as fractions of the whole image.
    """

    kind: str
    maps: np.ndarray
    image_id: np.ndarray
    patient_id: np.ndarray
    box_image: np.ndarray
    box_finding: np.ndarray
    boxes: np.ndarray

    def truth(self) -> Boxes:
        return Boxes(self.box_image, self.box_finding, self.boxes, self.patient_id)


def score_table(index: Index, rows: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """The table behind every AUC: image_id, patient_id, split, `label <finding>` and `score <finding>` (log-odds).

    Args:
        index: where the images, patients and labels stand.
        rows: row numbers of the scored images (n,).
        scores: log-odds (n, C), finite.
    """
    images = index.images.iloc[rows]
    names = images[["image_id", "patient_id", "split"]].astype(str).reset_index(drop=True)
    labels = pd.DataFrame(index.targets()[rows], columns=[f"label {finding}" for finding in index.findings])
    return pd.concat([names, labels, pd.DataFrame(scores, columns=[f"score {f}" for f in index.findings])], axis=1)


def boxed_rows(index: Index) -> np.ndarray:
    """Row numbers of the test images that have a box."""
    rows = index.rows("test")
    if index.boxes.empty:
        return rows[:0]
    return rows[index.images["image_id"].iloc[rows].isin(index.boxes["image_id"]).to_numpy()]


def collect_maps(index: Index, rows: np.ndarray, maps: np.ndarray, kind: str) -> Maps:
    """Heatmaps (n, C, h, w), on any scale, of the images `rows` (n,), and the boxes on them."""
    images = index.images.iloc[rows]
    position = {name: k for k, name in enumerate(images["image_id"])}
    boxes = index.boxes[index.boxes["image_id"].isin(position)]
    return Maps(
        kind,
        _scaled(maps).astype(np.float16),  # scaled first: a rare finding's probabilities are too small for 16 bits
        images["image_id"].to_numpy(str),
        images["patient_id"].to_numpy(str),
        boxes["image_id"].map(position).to_numpy(np.int32),
        boxes["finding"].map({finding: c for c, finding in enumerate(index.findings)}).to_numpy(np.int32),
        boxes[["x", "y", "w", "h"]].to_numpy(np.float64),
    )


def save_maps(maps: Maps, path: Path) -> None:
    """Write them as a compressed .npz of plain arrays."""
    with path.open("wb") as file:
        np.savez_compressed(file, **maps._asdict())


def load_maps(path: Path) -> Maps:
    """Read them; nothing is unpickled. Raises OSError, ValueError or KeyError for a file that is something else."""
    with np.load(path, allow_pickle=False) as file:
        parts = {name: file[name] for name in Maps._fields}
    return Maps(**{**parts, "kind": str(parts["kind"])})


def maps_sha256(maps: Maps) -> str:
    """SHA-256 over all arrays: equal for equal heatmaps and boxes, however they were compressed."""
    digest = hashlib.sha256(maps.kind.encode())
    for name, part in maps._asdict().items():
        if isinstance(part, np.ndarray):
            digest.update(f"{name} {part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def judge_scores(table: pd.DataFrame, resamples: int, split: str = "test") -> dict[str, Any]:
    """The record's keys auc, mean_auc and mean_auc_without_hernia, computed from a score table."""
    findings = [name.removeprefix("label ") for name in table.columns if name.startswith("label ")]
    part = table[table["split"] == split]
    labels = part[[f"label {finding}" for finding in findings]].to_numpy(np.float64)
    scores = part[[f"score {finding}" for finding in findings]].to_numpy(np.float64)
    leave_out = findings.index(LEFT_OUT) if LEFT_OUT in findings else None
    judged = metrics.evaluate(scores, labels, part["patient_id"].to_numpy(), resamples, leave_out)
    each = zip(findings, judged.auc, judged.positives, strict=True)
    return {
        "auc": {finding: {**value._asdict(), "positives": positives} for finding, value, positives in each},
        "mean_auc": {**judged.mean[0]._asdict(), "findings": judged.mean[1]},
        "mean_auc_without_hernia": {**judged.mean_without[0]._asdict(), "findings": judged.mean_without[1]},
    }


def judge_maps(maps: Maps, findings: list[str], pixels: Mapping[str, int], resamples: int) -> dict[str, Any]:
    """The record's localization but for its file; `pixels` is the recipe's section of that name.

    Equal heatmaps are judged once in a process: a run judges its own when it writes, publishes and ranks them.
    """
    key = (maps_sha256(maps), tuple(findings), pixels["size"], pixels["crop"], resamples)
    if key not in _judged:
        _judged[key] = _judge_maps(maps, findings, Frame(pixels["size"], pixels["crop"]), resamples)
    return copy.deepcopy(_judged[key])


_judged: dict[tuple, dict[str, Any]] = {}


def _judge_maps(maps: Maps, findings: list[str], frame: Frame, resamples: int) -> dict[str, Any]:
    truth = maps.truth()
    marks = localization.judge(maps.maps, truth, frame)
    grid = maps.maps.shape[2:]
    scores = {
        "method": localization.score(marks, truth),
        "random": _random_floor(grid, len(findings), frame, _Hashed(truth)),
        "centre": localization.score(localization.judge_centre(len(findings), truth), truth),
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


def members_sha256(table: pd.DataFrame) -> str:
    """SHA-256 over the scored images with patient, split and labels: equal where two runs were asked the same."""
    asked = table[[name for name in table.columns if not name.startswith("score ")]].sort_values("image_id")
    return hashlib.sha256(asked.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def boxes_sha256(maps: Maps) -> str:
    """SHA-256 over the boxes, whatever was found on the heatmaps: equal where two runs were asked the same."""
    boxes = zip(maps.image_id[maps.box_image], maps.box_finding.tolist(), maps.boxes.tolist(), strict=True)
    return hashlib.sha256(
        "\n".join(sorted(f"{image} {finding} {box}" for image, finding, box in boxes)).encode()
    ).hexdigest()


def _scaled(maps: np.ndarray) -> np.ndarray:
    """Each map from 0 to 1, which changes no score; one without contrast is 0."""
    flat = maps.astype(np.float64).reshape(-1, *maps.shape[2:])
    return (normalise(flat) / 255).reshape(maps.shape)


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
def _random_floor(grid: tuple[int, int], findings: int, frame: Frame, hashed: _Hashed) -> Score:
    truth = hashed.truth
    draws = [
        localization.score(localization.judge_random(grid, findings, truth, frame, seed), truth)
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
