"""What a record's numbers are computed from: the scores in `scores.parquet`, the heatmaps and boxes in `maps.npz`.

judge_scores.py and judge_maps.py compute the numbers, when a record is made and when it is checked.
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

# All images of ChestX-ray14 with scores and labels are 4 million cells and 35 MB, the heatmaps of its boxed ones 2 MB.
MAX_CELLS, MAX_BYTES = 100_000_000, 512 * 2**20


class HeatmapSet(NamedTuple):
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

    The traits of the index follow the split.

    Args:
        index: where the images, patients and labels stand.
        rows: row numbers of the scored images (n,).
        scores: log-odds (n, C), finite.
    """
    images = index.images.iloc[rows]
    names = images[["image_id", "patient_id", "split"]].astype(str).reset_index(drop=True)
    names = names.join(images[list(index.traits)].reset_index(drop=True))
    labels = pd.DataFrame(index.targets()[rows], columns=[f"label {finding}" for finding in index.findings])
    return pd.concat([names, labels, pd.DataFrame(scores, columns=[f"score {f}" for f in index.findings])], axis=1)


def boxed_rows(index: Index) -> np.ndarray:
    """Row numbers of the test images that have a box."""
    rows = index.rows("test")
    if index.boxes.empty:
        return rows[:0]
    return rows[index.images["image_id"].iloc[rows].isin(index.boxes["image_id"]).to_numpy()]


def build_heatmap_set(index: Index, rows: np.ndarray, maps: np.ndarray, kind: str) -> HeatmapSet:
    """Heatmaps (n, C, h, w), on any scale, of the images `rows` (n,), and the boxes on them."""
    images = index.images.iloc[rows]
    position = {name: k for k, name in enumerate(images["image_id"])}
    boxes = index.boxes[index.boxes["image_id"].isin(position)]
    return HeatmapSet(
        kind,
        _scaled(maps).astype(np.float16),  # scaled first: a rare finding's probabilities are too small for 16 bits
        images["image_id"].to_numpy(str),
        images["patient_id"].to_numpy(str),
        boxes["image_id"].map(position).to_numpy(np.int32),
        boxes["finding"].map({finding: c for c, finding in enumerate(index.findings)}).to_numpy(np.int32),
        boxes[["x", "y", "w", "h"]].to_numpy(np.float64),
    )


def save_heatmaps(maps: HeatmapSet, path: Path) -> None:
    """Write them as a compressed .npz of plain arrays. Raises UserError: no room."""
    packed = BytesIO()
    np.savez_compressed(packed, **maps._asdict())
    write_atomic(path, packed.getvalue())


def load_heatmaps(path: Path) -> HeatmapSet:
    """Read them; nothing is unpickled. Raises whatever zipfile and numpy do for a file that is something else."""
    _check_size(path)
    with np.load(path, allow_pickle=False) as file:
        parts = {name: file[name] for name in HeatmapSet._fields}
    return HeatmapSet(**{**parts, "kind": str(parts["kind"])})


def _check_size(path: Path) -> None:
    """Before anything is allocated: what the file claims to hold, and its arrays to be. Raises ValueError."""
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
    """The score table. Raises whatever pyarrow and pandas do for a file that is something else."""
    with pq.ParquetFile(path) as file:
        held = file.metadata
        size = sum(held.row_group(k).total_byte_size for k in range(held.num_row_groups))
        if held.num_rows * held.num_columns > MAX_CELLS or size > MAX_BYTES:
            raise ValueError(f"it holds more than {MAX_CELLS:,} cells or {MAX_BYTES >> 20} MiB")
    return pd.read_parquet(path)


def heatmaps_sha256(maps: HeatmapSet) -> str:
    """SHA-256 over all arrays: equal for equal heatmaps and boxes, however they were compressed."""
    digest = hashlib.sha256(maps.kind.encode())
    for name, part in maps._asdict().items():
        if isinstance(part, np.ndarray):
            digest.update(f"{name} {part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def image_list_sha256(images: Iterable[str]) -> str:
    """SHA-256 over the sorted ids of the test images, joined by line feeds: which list of images it is."""
    return hashlib.sha256("\n".join(sorted(images)).encode()).hexdigest()


def ground_truth_sha256(table: pd.DataFrame) -> str:
    """SHA-256 over images with patient, split and labels: equal where two runs were asked the same."""
    asked = table[["image_id", "patient_id", "split", *(name for name in table if name.startswith("label "))]]
    return hashlib.sha256(asked.sort_values("image_id").to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def boxes_sha256(maps: HeatmapSet) -> str:
    """SHA-256 over the boxes, whatever was found on the heatmaps: equal where two runs were asked the same."""
    boxes = zip(maps.image_id[maps.box_image], maps.box_finding.tolist(), maps.boxes.tolist(), strict=True)
    return hashlib.sha256(
        "\n".join(sorted(f"{image} {finding} {box}" for image, finding, box in boxes)).encode()
    ).hexdigest()


def _scaled(maps: np.ndarray) -> np.ndarray:
    """Each map from 0 to 1, which changes no score; one without contrast is 0."""
    flat = maps.astype(np.float64).reshape(-1, *maps.shape[2:])
    return (normalize(flat) / 255).reshape(maps.shape)
