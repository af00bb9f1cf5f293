"""Verify records for the leaderboard, and cache the results.

Verification takes up to a second per record. The cache key is a hash of the record's files and of the source code of
this package and of the record's dataset, so any change leads to a new verification. Entries that do not match their
checksum are ignored.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field

from ..evaluation import artifacts
from ..metrics.intervals import Statistic
from ..records import record as records
from ..records.provenance import Origin, dataset_source, origin
from ..records.recompute import verify_record
from ..records.schema import Part, Record, SecondaryMetrics, Sha256
from ..utils.errors import UserError
from ..utils.files import file_sha256, write_atomic
from ..utils.package import ROOT
from ..utils.paths import regular

NUMERIC = ("numpy", "scipy", "pandas", "pyarrow")  # a different version may change the last digit of a result


class StatisticPart(Part):
    """A metric, its value in each bootstrap replicate, and the number of patients that it depends on."""

    value: float | None  # null if undefined
    replicates: Annotated[list[float | None], Field(min_length=1)]
    patients: int

    @classmethod
    def of(cls, statistic: Statistic) -> Self:
        """Convert a statistic."""
        value, *replicates = (None if np.isnan(x) else x for x in [statistic.value, *statistic.replicates.tolist()])
        return cls(value=value, replicates=replicates, patients=statistic.patients)

    def to_statistic(self) -> Statistic:
        """Convert to a statistic."""
        value, *replicates = (np.nan if x is None else x for x in (self.value, *self.replicates))
        return Statistic(value, np.array(replicates), self.patients)


class Verified(Part):
    """Values recomputed from the artifacts of a record that the leaderboard needs besides the record."""

    ground_truth: Sha256  # hash of scored images, patients and labels; for external predictions, of the test split
    test: Sha256  # hash of the list of test images
    boxes: Sha256 | None  # hash of the ground-truth boxes; None without localization
    origin: Origin
    secondary_metrics: SecondaryMetrics
    statistics: dict[str, StatisticPart]

    def statistic(self, name: str) -> Statistic | None:
        """Return a metric for intervals over several runs, see `evaluation.scores.Statistics`; None if it has none."""
        return self._arrays.get(name)

    @cached_property
    def _arrays(self) -> dict[str, Statistic]:
        """The statistics with arrays, converted once: a board reads them for every pair of rows."""
        return {name: part.to_statistic() for name, part in self.statistics.items()}


def verify_cached(folder: Path, record: Record, cache_folder: Path | None = None) -> Verified:
    """Verify a record against its artifacts and its dataset.

    Args:
        folder: folder of the record and its artifacts.
        record: record in the folder.
        cache_folder: folder of cached results; None to recompute everything.

    Raises:
        RecordError: if the record does not match its artifacts, or its labels or images differ from those it states.
    """
    if cache_folder is None:
        return _compute(folder, record)
    path = cache_folder / f"{_key(folder, record)}.json"
    verified = _load(path)
    if verified is None:
        verified = _compute(folder, record)
        _save(path, verified)
    return verified


def _compute(folder: Path, record: Record) -> Verified:
    verified = verify_record(folder, record)
    table, maps = verified.table, verified.maps
    test = table[table["split"] == "test"]
    return Verified(
        ground_truth=artifacts.ground_truth_sha256(table if record.submission is None else test),
        test=artifacts.image_list_sha256(test["image_id"]),
        boxes=None if maps is None else artifacts.boxes_sha256(maps),
        origin=origin(folder, record, table),
        secondary_metrics=verified.secondary_metrics,
        statistics={name: StatisticPart.of(statistic) for name, statistic in verified.statistics.items()},
    )


def _load(path: Path) -> Verified | None:
    """Read a cache entry; None if it is missing, invalid, or does not match its checksum."""
    try:
        content = json.loads(regular(path).read_text(encoding="utf-8"))
        if content.pop("checksum") != records.checksum(content):
            return None
        return Verified.model_validate(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _save(path: Path, verified: Verified) -> None:
    """Write a cache entry; errors are ignored, because the result can be recomputed."""
    content: dict[str, Any] = verified.model_dump(mode="json")
    content["checksum"] = records.checksum(content)
    with suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(content).encode())


def _key(folder: Path, record: Record) -> str:
    """Return the hash of the record's files and of the code that evaluates them, which includes its dataset's."""
    digest = hashlib.sha256(f"{_code()} {dataset_source(record)}".encode())
    for path in (folder / name for name in (records.RECORD_FILE, records.SCORES_FILE, records.MAPS_FILE)):
        digest.update(f"{path.name} {file_sha256(path) if path.is_file() else None}".encode())
    return digest.hexdigest()


@cache
def _code() -> str:
    """Return the hash of the sources of this package and the versions of the numeric libraries."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in NUMERIC).encode())
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    for wing in ("benchmark", "datasets"):
        yield from sorted((ROOT / wing).rglob("*.py"))
