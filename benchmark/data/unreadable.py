"""Skip the images of a dataset that cannot be read, if the user opts in.

The setting is the same for any dataset: `--set dataset.skip_unreadable=true`. The remaining images form a different
split with a different hash: such runs have separate ids and boards, and the record lists the skipped images.
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
from ..utils.text import count, encodable, plain
from .pixel_cache import Decoded, UnreadableImage, copy_cached, decode_all, prepare_pixels
from .source import DataConfig, load_index


def load_readable_index(config: DataConfig, dataset: Dataset, recipe: Recipe) -> Index:
    """Load the index of a run: all images, or only the readable ones if the user opts in.

    To find unreadable images, all are decoded into the cache.

    Raises:
        DataError: the index is invalid, image files are missing, or no image of a split can be read.
    """
    index = load_index(dataset, config.data_dir)
    if not config.skip_unreadable:
        return index
    _, unreadable = decode_all(dataset, index, recipe.pixels.size, config.cache)
    return _skip(dataset, index, unreadable, recipe.pixels.size, config.cache)


def prepare_dataset(config: DataConfig, dataset: Dataset, recipe: Recipe, report: Path | None = None) -> Decoded:
    """Decode a dataset's images, and report those that cannot be read.

    Args:
        config: data folder, cache, and whether to skip unreadable images.
        dataset: dataset that reads the images.
        recipe: recipe that sets the size of the decoded images.
        report: CSV file to list the images that cannot be read; None to write none.

    Raises:
        DataError: some images cannot be read and may not be skipped; a requested report has been written.
        UserError: the report cannot be written.
    """
    _check_report(report)
    index = load_index(dataset, config.data_dir)
    size = recipe.pixels.size
    unreadable: list[UnreadableImage] = []
    if report or config.skip_unreadable:
        _, unreadable = decode_all(dataset, index, size, config.cache)
    if report:
        write_report(report, unreadable)
    if config.skip_unreadable:
        index = _skip(dataset, index, unreadable, size, config.cache)
    return prepare_pixels(dataset, index, size, config.cache)


def without_images(index: Index, skipped: Collection[str]) -> Index:
    """Return an index without these images, with a new identity of its split.

    Raises:
        DataError: a split has no image left.
    """
    if not skipped:
        return index
    is_skipped = index.images["image_id"].isin(skipped)
    images = index.images[~is_skipped].reset_index(drop=True)
    empty = [split for split in SPLITS if not (images["split"] == split).any()]
    if empty:
        raise DataError(
            f"no image of the {' and '.join(empty)} split can be read ({first_few(sorted(skipped))}): replace the files"
        )
    boxes = index.boxes
    if not boxes.empty:
        boxes = boxes[~boxes["image_id"].isin(skipped)].reset_index(drop=True)
    split = Split(f"{index.split.name}, without {count(len(skipped), 'unreadable image')}", split_sha256(images))
    names = tuple(sorted(index.images.loc[is_skipped, "image_id"]))
    return replace(index, images=images, boxes=boxes, split=split, skipped=names)


def write_report(path: Path, unreadable: Collection[UnreadableImage]) -> None:
    """Write a CSV file of image, path and problem, atomically; only a header if all images can be read."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image_id", "path", "problem"])
    table.writerows(
        (encodable(image.image_id), encodable(image.path or ""), plain(image.problem)) for image in unreadable
    )
    write_atomic(path, text.getvalue().encode())
    say(f"{count(len(unreadable), 'unreadable image')}, see {path}")


def _skip(dataset: Dataset, index: Index, unreadable: Collection[UnreadableImage], size: int, cache: Path) -> Index:
    """Return the index without the unreadable images, and fill its cache with the pixels of the readable ones."""
    readable = without_images(index, {image.image_id for image in unreadable})
    if unreadable:
        say(f"skipped {count(len(unreadable), 'unreadable image')}: {first_few(readable.skipped)}")
        copy_cached(dataset, index, readable, size, cache)
    return readable


def _check_report(report: Path | None) -> None:
    """Raise a UserError if the report cannot be written, before hours of decoding."""
    if report and ((report.exists() and not report.is_file()) or not report.parent.is_dir()):
        raise UserError(f"--report {report} cannot be written: choose a file in an existing folder")
