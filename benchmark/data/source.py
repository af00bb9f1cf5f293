"""From the data half of a configuration to a dataset with its options, a recipe and an index. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...benchmark import dataset as datasets
from ..dataset import DataError, Dataset, Index
from ..recipe import Recipe, load_recipe, setting_keys
from ..registry import DATASETS, load_plugins
from ..utils.environment import cache_folder
from ..utils.errors import UserError, did_you_mean
from ..utils.options import build, field_names, format_value

DATASET_PREFIX = "dataset."
SKIP = "dataset.skip_unreadable"  # for any dataset, not an option of its plugin: see unreadable.py


@dataclass(frozen=True)
class DataConfig:
    """The data half of a run's configuration, and all that `prepare` needs.

    Attributes:
        dataset: name of a registered dataset.
        data_dir: the folder of its files; None if it needs none.
        recipe: a recipe's name or file; None for the dataset's default.
        settings: values of `--set`: recipe keys, the dataset's options after `dataset.`, and SKIP.
        cache: the folder of the pixel caches.
        plugins: files to import before any name is looked up.
    """

    dataset: str = "phantom"
    data_dir: Path | None = None
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    cache: Path = field(default_factory=cache_folder)
    plugins: Sequence[Path] = ()

    @property
    def skip_unreadable(self) -> bool:
        """Whether to skip images that cannot be read. Raises UserError if the setting is not a truth value."""
        value = self.settings.get(SKIP, False)
        if not isinstance(value, bool):
            raise UserError(f"{SKIP} = {value!r} is invalid: use true or false")
        return value

    def changes(self, options: Mapping[str, Any]) -> list[str]:
        """Return the words of a command that set the recipe's and these options of the method, and name the plugins."""
        words = []
        for flag, pairs in (("--set", self.settings), ("--option", options)):
            for key, value in pairs.items():
                words += [flag, f"{key}={format_value(value)}"]
        for path in self.plugins:
            words += ["--plugin", path.name]
        return words


def build_dataset(config: DataConfig) -> tuple[Dataset, Recipe]:
    """Build the dataset with its options, and the recipe. Raises UserError for a setting of neither."""
    load_plugins(config.plugins)
    cls = DATASETS.get(config.dataset).cls
    valid = [*setting_keys(), *field_names(cls, DATASET_PREFIX), SKIP]
    for key in config.settings:
        if key not in valid:
            raise UserError(f"unknown setting {key!r}: {did_you_mean(key, valid)}")
    of_dataset = {key: value for key, value in config.settings.items() if key.startswith(DATASET_PREFIX)}
    options = {key.removeprefix(DATASET_PREFIX): value for key, value in of_dataset.items() if key != SKIP}
    of_recipe = {key: value for key, value in config.settings.items() if key not in of_dataset}
    return build(cls, options, DATASET_PREFIX), load_recipe(config.recipe or cls.default_recipe, of_recipe)


def load_index(dataset: Dataset, data_dir: Path | None) -> Index:
    """Read and check the dataset's index. Raises DataError."""
    _check_folder(dataset, data_dir)
    return datasets.check(dataset.index(data_dir))


def load_listed_index(dataset: Dataset, data_dir: Path | None) -> Index:
    """Read and check the index of all that the dataset lists, without looking for images. Raises DataError."""
    _check_folder(dataset, data_dir)
    return datasets.check(dataset.listed(data_dir))


def _check_folder(dataset: Dataset, data_dir: Path | None) -> None:
    if dataset.needs_folder and data_dir is None:
        raise DataError(f"dataset {dataset.name} needs its files: name their folder with --data-dir FOLDER")
    if data_dir is not None and not dataset.needs_folder:
        raise DataError(f"dataset {dataset.name} reads no files: name the dataset in {data_dir} with --dataset NAME")
