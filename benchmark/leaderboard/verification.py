"""What the leaderboard needs of a record, computed from its evidence; kept under the hash of all that it follows from.

Computing takes a good part of a second a record. The key of what is kept is the content of the record's files and of
this package's code, so a changed byte in any of them computes anew; an entry that was changed itself is not used.
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ... import ROOT
from ..evaluation import artifacts
from ..records import record as records
from ..records.checks import verify_record
from ..records.provenance import Origin, origin
from ..records.schema import Part, Record, SecondaryMetrics, Sha256
from ..utils.files import file_sha256

NUMERIC = ("numpy", "scipy", "pandas", "pyarrow")  # their versions may move a last digit


class Verified(Part):
    """What follows from a record's evidence, beside the numbers that the record holds and that were found to follow."""

    truth: Sha256  # of the scored images with patients and labels; of scores from elsewhere, the test images alone
    test: Sha256  # of the list of test images
    boxes: Sha256 | None  # of the boxes it was localised against
    origin: Origin
    statistics: SecondaryMetrics
    draws: Annotated[list[float | None], Field(min_length=1)]  # mean AUC in each draw of patients; null if undefined

    def drawn(self) -> np.ndarray:
        """The draws, NaN where undefined: (R,)."""
        return np.array([np.nan if value is None else value for value in self.draws])


def verify_cached(folder: Path, record: Record, kept: Path | None = None) -> Verified:
    """Check a record against its evidence and its dataset.

    Args:
        folder: holds the record and its evidence.
        record: as read from there.
        kept: the folder of what was computed before; None computes everything.

    Raises:
        RecordError: the record does not follow from its evidence, or calls its labels or images what they are not.
    """
    if kept is None:
        return _compute(folder, record)
    path = kept / f"{_key(folder)}.json"
    found = _load(path)
    if found is None:
        found = _compute(folder, record)
        _save(path, found)
    return found


def _compute(folder: Path, record: Record) -> Verified:
    table, maps, statistics, draws = verify_record(folder, record)
    tested = table[table["split"] == "test"]
    return Verified(
        truth=artifacts.ground_truth_sha256(table if record.submission is None else tested),
        test=artifacts.image_list_sha256(tested["image_id"]),
        boxes=None if maps is None else artifacts.boxes_sha256(maps),
        origin=origin(folder, record, table),
        statistics=statistics,
        draws=[None if np.isnan(value) else value for value in draws.tolist()],
    )


def _load(path: Path) -> Verified | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("checksum") != records.checksum(content):
            return None
        return Verified.model_validate(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _save(path: Path, found: Verified) -> None:
    """Whole or not at all; where nothing can be kept, the next call computes again."""
    content: dict[str, Any] = found.model_dump(mode="json")
    content["checksum"] = records.checksum(content)
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)
    except OSError:
        return


def _key(folder: Path) -> str:
    """SHA-256 over the record's files and the code that judges them."""
    digest = hashlib.sha256(_code().encode())
    for path in (folder / name for name in ("run.json", "scores.parquet", "maps.npz")):
        digest.update(f"{path.name} {file_sha256(path) if path.is_file() else None}".encode())
    return digest.hexdigest()


@cache
def _code() -> str:
    """SHA-256 over this package's sources and the versions of what it computes with."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in NUMERIC).encode())
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for wing in ("benchmark", "datasets"):
        yield from sorted((ROOT / wing).rglob("*.py"))
