"""Read, write and publish records; each folder `results/<dataset>/<method>/<run id>/` contains one.

A record consists of `run.json` (schema.py), its artifacts `scores.parquet` and, if the test split has boxes,
`maps.npz`, and the figures `roc.png` and `heatmaps.png`. Records are not trusted: the checksum detects a changed
character, and recompute.py computes every metric again from the artifacts.
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
from ..evaluation.localization import evaluate_heatmaps
from ..evaluation.scores import Statistics, evaluate_scores, evaluate_secondary_metrics, resamples_of
from ..metrics.localization import Frame
from ..recipe import Recipe
from ..utils.errors import UserError, first_few, first_sentence
from ..utils.files import as_user_error, file_sha256, json_sha256, write_atomic
from ..utils.paths import regular
from .schema import SCHEMA, LocalizationPart, Part, Record, RunDescription, ScoresPart

RECORD_FILE, SCORES_FILE, MAPS_FILE, ROC_FILE = "run.json", "scores.parquet", "maps.npz", "roc.png"
MAPS_FILES: tuple[str, ...] = (MAPS_FILE, "heatmaps.png")
FILES = (RECORD_FILE, SCORES_FILE, ROC_FILE, *MAPS_FILES)
MAX_BYTES = 16 * 2**20  # size limit of run.json; with 14 findings it has 40 KiB
RUN_AGAIN = "restore the file or rerun the command"


class RecordError(UserError):
    """A record that cannot be read, or that does not match its artifacts."""


# --- reading ------------------------------------------------------------------------------------------------------


def require_record(folder: Path, hint: str = "pass the folder of a record, in results/ or runs/") -> None:
    """Raise UserError, which ends with the hint, if the folder contains no record."""
    if not (folder / RECORD_FILE).is_file():
        raise UserError(f"{folder} has no {RECORD_FILE}: {hint}")


def read(folder: Path, verify_checksum: bool = True) -> Record:
    """Read the record in a folder.

    Args:
        folder: folder with `run.json`.
        verify_checksum: whether to reject a record that was changed after it was written; False to read it anyway, so
            that each of its parts can be verified.

    Raises:
        RecordError: if the record is missing or too large, has a different schema or invalid keys or values, or does
            not match its checksum.
    """
    return load_record(folder / RECORD_FILE, Record, SCHEMA, verify_checksum)


def read_scores(folder: Path, record: Record) -> pd.DataFrame:
    """Read the score table of a record. Raises RecordError if its hash differs from that in the record."""
    path = folder / record.scores.file
    if not path.is_file():
        raise RecordError(f"{path} is missing: {RUN_AGAIN}")
    if file_sha256(path) != record.scores.sha256:
        raise RecordError(f"{path} does not match the SHA-256 in its record: {RUN_AGAIN}")
    return load_scores(path)


def load_scores(path: Path) -> pd.DataFrame:
    """Read a score table without comparing its hash. Raises RecordError if it cannot be read."""
    try:
        return artifacts.load_scores(path)
    except Exception as error:  # an invalid file makes pyarrow and pandas raise exceptions of any kind
        raise RecordError(f"{path} cannot be read ({first_sentence(error)}): {RUN_AGAIN}") from error


def read_maps(folder: Path, record: Record) -> HeatmapSet | None:
    """Read the heatmaps of a record; None if it has none.

    Raises:
        RecordError: if they cannot be read, or their hash differs from that in the record.
    """
    if record.localization is None:
        return None
    path = folder / record.localization.file
    try:
        maps = artifacts.load_heatmaps(path)
    except Exception as error:  # an invalid file makes zipfile and numpy raise exceptions of any kind
        raise RecordError(f"{path} cannot be read ({first_sentence(error)}): {RUN_AGAIN}") from error
    if artifacts.heatmaps_sha256(maps) != record.localization.sha256:
        raise RecordError(f"{path} does not match the SHA-256 in its record: {RUN_AGAIN}")
    return maps


def check_place(folder: Path, record: Record) -> None:
    """Raise RecordError if the folder of a published record does not match its dataset, method and run id."""
    names = (record.dataset.name, record.method.name, record.run_id)
    if folder.parts[-3:] != names:
        raise RecordError(f"{folder} contains the record of {'/'.join(names)}: move it to that folder")


def find(results: Path) -> list[Path]:
    """Return the folders of all records in `results`, sorted; also those with scores that have lost their record."""
    paths = [path for name in (RECORD_FILE, SCORES_FILE) for path in results.glob(f"*/*/*/{name}")]
    return sorted({path.parent for path in paths if not path.parent.name.startswith(".")})


# --- writing ------------------------------------------------------------------------------------------------------


def write(
    folder: Path, run: RunDescription, table: pd.DataFrame, maps: HeatmapSet | None = None, problem: str | None = None
) -> Record:
    """Evaluate a run, and write its artifacts and its record.

    Args:
        folder: folder to which `scores.parquet`, `maps.npz` and `run.json` are written.
        run: description of the run before evaluation.
        table: scores of the validation and test images.
        maps: heatmaps of the test images that have boxes; None if there are none.
        problem: why there are no heatmaps although test images have boxes; None if they have none.

    Returns:
        The record, as parsed from the text that is written.

    Raises:
        UserError: if a file cannot be written.
    """
    write_atomic(folder / SCORES_FILE, table.to_parquet(index=False))
    scores = ScoresPart(file=SCORES_FILE, sha256=file_sha256(folder / SCORES_FILE))
    resamples = resamples_of(run.recipe)
    metrics, _ = evaluate_scores(table, resamples, run.dataset.rare)
    secondary, _ = evaluate_secondary_metrics(table, resamples)
    content = {
        "schema": SCHEMA,
        **run.model_dump(mode="json"),
        **metrics.model_dump(mode="json"),
        "secondary_metrics": secondary.model_dump(mode="json"),
        **_localization(folder, run, maps, problem),
        "scores": scores.model_dump(mode="json"),
    }
    return _write(folder, content)


def replace_localization(folder: Path, record: Record, maps: HeatmapSet | None, problem: str | None) -> Record:
    """Write a record again with other heatmaps, or with another reason why it has none; its scores stay as they are.

    Args:
        folder: folder of the record.
        record: the record in the folder.
        maps: heatmaps of the test images that have boxes; None if there are none.
        problem: why there are none.

    Returns:
        The record, as parsed from the text that is written.

    Raises:
        UserError: if a file cannot be written.
    """
    content = json.loads(regular(folder / RECORD_FILE).read_bytes())
    del content["checksum"]
    return _write(folder, content | _localization(folder, record, maps, problem))


def _localization(folder: Path, run: RunDescription, maps: HeatmapSet | None, problem: str | None) -> dict[str, Any]:
    """Write the heatmaps, if any, and return the record's keys on localization."""
    if maps is None or run.recipe is None:
        return {"localization": None, "localization_problem": problem}
    part, _ = localize(maps, run.dataset.findings, run.recipe)
    artifacts.save_heatmaps(maps, folder / MAPS_FILE)
    return {"localization": part.model_dump(mode="json"), "localization_problem": None}


def _write(folder: Path, content: dict[str, Any]) -> Record:
    """Write `run.json`: last, so that a folder with this file contains a complete run."""
    text = seal(content)
    record = parse_record(text, folder / RECORD_FILE, Record, SCHEMA)
    write_atomic(folder / RECORD_FILE, text.encode())
    return record


def localize(maps: HeatmapSet, findings: list[str], recipe: Recipe) -> tuple[LocalizationPart, Statistics]:
    """Compute a record's localization from its heatmaps, with `Statistics` of its means."""
    frame = Frame(recipe.pixels.size, recipe.pixels.crop)
    metrics, statistics = evaluate_heatmaps(maps, findings, frame, resamples_of(recipe))
    return LocalizationPart(**dict(metrics), file=MAPS_FILE, sha256=artifacts.heatmaps_sha256(maps)), statistics


def publish(work: Path, record: Record, results: Path) -> tuple[Path, str]:
    """Copy a completed run to its folder in `results`, atomically.

    Args:
        work: folder of the run.
        record: the record in `work`.
        results: the results folder.

    Returns:
        The published folder, and a phrase that describes the outcome, to be printed before the folder.

    Raises:
        UserError: if a file cannot be copied.
    """
    unwritten = () if record.localization else MAPS_FILES
    unwritten += () if (work / ROC_FILE).exists() else (ROC_FILE,)  # it could not be drawn
    names = [name for name in FILES if name not in unwritten]
    place = results / record.dataset.name / record.method.name / record.run_id
    if all((place / name).is_file() and filecmp.cmp(work / name, place / name, shallow=False) for name in names):
        return place, "already published in"
    part, old = place.with_name(f".{place.name}.part"), place.with_name(f".{place.name}.old")
    for leftover in (part, old):  # from a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
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


# --- text of run records and speed records ------------------------------------------------------------------------

Model = TypeVar("Model", bound=Part)


def load_record(path: Path, model: type[Model], schema: int, verify_checksum: bool = True) -> Model:
    """Read the record in a file; arguments as for `parse_record`.

    Raises:
        RecordError: if the file is missing, too large, or rejected by `parse_record`.
    """
    try:
        with regular(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise RecordError(f"record {path} cannot be read ({reason}): restore it, or remove its folder") from error
    if len(data) > MAX_BYTES:
        raise RecordError(f"record {path} has more than {MAX_BYTES >> 20} MiB: restore it")
    return parse_record(text, path, model, schema, verify_checksum)


def parse_record(text: str, path: Path, model: type[Model], schema: int, verify_checksum: bool = True) -> Model:
    """Parse the text of a record.

    Args:
        text: content of the file.
        path: path of the file, for error messages.
        model: model of the record.
        schema: schema version of the model.
        verify_checksum: whether to reject a record that was changed after it was written.

    Raises:
        RecordError: if the text is not JSON, has a different schema or invalid keys or values, or does not match its
            checksum.
    """
    try:
        content = json.loads(text)
        version = content.get("schema") if isinstance(content, dict) else None
        if version is None:
            raise RecordError(f"{path} is not a record, it has no schema: restore it, or remove its folder")
        if version != schema:
            raise RecordError(
                f"{path} has schema {repr(version)[:40]}, this version reads {schema}: use the version that wrote it"
            )
        record = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise RecordError(f"{path} is not a record: {describe_invalid(error)}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not readable JSON ({error}): restore it") from error
    if verify_checksum and content["checksum"] != checksum(content):
        raise RecordError(f"{path} was changed after it was written (its checksum does not match): restore it")
    return record


def describe_invalid(error: ValidationError) -> str:
    """Return the first problems that pydantic found, each with its location in the record."""
    return first_few([_problem(item) for item in error.errors()])


def _problem(item: Mapping[str, Any]) -> str:
    """Format an error of pydantic with its location in the record."""
    where = ".".join(str(part) for part in item["loc"])
    what = item["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def seal(content: dict[str, Any]) -> str:
    """Return the text of a record with this content, as JSON with a checksum at the end."""
    return json.dumps({**content, "checksum": checksum(content)}, indent=1, allow_nan=False) + "\n"


def checksum(content: dict[str, Any]) -> str:
    """Return the SHA-256 of a record's content, excluding the checksum itself."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return json_sha256(rest)
