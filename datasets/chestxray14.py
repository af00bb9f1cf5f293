"""NIH ChestX-ray14 (Wang et al., CVPR 2017), read from the folder as downloaded.

Contents of the folder::

    images_001/images/*.png ... images_012/images/*.png   or all in images/: found by base name anywhere below
    Data_Entry_2017_v2020.csv or Data_Entry_2017.csv      findings, `|`-separated; the corrected v2020 is preferred
    train_val_list.txt, test_list.txt                     the official split, by patient
    BBox_List_2017.csv                                    boxes on 880 test images (optional)

The release has no validation list: validation patients are sampled from the train_val patients, so that the split
depends on the list and the seed, and not on which images exist.
"""

import filecmp
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np
import pandas as pd

from ..benchmark.dataset import FINDINGS, SPLITS, TRAITS, DataError, Dataset, Index, Split, split_sha256
from ..benchmark.registry import DATASETS
from ..benchmark.utils.errors import first_few
from ..benchmark.utils.image_io import image_size
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


@DATASETS.register("chestxray14")
@dataclass(frozen=True)
class ChestXray14(Dataset):
    """112,120 frontal chest X-rays of 30,805 patients, with 14 findings mined from the reports.

    Options:
        allow_missing: use the listed images that exist instead of rejecting a partial download.
        labels: name of the label file in the folder; empty takes v2020 if it exists, else v2017.
        validation_share: share of the train_val patients held out for validation (10 of the 80 percent).
        split_seed: determines which patients these are.
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
        """Read labels, lists and boxes, and find the images. Raises DataError."""
        listed = self.listed(data_dir)
        images, absent = self._present(_folder(data_dir), listed.images)
        _check_square(images, listed.boxes)
        if not absent:
            return replace(listed, images=images)
        boxes = listed.boxes[_is_in(listed.boxes["image_id"], set(images["image_id"]))].reset_index(drop=True)
        name = f"{listed.split.name}, partial: {len(images):,} of {len(listed.images):,} images"
        return replace(listed, images=images, boxes=boxes, split=Split(name, split_sha256(images)), absent=absent)

    def listed(self, data_dir: Path | None) -> Index:
        """Return the index of both lists without looking for files: every `path` is None. Raises DataError."""
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
                f"{len(unlabeled):,} listed images are not in {file} ({first_few(unlabeled)}): "
                "use the lists and the label file of one release"
            )
        boxes = read_boxes(root / BOX_FILE, set(images["image_id"]))
        lists = OFFICIAL if official else "own lists"
        name = f"{lists}, validation by patient (seed {self.split_seed}, {100 * self.validation_share:g} %)"
        traits = tuple(trait for trait in TRAITS if trait in images)
        return Index(images, boxes, FINDINGS, labels, Split(name, split_sha256(images)), traits=traits)

    def validation_patients(self, train_val: Sequence[str]) -> set[str]:
        """Select the validation patients of these images: the first share of them in the order of a seeded hash."""
        share, seed = self.validation_share, self.split_seed
        if not 0 < share < 1:
            raise DataError(f"validation_share is {share}: choose a share between 0 and 1, such as 0.125")
        patients = {patient_of(name) for name in train_val}
        shuffled = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())
        return set(shuffled[: max(1, round(len(shuffled) * share))])

    def _label_file(self, root: Path) -> Path:
        """Find the label file that the option names, or the preferred one. Raises DataError."""
        names = [self.labels] if self.labels else list(LABEL_FILES)
        for name in names:
            if (root / name).is_file():
                return root / name
        raise DataError(f"{root} has no label file {' or '.join(names)}: put the one of the NIH release there")

    def _present(self, root: Path, listed: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
        """Find the files of the listed images: those that exist, with `path`, and how many of each split do not."""
        found = _find_images(root, set(listed["image_id"]))
        if not found:
            raise DataError(
                f"{root} holds none of the {len(listed):,} listed images: "
                "unpack the NIH image archives there (images_001 to images_012)"
            )
        images = listed.copy()
        images["path"] = images["image_id"].map(found)
        missing = images["path"].isna()
        if missing.any() and not self.allow_missing:
            names = images.loc[missing, "image_id"].tolist()
            raise DataError(
                f"{len(names):,} of the {len(images):,} listed images are not under {root} ({first_few(names)}): "
                "download the rest, or use what is there with --set dataset.allow_missing=true"
            )
        absent = {split: int((missing & (images["split"] == split)).sum()) for split in SPLITS}
        return images[~missing].reset_index(drop=True), absent if missing.any() else {}


def _folder(data_dir: Path | None) -> Path:
    """Check that the data folder exists. Raises DataError."""
    if data_dir is None:
        raise DataError("the folder of the NIH files is missing: pass it with --data-dir FOLDER")
    if not data_dir.exists():
        raise DataError(f"data folder {data_dir} does not exist: pass that of the NIH files with --data-dir FOLDER")
    if not data_dir.is_dir():
        raise DataError(f"{data_dir} is a file: --data-dir takes the folder that holds the NIH files")
    return data_dir


def _is_in(names: pd.Series, listed: set[str]) -> np.ndarray:
    """Whether each name is listed; faster than Series.isin for a few names and a long list, which isin converts."""
    return np.array([name in listed for name in names], bool)


def _find_images(root: Path, wanted: set[str]) -> dict[str, str]:
    """Find images anywhere below a folder: base name to path. Raises DataError if files of one name differ."""
    found: dict[str, list[str]] = {}
    visited = set()
    # Links are followed, because large image folders often are links; a link to a parent folder must not loop.
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise_unreadable):
        real = Path(folder).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        for name in wanted.intersection(files):
            found.setdefault(name, []).append(f"{folder}{os.sep}{name}")
    twice = [sorted(paths) for _, paths in sorted(found.items()) if len(paths) > 1]
    differ = [" and ".join(paths) for paths in twice if not _all_equal(paths)]
    if differ:
        raise DataError(f"{len(differ):,} images exist twice and differ ({first_few(differ)}): keep one of each")
    return {name: min(paths) for name, paths in found.items()}


def _all_equal(paths: Sequence[str]) -> bool:
    """Whether the files hold the same bytes; also if one cannot be read, which decoding will report."""
    try:
        return all(Path(other).samefile(paths[0]) or filecmp.cmp(paths[0], other, shallow=False) for other in paths[1:])
    except OSError:
        return True


def _check_square(images: pd.DataFrame, boxes: pd.DataFrame) -> None:
    """Check that images with boxes are square, as in the release: on a cropped image boxes would be misplaced."""
    boxed = images[images["path"].notna() & _is_in(images["image_id"], set(boxes["image_id"]))]
    sizes = {name: image_size(path) for name, path in zip(boxed["image_id"], boxed["path"], strict=True)}
    oblong = [f"{name} has {size[0]} x {size[1]} pixels" for name, size in sizes.items() if size and size[0] != size[1]]
    if oblong:
        raise DataError(
            f"{len(oblong):,} images with boxes are not square, as those of the release are ({first_few(oblong)}): "
            f"put the images of the release there, or remove {BOX_FILE}"
        )


def _raise_unreadable(error: OSError) -> NoReturn:
    raise DataError(f"folder {error.filename} cannot be read ({error.strerror}): check its permissions") from error
