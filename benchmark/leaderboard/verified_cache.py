"""Verification of records for the leaderboard, cached under the hash of everything that the result depends on.

Verifying takes a good part of a second per record. The cache key covers the content of the record's files and the code
of this package, so that any changed byte leads to a new verification; an entry that was changed itself is not used.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ... import ROOT
from ..evaluation import artifacts
from ..records import record as records
from ..records.provenance import Origin, origin
from ..records.recompute import verify_record
from ..records.schema import Part, Record, SecondaryMetrics, Sha256
from ..utils.errors import UserError
from ..utils.files import file_sha256, write_atomic

NUMERIC = ("numpy", "scipy", "pandas", "pyarrow")  # another version of these may change a last digit


class Verified(Part):
    """Values recomputed from a record's artifacts that the record itself does not hold."""

    ground_truth: Sha256  # of the scored images with patients and labels; of external predictions, of the test images
    test: Sha256  # of the list of test images
    boxes: Sha256 | None  # of the boxes it was localized against
    origin: Origin
    secondary_metrics: SecondaryMetrics
    replicates: Annotated[list[float | None], Field(min_length=1)]  # mean AUC per bootstrap replicate; null: undefined

    def bootstrap(self) -> np.ndarray:
        """Return the mean AUC of each bootstrap replicate (R,), NaN where undefined."""
        return np.array([np.nan if value is None else value for value in self.replicates])


def verify_cached(folder: Path, record: Record, cache_folder: Path | None = None) -> Verified:
    """Verify a record against its artifacts and its dataset.

    Args:
        folder: holds the record and its artifacts.
        record: as read from there.
        cache_folder: where results are cached; None recomputes everything.

    Raises:
        RecordError: the record does not follow from its artifacts, or misnames its labels or images.
    """
    if cache_folder is None:
        return _compute(folder, record)
    path = cache_folder / f"{_key(folder)}.json"
    verified = _load(path)
    if verified is None:
        verified = _compute(folder, record)
        _save(path, verified)
    return verified


def _compute(folder: Path, record: Record) -> Verified:
    verified = verify_record(folder, record)
    table, maps = verified.table, verified.maps
    tested = table[table["split"] == "test"]
    return Verified(
        ground_truth=artifacts.ground_truth_sha256(table if record.submission is None else tested),
        test=artifacts.image_list_sha256(tested["image_id"]),
        boxes=None if maps is None else artifacts.boxes_sha256(maps),
        origin=origin(folder, record, table),
        secondary_metrics=verified.secondary_metrics,
        replicates=[None if np.isnan(value) else value for value in verified.replicates.tolist()],
    )


def _load(path: Path) -> Verified | None:
    """Read a cache entry; None where it is missing, damaged, or was changed after it was written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("checksum") != records.checksum(content):
            return None
        return Verified.model_validate(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _save(path: Path, verified: Verified) -> None:
    """Write a cache entry; a cache that cannot be written only costs time at the next call."""
    content: dict[str, Any] = verified.model_dump(mode="json")
    content["checksum"] = records.checksum(content)
    with suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(content).encode())


def _key(folder: Path) -> str:
    """Hash the record's files and the code that evaluates them."""
    digest = hashlib.sha256(_code().encode())
    for path in (folder / name for name in (records.RECORD_FILE, records.SCORES_FILE, records.MAPS_FILE)):
        digest.update(f"{path.name} {file_sha256(path) if path.is_file() else None}".encode())
    return digest.hexdigest()


@cache
def _code() -> str:
    """Hash this package's sources and the versions of the libraries it computes with."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in NUMERIC).encode())
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for wing in ("benchmark", "datasets"):
        yield from sorted((ROOT / wing).rglob("*.py"))
