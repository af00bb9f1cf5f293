"""Whether a record's evidence has the form that its numbers can be computed from."""

from pathlib import Path

import numpy as np
import pandas as pd

from .dataset import MOST_YEARS, TRAITS, split_sha256
from .evidence import Maps
from .record_text import RecordError
from .schema import Record


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


def check_arrays(folder: Path, record: Record, table: pd.DataFrame, maps: Maps) -> None:
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
    return fits and pd.api.types.is_numeric_dtype(ages) and bool((ages.between(0, MOST_YEARS) | ages.isna()).all())


def _are_arrays(maps: Maps) -> bool:
    """Each array has the kind of numbers, and as many sides, as it must."""
    kinds = {"maps": "f4", "image_id": "U1", "patient_id": "U1", "box_image": "i1", "box_finding": "i1", "boxes": "f2"}
    found = {name: f"{array.dtype.kind}{array.ndim}" for name, array in maps._asdict().items() if name in kinds}
    return found == kinds and 0 not in maps.maps.shape[2:] and maps.image_id.shape == maps.patient_id.shape
