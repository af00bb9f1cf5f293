"""What the user of `score` asks for, made definite: names checked, the file read, the images found."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from .... import ROOT
from ...data.source import DATASET_PREFIX, SKIP, DataConfig, build_dataset, dataset_fields, load_listed_index
from ...dataset import SPLITS, Dataset
from ...records.schema import Name, Title
from ...utils.environment import code_state, versions
from ...utils.errors import UserError
from ...utils.files import file_sha256
from ...utils.options import format_value
from .predictions import Predictions, Scale, read_predictions
from .split import EvaluatedSplit, choose_split


@dataclass(frozen=True)
class ScoreConfig:
    """What a user asks of `score`.

    Attributes:
        predictions: the file of scores.
        name: of the method that gave them: its folder under the results, and its row on the leaderboard.
        title: the row's label; None takes the name.
        dataset: a registered dataset, whose images were scored.
        data_dir: the folder where its labels and lists lie; None if it needs none.
        settings: the dataset's options, behind `dataset.`.
        split: a name for the images of the file as a test split of their own; None takes the dataset's test split.
        scale: what the scores are.
        columns: what the finding columns are called; None finds it out.
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
        return self.name if self.title is None else self.title

    def command(self) -> str:
        """The command that asks for the same; folders of this machine are left out."""
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
    """An order, read and checked.

    Attributes:
        order: the order.
        dataset: built from it.
        read: what its file says.
        file_sha256: of the file's bytes.
        scored: the images that count, and their scores.
    """

    config: ScoreConfig
    dataset: Dataset
    read: Predictions
    file_sha256: str
    scored: EvaluatedSplit

    @property
    def splits(self) -> list[str]:
        """Those of which images count."""
        there = set(self.scored.index.images["split"])
        return [split for split in SPLITS if split in there]

    @property
    def run_id(self) -> str:
        """Readable, and the same for the same name, bytes, reading of them, labels and split."""
        index, read = self.scored.index, self.read
        everything = [self.config.name, self.file_sha256, read.image_column, read.columns, read.scale]
        everything += [self.dataset.name, *index.labels, *index.split, self.splits]
        digest = hashlib.sha256(json.dumps(everything).encode()).hexdigest()
        stem = re.sub(r"[^A-Za-z0-9_]+", "-", self.config.predictions.name.partition(".")[0]).strip("-")
        return f"{stem[:40] or 'scores'}-{digest[:10]}"

    def describe(self) -> dict[str, Any]:
        """The record's fields, but for the judgement of the scores."""
        config, read = self.config, self.read
        return {
            "run_id": self.run_id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": config.command(),
            "seed": None,
            "selection": "not known: the scores were computed elsewhere",
            "method": _method_fields(config, self.file_sha256),
            "dataset": dataset_fields(self.dataset, self.scored.index, self.splits, None),
            "recipe": None,
            "weights": None,
            "stages": [],
            "speed": None,
            "source": {
                "file": config.predictions.name,
                "sha256": self.file_sha256,
                "image_column": read.image_column,
                "columns": read.columns,
                "scale": read.scale,
            },
            "environment": {
                "versions": versions(),
                "hardware": {},
                "precision": None,
                "layout": None,
                "code": code_state(),
            },
        }


def read_submission(config: ScoreConfig) -> Submission:
    """Check the order and read the file. Raises UserError."""
    _check_names(config)
    dataset = _build_dataset(config)
    known = load_listed_index(dataset, config.data_dir)
    read = read_predictions(config.predictions, known, config.scale, config.columns)
    scored = choose_split(config.predictions, read, known, dataset.known_tests, config.split)
    return Submission(config, dataset, read, file_sha256(config.predictions), scored)


def _check_names(config: ScoreConfig) -> None:
    if not _fits(Name, config.name):
        raise UserError(
            f"--name {config.name!r} is no name for a folder: use at most 100 letters, digits, _ . and -, "
            "and begin with a letter, a digit or _"
        )
    for flag, text in (("--title", config.label), ("--split", config.split)):
        if text is not None and not (_fits(Title, text) and text.strip()):
            raise UserError(f"{flag} {text!r} fits no table: use 1 to 100 characters, none of < > [ ] ` | \\")
    if (ROOT / "methods" / f"{config.name}.py").is_file():
        raise UserError(f"{config.name} is a method of chxbench: choose another --name for scores from elsewhere")


def _fits(kind: Any, text: str) -> bool:
    try:
        TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return False
    return True


def _build_dataset(config: ScoreConfig) -> Dataset:
    """The dataset with its options. Raises UserError for a setting that is none of them."""
    strange = [key for key in config.settings if not key.startswith(DATASET_PREFIX)]
    if strange:
        raise UserError(f"--set {strange[0]} is no option of a dataset: nothing is trained here, set dataset.KEY=VALUE")
    if SKIP in config.settings:
        raise UserError(f"--set {SKIP} has no sense here, where no image is opened: leave it out")
    source = DataConfig(config.dataset, config.data_dir, settings=config.settings, plugins=config.plugins)
    return build_dataset(source)[0]


def _method_fields(config: ScoreConfig, sha256: str) -> dict[str, Any]:
    return {
        "name": config.name,
        "title": config.label,
        "paper": "",
        "reported": None,
        "built_in": False,
        "source_sha256": sha256,
        "options": {},
        "changed": {},
        "compared_with": [],
        "control": False,
    }
