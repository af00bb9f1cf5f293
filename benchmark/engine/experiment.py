"""Build an experiment from a run's configuration: plugins from names, options from strings, index and run id."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.identity import experiment_sha256, run_id
from ..data.source import DataConfig, build_dataset
from ..data.unreadable import load_readable_index
from ..dataset import Dataset, Index
from ..method import Method
from ..recipe import Recipe
from ..registry import METHODS, Entry, load_plugins
from ..utils.errors import UserError
from ..utils.options import build, field_names, to_dict
from ..utils.progress import say
from ..utils.workspace import Workspace
from .train_context import check_training, unused_model_settings

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
        sha256: hash of everything that the result follows from except for the seed, see data/identity.py.
        run_id: readable name determined by `sha256` and the seed: the same experiment has the same id.
        entry: the method's entry in the registry, with the code that defines its class.
        workspace: folders of records and runs.
    """

    config: RunConfig
    method: Method
    dataset: Dataset
    recipe: Recipe
    index: Index
    sha256: str
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
    entry = METHODS.get(config.method)
    entry.check_source()
    dataset, recipe = build_dataset(config)
    method = build_method(entry.cls, recipe, config.options)
    index = load_readable_index(config, dataset, recipe)
    check_training(recipe, method, config.options, index, config.seed)
    _mention_paths("--option ", to_dict(method))
    _mention_paths("--set dataset.", to_dict(dataset))
    code = {"name": method.name, "source": entry.source_sha256, "options": to_dict(method)}
    identity = experiment_sha256(code, dataset, index, recipe)
    return Experiment(
        config=config,
        method=method,
        dataset=dataset,
        recipe=recipe,
        index=index,
        sha256=identity,
        run_id=run_id(recipe, config.seed, identity),
        entry=entry,
        workspace=Workspace(config.results),
    )


def _mention_paths(prefix: str, options: Mapping[str, Any]) -> None:
    """Say which options name a folder, whose content does not count, or a file by a path that others should not see."""
    for key, value in options.items():
        if not isinstance(value, str) or os.sep not in value:
            continue
        if os.path.isdir(value):  # noqa: PTH112  any length
            say(f"{prefix}{key} names a folder, whose content is not part of the run's identity: name its files")
        elif os.path.isabs(value) and os.path.isfile(value):  # noqa: PTH113, PTH117
            say(f"{prefix}{key} names a file by its full path, which the record will show: a relative path shows less")


def build_method(cls: type[Method], recipe: Recipe, options: Mapping[str, Any]) -> Method:
    """Build a method with the user's options; backbone, width and output stride come from the recipe unless given.

    Raises:
        UserError: an unknown option or an invalid value.
    """
    own, unused = field_names(cls, ""), unused_model_settings(cls, options)
    model = {name: value for name, value in to_dict(recipe.model).items() if name in own and value is not None}
    from_recipe = {name: value for name, value in model.items() if f"model.{name}" not in unused}
    return build(cls, {**from_recipe, **options}, "")
