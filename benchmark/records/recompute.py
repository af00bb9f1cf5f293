"""Verify a record against its artifacts: check their form, and recompute all metrics from scores and heatmaps."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..dataset import split_sha256
from ..evaluation.artifacts import ID_COLUMNS, HeatmapSet, label_column, score_column, traits_of
from ..evaluation.scores import Statistics, evaluate_scores, evaluate_secondary_metrics, resamples_of
from ..utils.errors import first_few
from .record import MAPS_FILE, RECORD_FILE, RUN_AGAIN, SCORES_FILE, RecordError, localize, read_maps, read_scores
from .schema import Record, SecondaryMetrics

TOLERANCE = 1e-9  # largest absolute difference between a recorded and a recomputed number
# Item type (numpy's kind) and number of dimensions of each array in maps.npz.
ARRAYS = {"maps": "f4", "image_id": "U1", "patient_id": "U1", "box_image": "i1", "box_finding": "i1", "boxes": "f2"}


class Artifacts(NamedTuple):
    """Artifacts of a verified record, and metrics computed during verification.

    Attributes:
        table: score table of the record.
        maps: heatmaps of the record; None if it has no localization.
        secondary_metrics: average precision, calibration, operating points and subgroups.
        statistics: metrics for intervals over several runs, see `evaluation.scores.Statistics`.
    """

    table: pd.DataFrame
    maps: HeatmapSet | None
    secondary_metrics: SecondaryMetrics
    statistics: Statistics


def verify_record(folder: Path, record: Record) -> Artifacts:
    """Recompute every metric and interval of a record from its artifacts.

    Args:
        folder: folder of the record.
        record: the record in the folder.

    Raises:
        RecordError: if an artifact is missing or damaged, or a recorded value differs from the recomputed one.
    """
    table = read_scores(folder, record)
    check_rows(folder, record, table)
    secondary_metrics, statistics = check_scores(folder, record, table)
    maps = read_maps(folder, record)
    if maps is not None:
        statistics |= check_maps(folder, record, table, maps)
    return Artifacts(table, maps, secondary_metrics, statistics)


# --- metrics ------------------------------------------------------------------------------------------------------


def check_scores(folder: Path, record: Record, table: pd.DataFrame) -> tuple[SecondaryMetrics, Statistics]:
    """Recompute all metrics of the scores; `check_rows` must have accepted the table.

    Args:
        folder: folder of the record.
        record: the record in the folder.
        table: score table of the record.

    Returns:
        The secondary metrics, and the statistics of all metrics.

    Raises:
        RecordError: if a recorded value differs from the recomputed one.
    """
    resamples = resamples_of(record.recipe)
    metrics, statistics = evaluate_scores(table, resamples, record.dataset.rare)
    computed = metrics.model_dump()
    _compare(folder, record.model_dump(include=set(computed)), computed)
    secondary, of_secondary = evaluate_secondary_metrics(table, resamples)
    recorded = record.secondary_metrics.model_dump()
    _compare(folder, {"secondary_metrics": recorded}, {"secondary_metrics": secondary.model_dump()})
    return secondary, statistics | of_secondary


def check_maps(folder: Path, record: Record, table: pd.DataFrame, maps: HeatmapSet) -> Statistics:
    """Recompute the localization of a run from its heatmaps.

    Args:
        folder: folder of the record.
        record: the record in the folder.
        table: score table of the record.
        maps: heatmaps of the record.

    Returns:
        The statistics of the localization.

    Raises:
        RecordError: if the heatmaps are invalid, or a recorded value differs from the recomputed one.
    """
    check_arrays(folder, record, table, maps)
    if record.localization is None or record.recipe is None:
        raise RecordError(f"{folder / RECORD_FILE} has no localization, {folder / MAPS_FILE} has heatmaps: {RUN_AGAIN}")
    computed, statistics = localize(maps, record.dataset.findings, record.recipe)
    _compare(folder, record.localization.model_dump(), computed.model_dump())
    return statistics


def _compare(folder: Path, recorded: dict[str, Any], computed: dict[str, Any]) -> None:
    differing = list(_differences(recorded, computed))
    if differing:
        raise RecordError(f"{folder / RECORD_FILE} does not match its artifacts: {first_few(differing)}")


def _differences(recorded: Any, computed: Any, where: str = "") -> Iterator[str]:
    if isinstance(computed, dict) and isinstance(recorded, dict):
        for key in sorted(computed.keys() | recorded.keys()):
            yield from _differences(recorded.get(key), computed.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(computed, list) and isinstance(recorded, list) and len(computed) == len(recorded):
        for number, pair in enumerate(zip(recorded, computed, strict=True)):
            yield from _differences(*pair, f"{where}[{number}]")
    elif isinstance(computed, float) and isinstance(recorded, float):
        if not math.isclose(recorded, computed, rel_tol=0, abs_tol=TOLERANCE):
            yield f"{where} is {recorded:.6f}, the artifacts give {computed:.6f}"
    elif recorded != computed:
        yield f"{where} is {str(recorded)[:80]}, the artifacts give {str(computed)[:80]}"


# --- form of the score table --------------------------------------------------------------------------------------


def check_rows(folder: Path, record: Record, table: pd.DataFrame) -> None:
    """Check the form of a score table, and that it contains the images that the record counts.

    Args:
        folder: folder of the record.
        record: the record in the folder.
        table: score table of the record.

    Raises:
        RecordError: if columns, types, values or image counts do not match the record.
    """
    path, findings = folder / SCORES_FILE, record.dataset.findings
    columns = [*ID_COLUMNS, *map(label_column, findings), *map(score_column, findings)]
    traits = traits_of(table)
    if [name for name in table.columns if name not in traits] != columns or not _is_typed(table, findings, traits):
        raise RecordError(f"{path} does not have the columns of the record's findings: {RUN_AGAIN}")
    if table["image_id"].duplicated().any():
        raise RecordError(f"{path} lists an image twice: {RUN_AGAIN}")
    if not np.isfinite(table[list(map(score_column, findings))].to_numpy()).all():
        raise RecordError(f"{path} contains a score that is not finite: {RUN_AGAIN}")
    for split in sorted(set(record.dataset.counts) - {"train"} | set(table["split"])):
        _check_counts(path, record, table, split)
    if record.submission is not None:
        _check_submission_split(folder, record, table)


def _check_counts(path: Path, record: Record, table: pd.DataFrame, split: str) -> None:
    if split not in record.dataset.counts:
        raise RecordError(f"{path} contains {split} images, the record counts none: {RUN_AGAIN}")
    part, counts = table[table["split"] == split], record.dataset.counts[split]
    positives = {finding: int((part[label_column(finding)] == 1).sum()) for finding in record.dataset.findings}
    actual = (len(part), part["patient_id"].nunique(), positives)
    if part.empty or actual != (counts.images, counts.patients, counts.positives):
        raise RecordError(f"{path} does not contain the {split} images that the record counts: {RUN_AGAIN}")


def _check_submission_split(folder: Path, record: Record, table: pd.DataFrame) -> None:
    """Check the split hash of external predictions, which covers only the test images."""
    split = split_sha256(table[table["split"] == "test"])
    if split != record.dataset.split.sha256:
        raise RecordError(
            f"{folder / RECORD_FILE} has split hash {record.dataset.split.sha256[:12]}, its images have {split[:12]}: "
            "score the file again"
        )


def _is_typed(table: pd.DataFrame, findings: list[str], traits: list[str]) -> bool:
    """Return whether ids are strings, labels 0, 1 or NaN, scores floats, and traits strings or numbers."""
    labels, scores = (table[list(map(column, findings))] for column in (label_column, score_column))
    if not all(pd.api.types.is_float_dtype(kind) for kind in (*labels.dtypes, *scores.dtypes)):
        return False
    values = labels.to_numpy()
    if not (np.isnan(values) | (values == 0) | (values == 1)).all():
        return False
    if not all(isinstance(name, str) for column in ID_COLUMNS for name in table[column]):
        return False
    return all(_is_trait(table[trait]) for trait in traits)


def _is_trait(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) or all(isinstance(value, str) for value in values.dropna())


# --- form of the heatmaps -----------------------------------------------------------------------------------------


def check_arrays(folder: Path, record: Record, table: pd.DataFrame, maps: HeatmapSet) -> None:
    """Check that the arrays have consistent shapes, and belong to test images and their patients.

    Args:
        folder: folder of the record.
        record: the record in the folder.
        table: score table of the record.
        maps: heatmaps of the record.

    Raises:
        RecordError: if the arrays are inconsistent, or contain images outside the test split.
    """
    path = folder / MAPS_FILE
    if not _are_arrays(maps):
        raise RecordError(f"{path} contains arrays that are not heatmaps and boxes: {RUN_AGAIN}")
    test = table[table["split"] == "test"].set_index("image_id")
    listed = set(maps.image_id) <= set(test.index) and len(set(maps.image_id)) == len(maps.image_id)
    if not listed or not (test["patient_id"].loc[maps.image_id].to_numpy() == maps.patient_id).all():
        raise RecordError(f"{path} contains images outside the test split of the record: {RUN_AGAIN}")
    images, findings, boxes = len(maps.image_id), len(record.dataset.findings), len(maps.boxes)
    is_valid = maps.maps.shape[:2] == (images, findings) and maps.boxes.shape == (boxes, 4)
    for index, size in ((maps.box_image, images), (maps.box_finding, findings)):
        is_valid = is_valid and index.shape == (boxes,) and bool(((index >= 0) & (index < size)).all())
    if not is_valid or not np.isfinite(maps.maps).all() or not ((maps.boxes >= 0) & (maps.boxes <= 1)).all():
        raise RecordError(f"{path} contains arrays with inconsistent shapes or invalid values: {RUN_AGAIN}")


def _are_arrays(maps: HeatmapSet) -> bool:
    """Return whether each array has the expected type and number of dimensions."""
    types = {name: f"{array.dtype.kind}{array.ndim}" for name, array in maps._asdict().items() if name in ARRAYS}
    return types == ARRAYS and 0 not in maps.maps.shape[2:] and maps.image_id.shape == maps.patient_id.shape
