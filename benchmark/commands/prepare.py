"""`chxbench prepare`: decode a dataset's images into the pixel cache."""

from pathlib import Path

from ..data.source import DataConfig, build_dataset
from ..data.unreadable import prepare_dataset
from ..utils.progress import say
from ..utils.text import count


def prepare(config: DataConfig, report: Path | None = None) -> None:
    """Decode and resize a dataset's images once; images decoded by an interrupted call are not decoded again.

    Args:
        config: the dataset, and the recipe that sets the image size.
        report: CSV file to write, with the unreadable images and the reasons.

    Raises:
        DataError: if images cannot be read, unless `dataset.skip_unreadable` is set.
    """
    dataset, recipe = build_dataset(config)
    pixels = prepare_dataset(config, dataset, recipe, report).pixels
    where = getattr(pixels, "filename", "")  # only a memory map has one
    say(f"{count(len(pixels), 'image')} of {recipe.pixels.size}x{recipe.pixels.size} pixels: {where}")
