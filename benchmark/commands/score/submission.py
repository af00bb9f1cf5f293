"""Check the request of `chxbench score`, read its file, choose its images, and describe it for the record."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from ...data.source import DATASET_PREFIX, SKIP, DataConfig, build_dataset, load_listed_index
from ...dataset import SPLITS, Dataset
from ...evaluation.results import Name
from ...records.describe import describe_dataset, describe_software, now
from ...records.schema import EnvironmentPart, MethodPart, RunDescription, SubmissionPart, Title
from ...registry import FLOOR_PREFIX
from ...utils.errors import UserError
from ...utils.files import file_sha256, json_sha256
from ...utils.options import format_value
from ...utils.package import ROOT
from .predictions import Predictions, Scale, read_predictions
from .split import EvaluatedSplit, choose_split


@dataclass(frozen=True)
class ScoreConfig:
    """Request of `chxbench score`.

    Attributes:
        predictions: file of scores.
        name: name of the method that computed them, for its folder in the results.
        title: title on the leaderboard; None to use the name.
        dataset: name of a registered dataset, whose images were scored.
        data_dir: folder of its labels and lists; None if it needs none.
        settings: options of the dataset, prefixed with `dataset.`.
        split: name of a custom test split with all images of the file; None to use the dataset's test split.
        scale: scale of the scores; "auto" to detect it.
        columns: pattern of the score columns; None to detect it.
        results: folder of published records.
        plugins: files to import first, if one of them defines the dataset.
    """

    predictions: Path
    name: str
    title: str | None = None
    dataset: str = "chestxray14"
    data_dir: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    split: str | None = None
    scale: Scale = "auto"
    columns: str | None = None
    results: Path = Path("results")
    plugins: Sequence[Path] = ()

    @property
    def display_title(self) -> str:
        """Title on the leaderboard."""
        return self.name if self.title is None else self.title

    def command(self) -> str:
        """Return the command that repeats the evaluation, without local paths."""
        args = ["chxbench", "score", self.predictions.name, "--name", self.name, "--dataset", self.dataset]
        args += ["--data-dir", "DIR"] if self.data_dir else []
        for flag, value in (("--title", self.title), ("--split", self.split), ("--columns", self.columns)):
            args += [flag, value] if value is not None else []
        args += ["--scale", self.scale] if self.scale != "auto" else []
        for key, value in self.settings.items():
            args += ["--set", f"{key}={format_value(value)}"]
        for path in self.plugins:
            args += ["--plugin", path.name]
        return shlex.join(args)


class Submission(NamedTuple):
    """External predictions, read and checked.

    Attributes:
        config: the request.
        dataset: dataset whose images were scored.
        predictions: content of the file.
        file_sha256: SHA-256 of the file.
        evaluated: images to evaluate, and their scores.
    """

    config: ScoreConfig
    dataset: Dataset
    predictions: Predictions
    file_sha256: str
    evaluated: EvaluatedSplit

    @property
    def splits(self) -> list[str]:
        """Splits that have images to evaluate."""
        present = set(self.evaluated.index.images["split"])
        return [split for split in SPLITS if split in present]

    @property
    def run_id(self) -> str:
        """Id determined by the name, the file and its columns and scale, the labels and the split."""
        index, predictions = self.evaluated.index, self.predictions
        identity: list[object] = [self.config.name, self.file_sha256]
        identity += [predictions.image_column, predictions.columns, predictions.scale]
        identity += [self.dataset.name, *index.labels, *index.split, self.splits]
        digest = json_sha256(identity)
        stem = re.sub(r"[^A-Za-z0-9_]+", "-", self.config.predictions.name.partition(".")[0]).strip("-")
        return f"{stem[:40] or 'scores'}-{digest[:10]}"

    def describe(self) -> RunDescription:
        """Describe the submission for its record, before its scores are evaluated."""
        config, predictions = self.config, self.predictions
        return RunDescription(
            created=now(),
            command=config.command(),
            run_id=self.run_id,
            experiment_sha256=None,
            seed=None,
            selection="unknown: the predictions are external",
            method=_describe_method(config, self.file_sha256),
            dataset=describe_dataset(self.dataset, self.evaluated.index, self.splits, None),
            recipe=None,
            weights=None,
            stages=[],
            part_checks=[],
            submission=SubmissionPart(
                file=config.predictions.name,
                sha256=self.file_sha256,
                image_column=predictions.image_column,
                columns=predictions.columns,
                scale=predictions.scale,
            ),
            environment=EnvironmentPart(**dict(describe_software()), hardware={}, precision=None, layout=None),
        )


def read_submission(config: ScoreConfig) -> Submission:
    """Check the request and read its file. Raises UserError if the request or the file is invalid."""
    _check_names(config)
    dataset = _build_dataset(config)
    full = load_listed_index(dataset, config.data_dir)
    predictions = read_predictions(config.predictions, full, config.scale, config.columns)
    evaluated = choose_split(config.predictions, predictions, full, dataset.known_tests, config.split)
    return Submission(config, dataset, predictions, file_sha256(config.predictions), evaluated)


def _check_names(config: ScoreConfig) -> None:
    if not _is_valid(Name, config.name):
        raise UserError(
            f"--name {config.name!r} is not a valid folder name: use at most 100 letters, digits, _ . and -, "
            "starting with a letter, a digit or _"
        )
    for flag, text in (("--title", config.display_title), ("--split", config.split)):
        if text is not None and not (_is_valid(Title, text) and text.strip()):
            raise UserError(f"{flag} {text!r} is not a valid title: use 1 to 100 characters, none of < > [ ] ` | \\")
    if config.name.startswith(FLOOR_PREFIX):
        raise UserError(f"--name {config.name} belongs to `chxbench baselines`: choose a different one")
    if (ROOT / "methods" / f"{config.name}.py").is_file():
        raise UserError(f"{config.name} is a method of chxbench: choose a different --name for external predictions")


def _is_valid(kind: Any, text: str) -> bool:
    try:
        TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return False
    return True


def _build_dataset(config: ScoreConfig) -> Dataset:
    """Build the dataset with its options. Raises UserError if a setting is not a dataset option."""
    others = [key for key in config.settings if not key.startswith(DATASET_PREFIX)]
    if others:
        raise UserError(f"--set {others[0]} is not a dataset option: use --set dataset.KEY=VALUE")
    if SKIP in config.settings:
        raise UserError(f"--set {SKIP} has no effect because `chxbench score` opens no images: omit it")
    source = DataConfig(config.dataset, config.data_dir, settings=config.settings, plugins=config.plugins)
    return build_dataset(source)[0]


def _describe_method(config: ScoreConfig, sha256: str) -> MethodPart:
    """Describe the method behind external predictions, of which only the SHA-256 of the file is known."""
    return MethodPart(
        name=config.name,
        title=config.display_title,
        paper="",
        reported=None,
        built_in=False,
        source_sha256=sha256,
        options={},
        changed={},
        compared_with=[],
        control=False,
        floor=False,
    )
