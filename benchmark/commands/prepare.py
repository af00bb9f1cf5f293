"""`chxbench prepare`: decode a dataset's images into the pixel cache."""

from pathlib import Path

from ..data.source import DataConfig, build_dataset
from ..data.unreadable import prepare_dataset
from ..utils.progress import say


def prepare(config: DataConfig, report: Path | None = None) -> None:
    """Decode and resize a dataset's images once; what a stopped call decoded is not decoded again.

    Args:
        config: the dataset, and the recipe whose image size is cached.
        report: a CSV file to write, of the images that cannot be read and why.

    Raises:
        DataError: images cannot be read, unless `dataset.skip_unreadable` leaves them out.
    """
    dataset, recipe = build_dataset(config)
    pixels = prepare_dataset(config, dataset, recipe, report).pixels
    where = getattr(pixels, "filename", "")  # a memory map has one
    say(f"{len(pixels):,} images of {recipe.pixels.size}x{recipe.pixels.size} pixels: {where}")
