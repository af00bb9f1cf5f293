"""NIH ChestX-ray14 (Wang et al., CVPR 2017), read from the folder as downloaded.

Contents of the folder::

    images_001/images/*.png ... images_012/images/*.png   or all in images/: found by base name anywhere below
    Data_Entry_2017_v2020.csv or Data_Entry_2017.csv      findings, `|`-separated; the corrected v2020 is preferred
    train_val_list.txt, test_list.txt                     the official split, by patient
    BBox_List_2017.csv                                    boxes on 880 test images (optional)

The release has no validation list: validation patients are sampled from the train_val patients. The split depends on
the lists, `split_seed` and `validation_share`, not on which images exist.
"""

import filecmp
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from ..benchmark.dataset import FINDINGS, SPLITS, TRAITS, DataError, Dataset, Index, Split, split_sha256
from ..benchmark.registry import DATASETS
from ..benchmark.utils.errors import first_few
from ..benchmark.utils.image_io import DICOM_SUFFIXES, PICTURE_SUFFIXES, image_size
from ..benchmark.utils.progress import say
from ..benchmark.utils.text import count
from .nih_tables import (
    BOX_FILE,
    LABEL_FILES,
    LABEL_VERSIONS,
    LISTS,
    OFFICIAL,
    TRUTHS,
    patient_of,
    read_boxes,
    read_labels,
    read_lists,
)

SUFFIXES = PICTURE_SUFFIXES + DICOM_SUFFIXES  # under which a listed image may have been stored


@DATASETS.register("chestxray14")
@dataclass(frozen=True)
class ChestXray14(Dataset):
    """112,120 frontal chest X-rays of 30,805 patients, with 14 findings mined from the reports.

    Options:
        allow_missing: use the listed images that exist and can be read instead of rejecting a partial download.
        labels: name of the label file in the folder; empty selects v2020 if present, else v2017.
        validation_share: fraction of the train_val patients held out for validation; the default is about 10 % of all
            patients.
        split_seed: seed that selects the validation patients.
    """

    title: ClassVar[str] = "NIH ChestX-ray14"
    caveat: ClassVar[str] = "the labels were mined from reports by software, and some of them are wrong"
    rare: ClassVar[tuple[str, ...]] = ("Hernia",)  # 86 images of 32 patients in the official test list
    known_labels: ClassVar[Mapping[str, str]] = LABEL_VERSIONS
    known_tests: ClassVar[Mapping[str, str]] = {LISTS["test_list.txt"]: OFFICIAL}
    known_truths: ClassVar[Mapping[tuple[str, str], str]] = TRUTHS

    allow_missing: bool = False
    labels: str = ""
    validation_share: float = 0.125
    split_seed: int = 0

    def index(self, data_dir: Path | None) -> Index:
        """Read labels, lists and boxes, and find the images.

        Raises:
            DataError: a file is missing, damaged or inconsistent, or an image with boxes is not square.
        """
        listed = self.listed(data_dir)
        images, missing = self._present(_folder(data_dir), listed.images)
        _check_square(images, listed.boxes)
        if not missing:
            return replace(listed, images=images)
        boxes = listed.boxes[_is_in(listed.boxes["image_id"], set(images["image_id"]))].reset_index(drop=True)
        name = f"{listed.split.name}, partial: {len(images):,} of {len(listed.images):,} images"
        return replace(listed, images=images, boxes=boxes, split=Split(name, split_sha256(images)), absent=missing)

    def listed(self, data_dir: Path | None) -> Index:
        """Return the index of both lists without looking for images: every `path` is None.

        Raises:
            DataError: the label file, a list or the box file is missing, damaged or inconsistent.
        """
        root = _folder(data_dir)
        file = self._label_file(root)
        train_val, test, official = read_lists(root)
        held_out = self.validation_patients(train_val)
        splits = ["val" if patient_of(name) in held_out else "train" for name in train_val]
        images = pd.DataFrame({"image_id": [*train_val, *test]})
        images["patient_id"] = [patient_of(name) for name in images["image_id"]]
        images["path"] = None
        images["split"] = splits + ["test"] * len(test)
        labels, columns = read_labels(file)
        images = images.join(columns, on="image_id")
        unlabeled = images.loc[images[FINDINGS[0]].isna(), "image_id"].tolist()
        if unlabeled:
            raise DataError(
                f"{count(len(unlabeled), 'listed image')} missing from {file} ({first_few(unlabeled)}): "
                "use the lists and the label file of the same release"
            )
        boxes = read_boxes(root / BOX_FILE, set(images["image_id"]))
        lists = OFFICIAL if official else "custom lists"
        name = f"{lists}, validation by patient (seed {self.split_seed}, {100 * self.validation_share:g} %)"
        traits = tuple(trait for trait in TRAITS if trait in images)
        return Index(images, boxes, FINDINGS, labels, Split(name, split_sha256(images)), traits=traits)

    def validation_patients(self, train_val: Sequence[str]) -> set[str]:
        """Select the validation patients of these images: the first patients in the order of a seeded hash.

        Raises:
            DataError: `validation_share` is not between 0 and 1.
        """
        fraction, seed = self.validation_share, self.split_seed
        if not 0 < fraction < 1:
            raise DataError(f"validation_share is {fraction}: choose a fraction between 0 and 1, such as 0.125")
        patients = {patient_of(name) for name in train_val}
        shuffled = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
        return set(shuffled[: max(1, round(len(shuffled) * fraction))])

    def _label_file(self, root: Path) -> Path:
        """Find the label file of the option, or the preferred one. Raises DataError if it is missing."""
        names = [self.labels] if self.labels else list(LABEL_FILES)
        for name in names:
            if (root / name).is_file():
                return root / name
        raise DataError(f"{root} has no label file {' or '.join(names)}: put the one of the NIH release there")

    def _present(self, root: Path, listed: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
        """Find the files of the listed images: those that exist, with `path`, and how many of each split do not."""
        paths, unused = _find_images(root, listed["image_id"].tolist(), self.allow_missing)
        near = f"{count(len(unused), 'file')} with another ending or without readable content ({first_few(unused)})"
        if not paths:
            raise DataError(
                f"{root} contains none of the {len(listed):,} listed images{f', but {near}' if unused else ''}: "
                "unpack the NIH image archives there (images_001 to images_012)"
            )
        images = listed.copy()
        # As objects: pandas' text cannot hold the name of every folder.
        images["path"] = pd.Series([paths.get(name) for name in images["image_id"]], images.index, dtype=object)
        is_missing = images["path"].isna()
        if is_missing.any() and not self.allow_missing:
            names = images.loc[is_missing, "image_id"].tolist()
            raise DataError(
                f"{len(names):,} of the {len(images):,} listed images are not under {root} ({first_few(names)})"
                f"{f', but {near}' if unused else ''}: "
                "download the rest, or use what is there with --set dataset.allow_missing=true"
            )
        if unused:
            say(f"left out in place of listed images: {near}; convert them to PNG or download them to use them")
        missing = {split: int((is_missing & (images["split"] == split)).sum()) for split in SPLITS}
        return images[~is_missing].reset_index(drop=True), missing if is_missing.any() else {}


def _folder(data_dir: Path | None) -> Path:
    """Check that a data folder is given and exists. Raises DataError if not."""
    if data_dir is None:
        raise DataError("no data folder given: pass --data-dir FOLDER")
    if not data_dir.exists():
        raise DataError(
            f"data folder {data_dir} does not exist: pass the folder of the NIH files with --data-dir FOLDER"
        )
    if not data_dir.is_dir():
        raise DataError(f"{data_dir} is a file: pass the folder of the NIH files with --data-dir FOLDER")
    return data_dir


def _is_in(names: pd.Series, listed: set[str]) -> np.ndarray:
    """Return whether each name is listed; faster than Series.isin for few names and a long list."""
    return np.array([name in listed for name in names], bool)


def _find_images(root: Path, listed: Sequence[str], readable: bool) -> tuple[dict[str, str], list[str]]:
    """Find images anywhere below a folder, by base name; its case matters only if two files differ in nothing else.

    Args:
        root: folder to search.
        listed: base names of the images.
        readable: whether empty files and those without permission do not count; else decoding reports them.

    Returns:
        Path of each image that is there, and the sorted paths of what is there in place of the others: files with
        another ending, links to nothing, and others that are no readable file.

    Raises:
        DataError: files with the same name differ, or a folder cannot be read.
    """
    wanted, by_case, by_stem = (
        set(listed),
        _unique(listed),
        _unique(listed, lambda name: name.rpartition(".")[0] or name),
    )
    exact: dict[str, list[str]] = {}
    similar: dict[str, list[str]] = {}
    unused: dict[str, list[str]] = {}
    for entry in _walk(root, set()):
        name = entry.name
        other = name if name in wanted else by_case.get(name.casefold())
        if other and _is_there(entry, readable):
            (exact if name == other else similar).setdefault(other, []).append(entry.path)
            continue
        stem, _, ending = name.rpartition(".")
        if other is None and f".{ending.lower()}" in SUFFIXES:
            other = by_stem.get(stem.casefold())
        if other:
            unused.setdefault(other, []).append(entry.path)
    found = similar | exact
    conflicts = [" and ".join(sorted(paths)) for _, paths in sorted(found.items()) if not _all_equal(paths)]
    if conflicts:
        raise DataError(
            f"{count(len(conflicts), 'image')} with different files of the same name ({first_few(conflicts)}): "
            "keep one of each"
        )
    rest = sorted(path for name, paths in unused.items() if name not in found for path in paths)
    return {name: min(paths) for name, paths in found.items()}, rest


def _unique(names: Sequence[str], part: Callable[[str], str] = str) -> dict[str, str]:
    """Return names by a part of them, in any case; without those that share it."""
    keys = [part(name).casefold() for name in names]
    shared = {key for key, number in Counter(keys).items() if number > 1}
    return {key: name for key, name in zip(keys, names, strict=True) if key not in shared}


def _walk(folder: Path | str, visited: set[Path]) -> Iterator[os.DirEntry[str]]:
    """Yield all files and folders below a folder, once each. Raises DataError if a folder cannot be read."""
    real = Path(folder).resolve()
    if real in visited:  # links are followed, because large image folders often are links, maybe to a parent
        return
    visited.add(real)
    try:
        with os.scandir(folder) as entries:
            inside = list(entries)
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read ({error.strerror}): check its permissions") from error
    yield from inside
    for entry in inside:
        if entry.is_dir():
            yield from _walk(entry.path, visited)


def _is_there(entry: os.DirEntry[str], readable: bool) -> bool:
    """Return whether an entry leads to a file and, if asked, to one with content that can be read."""
    if not entry.is_file():  # also a link to nothing
        return False
    return not readable or (entry.stat().st_size > 0 and os.access(entry.path, os.R_OK))


def _all_equal(paths: Sequence[str]) -> bool:
    """Return whether the files have equal bytes; also True if one cannot be read, which decoding will report."""
    try:
        return all(Path(other).samefile(paths[0]) or filecmp.cmp(paths[0], other, shallow=False) for other in paths[1:])
    except OSError:
        return True


def _check_square(images: pd.DataFrame, boxes: pd.DataFrame) -> None:
    """Check that images with boxes are square, as in the release: on a cropped image boxes would be misplaced."""
    boxed = images[images["path"].notna() & _is_in(images["image_id"], set(boxes["image_id"]))]
    sizes = {name: image_size(path) for name, path in zip(boxed["image_id"], boxed["path"], strict=True)}
    non_square = [
        f"{name} has {size[0]} x {size[1]} pixels" for name, size in sizes.items() if size and size[0] != size[1]
    ]
    if non_square:
        raise DataError(
            f"{count(len(non_square), 'image')} with boxes not square, unlike those of the release "
            f"({first_few(non_square)}): use the images of the release, or remove {BOX_FILE}"
        )
