"""Artifacts of a record: the score table (`scores.parquet`), and the heatmaps and boxes (`maps.npz`).

Every metric in a record is computed from these two files: scores.py and localization.py compute the metrics when a
record is written and again when it is verified.
"""

import hashlib
import math
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ..dataset import Index
from ..metrics.localization import Boxes, normalize
from ..utils.files import write_atomic
from ..utils.paths import regular

# The score table of all images of ChestX-ray14 has 4 million cells and 35 MB; the heatmaps of its boxed images 2 MB.
MAX_CELLS, MAX_BYTES = 100_000_000, 512 * 2**20
ID_COLUMNS = ("image_id", "patient_id", "split")
LABEL, SCORE = "label ", "score "


class HeatmapSet(NamedTuple):
    """Heatmaps of the N test images that have boxes, and their M boxes: the input of the localization metrics.

    Attributes:
        kind: source of the heatmaps: the method's maps, or Grad-CAM.
        maps: heatmaps of the center crop, float16 (N, C, h, w), each normalized to 0..1.
        image_id, patient_id: strings (N,).
        box_image, box_finding: image and finding of each box, int32 (M,), indices into the N images and C findings.
        boxes: x, y, w, h of each box as fractions of the full image, float64 (M, 4).
    """

    kind: str
    maps: np.ndarray
    image_id: np.ndarray
    patient_id: np.ndarray
    box_image: np.ndarray
    box_finding: np.ndarray
    boxes: np.ndarray

    def truth(self) -> Boxes:
        """Return the ground-truth boxes in the form that the localization metrics expect."""
        return Boxes(self.box_image, self.box_finding, self.boxes, self.patient_id)


def label_column(finding: str) -> str:
    """Return the name of a finding's label column in the score table."""
    return f"{LABEL}{finding}"


def score_column(finding: str) -> str:
    """Return the name of a finding's score column in the score table."""
    return f"{SCORE}{finding}"


def findings_of(table: pd.DataFrame) -> list[str]:
    """Return the findings with a label column in a score table, in the order of the columns."""
    return [name.removeprefix(LABEL) for name in map(str, table.columns) if name.startswith(LABEL)]


def traits_of(table: pd.DataFrame) -> list[str]:
    """Return the columns of a score table that describe patients or images: sex, age, view, ..."""
    names = map(str, table.columns)
    return [name for name in names if name not in ID_COLUMNS and not name.startswith((LABEL, SCORE))]


def score_table(index: Index, rows: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """Build the table that every AUC is computed from.

    Args:
        index: images, patients, splits and labels of the dataset.
        rows: row numbers of the scored images in the index (n,).
        scores: log-odds (n, C), finite.

    Returns:
        One row per image: the ID_COLUMNS, the traits of the index, a label column (1, 0 or NaN) per finding, and a
        score column per finding. Other columns of the index may identify patients and are not included.
    """
    images = index.images.iloc[rows]
    names = images[list(ID_COLUMNS)].astype(str).reset_index(drop=True)
    names = names.join(images[list(index.traits)].reset_index(drop=True))
    labels = pd.DataFrame(index.targets()[rows], columns=[label_column(finding) for finding in index.findings])
    logits = pd.DataFrame(scores, columns=[score_column(finding) for finding in index.findings])
    return pd.concat([names, labels, logits], axis=1)


def boxed_rows(index: Index) -> np.ndarray:
    """Return the row numbers of the test images that have at least one box."""
    rows = index.rows("test")
    if index.boxes.empty:
        return rows[:0]
    return rows[index.images["image_id"].iloc[rows].isin(index.boxes["image_id"]).to_numpy()]


def build_heatmap_set(index: Index, rows: np.ndarray, maps: np.ndarray, kind: str) -> HeatmapSet:
    """Combine heatmaps with the ground-truth boxes of the same images.

    Args:
        index: images and boxes of the dataset.
        rows: row numbers of the images in the index (n,).
        maps: heatmaps (n, C, h, w), on any scale.
        kind: source of the heatmaps, see `HeatmapSet`.
    """
    images = index.images.iloc[rows]
    position = {name: k for k, name in enumerate(images["image_id"])}
    boxes = index.boxes[index.boxes["image_id"].isin(position)]
    return HeatmapSet(
        kind,
        _normalize(maps).astype(np.float16),  # normalized first: probabilities of a rare finding underflow float16
        images["image_id"].to_numpy(str),
        images["patient_id"].to_numpy(str),
        boxes["image_id"].map(position).to_numpy(np.int32),
        boxes["finding"].map({finding: c for c, finding in enumerate(index.findings)}).to_numpy(np.int32),
        boxes[["x", "y", "w", "h"]].to_numpy(np.float64),
    )


def save_heatmaps(maps: HeatmapSet, path: Path) -> None:
    """Write the heatmaps as a compressed .npz of plain arrays. Raises UserError if the file cannot be written."""
    packed = BytesIO()
    np.savez_compressed(packed, **maps._asdict())
    write_atomic(path, packed.getvalue())


def load_heatmaps(path: Path) -> HeatmapSet:
    """Read `maps.npz` without unpickling anything.

    Raises:
        ValueError: if the file is too large, or the header of an array states a larger size than the file contains.
        Exception: anything that zipfile and numpy raise for an invalid file.
    """
    _check_size(path)
    with np.load(regular(path), allow_pickle=False) as file:
        parts = {name: file[name] for name in HeatmapSet._fields}
    return HeatmapSet(**{**parts, "kind": str(parts["kind"])})


def _check_size(path: Path) -> None:
    """Check the stated sizes before any array is allocated. Raises ValueError if they are inconsistent or too large."""
    with ZipFile(regular(path)) as file:
        entries = [file.getinfo(f"{name}.npy") for name in HeatmapSet._fields]
        for entry in entries:
            with file.open(entry) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
            if math.prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError(f"the header of {entry.filename} states a larger size than the file contains")
        if sum(entry.file_size for entry in entries) > MAX_BYTES:
            raise ValueError(f"it contains more than {MAX_BYTES >> 20} MiB")


def load_scores(path: Path) -> pd.DataFrame:
    """Read `scores.parquet`.

    Raises:
        ValueError: if the table is too large.
        Exception: anything that pyarrow and pandas raise for an invalid file.
    """
    with regular(path).open("rb") as file:  # pyarrow takes no path that is not UTF-8
        metadata = pq.ParquetFile(file).metadata
        size = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
        if metadata.num_rows * metadata.num_columns > MAX_CELLS or size > MAX_BYTES:
            raise ValueError(f"it contains more than {MAX_CELLS:,} cells or {MAX_BYTES >> 20} MiB")
        file.seek(0)
        return pd.read_parquet(file)


def heatmaps_sha256(maps: HeatmapSet) -> str:
    """Return the SHA-256 of all arrays, which does not depend on the compression of the file."""
    digest = hashlib.sha256(maps.kind.encode())
    for name, part in maps._asdict().items():
        if isinstance(part, np.ndarray):
            digest.update(f"{name} {part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def image_list_sha256(images: Iterable[str]) -> str:
    """Return the SHA-256 of the sorted image ids, joined by line feeds; it identifies a list of images."""
    return hashlib.sha256("\n".join(sorted(images)).encode()).hexdigest()


def ground_truth_sha256(table: pd.DataFrame) -> str:
    """Return the SHA-256 of images, patients, splits and labels; it is equal for runs scored on the same data."""
    truth = table[[*ID_COLUMNS, *map(label_column, findings_of(table))]]
    return hashlib.sha256(truth.sort_values("image_id").to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def boxes_sha256(maps: HeatmapSet) -> str:
    """Return the SHA-256 of the ground-truth boxes; it is equal for runs evaluated on the same boxes."""
    boxes = zip(maps.image_id[maps.box_image], maps.box_finding.tolist(), maps.boxes.tolist(), strict=True)
    return hashlib.sha256(
        "\n".join(sorted(f"{image} {finding} {box}" for image, finding, box in boxes)).encode()
    ).hexdigest()


def _normalize(maps: np.ndarray) -> np.ndarray:
    """Scale each map to 0..1, which changes no metric; a constant map becomes 0."""
    flat = maps.astype(np.float64).reshape(-1, *maps.shape[2:])
    return (normalize(flat) / 255).reshape(maps.shape)
