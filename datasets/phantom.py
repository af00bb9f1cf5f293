"""`phantom`, the built-in dataset of synthetic chest radiographs. Nothing to download, no patient data.

With it every command, test and comparison runs anywhere, on a task that is neither trivial nor impossible. Performance
on it does not predict performance on real radiographs.

This file determines which patient has which finding, phantom_signs.py what each finding looks like; phantom_drawing.py
draws the images. To view one::

    from PIL import Image
    from chxbench.datasets.phantom import Phantom
    phantom = Phantom()
    index = phantom.index(None)  # index.images has the findings, index.boxes their boxes
    Image.fromarray(phantom.read("00000001_000.png", None)).save("phantom.png")
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from ..benchmark.dataset import BOX_COLUMNS, FINDINGS, SPLITS, DataError, Dataset, Index, Labels, Split, split_sha256
from ..benchmark.registry import DATASETS
from . import phantom_drawing as drawing
from .phantom_drawing import RANGES, Array, Mark, Person, View, mix
from .phantom_signs import LASTING, SIGNS, Chance

# Part of the identity of the labels, and so of every result: raise it with any change of the drawing, labels or split.
VERSION = "phantom-1"

SPLIT_FRACTIONS = {"train": 0.58, "val": 0.12, "test": 0.30}  # of the images
MIN_POSITIVES = 16  # in the validation split, for which a rare finding is made more frequent,
MAX_RAISED_FRACTION = 0.07  # up to this fraction of the images
MIN_IMAGES, MIN_SIZE = 60, 32
CHRONIC = 0.5  # fraction of a finding's liability that belongs to the patient; the rest varies from image to image

# All 112,120 images of NIH ChestX-ray14, counted in Data_Entry_2017_v2020.csv (Wang et al., CVPR 2017).
IMAGES = 112_120
# Images with each finding, in the order of FINDINGS.
POSITIVES = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
# Tetrachoric correlation of each finding with those before it, in percent: the correlation of two normal variables that
# exceed both thresholds as often as the two findings occur together, each threshold being fitted to a finding's count.
CORRELATIONS = (
    (),
    (7,),
    (37, 39),
    (21, 5, 25),
    (6, -7, 20, 4),
    (-3, -7, 6, 12, 30),
    (14, 2, 12, 29, -1, -3),
    (10, -17, 15, 0, 12, 3, -9),
    (31, 8, 28, 14, 25, 12, 15, 0),
    (-2, 16, 23, 31, 2, 0, 56, -20, 11),
    (13, -6, 5, 0, 11, -4, -5, 51, 0, -9),
    (6, 4, -1, 4, 6, 12, -9, 0, 2, -19, -1),
    (10, 6, 23, 7, 24, 19, 2, 14, 13, -1, 14, 26),
    (11, 3, -5, -4, 13, -4, 0, -3, -11, -5, -3, 12, 2),
)
# Patients with 1, 2, ... 11 images, and with 12 or more (who have 12 here).
SERIES = (17503, 4113, 2100, 1330, 938, 787, 608, 494, 387, 320, 281, 1944)

# Every kind of random choice has a separate stream of random numbers, so that a new kind does not shift the others.
# Row k of a stream does not depend on how many rows are generated.
KINDS = ("series", "chronic", "acute", "person", "view", "place", "strength", "noise")


@DATASETS.register("phantom")
@dataclass(frozen=True)
class Phantom(Dataset):
    """Synthetic chest radiographs with the 14 findings of ChestX-ray14.

    The pixels of an image depend only on the seed, its id, its labels and the size.

    Findings are as frequent as in ChestX-ray14 (train, validation and test together) and co-occur as they do there,
    with one deliberate exception: a finding so rare that the validation split would have fewer than 16 positives is
    made frequent enough to have 16 there, and equally frequent in the other splits. No finding is raised beyond 7 %, so
    sets of fewer than about 1,900 images have fewer than 16, but always one in each split. At the default size this
    raises all except Atelectasis, Effusion and Infiltration, and 39 % of the images have no finding; no finding is
    raised from about 66,000 images on.

    Patients have 1 to 12 images, in about the release's proportions, and the split is by patient: 58 % of the images
    for training, 12 % for validation, 30 % for the test. A larger set begins with the patients and the split of a
    smaller one.

    Every positive, in every split, has one box: the one within which its sign is painted. Unlike in real data no label
    is wrong.

    Options:
        images: number of images, at least 60.
        size: side of the images in pixels, at least 32.
        seed: seed of patients, labels and pixels.
    """

    title: ClassVar[str] = "Phantom (synthetic radiographs)"
    caveat: ClassVar[str] = "the images are synthetic; these results say nothing about performance on patients"
    default_recipe: ClassVar[str] = "quick"
    needs_folder: ClassVar[bool] = False
    rare: ClassVar[tuple[str, ...]] = ("Hernia",)  # as in ChestX-ray14, whose tables it stands in for

    images: int = 2000
    size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < MIN_IMAGES:
            raise DataError(
                f"phantom cannot have {self.images} images: use {MIN_IMAGES} or more, "
                "so that every split has every finding"
            )
        if self.size < MIN_SIZE:
            raise DataError(f"phantom cannot be drawn {self.size} pixels wide: use {MIN_SIZE} or more")
        if self.seed < 0:
            raise DataError(f"phantom cannot have the seed {self.seed}: use 0 or more")

    def index(self, data_dir: Path | None) -> Index:
        people = _population(self.images, self.seed)
        images = people.images.copy()
        text = images[["image_id", *FINDINGS]].to_csv(index=False, float_format="%.0f", lineterminator="\n")
        version = f"{VERSION}, {self.images} images, seed {self.seed}"
        labels = Labels("drawn", hashlib.sha256(text.encode()).hexdigest(), version)
        return Index(images, _boxes(people), FINDINGS, labels, Split("phantom, by patient", split_sha256(images)))

    def read(self, image_id: str, path: str | None) -> np.ndarray:
        if path is not None:  # a user's file
            return super().read(image_id, path)
        people = _population(self.images, self.seed)
        if image_id not in people.row:
            raise DataError(f"{image_id} is not among the {self.images} images of phantom with seed {self.seed}")
        return people.picture(people.row[image_id], self.size)

    def stamp(self, image_id: str, path: str | None) -> str:
        return f"{VERSION}:{self.seed}:{self.size}:{self.images}"


# Who has what --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """Everything that is random, for all n images."""

    images: pd.DataFrame  # as in Index
    row: dict[str, int]  # image id to row number
    patient: Array  # (n,) the number of each image's patient
    labels: Array  # bool (n, findings)
    person: Person  # one row per patient
    view: View  # one row per image
    lasting: Array  # all but `strength` of each finding's Chance, (patients, findings, LASTING)
    strength: Array  # (n, findings)
    seed: int

    def picture(self, row: int, size: int) -> Array:
        """Draw one image, uint8 (size, size)."""
        body, view = self.bodies([row])
        present = [finding for finding, positive in zip(FINDINGS, self.labels[row], strict=True) if positive]
        signs = [self.sign(finding, body, [row]) for finding in present]
        return drawing.draw(body, view, signs, size, np.random.default_rng([self.seed, KINDS.index("noise"), row]))

    def bodies(self, which: Sequence[int] | Array) -> tuple[Person, View]:
        """Return the bodies in some images, changed by their findings, and the views of them."""
        view = drawing.rows(self.view, which)
        person = drawing.rows(self.person, self.patient[which])
        large_heart, trapped_air = (self._bending(finding, which) for finding in ("Cardiomegaly", "Emphysema"))
        return drawing.bend(person, view, large_heart, trapped_air), view

    def sign(self, finding: str, bodies: Person, which: Sequence[int] | Array) -> list[Mark]:
        """Return the marks of a finding in some images, whether or not they have it."""
        k = FINDINGS.index(finding)
        lasting = self.lasting[self.patient[which], k]
        values = [lasting[:, j : j + 1] for j in range(LASTING)]
        return SIGNS[finding](bodies, Chance._make([*values, self.strength[which, k : k + 1]]))

    def _bending(self, finding: str, which: Sequence[int] | Array) -> Array:
        """Compute how much a finding changes the bodies in some images: (n, 1), 0 if it is absent."""
        k = FINDINGS.index(finding)
        strength: Array = self.labels[which, k : k + 1] * mix(0.3, 1.0, self.strength[which, k : k + 1])
        return strength


@lru_cache(maxsize=4)
def _population(images: int, seed: int) -> Population:
    """Generate the population; cached, because images are read one by one."""
    patient, number = _series(images, seed)
    patients = patient[-1] + 1
    split = _deal(np.bincount(patient))[patient]
    labels = _labels(patient, split, seed)
    names = [f"{whose + 1:08d}_{which:03d}.png" for whose, which in zip(patient, number, strict=True)]
    table = pd.DataFrame({"image_id": names, "patient_id": [name[:8] for name in names], "path": None, "split": split})
    return Population(
        images=pd.concat([table, pd.DataFrame(labels.astype(np.float32), columns=list(FINDINGS))], axis=1),
        row={name: row for row, name in enumerate(names)},
        patient=patient,
        labels=labels,
        person=drawing.sample(Person, _stream(seed, "person").random((patients, len(RANGES[Person])))),
        view=drawing.sample(View, _stream(seed, "view").random((images, len(RANGES[View])))),
        lasting=_stream(seed, "place").random((patients, len(FINDINGS), LASTING), dtype=np.float32),
        strength=_stream(seed, "strength").random((images, len(FINDINGS)), dtype=np.float32),
        seed=seed,
    )


def _stream(seed: int, kind: str) -> np.random.Generator:
    return np.random.default_rng([seed, KINDS.index(kind)])


def _series(images: int, seed: int) -> tuple[Array, Array]:
    """Return each image's patient and its number among that patient's images: two int (images,), patients ascending."""
    up_to = np.cumsum(SERIES) / sum(SERIES)
    lengths = 1 + np.searchsorted(up_to, _stream(seed, "series").random(images), side="right")
    patient = np.repeat(np.arange(images), lengths)
    number = np.arange(len(patient)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return patient[:images], number[:images]


def _deal(lengths: Array) -> Array:
    """Assign each patient, in order, to the split that is furthest behind its fraction of the images so far."""
    behind = dict.fromkeys(SPLITS, 0.0)
    dealt = []
    for length in lengths.tolist():
        split = max(SPLITS, key=behind.__getitem__)
        behind = {name: images + (SPLIT_FRACTIONS[name] - (name == split)) * length for name, images in behind.items()}
        dealt.append(split)
    return np.array(dealt)


def _labels(patient: Array, split: Array, seed: int) -> Array:
    """Generate labels, bool (images, findings): per split and finding, the images of highest liability are positive."""
    root = np.linalg.cholesky(_correlations())
    chronic = _stream(seed, "chronic").standard_normal((patient[-1] + 1, len(FINDINGS)))[patient]
    acute = _stream(seed, "acute").standard_normal((len(patient), len(FINDINGS)))
    liability = (np.sqrt(CHRONIC) * chronic + np.sqrt(1 - CHRONIC) * acute) @ root.T
    min_fraction = min(MAX_RAISED_FRACTION, MIN_POSITIVES / np.count_nonzero(split == "val"))
    labels = np.zeros(liability.shape, dtype=bool)
    for rows_of_split in (np.flatnonzero(split == name) for name in SPLITS):
        for k, positives in enumerate(POSITIVES):
            count = max(1, round(max(positives / IMAGES, min_fraction) * len(rows_of_split)))
            order = np.argsort(-liability[rows_of_split, k], kind="stable")
            labels[rows_of_split[order[:count]], k] = True
    return labels


def _correlations() -> Array:
    lower = np.zeros((len(FINDINGS), len(FINDINGS)))
    for k, row in enumerate(CORRELATIONS):
        lower[k, :k] = np.array(row) / 100
    return lower + lower.T + np.eye(len(FINDINGS))


def _boxes(people: Population) -> pd.DataFrame:
    """Compute one box for each positive, in the order of the images."""
    tables = []
    for k, finding in enumerate(FINDINGS):
        which = np.flatnonzero(people.labels[:, k])
        bodies, views = people.bodies(which)
        around = drawing.box(bodies, views, people.sign(finding, bodies, which)).astype(float)
        names = people.images["image_id"].to_numpy()[which]
        tables.append(
            pd.DataFrame(around, index=which, columns=["x", "y", "w", "h"]).assign(image_id=names, finding=finding)
        )
    return pd.concat(tables).sort_index(kind="stable").reset_index(drop=True)[list(BOX_COLUMNS)]
