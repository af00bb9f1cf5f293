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
from typing import Any, NamedTuple, TypeVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from pydantic import ValidationError

from . import evidence
from .dataset import TRAITS, split_sha256
from .errors import UserError, first_few
from .evidence import Maps
from .files import told, write_whole
from .judge_maps import judge_maps
from .judge_scores import judge_scores, judge_statistics
from .options import make
from .recipe import Evaluate, Pixels
from .schema import SCHEMA, Part, Record, StatisticsPart

OF_MAPS = ("maps.npz", "heatmaps.png")
FILES = ("run.json", "scores.parquet", "roc.png", "reliability.png", *OF_MAPS)
Kind = TypeVar("Kind", bound=Part)
TOLERANCE = 1e-9  # between a recorded and a recomputed number


class RecordError(UserError):
    """A record that cannot be read, or whose numbers do not follow from its scores."""


def write(folder: Path, fields: dict[str, Any], table: pd.DataFrame, maps: Maps | None) -> Record:
    """Write evidence and record; `fields` is the record but for schema, judgement, scores and checksum.

    `run.json` comes last and whole: where it stands, the run is finished.
    """
    write_whole(folder / "scores.parquet", table.to_parquet(index=False))
    scores = {"file": "scores.parquet", "sha256": file_sha256(folder / "scores.parquet")}
    resamples = resamples_of(fields["recipe"])
    judged = {**judge_scores(table, resamples), "statistics": judge_statistics(table, resamples)}
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


def read(folder: Path) -> Record:
    """The record in `folder`. Raises RecordError: not there, another schema, wrong keys or values, changed by hand."""
    try:
        text = (folder / "run.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"record {folder / 'run.json'} cannot be read: {error}") from error
    return parse(text, folder / "run.json", Record, SCHEMA)


def read_scores(folder: Path, record: Record) -> pd.DataFrame:
    """The score table of a record. Raises RecordError if it is not the file that the record names."""
    path = folder / record.scores.file
    if not path.is_file():
        raise RecordError(f"{path} is missing: the record beside it cannot be checked without it")
    if file_sha256(path) != record.scores.sha256:
        raise RecordError(f"{path} is not the file that the record was made from: run again or restore it")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read ({error}): run again or restore it") from error


def read_maps(folder: Path, record: Record) -> Maps | None:
    """The heatmaps of a record, None if it has none. Raises RecordError if they are not those that it names."""
    if record.localization is None:
        return None
    path = folder / record.localization.file
    try:
        maps = evidence.load_maps(path)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
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
    """

    table: pd.DataFrame
    maps: Maps | None
    statistics: StatisticsPart


def verify(folder: Path, record: Record) -> Evidence:
    """Compute every score and interval again; the evidence. Raises RecordError where the record says otherwise."""
    table = read_scores(folder, record)
    check_rows(folder, record, table)
    statistics = check_scores(folder, record, table)
    maps = read_maps(folder, record)
    if maps is not None:
        check_maps(folder, record, table, maps)
    return Evidence(table, maps, statistics)


def check_scores(folder: Path, record: Record, table: pd.DataFrame) -> StatisticsPart:
    """Compute all that follows from the scores. Raises RecordError where the record says otherwise."""
    resamples = resamples_of(record.recipe)
    again = judge_scores(table, resamples)
    _compare(folder, record.model_dump(include=set(again)), again)
    statistics = judge_statistics(table, resamples)
    if record.statistics is not None:
        _compare(folder, {"statistics": record.statistics.model_dump()}, {"statistics": statistics})
    return StatisticsPart.model_validate(statistics)


def check_maps(folder: Path, record: Record, table: pd.DataFrame, maps: Maps) -> None:
    """Compute the localisation from the heatmaps. Raises RecordError where the record says otherwise."""
    _check_arrays(folder, record, table, maps)
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


def _check_arrays(folder: Path, record: Record, table: pd.DataFrame, maps: Maps) -> None:
    """The heatmaps are of test images and of the patients they claim, and the arrays fit together."""
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


def check_rows(folder: Path, record: Record, table: pd.DataFrame) -> None:
    """The scored images are those that the record counts, each once, each with a number for every finding."""
    columns = ["image_id", "patient_id", "split", *(f"{kind} {f}" for kind in ("label", "score") for f in record.auc)]
    if [name for name in table.columns if name not in TRAITS] != columns:
        raise RecordError(f"{folder / 'scores.parquet'} does not have the columns of the record's findings: run again")
    if table["image_id"].duplicated().any() or not np.isfinite(table.filter(regex="^score ").to_numpy()).all():
        raise RecordError(f"{folder / 'scores.parquet'} has an image twice, or a score that is no number: run again")
    for split in sorted(set(record.dataset.counts) - {"train"} | set(table["split"])):
        if split not in record.dataset.counts:
            raise RecordError(f"{folder / 'scores.parquet'} holds {split} images, the record counts none: run again")
        part, counts = table[table["split"] == split], record.dataset.counts[split]
        positives = {finding: int((part[f"label {finding}"] == 1).sum()) for finding in record.auc}
        found = (len(part), part["patient_id"].nunique(), positives)
        if found != (counts.images, counts.patients, counts.positives):
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


def parse(text: str, path: Path, model: type[Kind], schema: int) -> Kind:
    """A record from its text. Raises RecordError: no JSON, another schema, wrong keys or values, changed by hand."""
    try:
        content = json.loads(text)
        found = content.get("schema") if isinstance(content, dict) else None
        if found != schema:
            raise RecordError(f"{path} has schema {found!r}, this version reads {schema}: use the version it came from")
        record = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        raise RecordError(f"{path} is not a record: {first_few(problems)}") from error
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is not JSON: {error}") from error
    if content["checksum"] != checksum(content):
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
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


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
        yield f"{where} is {recorded}, the evidence gives {computed}"
