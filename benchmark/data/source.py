"""Build the dataset, recipe and index that the data part of a configuration requests. No torch."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...benchmark import dataset as datasets
from ..dataset import DataError, Dataset, Index
from ..recipe import Recipe, load_recipe, setting_keys
from ..registry import DATASETS, load_plugins
from ..utils.environment import cache_folder
from ..utils.errors import UserError, describe_error, did_you_mean, place_in_code
from ..utils.options import build, field_names, format_value
from ..utils.text import encodable

DATASET_PREFIX = "dataset."
SKIP = "dataset.skip_unreadable"  # an option of every dataset, see unreadable.py


@dataclass(frozen=True)
class DataConfig:
    """Data part of a run's configuration, and the complete configuration of `prepare`.

    Attributes:
        dataset: name of a registered dataset.
        data_dir: folder of the dataset's files; None if it needs none.
        recipe: name or file of a recipe; None for the dataset's default.
        settings: values of `--set`: recipe keys, the dataset's options prefixed by `dataset.`, and SKIP.
        cache: folder of the pixel caches.
        plugins: plugin files to import before any name is looked up.
    """

    dataset: str = "phantom"
    data_dir: Path | None = None
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    cache: Path = field(default_factory=cache_folder)
    plugins: Sequence[Path] = ()

    @property
    def skip_unreadable(self) -> bool:
        """Whether to skip images that cannot be read. Raises UserError if the setting is not a boolean."""
        value = self.settings.get(SKIP, False)
        if not isinstance(value, bool):
            raise UserError(f"{SKIP} = {value!r} is invalid: use true or false")
        return value

    def changes(self, options: Mapping[str, Any]) -> list[str]:
        """Return the arguments that set the recipe's settings, these options of the method, and the plugins."""
        arguments = []
        for flag, pairs in (("--set", self.settings), ("--option", options)):
            for key, value in pairs.items():
                arguments += [flag, f"{key}={format_value(_without_folder(value))}"]
        for path in self.plugins:
            arguments += ["--plugin", path.name]
        return arguments


def _without_folder(value: Any) -> Any:
    """Return the name of a file instead of its path: where it is does not matter, and may be private."""
    return Path(value).name if isinstance(value, str) and os.sep in value and Path(value).is_file() else value


def build_dataset(config: DataConfig) -> tuple[Dataset, Recipe]:
    """Build the dataset with its options, and the recipe. Raises UserError if a setting belongs to neither."""
    load_plugins(config.plugins)
    entry = DATASETS.get(config.dataset)
    entry.check_source()
    cls = entry.cls
    valid = [*setting_keys(), *field_names(cls, DATASET_PREFIX), SKIP]
    for key in config.settings:
        if key not in valid:
            raise UserError(f"unknown setting {key!r}: {did_you_mean(key, valid)}")
    of_dataset = {key: value for key, value in config.settings.items() if key.startswith(DATASET_PREFIX)}
    options = {key.removeprefix(DATASET_PREFIX): value for key, value in of_dataset.items() if key != SKIP}
    of_recipe = {key: value for key, value in config.settings.items() if key not in of_dataset}
    return build(cls, options, DATASET_PREFIX), load_recipe(config.recipe or cls.default_recipe, of_recipe)


def load_index(dataset: Dataset, data_dir: Path | None) -> Index:
    """Read and check the dataset's index. Raises DataError if it is missing, damaged or inconsistent."""
    _check_folder(dataset, data_dir)
    with _blame_dataset(dataset, "list its images"):
        return datasets.check(dataset.index(data_dir))


def load_listed_index(dataset: Dataset, data_dir: Path | None) -> Index:
    """Read and check the index of all listed images, without looking for their files.

    Raises:
        DataError: the index is missing, damaged or inconsistent.
    """
    _check_folder(dataset, data_dir)
    with _blame_dataset(dataset, "list its images"):
        return datasets.check(dataset.listed(data_dir))


def read_gray(dataset: Dataset, image_id: str, path: str | None) -> np.ndarray:
    """Read an image as the dataset does: uint8 gray (H, W), row 0 at the top.

    Raises:
        DataError: it cannot be decoded, the dataset's code fails, or it returns something else.
    """
    with _blame_dataset(dataset, f"read image {path or image_id}"):
        gray: object = dataset.read(image_id, path)
    if not isinstance(gray, np.ndarray) or gray.ndim != 2 or gray.dtype != np.uint8 or not gray.size:
        kind = f"{gray.dtype} {gray.shape}" if isinstance(gray, np.ndarray) else type(gray).__name__
        raise DataError(f"image {path or image_id} was read as {kind}, not as uint8 (H, W)")
    return gray


def stamp(dataset: Dataset, image_id: str, path: str | None) -> str:
    """Return the dataset's stamp of an image.

    Raises:
        OSError: the image's file is missing.
        DataError: the dataset's code fails.
    """
    with _blame_dataset(dataset, f"stamp image {path or image_id}"):
        return str(dataset.stamp(image_id, path))


@contextmanager
def _blame_dataset(dataset: Dataset, action: str) -> Iterator[None]:
    """Turn an error in a dataset's code into a DataError with its place; an OSError of a missing file passes."""
    try:
        yield
    except (UserError, MemoryError, FileNotFoundError):
        raise
    except UnicodeEncodeError as error:  # from pandas, whose text columns cannot hold it
        raise DataError(f"the name {encodable(error.object)} is not text: rename this file or folder") from error
    except Exception as error:  # whatever a plugin, or a library that it calls, may raise
        place = place_in_code(error, type(dataset))
        raise DataError(f"dataset {dataset.name} ({place}) fails to {action}: {describe_error(error)}") from error


def _check_folder(dataset: Dataset, data_dir: Path | None) -> None:
    if dataset.needs_folder and data_dir is None:
        raise DataError(f"dataset {dataset.name} needs its files: pass --data-dir FOLDER")
    if data_dir is not None and not dataset.needs_folder:
        raise DataError(
            f"dataset {dataset.name} reads no files: pass the name of the dataset in {data_dir} with --dataset NAME"
        )
