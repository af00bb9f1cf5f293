"""What a run leaves behind: `results/<dataset>/<method>/<run id>/` with `run.json`, `scores.parquet` and `roc.png`.

The classes below are the schema of `run.json`, version 1: plain numbers, null where there is no number, no key unknown.
A record is never believed: its checksum finds a changed character, and `verify` computes every AUC from the scores.
"""

import filecmp
import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from . import metrics
from .dataset import Index
from .errors import UserError, first_few
from .options import make
from .recipe import Evaluate

SCHEMA = 1
LEFT_OUT = "Hernia"  # 86 official test images of 32 patients: one class must not move a mean
TOLERANCE = 1e-9  # between a recorded and a recomputed number

Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class RecordError(UserError):
    """A record that cannot be read, or whose numbers do not follow from its scores."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Interval(_Part):
    """A value and its 95 % interval from resampled patients."""

    value: Number | None
    low: Number | None
    high: Number | None


class FindingAuc(Interval):
    positives: Count


class MeanAuc(Interval):
    findings: Count  # over how many findings the mean was taken


class MethodPart(_Part):
    name: Name
    title: str
    paper: str
    reported: str | None  # key of the paper's own numbers in literature.csv
    built_in: bool  # whether it belongs to chxbench, whose commit or version then tells what ran
    source_sha256: Sha256  # of the file that defines it
    options: dict[str, Any]  # all of them
    changed: dict[str, Any]  # those the user set


class LabelsPart(_Part):
    file: str
    sha256: Sha256
    version: str


class SplitPart(_Part):
    name: str
    sha256: Sha256


class Counts(_Part):
    images: Count
    patients: Count
    positives: dict[str, Count]
    absent: Count  # listed images that were not there and were left out on demand


class DatasetPart(_Part):
    name: Name
    title: str
    options: dict[str, Any]
    labels: LabelsPart
    split: SplitPart
    pixels_sha256: Sha256  # of the decoded and shrunk images, all of them in order
    counts: dict[Literal["train", "val", "test"], Counts]


class WeightsPart(_Part):
    init: str  # imagenet, none, or a file's name
    sha256: Sha256  # of the initial weights, all tensors in order
    final_sha256: Sha256  # of the weights that were scored


class StagePart(_Part):
    name: str
    start: Literal["initial", "previous"]
    examples: Count  # images an epoch, repeats counted
    hard_positives: dict[str, Count] | None  # per finding, and "images": the images repeated for them
    epochs: Count
    best_epoch: Count
    validation_auc: list[Number | None]
    loss: list[Number]
    seconds: Number  # of training, without validation
    images_per_second: Number


class EnvironmentPart(_Part):
    versions: dict[str, str]
    hardware: dict[str, str | int]
    precision: Literal["bfloat16", "float32"]
    layout: str
    code: dict[str, str | bool | None]  # git commit, and whether the code was changed since


class ScoresPart(_Part):
    file: Literal["scores.parquet"]
    sha256: Sha256


class Record(_Part):
    """One run, whole."""

    schema_: Literal[1] = Field(alias="schema")
    run_id: Name
    created: str
    command: str
    seed: int
    selection: str  # the rule that picked the epoch, in words
    method: MethodPart
    dataset: DatasetPart
    recipe: dict[str, Any]
    weights: WeightsPart
    stages: list[StagePart]
    auc: dict[str, FindingAuc]
    mean_auc: MeanAuc
    mean_auc_without_hernia: MeanAuc
    localization: dict[str, Any] | None
    speed: dict[str, Any] | None
    scores: ScoresPart
    environment: EnvironmentPart
    checksum: Sha256  # of all of the above


def score_table(index: Index, rows: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """The table behind every number: image_id, patient_id, split, `label <finding>` and `score <finding>` (log-odds).

    Args:
        index: where the images, patients and labels stand.
        rows: row numbers of the scored images (n,).
        scores: log-odds (n, C), finite.
    """
    images = index.images.iloc[rows]
    names = images[["image_id", "patient_id", "split"]].astype(str).reset_index(drop=True)
    labels = pd.DataFrame(index.targets()[rows], columns=[f"label {finding}" for finding in index.findings])
    return pd.concat([names, labels, pd.DataFrame(scores, columns=[f"score {f}" for f in index.findings])], axis=1)


def judge(table: pd.DataFrame, resamples: int, split: str = "test") -> dict[str, Any]:
    """The record's keys auc, mean_auc and mean_auc_without_hernia, computed from a score table."""
    findings = [name.removeprefix("label ") for name in table.columns if name.startswith("label ")]
    part = table[table["split"] == split]
    labels = part[[f"label {finding}" for finding in findings]].to_numpy(np.float64)
    scores = part[[f"score {finding}" for finding in findings]].to_numpy(np.float64)
    leave_out = findings.index(LEFT_OUT) if LEFT_OUT in findings else None
    judged = metrics.evaluate(scores, labels, part["patient_id"].to_numpy(), resamples, leave_out)
    each = zip(findings, judged.auc, judged.positives, strict=True)
    return {
        "auc": {finding: {**value._asdict(), "positives": positives} for finding, value, positives in each},
        "mean_auc": {**judged.mean[0]._asdict(), "findings": judged.mean[1]},
        "mean_auc_without_hernia": {**judged.mean_without[0]._asdict(), "findings": judged.mean_without[1]},
    }


def write(folder: Path, fields: dict[str, Any], table: pd.DataFrame) -> Record:
    """Write scores and record; `fields` is the record but for schema, judgement, scores and checksum.

    `run.json` comes last and whole: where it stands, the run is finished.
    """
    table.to_parquet(folder / "scores.parquet", index=False)
    scores = {"file": "scores.parquet", "sha256": file_sha256(folder / "scores.parquet")}
    resamples = fields["recipe"]["evaluate"]["resamples"]
    content = {"schema": SCHEMA, **fields, **judge(table, resamples), "scores": scores}
    content["checksum"] = _checksum(content)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    record = _parse(text, folder)
    part = folder / "run.json.part"
    part.write_text(text, encoding="utf-8")
    part.replace(folder / "run.json")
    return record


def read(folder: Path) -> Record:
    """The record in `folder`. Raises RecordError: not there, another schema, wrong keys or values, changed by hand."""
    try:
        text = (folder / "run.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"record {folder / 'run.json'} cannot be read: {error}") from error
    return _parse(text, folder)


def read_scores(folder: Path, record: Record) -> pd.DataFrame:
    """The score table of a record. Raises RecordError if it is not the file that the record names."""
    path = folder / record.scores.file
    if not path.is_file():
        raise RecordError(f"{path} is missing: the record beside it cannot be checked without it")
    if file_sha256(path) != record.scores.sha256:
        raise RecordError(f"{path} is not the file that the record was made from: run again or restore it")
    return pd.read_parquet(path)


def verify(folder: Path, record: Record) -> pd.DataFrame:
    """Compute all AUCs and intervals again; the score table. Raises RecordError where the record says otherwise."""
    table = read_scores(folder, record)
    _check_rows(folder, record, table)
    evaluate = make(Evaluate, record.recipe["evaluate"], "evaluate.")
    again = judge(table, evaluate.resamples)
    differing = list(_differences(record.model_dump(include=set(again)), again))
    if differing:
        raise RecordError(f"{folder / 'run.json'} does not follow from its scores: {first_few(differing)}")
    return table


def members_sha256(table: pd.DataFrame) -> str:
    """SHA-256 over the scored images with patient, split and labels: equal where two runs were asked the same."""
    asked = table[[name for name in table.columns if not name.startswith("score ")]].sort_values("image_id")
    return hashlib.sha256(asked.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def find(results: Path) -> list[Path]:
    """The folders of all records under `results`, sorted: `<dataset>/<method>/<run id>` with a run.json."""
    return sorted(path.parent for path in results.glob("*/*/*/run.json") if not path.parent.name.startswith("."))


def publish(work: Path, record: Record, results: Path) -> tuple[Path, str]:
    """Copy a finished run to its place under `results`, whole or not at all; the place, and what was done, in words."""
    names = ("run.json", "scores.parquet", "roc.png")
    place = results / record.dataset.name / record.method.name / record.run_id
    if all((place / name).is_file() and filecmp.cmp(work / name, place / name, shallow=False) for name in names):
        return place, "already published in"
    part, old = place.with_name(f".{place.name}.part"), place.with_name(f".{place.name}.old")
    for left_over in (part, old):
        shutil.rmtree(left_over, ignore_errors=True)
    part.mkdir(parents=True)
    for name in names:
        shutil.copyfile(work / name, part / name)
    replaced = place.exists()
    if replaced:
        place.rename(old)
    part.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    return place, "replaced the record in" if replaced else "published in"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_rows(folder: Path, record: Record, table: pd.DataFrame) -> None:
    """The scored images are those that the record counts, each once, each with a number for every finding."""
    columns = ["image_id", "patient_id", "split", *(f"{kind} {f}" for kind in ("label", "score") for f in record.auc)]
    if list(table.columns) != columns:
        raise RecordError(f"{folder / 'scores.parquet'} does not have the columns of the record's findings: run again")
    if table["image_id"].duplicated().any() or not np.isfinite(table.filter(regex="^score ").to_numpy()).all():
        raise RecordError(f"{folder / 'scores.parquet'} has an image twice, or a score that is no number: run again")
    for split in ("val", "test"):
        part, counts = table[table["split"] == split], record.dataset.counts[split]
        positives = {finding: int((part[f"label {finding}"] == 1).sum()) for finding in record.auc}
        found = (len(part), part["patient_id"].nunique(), positives)
        if found != (counts.images, counts.patients, counts.positives):
            raise RecordError(f"{folder / 'scores.parquet'} does not hold the {split} images that the record counts")


def _parse(text: str, folder: Path) -> Record:
    path = folder / "run.json"
    try:
        content = json.loads(text)
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise RecordError(
                f"{path} has schema {schema!r}, this version reads {SCHEMA}: use the version it came from"
            )
        record = Record.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
        raise RecordError(f"{path} is not a record: {first_few(problems)}") from error
    except json.JSONDecodeError as error:
        raise RecordError(f"{path} is not JSON: {error}") from error
    if record.checksum != _checksum(content):
        raise RecordError(f"{path} was changed after it was written (its checksum does not fit): restore it")
    return record


def _checksum(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _differences(recorded: Any, computed: Any, where: str = "") -> Iterator[str]:
    if isinstance(computed, dict) and isinstance(recorded, dict):
        for key in sorted(computed.keys() | recorded.keys()):
            yield from _differences(recorded.get(key), computed.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(computed, float) and isinstance(recorded, float):
        if not math.isclose(recorded, computed, rel_tol=0, abs_tol=TOLERANCE):
            yield f"{where} is {recorded:.6f}, the scores give {computed:.6f}"
    elif recorded != computed:
        yield f"{where} is {recorded}, the scores give {computed}"
