"""The data half of what a user asks for: a dataset with its options, a recipe, a folder into an index. No torch."""

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
SKIP = "dataset.skip_unreadable"  # of any dataset, and no option of its plugin: readable.py does what it says


@dataclass(frozen=True)
class DataConfig:
    """The data half of an order: also all that `prepare` needs.

    Attributes:
        dataset: a registered dataset's name.
        data_dir: the folder where it lies; None if it needs none.
        recipe: a recipe's name or file; None takes the dataset's default.
        settings: what `--set` changes: recipe keys, the dataset's options behind `dataset.`, and SKIP.
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
        """Whether to go on without the images that cannot be read. Raises UserError for another word than yes or no."""
        value = self.settings.get(SKIP, False)
        if not isinstance(value, bool):
            raise UserError(f"{SKIP} = {value!r} does not fit: say true or false")
        return value

    def changes(self, options: Mapping[str, Any]) -> list[str]:
        """The words of a command that change the recipe and these options of the method, and name the plugins."""
        words = []
        for flag, pairs in (("--set", self.settings), ("--option", options)):
            for key, value in pairs.items():
                words += [flag, f"{key}={format_value(value)}"]
        for path in self.plugins:
            words += ["--plugin", path.name]
        return words


def build_dataset(source: DataConfig) -> tuple[Dataset, Recipe]:
    """The dataset with its options, and the recipe. Raises UserError where a setting is neither's."""
    load_plugins(source.plugins)
    cls = DATASETS.get(source.dataset).cls
    known = [*setting_keys(), *field_names(cls, DATASET_PREFIX), SKIP]
    for key in source.settings:
        if key not in known:
            raise UserError(f"unknown setting {key!r}: {did_you_mean(key, known)}")
    own = {key: value for key, value in source.settings.items() if key.startswith(DATASET_PREFIX)}
    options = {key.removeprefix(DATASET_PREFIX): value for key, value in own.items() if key != SKIP}
    rest = {key: value for key, value in source.settings.items() if key not in own}
    return build(cls, options, DATASET_PREFIX), load_recipe(source.recipe or cls.default_recipe, rest)


def load_index(dataset: Dataset, data_dir: Path | None) -> Index:
    """The dataset's index, checked. Raises DataError."""
    _check_folder(dataset, data_dir)
    return datasets.check(dataset.index(data_dir))


def load_listed_index(dataset: Dataset, data_dir: Path | None) -> Index:
    """The index of all that the dataset lists, checked; no image is looked for. Raises DataError."""
    _check_folder(dataset, data_dir)
    return datasets.check(dataset.listed(data_dir))


def _check_folder(dataset: Dataset, data_dir: Path | None) -> None:
    if dataset.needs_folder and data_dir is None:
        raise DataError(f"dataset {dataset.name} needs its files: say where they lie with --data-dir FOLDER")
    if data_dir is not None and not dataset.needs_folder:
        raise DataError(f"dataset {dataset.name} reads no files: name the one in {data_dir} with --dataset NAME")
