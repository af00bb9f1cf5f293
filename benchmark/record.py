"""What a run leaves behind: `results/<dataset>/<method>/<run id>/` with `run.json`, its evidence and its figures.

The evidence is `scores.parquet` and, where the test set has boxes, `maps.npz`; the figures are `roc.png`,
`reliability.png` and `heatmaps.png`; schema.py says what `run.json` holds. A record is never believed: its checksum
finds a changed character, and `verify` computes every AUC and every localisation score again from the evidence.
"""

import filecmp
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from . import evidence
from .errors import first_few
from .evidence import Maps
from .evidence_checks import check_arrays, check_rows
from .files import told, write_whole
from .judge_maps import judge_maps
from .judge_scores import judge_scores, judge_statistics
from .options import make
from .recipe import Evaluate, Pixels
from .record_text import RecordError, checksum, load, parse
from .schema import SCHEMA, Record, StatisticsPart

OF_MAPS = ("maps.npz", "heatmaps.png")
FILES = ("run.json", "scores.parquet", "roc.png", "reliability.png", *OF_MAPS)
TOLERANCE = 1e-9  # between a recorded and a recomputed number


def write(folder: Path, fields: dict[str, Any], table: pd.DataFrame, maps: Maps | None) -> Record:
    """Write evidence and record; `fields` is the record but for schema, judgement, scores and checksum.

    `run.json` comes last and whole: where it stands, the run is finished.
    """
    write_whole(folder / "scores.parquet", table.to_parquet(index=False))
    scores = {"file": "scores.parquet", "sha256": file_sha256(folder / "scores.parquet")}
    resamples = resamples_of(fields["recipe"])
    judged = {**judge_scores(table, resamples).keys, "statistics": judge_statistics(table, resamples)}
    content = {"schema": SCHEMA, **fields, **judged, "localization": None, "scores": scores}
    if maps is not None:
        evidence.save_maps(maps, folder / "maps.npz")
        localized = judge_maps(maps, list(judged["auc"]), fields["recipe"]["pixels"], resamples)
        content["localization"] = {**localized, "file": "maps.npz", "sha256": evidence.maps_sha256(maps)}
    content["checksum"] = checksum(content)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    record = parse(text, folder / "run.json", Record, SCHEMA)
    write_whole(folder / "run.json", text.encode())
    return record


def read(folder: Path, unchanged: bool = True) -> Record:
    """The record in `folder`. Raises RecordError: not there, another schema, wrong keys or values, changed by hand.

    With `unchanged` false, one that was changed by hand is read as well: to find out what in it does not hold.
    """
    return load(folder / "run.json", Record, SCHEMA, unchanged)


def read_scores(folder: Path, record: Record) -> pd.DataFrame:
    """The score table of a record. Raises RecordError if it is not the file that the record names."""
    path = folder / record.scores.file
    if not path.is_file():
        raise RecordError(f"{path} is missing: the record beside it cannot be checked without it")
    if file_sha256(path) != record.scores.sha256:
        raise RecordError(f"{path} is not the file that the record was made from: run again or restore it")
    return load_scores(path)


def load_scores(path: Path) -> pd.DataFrame:
    """The score table in a file, whoever wrote it. Raises RecordError if it cannot be read."""
    try:
        return evidence.load_scores(path)
    except Exception as error:  # a broken file makes pyarrow and pandas raise whatever they meet
        raise RecordError(f"{path} cannot be read ({error}): run again or restore it") from error


def read_maps(folder: Path, record: Record) -> Maps | None:
    """The heatmaps of a record, None if it has none. Raises RecordError if they are not those that it names."""
    if record.localization is None:
        return None
    path = folder / record.localization.file
    try:
        maps = evidence.load_maps(path)
    except Exception as error:  # a broken file makes zipfile and numpy raise whatever they meet
        raise RecordError(f"{path} cannot be read ({error}): run again or restore it") from error
    if evidence.maps_sha256(maps) != record.localization.sha256:
        raise RecordError(f"{path} is not the file that the record was made from: run again or restore it")
    return maps


class Evidence(NamedTuple):
    """What a record's numbers follow from, and those of them that early records do not hold.

    Attributes:
        table: the scores.
        maps: the heatmaps; None where nothing was localised.
        statistics: as in the record.
        draws: the mean AUC in each draw of patients (R,), NaN where undefined.
    """

    table: pd.DataFrame
    maps: Maps | None
    statistics: StatisticsPart
    draws: np.ndarray


def verify(folder: Path, record: Record) -> Evidence:
    """Compute every score and interval again; the evidence. Raises RecordError where the record says otherwise."""
    table = read_scores(folder, record)
    check_rows(folder, record, table)
    statistics, draws = check_scores(folder, record, table)
    maps = read_maps(folder, record)
    if maps is not None:
        check_maps(folder, record, table, maps)
    return Evidence(table, maps, statistics, draws)


def check_scores(folder: Path, record: Record, table: pd.DataFrame) -> tuple[StatisticsPart, np.ndarray]:
    """Compute all that follows from the scores: statistics and draws. Raises RecordError where the record differs."""
    resamples = resamples_of(record.recipe)
    again, draws = judge_scores(table, resamples)
    _compare(folder, record.model_dump(include=set(again)), again)
    statistics = judge_statistics(table, resamples)
    if record.statistics is not None:
        _compare(folder, {"statistics": record.statistics.model_dump()}, {"statistics": statistics})
    return StatisticsPart.model_validate(statistics), draws


def check_maps(folder: Path, record: Record, table: pd.DataFrame, maps: Maps) -> None:
    """Compute the localisation from the heatmaps. Raises RecordError where the record says otherwise."""
    check_arrays(folder, record, table, maps)
    pixels = make(Pixels, record.recipe["pixels"], "pixels.")
    localized = judge_maps(maps, list(record.auc), vars(pixels), resamples_of(record.recipe))
    _compare(folder, record.localization.model_dump(exclude={"file", "sha256"}), localized)


def resamples_of(recipe: Mapping[str, Any] | None) -> int:
    """How many draws of patients the intervals are from: the recipe's, or the default for scores from elsewhere."""
    return Evaluate.resamples if recipe is None else make(Evaluate, recipe["evaluate"], "evaluate.").resamples


def check_place(folder: Path, record: Record) -> None:
    """Raises RecordError if a published record does not lie where its names say."""
    named = (record.dataset.name, record.method.name, record.run_id)
    if folder.parts[-3:] != named:
        raise RecordError(f"{folder} holds the record of {'/'.join(named)}: move it to that folder")


def find(results: Path) -> list[Path]:
    """The folders of all records under `results`, sorted: `<dataset>/<method>/<run id>` with a run.json."""
    return sorted(path.parent for path in results.glob("*/*/*/run.json") if not path.parent.name.startswith("."))


def publish(work: Path, record: Record, results: Path) -> tuple[Path, str]:
    """Copy a finished run to its place under `results`, whole or not at all; the place, and what was done, in words."""
    names = FILES if record.localization else tuple(name for name in FILES if name not in OF_MAPS)
    place = results / record.dataset.name / record.method.name / record.run_id
    if all((place / name).is_file() and filecmp.cmp(work / name, place / name, shallow=False) for name in names):
        return place, "already published in"
    part, old = place.with_name(f".{place.name}.part"), place.with_name(f".{place.name}.old")
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        with told(place):
            part.mkdir(parents=True)
            for name in names:
                shutil.copyfile(work / name, part / name)
            replaced = place.exists()
            if replaced:
                place.rename(old)
            part.rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return place, "replaced the record in" if replaced else "published in"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
