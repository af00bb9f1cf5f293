"""What a run leaves behind: `results/<dataset>/<method>/<run id>/` with `run.json`, its evidence and its figures.

The evidence is `scores.parquet` and, where the test set has boxes, `maps.npz`; the figures are `roc.png`,
`reliability.png` and `heatmaps.png`; schema.py says what `run.json` holds. A record is never believed: its checksum
finds a changed character, and `verify` computes every AUC and every localisation score again from the evidence.
"""

import filecmp
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import ValidationError

from ..evaluation import artifacts
from ..evaluation.artifacts import HeatmapSet
from ..evaluation.heatmaps import evaluate_heatmaps
from ..evaluation.scores import evaluate_scores, evaluate_secondary_metrics, resamples_of
from ..utils.errors import UserError, first_few
from ..utils.files import as_user_error, file_sha256, json_sha256, write_atomic
from .schema import SCHEMA, Part, Record

OF_MAPS = ("maps.npz", "heatmaps.png")
FILES = ("run.json", "scores.parquet", "roc.png", "reliability.png", *OF_MAPS)


def write(folder: Path, fields: dict[str, Any], table: pd.DataFrame, maps: HeatmapSet | None) -> Record:
    """Write evidence and record; `fields` is the record but for schema, judgement, scores and checksum.

    `run.json` comes last and whole: where it stands, the run is finished.
    """
    write_atomic(folder / "scores.parquet", table.to_parquet(index=False))
    scores = {"file": "scores.parquet", "sha256": file_sha256(folder / "scores.parquet")}
    resamples = resamples_of(fields["recipe"])
    judged = {**evaluate_scores(table, resamples).keys, "statistics": evaluate_secondary_metrics(table, resamples)}
    content = {"schema": SCHEMA, **fields, **judged, "localization": None, "scores": scores}
    if maps is not None:
        artifacts.save_heatmaps(maps, folder / "maps.npz")
        localized = evaluate_heatmaps(maps, list(judged["auc"]), fields["recipe"]["pixels"], resamples)
        content["localization"] = {**localized, "file": "maps.npz", "sha256": artifacts.heatmaps_sha256(maps)}
    content["checksum"] = checksum(content)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    record = parse_record(text, folder / "run.json", Record, SCHEMA)
    write_atomic(folder / "run.json", text.encode())
    return record


def read(folder: Path, unchanged: bool = True) -> Record:
    """The record in `folder`. Raises RecordError: not there, another schema, wrong keys or values, changed by hand.

    With `unchanged` false, one that was changed by hand is read as well: to find out what in it does not hold.
    """
    return load_record(folder / "run.json", Record, SCHEMA, unchanged)


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
        return artifacts.load_scores(path)
    except Exception as error:  # a broken file makes pyarrow and pandas raise whatever they meet
        raise RecordError(f"{path} cannot be read ({error}): run again or restore it") from error


def read_maps(folder: Path, record: Record) -> HeatmapSet | None:
    """The heatmaps of a record, None if it has none. Raises RecordError if they are not those that it names."""
    if record.localization is None:
        return None
    path = folder / record.localization.file
    try:
        maps = artifacts.load_heatmaps(path)
    except Exception as error:  # a broken file makes zipfile and numpy raise whatever they meet
        raise RecordError(f"{path} cannot be read ({error}): run again or restore it") from error
    if artifacts.heatmaps_sha256(maps) != record.localization.sha256:
        raise RecordError(f"{path} is not the file that the record was made from: run again or restore it")
    return maps


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
        with as_user_error(place):
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


Kind = TypeVar("Kind", bound=Part)
MAX_BYTES = 16 * 2**20  # of a record's text; those of 14 findings have 40 KiB


class RecordError(UserError):
    """A record that cannot be read, or whose numbers do not follow from its scores."""


def load_record(path: Path, model: type[Kind], schema: int, unchanged: bool = True) -> Kind:
    """The record in a file. Raises RecordError: not there, too large, or what `parse` refuses."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"record {path} cannot be read: {error}") from error
    if len(data) > MAX_BYTES:
        raise RecordError(f"record {path} has more than {MAX_BYTES >> 20} MiB: restore it")
    return parse_record(text, path, model, schema, unchanged)


def parse_record(text: str, path: Path, model: type[Kind], schema: int, unchanged: bool = True) -> Kind:
    """A record from its text.

    Args:
        text: of the file.
        path: of the file, for messages.
        model: what it holds.
        schema: the version that is read.
        unchanged: whether to refuse a record that was changed after it was written.

    Raises:
        RecordError: no JSON, another schema, wrong keys or values, changed by hand.
    """
    try:
        content = json.loads(text)
        found = content.get("schema") if isinstance(content, dict) else None
        if found != schema:
            raise RecordError(
                f"{path} has schema {repr(found)[:40]}, this version reads {schema}: use the version it came from"
            )
        record = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        raise RecordError(f"{path} is not a record: {first_few(problems)}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON that can be read ({error}): restore it") from error
    if unchanged and content["checksum"] != checksum(content):
        raise RecordError(f"{path} was changed after it was written (its checksum does not fit): restore it")
    return record


def _problem(item: Mapping[str, Any]) -> str:
    """Where in the record, and what, of one of pydantic's errors."""
    where = ".".join(str(part) for part in item["loc"])
    what = item["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def checksum(content: dict[str, Any]) -> str:
    """SHA-256 of a record's content but for the checksum itself."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return json_sha256(rest)
