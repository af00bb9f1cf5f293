"""Find the images to predict on, by file, folder or image id, and read them in batches."""

import os
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
from ...utils.errors import first_few
from ...utils.image_io import DICOM_SUFFIXES, PICTURE_SUFFIXES
from ...utils.progress import say
from ...utils.text import file_stem, same_file_key
from .annotations import AnnotationIndex, Annotations

PICTURE = ".heatmaps.png"  # end of the names of the figures that `predict` draws
SUFFIXES = PICTURE_SUFFIXES + DICOM_SUFFIXES  # of the files that are taken from a folder
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
    """Find images: files, the image files directly in folders, and for other names the image ids of an index.

    What else is in the folders is reported. Stems that occur twice are numbered, so that no image's files overwrite
    those of a different image, also where case does not matter.

    Raises:
        DataError: a name is neither an existing path nor an image id, or a folder cannot be read or has no image.
    """
    images: list[tuple[str, Path | None]] = []
    missing: list[str] = []
    others: dict[str, list[str]] = {}
    for name in names:  # Path.exists and Path.is_dir raise for names that are too long
        if os.path.isdir(name):  # noqa: PTH112
            files = _list_images(Path(name), others)
            images += [(str(file), file) for file in files]
            missing += [] if files else [name]
        elif os.path.exists(name):  # noqa: PTH110
            images.append((name, Path(name)))
        elif name in index:
            images.append((name, None))
        else:
            missing.append(name)
    skipped = "; ".join(f"{kind}: {first_few(found)} ({len(found):,})" for kind, found in others.items())
    if missing:
        raise DataError(
            f"no image found: {first_few(missing)}; pass existing files, folders with images that end in "
            f"{', '.join(SUFFIXES)}, or image ids of the run's dataset" + (f" (skipped {skipped})" if skipped else "")
        )
    if skipped:
        say(f"skipped in folders: {skipped}; pass a file itself to predict on it")
    return _with_stems(images)


def _list_images(folder: Path, others: dict[str, list[str]]) -> list[Path]:
    """Return the files in a folder whose names end as those of images, sorted, and add what is left to `others`.

    Files that cannot be read are among them, so that they are reported.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read ({error.strerror}): check its permissions") from error
    images = []
    for path in entries:
        if path.is_dir():
            others.setdefault("subfolders", []).append(path.name)
        elif path.name.endswith(PICTURE):
            others.setdefault("figures of an earlier prediction", []).append(path.name)
        elif path.suffix.lower() not in SUFFIXES:
            others.setdefault("files with other endings", []).append(path.name)
        else:
            images.append(path)
    return images


def _with_stems(images: Sequence[tuple[str, Path | None]]) -> list[ImageSource]:
    """Choose the stem of each image's files: no two are equal, also where case does not matter."""
    used: set[str] = set()
    sources = []
    for name, path in images:
        stem = file_stem(name)
        stems = chain([stem], (f"{stem}-{k}" for k in count(2)))
        unique = next(text for text in stems if same_file_key(text) not in used)
        used.add(same_file_key(unique))
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
    workers = cores() if len(sources) > SERIAL_UP_TO and is_picklable(index.dataset) else 0
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
            gray = self.index.read(source.image_id, source.path)
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
