"""Identity of results and of decoded images: the one place that decides whether two of them follow from the same input.

What a result follows from is hashed: the code of the method and the dataset, all options, the bytes of the files that
options name, the labels, lists and boxes, and the recipe. Pixels are hashed once they are decoded; until then, the
cache of an image is valid for the size and modification time of its file. Versions of the harness and of libraries,
hardware and precision are recorded, but not part of an identity: a new commit does not separate the seeds of a method.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import CONTRACT_COLUMNS, Dataset, Index
from ..recipe import SECTIONS, Recipe, recipe_table
from ..utils import image_io
from ..utils.files import file_sha256, json_sha256
from ..utils.options import to_dict
from ..utils.source_code import code_sha256, source_sha256

SAMPLE = 16  # images whose pixels a record identifies one by one


def experiment_sha256(method: Mapping[str, Any], dataset: Dataset, index: Index, recipe: Recipe) -> str:
    """Hash everything that a run's result follows from, except for its seed and the decoded pixels.

    Args:
        method: name, code (`source_sha256`) and options of the method.
        dataset: dataset with its options.
        index: images, labels and boxes of the run.
        recipe: recipe of the run.

    Raises:
        UserError: a file that an option names cannot be read.
    """
    table = recipe_table(recipe)
    identity = {
        "method": with_file_contents(method),
        "dataset": _dataset_identity(dataset),
        "index": index_sha256(index),
        "recipe": {section: with_file_contents(table[section]) for section in SECTIONS},
    }
    return json_sha256(identity)


def run_id(recipe: Recipe, seed: int, experiment: str) -> str:
    """Name a run by its recipe, its seed, and a hash of both and of `experiment_sha256`."""
    digest = json_sha256([experiment, seed])
    name = re.sub(r"[^A-Za-z0-9_]+", "-", Path(recipe.name).stem).strip("-") or "recipe"
    return f"{name[:40]}-seed{seed}-{digest[:10]}"


def index_sha256(index: Index) -> str:
    """Hash images, patients, splits, labels, traits and boxes of an index, in their order, without the files' paths."""
    columns = [name for name in (*CONTRACT_COLUMNS, *index.traits) if name != "path"]
    digest = hashlib.sha256(json_sha256([*index.labels, *index.split, index.findings]).encode())
    for table in (index.images[columns], index.boxes):
        digest.update(table.to_csv(index=False, lineterminator="\n").encode("utf-8", "surrogatepass"))
    digest.update(index.targets().tobytes())
    return digest.hexdigest()


def cache_key(dataset: Dataset, index: Index, size: int) -> str:
    """Hash what the decoded images of an index follow from, except for their files' content.

    Equal names in different folders have separate caches. The options and the code of a dataset count only if it reads
    images itself: a different split of the same files does not decode them again.
    """
    paths, first = index.images["path"], index.images["image_id"].iloc[0]
    reads_itself = type(dataset).read is not Dataset.read or type(dataset).stamp is not Dataset.stamp
    identity = {
        "size": size,
        "origin": dataset.stamp(first, None) if paths.isna().any() else os.path.commonpath(paths.tolist()),
        "images": index.images["image_id"].tolist(),
        "dataset": _dataset_identity(dataset) if reads_itself else dataset.name,
        "reader": _reader_sha256(),
    }
    return json_sha256(identity)[:16]


@cache
def _reader_sha256() -> str:
    return code_sha256(Path(image_io.__file__))


def pixel_sample(index: Index, pixels: np.ndarray) -> dict[str, str]:
    """Hash the pixels of some images, evenly spaced over an index: SHA-256 by image id.

    Args:
        index: index of N images.
        pixels: their pixels, uint8 (N, size, size).
    """
    rows = sample_rows(len(pixels))
    names = index.images["image_id"].iloc[rows]
    return {name: hashlib.sha256(pixels[row].tobytes()).hexdigest() for name, row in zip(names, rows, strict=True)}


def sample_rows(images: int) -> np.ndarray:
    """Return the rows of up to SAMPLE images, evenly spaced over all of them, the first and the last included."""
    return np.linspace(0, images - 1, min(SAMPLE, images)).round().astype(int)


def with_file_contents(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace each value that names an existing file by a hash of the file: where it is, and its name, do not count."""
    return {key: _content(value) for key, value in options.items()}


def _content(value: Any) -> Any:
    if isinstance(value, Mapping):
        return with_file_contents(value)
    if isinstance(value, list | tuple):
        return [_content(item) for item in value]
    if isinstance(value, str | Path) and os.path.isfile(value):  # noqa: PTH113  no error for names that are too long
        return {"sha256": file_sha256(Path(value))}
    return str(value) if isinstance(value, Path) else value


def _dataset_identity(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "source": source_sha256(type(dataset)),
        "options": with_file_contents(to_dict(dataset)),
    }
