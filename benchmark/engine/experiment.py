"""Build an experiment from a run's configuration: plugins from names, options from strings, index and run id."""

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
from ..utils.errors import UserError
from ..utils.files import json_sha256
from ..utils.options import build, field_names, to_dict
from ..utils.workspace import Workspace

MAX_SEED = 2**32 - 1  # the largest that numpy and torch both accept


@dataclass(frozen=True)
class RunConfig(DataConfig):
    """Configuration of a run, as the user gives it.

    Attributes:
        method: name of a registered method.
        options: options of the method that differ from their defaults.
        seed: seed of initial weights, order of examples and shifts of crops.
        results: folder of published records, which determines the experiment's `Workspace`.
        fresh: whether to start over even if this run is completed or interrupted.
        track: names of accelerate's experiment trackers, or tracker objects.
        argv: arguments of `chxbench` as the user typed them; saved only in the run's log.
    """

    method: str = "ma"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    results: Path = Path("results")
    fresh: bool = False
    track: Sequence[Any] = ()
    argv: Sequence[str] = ()

    def command(self, recipe: str) -> str:
        """Return the command of the same run, with explicit defaults and without local paths."""
        command = ["chxbench", "run", "--method", self.method, "--dataset", self.dataset, "--recipe", recipe]
        command += ["--seed", str(self.seed)]
        command += ["--data-dir", "DIR"] if self.data_dir else []  # published in the record, so without private paths
        return shlex.join(command + self.changes(self.options))


@dataclass(frozen=True)
class Experiment:
    """Checked configuration of a run, with everything built from it.

    Attributes:
        config: configuration of the run.
        method, dataset, recipe: objects built from the configuration.
        index: the dataset's images, labels and splits.
        run_id: readable name determined by all of these: the same experiment has the same id. The source code of
            external plugins and the bytes of weight files are part of it.
        entry: the method's entry in the registry, with the file that defines its class.
        workspace: folders of records and runs.
    """

    config: RunConfig
    method: Method
    dataset: Dataset
    recipe: Recipe
    index: Index
    run_id: str
    entry: Entry
    workspace: Workspace

    @property
    def work(self) -> Path:
        """The run's folder."""
        return self.workspace.run_folder(self.run_id)


def build_experiment(config: RunConfig) -> Experiment:
    """Find and check everything that a run needs, before anything costs time.

    Raises:
        UserError: an unknown name or setting, an invalid value, or invalid data.
    """
    if type(config.seed) is not int or not 0 <= config.seed <= MAX_SEED:
        raise UserError(f"seed {config.seed!r} is invalid: use an integer from 0 to {MAX_SEED}")
    load_plugins(config.plugins)
    method_entry, dataset_entry = METHODS.get(config.method), DATASETS.get(config.dataset)
    dataset, recipe = build_dataset(config)
    method = build_method(method_entry.cls, recipe, config.options)
    index = load_readable_index(config, dataset, recipe)
    plugins = [entry.source_sha256 for entry in (method_entry, dataset_entry) if not entry.built_in]
    run_id = _run_id(config.seed, method, dataset, recipe, index, plugins)
    return Experiment(config, method, dataset, recipe, index, run_id, method_entry, Workspace(config.results))


def build_method(cls: type[Method], recipe: Recipe, options: Mapping[str, Any]) -> Method:
    """Build a method with the user's options; an `output_stride` that is not given comes from the recipe.

    Raises:
        UserError: an unknown option or an invalid value.
    """
    from_recipe = {"output_stride": recipe.model.output_stride} if "output_stride" in field_names(cls, "") else {}
    return build(cls, {**from_recipe, **options}, "")


def _run_id(seed: int, method: Method, dataset: Dataset, recipe: Recipe, index: Index, plugins: Sequence[str]) -> str:
    """Name a run by its recipe, its seed and a hash of everything that determines its result."""
    weights = Path(recipe.model.weights)
    identity = {
        "method": [method.name, to_dict(method)],
        "dataset": [dataset.name, to_dict(dataset), *index.labels, *index.split],
        "boxes": hashlib.sha256(index.boxes.to_csv(index=False, lineterminator="\n").encode()).hexdigest(),
        "recipe": recipe_identity(recipe_table(recipe)),
        "seed": seed,
        "plugins": list(plugins),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None,
    }
    digest = json_sha256(identity)
    name = re.sub(r"[^A-Za-z0-9_]+", "-", Path(recipe.name).stem).strip("-") or "recipe"
    return f"{name[:40]}-seed{seed}-{digest[:10]}"
