"""The request of `chxbench score`, checked and read: names, the file, its images, and the record's description."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from .... import ROOT
from ...data.source import DATASET_PREFIX, SKIP, DataConfig, build_dataset, load_listed_index
from ...dataset import SPLITS, Dataset
from ...evaluation.results import Name
from ...records.describe import describe_dataset, describe_software, now
from ...records.schema import EnvironmentPart, MethodPart, RunDescription, SubmissionPart, Title
from ...utils.errors import UserError
from ...utils.files import file_sha256, json_sha256
from ...utils.options import format_value
from .predictions import Predictions, Scale, read_predictions
from .split import EvaluatedSplit, choose_split


@dataclass(frozen=True)
class ScoreConfig:
    """What `chxbench score` is to evaluate.

    Attributes:
        predictions: the file of scores.
        name: of the method that computed them: its folder in the results, its row on the leaderboard.
        title: the row's label; None takes the name.
        dataset: name of a registered dataset, whose images were scored.
        data_dir: folder of its labels and lists; None if it needs none.
        settings: the dataset's options, prefixed with `dataset.`.
        split: evaluates all images of the file as a test split of this name; None takes the dataset's test split.
        scale: of the scores.
        columns: pattern of the findings' columns; None detects it.
        results: the folder of published records.
        plugins: files to import before the dataset is looked up.
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
    def label(self) -> str:
        """The row's label on the leaderboard."""
        return self.name if self.title is None else self.title

    def command(self) -> str:
        """Return the command that evaluates the same again, without the folders of this machine."""
        words = ["chxbench", "score", self.predictions.name, "--name", self.name, "--dataset", self.dataset]
        words += ["--data-dir", "DIR"] if self.data_dir else []
        for flag, value in (("--title", self.title), ("--split", self.split), ("--columns", self.columns)):
            words += [flag, value] if value is not None else []
        words += ["--scale", self.scale] if self.scale != "auto" else []
        for key, value in self.settings.items():
            words += ["--set", f"{key}={format_value(value)}"]
        for path in self.plugins:
            words += ["--plugin", path.name]
        return shlex.join(words)


class Submission(NamedTuple):
    """External predictions, read and checked.

    Attributes:
        config: the request.
        dataset: built from it.
        read: the content of the file.
        file_sha256: of the file's bytes.
        scored: the images to evaluate, and their scores.
    """

    config: ScoreConfig
    dataset: Dataset
    read: Predictions
    file_sha256: str
    scored: EvaluatedSplit

    @property
    def splits(self) -> list[str]:
        """The splits that have images to evaluate."""
        present = set(self.scored.index.images["split"])
        return [split for split in SPLITS if split in present]

    @property
    def run_id(self) -> str:
        """An id that follows from the name, the file's bytes and how they were read, labels and split."""
        index, read = self.scored.index, self.read
        identity: list[object] = [self.config.name, self.file_sha256, read.image_column, read.columns, read.scale]
        identity += [self.dataset.name, *index.labels, *index.split, self.splits]
        digest = json_sha256(identity)
        stem = re.sub(r"[^A-Za-z0-9_]+", "-", self.config.predictions.name.partition(".")[0]).strip("-")
        return f"{stem[:40] or 'scores'}-{digest[:10]}"

    def describe(self) -> RunDescription:
        """Describe the submission for its record, before its scores are evaluated."""
        config, read = self.config, self.read
        return RunDescription(
            created=now(),
            command=config.command(),
            run_id=self.run_id,
            seed=None,
            selection="unknown: the predictions are external",
            method=_describe_method(config, self.file_sha256),
            dataset=describe_dataset(self.dataset, self.scored.index, self.splits, None),
            recipe=None,
            weights=None,
            stages=[],
            submission=SubmissionPart(
                file=config.predictions.name,
                sha256=self.file_sha256,
                image_column=read.image_column,
                columns=read.columns,
                scale=read.scale,
            ),
            environment=EnvironmentPart(**dict(describe_software()), hardware={}, precision=None, layout=None),
        )


def read_submission(config: ScoreConfig) -> Submission:
    """Check the request and read its file. Raises UserError."""
    _check_names(config)
    dataset = _build_dataset(config)
    full = load_listed_index(dataset, config.data_dir)
    read = read_predictions(config.predictions, full, config.scale, config.columns)
    scored = choose_split(config.predictions, read, full, dataset.known_tests, config.split)
    return Submission(config, dataset, read, file_sha256(config.predictions), scored)


def _check_names(config: ScoreConfig) -> None:
    if not _fits(Name, config.name):
        raise UserError(
            f"--name {config.name!r} is not a valid folder name: use at most 100 letters, digits, _ . and -, "
            "starting with a letter, a digit or _"
        )
    for flag, text in (("--title", config.label), ("--split", config.split)):
        if text is not None and not (_fits(Title, text) and text.strip()):
            raise UserError(f"{flag} {text!r} is not a valid title: use 1 to 100 characters, none of < > [ ] ` | \\")
    if (ROOT / "methods" / f"{config.name}.py").is_file():
        raise UserError(f"{config.name} is a method of chxbench: choose another --name for external predictions")


def _fits(kind: Any, text: str) -> bool:
    try:
        TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return False
    return True


def _build_dataset(config: ScoreConfig) -> Dataset:
    """Build the dataset with its options. Raises UserError for other settings."""
    others = [key for key in config.settings if not key.startswith(DATASET_PREFIX)]
    if others:
        raise UserError(f"--set {others[0]} is not a dataset option: nothing is trained here, set dataset.KEY=VALUE")
    if SKIP in config.settings:
        raise UserError(f"--set {SKIP} has no effect here, where no image is opened: omit it")
    source = DataConfig(config.dataset, config.data_dir, settings=config.settings, plugins=config.plugins)
    return build_dataset(source)[0]


def _describe_method(config: ScoreConfig, sha256: str) -> MethodPart:
    """Describe the source of external predictions; the file (of this SHA-256) is all that is known of it."""
    return MethodPart(
        name=config.name,
        title=config.label,
        paper="",
        reported=None,
        built_in=False,
        source_sha256=sha256,
        options={},
        changed={},
        compared_with=[],
        control=False,
    )
