"""Find the images to predict on, by file, folder or image id, and read them in batches."""

from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.data import DataLoader
from PIL import Image

from ...data.loader import identity_collate
from ...data.pixel_cache import InHand, Shrink, is_picklable
from ...dataset import DataError
from ...utils.environment import cores
from ...utils.image_io import find_images, read_image
from ...utils.text import plain
from .annotations import AnnotationIndex, Annotations

BATCH = 16  # images in memory at a time
SERIAL_UP_TO = 3 * BATCH  # number of images up to which worker processes cost more time than they save
FIGURE_SIDE = 512  # longer side of a radiograph in a figure, pixels
SAME_IMAGE = 2.0  # mean difference in gray levels up to which two files are the same radiograph (JPEG, DICOM windows)


class ImageSource(NamedTuple):
    """Image to predict on.

    Attributes:
        name: path of the image, or its id in the run's dataset.
        stem: stem of the files written for the image; unique.
        path: file of the image; None for an image id.
    """

    name: str
    stem: str
    path: Path | None

    @property
    def image_id(self) -> str:
        """The id that the image would have in a dataset."""
        return self.path.name if self.path else self.name


class ReadImage(NamedTuple):
    """Image in memory.

    Attributes:
        source: source of the image.
        pixels: pixels for the network, uint8 (size, size).
        figure: pixels for display, uint8 (H, W), the longer side at most FIGURE_SIDE.
        annotations: annotations in the run's dataset; None if the image is not in it.
    """

    source: ImageSource
    pixels: np.ndarray
    figure: np.ndarray
    annotations: Annotations | None


class UnreadableSource(NamedTuple):
    """Image that cannot be read, and why, in one sentence."""

    source: ImageSource
    problem: str


def find_sources(names: Sequence[str], index: AnnotationIndex) -> list[ImageSource]:
    """Find images: files, the images in folders, and for other names the image ids of an index.

    Stems that occur twice are numbered, so that no image's files overwrite those of a different image.

    Raises:
        UserError: a name is neither an existing path nor an image id.
    """
    ids = {name for name in names if not Path(name).exists() and name in index}
    paths = find_images([Path(name) for name in names if name not in ids])
    images: list[tuple[str, Path | None]] = [(name, None) for name in names if name in ids]
    images += [(str(path), path) for path in paths]
    used_stems: set[str] = set()
    sources = []
    for name, path in images:
        stem = plain(Path(name).stem)
        unique = next(text for text in chain([stem], (f"{stem}-{k}" for k in count(2))) if text not in used_stems)
        used_stems.add(unique)
        sources.append(ImageSource(name, unique, path))
    return sources


def read_batches(
    sources: Sequence[ImageSource], index: AnnotationIndex, size: int
) -> Iterator[list[ReadImage | UnreadableSource]]:
    """Yield the images batch by batch, in order, read by worker processes if there are many.

    Args:
        sources: images to read.
        index: annotations in the run's dataset.
        size: side in pixels of the square that images are shrunk to for the network.
    """
    is_parallel = len(sources) > SERIAL_UP_TO and (index.dataset is None or is_picklable(index.dataset))
    workers = cores() if is_parallel else 0
    images = InHand(_Images(sources, index, size), [source.name for source in sources], workers)
    with images.named():
        yield from DataLoader(images, batch_size=BATCH, collate_fn=identity_collate, num_workers=workers)


class _Images(torch.utils.data.Dataset):
    """Sources, read one at a time, for the loader."""

    def __init__(self, sources: Sequence[ImageSource], index: AnnotationIndex, size: int) -> None:
        self.sources, self.index, self.shrink = sources, index, Shrink(size)

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, position: int) -> ReadImage | UnreadableSource:
        source = self.sources[position]
        try:
            gray = read_image(source.path) if source.path else self.index.read(source.name)
        except DataError as error:
            return UnreadableSource(source, str(error))
        pixels = self.shrink(gray)
        figure = Image.fromarray(gray)
        figure.thumbnail((FIGURE_SIDE, FIGURE_SIDE))
        return ReadImage(source, pixels, np.asarray(figure), self._annotations(source, pixels))

    def _annotations(self, source: ImageSource, pixels: np.ndarray) -> Annotations | None:
        """Look an image up by its file name *and* its pixels: other datasets use the same names."""
        if source.image_id not in self.index:
            return None
        if source.path is not None and not self._has_pixels(source.image_id, pixels):
            return None
        return self.index.annotations(source.image_id)

    def _has_pixels(self, image_id: str, pixels: np.ndarray) -> bool:
        try:
            original = self.shrink(self.index.read(image_id)).astype(float)
        except DataError:  # a damaged copy in the dataset must not prevent a prediction for the user's file
            return False
        return bool(np.abs(original - pixels).mean() <= SAME_IMAGE)
