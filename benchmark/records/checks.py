"""Whether a record's evidence has the form that its numbers can be computed from."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..dataset import MAX_AGE, TRAITS, split_sha256
from ..evaluation.artifacts import HeatmapSet
from ..evaluation.heatmaps import evaluate_heatmaps
from ..evaluation.scores import evaluate_scores, evaluate_secondary_metrics, resamples_of
from ..recipe import Pixels
from ..utils.errors import first_few
from ..utils.options import build
from .record import RecordError, read_maps, read_scores
from .schema import Record, StatisticsPart


def check_rows(folder: Path, record: Record, table: pd.DataFrame) -> None:
    """The scored images are those that the record counts, each once, each with a number for every finding."""
    columns = ["image_id", "patient_id", "split", *(f"{kind} {f}" for kind in ("label", "score") for f in record.auc)]
    if [name for name in table.columns if name not in TRAITS] != columns or not _are_typed(table):
        raise RecordError(f"{folder / 'scores.parquet'} does not have the columns of the record's findings: run again")
    if table["image_id"].duplicated().any() or not np.isfinite(table.filter(regex="^score ").to_numpy()).all():
        raise RecordError(f"{folder / 'scores.parquet'} has an image twice, or a score that is no number: run again")
    for split in sorted(set(record.dataset.counts) - {"train"} | set(table["split"])):
        if split not in record.dataset.counts:
            raise RecordError(f"{folder / 'scores.parquet'} holds {split} images, the record counts none: run again")
        part, counts = table[table["split"] == split], record.dataset.counts[split]
        positives = {finding: int((part[f"label {finding}"] == 1).sum()) for finding in record.auc}
        found = (len(part), part["patient_id"].nunique(), positives)
        if part.empty or found != (counts.images, counts.patients, counts.positives):
            raise RecordError(f"{folder / 'scores.parquet'} does not hold the {split} images that the record counts")
    if record.source is not None:
        _check_own_split(folder, record, table)


def _check_own_split(folder: Path, record: Record, table: pd.DataFrame) -> None:
    """The split of scores from elsewhere is their test images, whose hash follows from them alone."""
    split = split_sha256(table[table["split"] == "test"])
    if split != record.dataset.split.sha256:
        raise RecordError(
            f"{folder / 'run.json'} names the split of SHA-256 {record.dataset.split.sha256[:12]}, its images are "
            f"those of {split[:12]}: score the file again"
        )


def check_arrays(folder: Path, record: Record, table: pd.DataFrame, maps: HeatmapSet) -> None:
    """The heatmaps are of test images and of the patients they claim, and the arrays fit together."""
    if not _are_arrays(maps):
        raise RecordError(f"{folder / 'maps.npz'} holds arrays that are no heatmaps: run again")
    test = table[table["split"] == "test"].set_index("image_id")
    known = set(maps.image_id) <= set(test.index) and len(set(maps.image_id)) == len(maps.image_id)
    if not known or not (test["patient_id"].loc[maps.image_id].to_numpy() == maps.patient_id).all():
        raise RecordError(f"{folder / 'maps.npz'} holds other images than the record's test split: run again")
    images, findings, boxes = len(maps.image_id), len(record.auc), len(maps.boxes)
    fits = maps.maps.shape[:2] == (images, findings) and maps.maps.ndim == 4 and maps.boxes.shape == (boxes, 4)
    for which, most in ((maps.box_image, images), (maps.box_finding, findings)):
        fits = fits and which.shape == (boxes,) and (which >= 0).all() and (which < most).all()
    if not fits or not np.isfinite(maps.maps).all() or not ((maps.boxes >= 0) & (maps.boxes <= 1)).all():
        raise RecordError(f"{folder / 'maps.npz'} holds arrays that do not fit together: run again")


def _are_typed(table: pd.DataFrame) -> bool:
    """Names are texts, labels 0, 1 or unknown, scores numbers, and what is told of a patient is spelt as it must be."""
    names = table[["image_id", "patient_id", "split"]]
    numbers = table[[name for name in table.columns if name.startswith(("label ", "score "))]]
    if not all(pd.api.types.is_float_dtype(kind) for kind in numbers.dtypes):
        return False
    labels = numbers.filter(regex="^label ").to_numpy()
    fits = bool((np.isnan(labels) | (labels == 0) | (labels == 1)).all())
    fits = fits and all(isinstance(name, str) for _, column in names.items() for name in column)
    for trait, known in (("sex", ("F", "M")), ("view", ("PA", "AP"))):
        told = table[trait].dropna() if trait in table else ()
        fits = fits and all(isinstance(text, str) and text in known for text in told)
    ages = table.get("age", pd.Series(dtype=float))
    return fits and pd.api.types.is_numeric_dtype(ages) and bool((ages.between(0, MAX_AGE) | ages.isna()).all())


def _are_arrays(maps: HeatmapSet) -> bool:
    """Each array has the kind of numbers, and as many sides, as it must."""
    kinds = {"maps": "f4", "image_id": "U1", "patient_id": "U1", "box_image": "i1", "box_finding": "i1", "boxes": "f2"}
    found = {name: f"{array.dtype.kind}{array.ndim}" for name, array in maps._asdict().items() if name in kinds}
    return found == kinds and 0 not in maps.maps.shape[2:] and maps.image_id.shape == maps.patient_id.shape


TOLERANCE = 1e-9  # between a recorded and a recomputed number


class Artifacts(NamedTuple):
    """What a record's numbers follow from, and those of them that early records do not hold.

    Attributes:
        table: the scores.
        maps: the heatmaps; None where nothing was localised.
        statistics: as in the record.
        draws: the mean AUC in each draw of patients (R,), NaN where undefined.
    """

    table: pd.DataFrame
    maps: HeatmapSet | None
    statistics: StatisticsPart
    draws: np.ndarray


def verify_record(folder: Path, record: Record) -> Artifacts:
    """Compute every score and interval again; the evidence. Raises RecordError where the record says otherwise."""
    table = read_scores(folder, record)
    check_rows(folder, record, table)
    statistics, draws = check_scores(folder, record, table)
    maps = read_maps(folder, record)
    if maps is not None:
        check_maps(folder, record, table, maps)
    return Artifacts(table, maps, statistics, draws)


def check_scores(folder: Path, record: Record, table: pd.DataFrame) -> tuple[StatisticsPart, np.ndarray]:
    """Compute all that follows from the scores: statistics and draws. Raises RecordError where the record differs."""
    resamples = resamples_of(record.recipe)
    again, draws = evaluate_scores(table, resamples)
    _compare(folder, record.model_dump(include=set(again)), again)
    statistics = evaluate_secondary_metrics(table, resamples)
    if record.statistics is not None:
        _compare(folder, {"statistics": record.statistics.model_dump()}, {"statistics": statistics})
    return StatisticsPart.model_validate(statistics), draws


def check_maps(folder: Path, record: Record, table: pd.DataFrame, maps: HeatmapSet) -> None:
    """Compute the localisation from the heatmaps. Raises RecordError where the record says otherwise."""
    check_arrays(folder, record, table, maps)
    pixels = build(Pixels, record.recipe["pixels"], "pixels.")
    localized = evaluate_heatmaps(maps, list(record.auc), vars(pixels), resamples_of(record.recipe))
    _compare(folder, record.localization.model_dump(exclude={"file", "sha256"}), localized)


def _compare(folder: Path, recorded: dict[str, Any], computed: dict[str, Any]) -> None:
    differing = list(_differences(recorded, computed))
    if differing:
        raise RecordError(f"{folder / 'run.json'} does not follow from its evidence: {first_few(differing)}")


def _differences(recorded: Any, computed: Any, where: str = "") -> Iterator[str]:
    if isinstance(computed, dict) and isinstance(recorded, dict):
        for key in sorted(computed.keys() | recorded.keys()):
            yield from _differences(recorded.get(key), computed.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(computed, list) and isinstance(recorded, list) and len(computed) == len(recorded):
        for number, pair in enumerate(zip(recorded, computed, strict=True)):
            yield from _differences(*pair, f"{where}[{number}]")
    elif isinstance(computed, float) and isinstance(recorded, float):
        if not math.isclose(recorded, computed, rel_tol=0, abs_tol=TOLERANCE):
            yield f"{where} is {recorded:.6f}, the evidence gives {computed:.6f}"
    elif recorded != computed:
        yield f"{where} is {str(recorded)[:80]}, the evidence gives {str(computed)[:80]}"
