"""Artifacts of a record: the score table (`scores.parquet`), and the heatmaps and boxes (`maps.npz`).

Every number in a record follows from these two files: scores.py and heatmaps.py compute them when a record is written
and again when it is verified.
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

# The score table of all images of ChestX-ray14 has 4 million cells and 35 MB; the heatmaps of its boxed images 2 MB.
MAX_CELLS, MAX_BYTES = 100_000_000, 512 * 2**20
ID_COLUMNS = ("image_id", "patient_id", "split")
LABEL, SCORE = "label ", "score "


class HeatmapSet(NamedTuple):
    """Heatmaps of the N test images that have boxes, and their M boxes: the input of the localization metrics.

    Attributes:
        kind: which maps they are, as text: the method's own, or Grad-CAM.
        maps: float16 (N, C, h, w), of the center crop, each normalized to 0..1.
        image_id, patient_id: text (N,).
        box_image, box_finding: int32 (M,), indices into the N images and C findings.
        boxes: float64 (M, 4): x, y, w, h as fractions of the full image.
    """

    kind: str
    maps: np.ndarray
    image_id: np.ndarray
    patient_id: np.ndarray
    box_image: np.ndarray
    box_finding: np.ndarray
    boxes: np.ndarray

    def truth(self) -> Boxes:
        """Return the true boxes, as the localization metrics take them."""
        return Boxes(self.box_image, self.box_finding, self.boxes, self.patient_id)


def label_column(finding: str) -> str:
    """Return the name of a finding's label column in the score table."""
    return f"{LABEL}{finding}"


def score_column(finding: str) -> str:
    """Return the name of a finding's score column in the score table."""
    return f"{SCORE}{finding}"


def findings_of(table: pd.DataFrame) -> list[str]:
    """Return the findings that a score table has labels of, in order."""
    return [name.removeprefix(LABEL) for name in map(str, table.columns) if name.startswith(LABEL)]


def traits_of(table: pd.DataFrame) -> list[str]:
    """Return the columns of a score table that describe patients or images: sex, age, view, ..."""
    names = map(str, table.columns)
    return [name for name in names if name not in ID_COLUMNS and not name.startswith((LABEL, SCORE))]


def score_table(index: Index, rows: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """Build the table that every AUC is computed from.

    Args:
        index: images, patients, splits and labels.
        rows: row numbers of the scored images (n,).
        scores: log-odds (n, C), finite.

    Returns:
        One row per image: the ID_COLUMNS, the traits of the index, a label column (1, 0 or NaN) per finding, a score
        column per finding. Other columns of the index are not published: they may identify patients.
    """
    images = index.images.iloc[rows]
    names = images[list(ID_COLUMNS)].astype(str).reset_index(drop=True)
    names = names.join(images[list(index.traits)].reset_index(drop=True))
    labels = pd.DataFrame(index.targets()[rows], columns=[label_column(finding) for finding in index.findings])
    logits = pd.DataFrame(scores, columns=[score_column(finding) for finding in index.findings])
    return pd.concat([names, labels, logits], axis=1)


def boxed_rows(index: Index) -> np.ndarray:
    """Return the row numbers of the test images that have a box."""
    rows = index.rows("test")
    if index.boxes.empty:
        return rows[:0]
    return rows[index.images["image_id"].iloc[rows].isin(index.boxes["image_id"]).to_numpy()]


def build_heatmap_set(index: Index, rows: np.ndarray, maps: np.ndarray, kind: str) -> HeatmapSet:
    """Combine heatmaps (n, C, h, w), on any scale, of the images `rows` (n,) with the boxes of these images."""
    images = index.images.iloc[rows]
    position = {name: k for k, name in enumerate(images["image_id"])}
    boxes = index.boxes[index.boxes["image_id"].isin(position)]
    return HeatmapSet(
        kind,
        _normalize(maps).astype(np.float16),  # first: probabilities of a rare finding are too small for 16 bits
        images["image_id"].to_numpy(str),
        images["patient_id"].to_numpy(str),
        boxes["image_id"].map(position).to_numpy(np.int32),
        boxes["finding"].map({finding: c for c, finding in enumerate(index.findings)}).to_numpy(np.int32),
        boxes[["x", "y", "w", "h"]].to_numpy(np.float64),
    )


def save_heatmaps(maps: HeatmapSet, path: Path) -> None:
    """Write a compressed .npz of plain arrays. Raises UserError if it cannot be written."""
    packed = BytesIO()
    np.savez_compressed(packed, **maps._asdict())
    write_atomic(path, packed.getvalue())


def load_heatmaps(path: Path) -> HeatmapSet:
    """Read `maps.npz`; nothing is unpickled.

    Raises:
        ValueError: too large, or an array claims to be larger than it is.
        Exception: whatever zipfile and numpy raise for another kind of file.
    """
    _check_size(path)
    with np.load(path, allow_pickle=False) as file:
        parts = {name: file[name] for name in HeatmapSet._fields}
    return HeatmapSet(**{**parts, "kind": str(parts["kind"])})


def _check_size(path: Path) -> None:
    """Check the claimed sizes before anything is allocated. Raises ValueError."""
    with ZipFile(path) as file:
        entries = [file.getinfo(f"{name}.npy") for name in HeatmapSet._fields]
        for entry in entries:
            with file.open(entry) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(member)
            if math.prod(shape) * dtype.itemsize > entry.file_size:
                raise ValueError(f"{entry.filename} claims to be larger than it is")
        if sum(entry.file_size for entry in entries) > MAX_BYTES:
            raise ValueError(f"it holds more than {MAX_BYTES >> 20} MiB")


def load_scores(path: Path) -> pd.DataFrame:
    """Read `scores.parquet`.

    Raises:
        ValueError: too large.
        Exception: whatever pyarrow and pandas raise for another kind of file.
    """
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        size = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
        if metadata.num_rows * metadata.num_columns > MAX_CELLS or size > MAX_BYTES:
            raise ValueError(f"it holds more than {MAX_CELLS:,} cells or {MAX_BYTES >> 20} MiB")
    return pd.read_parquet(path)


def heatmaps_sha256(maps: HeatmapSet) -> str:
    """Return the SHA-256 over all arrays: equal for equal heatmaps and boxes, however they were compressed."""
    digest = hashlib.sha256(maps.kind.encode())
    for name, part in maps._asdict().items():
        if isinstance(part, np.ndarray):
            digest.update(f"{name} {part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def image_list_sha256(images: Iterable[str]) -> str:
    """Return the SHA-256 over the sorted image ids, joined by line feeds: the identity of a list of images."""
    return hashlib.sha256("\n".join(sorted(images)).encode()).hexdigest()


def ground_truth_sha256(table: pd.DataFrame) -> str:
    """Return the SHA-256 over images, patients, splits and labels: equal where two runs were scored on the same."""
    truth = table[[*ID_COLUMNS, *map(label_column, findings_of(table))]]
    return hashlib.sha256(truth.sort_values("image_id").to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def boxes_sha256(maps: HeatmapSet) -> str:
    """Return the SHA-256 over the true boxes alone: equal where two runs were localized against the same boxes."""
    boxes = zip(maps.image_id[maps.box_image], maps.box_finding.tolist(), maps.boxes.tolist(), strict=True)
    return hashlib.sha256(
        "\n".join(sorted(f"{image} {finding} {box}" for image, finding, box in boxes)).encode()
    ).hexdigest()


def _normalize(maps: np.ndarray) -> np.ndarray:
    """Scale each map to 0..1, which changes no metric; a map without contrast becomes 0."""
    flat = maps.astype(np.float64).reshape(-1, *maps.shape[2:])
    return (normalize(flat) / 255).reshape(maps.shape)
