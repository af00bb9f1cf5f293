"""What is left of a dataset whose images cannot all be read, where the user asks to go on without them.

It is asked for beside the dataset's own options, `--set dataset.skip_unreadable=true`, for any dataset. What is left is
another split with another hash, so its runs have ids and boards of their own, and the record lists what was skipped.
"""

import csv
import io
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ..dataset import SPLITS, DataError, Dataset, Index, Split, split_sha256
from ..recipe import Recipe
from ..utils.errors import UserError, first_few
from ..utils.files import write_atomic
from ..utils.progress import say
from ..utils.text import plain
from .pixel_cache import Decoded, UnreadableImage, copy_cached, decode_all, prepare_pixels
from .source import DataConfig, load_index


def load_readable_index(source: DataConfig, dataset: Dataset, recipe: Recipe) -> Index:
    """The index that a run is made on: all images, or where the user asks for that, those that can be decoded.

    Finding out decodes all of them, into the cache. Raises DataError.
    """
    index = load_index(dataset, source.data_dir)
    if not source.skip_unreadable:
        return index
    return _keep(dataset, index, decode_all(dataset, index, recipe.pixels.size, source.cache)[1], source, recipe)


def prepare_dataset(source: DataConfig, dataset: Dataset, recipe: Recipe, report: Path | None = None) -> Decoded:
    """The pixels of the images, and a CSV file of those that cannot be used.

    Raises:
        DataError: there are such images, and the user does not ask to skip them; the report is written before.
    """
    _check_report(report)
    index = load_index(dataset, source.data_dir)
    unusable: list[UnreadableImage] = []
    if report or source.skip_unreadable:
        unusable = decode_all(dataset, index, recipe.pixels.size, source.cache)[1]
    if report:
        write_report(report, unusable)
    if source.skip_unreadable:
        index = _keep(dataset, index, unusable, source, recipe)
    return prepare_pixels(dataset, index, recipe.pixels.size, source.cache)


def without_images(index: Index, skipped: Collection[str]) -> Index:
    """An index without these images; a split of its own. Raises DataError where a whole split would go."""
    if not skipped:
        return index
    gone = index.images["image_id"].isin(skipped)
    images = index.images[~gone].reset_index(drop=True)
    empty = [split for split in SPLITS if not (images["split"] == split).any()]
    if empty:
        raise DataError(
            f"no image of the {' and '.join(empty)} split can be read ({first_few(sorted(skipped))}): replace the files"
        )
    boxes = index.boxes
    if not boxes.empty:
        boxes = boxes[~boxes["image_id"].isin(skipped)].reset_index(drop=True)
    name = f"{index.split.name}, without {len(skipped):,} images that cannot be read"
    names = tuple(sorted(index.images.loc[gone, "image_id"]))
    return replace(index, images=images, boxes=boxes, split=Split(name, split_sha256(images)), skipped=names)


def write_report(path: Path, unusable: Collection[UnreadableImage]) -> None:
    """A CSV file of image, path and problem, whole or not at all; a header alone where nothing is wrong."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image_id", "path", "problem"])
    table.writerows((plain(image.image_id), image.path or "", plain(image.problem)) for image in unusable)
    write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))
    say(f"{len(unusable):,} images that cannot be used: {path}")


def _keep(
    dataset: Dataset, index: Index, unusable: Collection[UnreadableImage], source: DataConfig, recipe: Recipe
) -> Index:
    """The index without these images, and their neighbours' pixels in its cache."""
    left = without_images(index, {image.image_id for image in unusable})
    if unusable:
        say(f"left out: {len(unusable):,} images that cannot be read: {first_few(left.skipped)}")
        copy_cached(dataset, index, left, recipe.pixels.size, source.cache)
    return left


def _check_report(report: Path | None) -> None:
    """Before hours of decoding, not after. Raises UserError."""
    if report and (report.is_dir() or not report.parent.is_dir()):
        raise UserError(f"--report {report} cannot be written: name a file in a folder that exists")
