"""What the user asked for, made definite: names into plugins, texts into options, a folder into an index, a run id."""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.source import DataConfig, build_dataset
from ..data.unreadable import load_readable_index
from ..dataset import Dataset, Index
from ..method import Method
from ..recipe import Recipe, recipe_identity, recipe_table
from ..registry import DATASETS, METHODS, Entry, load_plugins
from ..utils.files import json_sha256
from ..utils.options import build, field_names, to_dict
from ..utils.workspace import Workspace


@dataclass(frozen=True)
class RunConfig(DataConfig):
    """What a user asks of `run`.

    Attributes:
        method: a registered method's name.
        options: the method's options that differ from their defaults.
        seed: of initial weights, order and shifts.
        results: the folder of published records, from which the experiment's `Workspace` follows.
        fresh: train again even if this run is finished or begun.
        track: names of experiment trackers of accelerate's, or trackers of its kind.
        argv: the words after `chxbench`, as the user typed them; saved in the run's log, and nowhere else.
    """

    method: str = "ma"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    results: Path = Path("results")
    fresh: bool = False
    track: Sequence[Any] = ()
    argv: Sequence[str] = ()

    def command(self, recipe: str) -> str:
        """The command that asks for the same, defaults spelt out; folders of this machine are left out."""
        words = ["chxbench", "run", "--method", self.method, "--dataset", self.dataset, "--recipe", recipe]
        words += ["--seed", str(self.seed)]
        words += ["--data-dir", "DIR"] if self.data_dir else []  # a record tells nobody where your files lie
        return shlex.join(words + self.changes(self.options))


@dataclass(frozen=True)
class Experiment:
    """An order whose every name has been found and every value checked.

    Attributes:
        order: the order.
        method, dataset, recipe: built from it.
        index: the dataset's images, labels and splits.
        run_id: a readable name that follows from all of these: the same order has the same id. A plugin from outside
            the package counts with its source, and weights from a file with their bytes.
        source: where the method is defined.
        workspace: the folders of records and runs.
    """

    config: RunConfig
    method: Method
    dataset: Dataset
    recipe: Recipe
    index: Index
    run_id: str
    source: Entry
    workspace: Workspace

    @property
    def work(self) -> Path:
        """The folder that the run works in."""
        return self.workspace.run_folder(self.run_id)


def build_experiment(config: RunConfig) -> Experiment:
    """Check the whole order before anything costs time. Raises UserError."""
    load_plugins(config.plugins)
    entries = METHODS.get(config.method), DATASETS.get(config.dataset)
    dataset, recipe = build_dataset(config)
    method = build_method(entries[0].cls, recipe, config.options)
    index = load_readable_index(config, dataset, recipe)
    foreign = [entry.source_sha256 for entry in entries if not entry.built_in]
    run_id = _run_id(config.seed, method, dataset, recipe, index, foreign)
    return Experiment(config, method, dataset, recipe, index, run_id, entries[0], Workspace(config.results))


def build_method(cls: type[Method], recipe: Recipe, options: Mapping[str, Any]) -> Method:
    """The method with the user's options, and the recipe's where the user gives none. Raises UserError."""
    shared = {"output_stride": recipe.model.output_stride} if "output_stride" in field_names(cls, "") else {}
    return build(cls, {**shared, **options}, "")


def _run_id(seed: int, method: Method, dataset: Dataset, recipe: Recipe, index: Index, foreign: Sequence[str]) -> str:
    weights = Path(recipe.model.weights)
    everything = {
        "method": [method.name, to_dict(method)],
        "dataset": [dataset.name, to_dict(dataset), *index.labels, *index.split],
        "boxes": hashlib.sha256(index.boxes.to_csv(index=False, lineterminator="\n").encode()).hexdigest(),
        "recipe": recipe_identity(recipe_table(recipe)),
        "seed": seed,
        "plugins": list(foreign),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None,
    }
    digest = json_sha256(everything)
    name = re.sub(r"[^A-Za-z0-9_]+", "-", Path(recipe.name).stem).strip("-") or "recipe"
    return f"{name[:40]}-seed{seed}-{digest[:10]}"
