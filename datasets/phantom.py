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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field

from ..benchmark.dataset import BOX_COLUMNS, FINDINGS, SPLITS, DataError, Dataset, Index, Labels, Split, split_sha256
from ..benchmark.registry import DATASETS
from . import phantom_drawing as drawing
from .phantom_drawing import RANGES, Array, Mark, Person, View, mix
from .phantom_signs import LASTING, LOOK_ALIKES, SIGNS, Chance, by_lung

# Part of the identity of the labels, and so of every result: raise it with any change of the drawing, labels or split.
VERSION = "phantom-2"

SPLIT_FRACTIONS = {"train": 0.58, "val": 0.12, "test": 0.30}  # of the images
MIN_POSITIVES = 16  # in the validation split, for which a rare finding is made more frequent,
MAX_RAISED_FRACTION = 0.07  # up to this fraction of the images
MIN_IMAGES, MIN_SIZE = 60, 32
TRAITS = ("sex", "age", "view")
Fraction = Annotated[float, Field(ge=0, le=1)]
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
KINDS = (
    *("series", "chronic", "acute", "person", "view", "place", "strength", "noise"),
    *("mimic", "projection", "age", "subtype", "wrong"),
)
FAINT = 0.25  # contrast of a hard subtype, of that of the others
HARD_PLACE = 0.2  # part of the range of heights in which the hard subtypes lie, and no others
AP_SHARE = 0.4  # of the images; 44,810 of the release's 112,120
AP_HEART, AP_CONTRAST = 0.1, 0.35  # added to the cardiothoracic ratio and, as a fraction, to the density
LONG_SERIES = 3  # images of a patient from which a shifted test split takes more


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

    Every positive, in every split, has a box: the one within which its sign is painted, and one in each lung for Edema,
    Emphysema and Fibrosis. Unlike in real data no label is wrong, unless `wrong_labels` is set.

    The options after `seed` are dials for questions whose answer is known. At its default each is off.

    Options:
        images: number of images, at least 60.
        size: side of the images in pixels, at least 32.
        seed: seed of patients, labels and pixels.
        mimics: probability with which an image has each of three look-alikes of Nodule and Mass: nipples, a vessel on
            end, a blob outside the lungs. Only their place tells them from the finding.
        views: how much the view changes the picture, 0..1. 40 % of the images are AP: the heart looks larger, contrast
            is higher, and the lead letter is on the other side. Adds view, sex and age to the index.
        hard_subtypes: fraction of the positives of each finding that are hard: a quarter of the contrast, at heights
            where the others are not.
        wrong_labels: wrong labels of the training and validation images: this fraction of each finding's positives is
            called negative, and as many negatives positive. Pixels and the test split stay true.
        shift: how much the test split differs, 0..1: findings are up to twice as frequent, patients with 3 or more
            images are preferred and, with `views`, more images are AP.
        raise_rare: whether rare findings are made frequent enough for small sets.
    """

    title: ClassVar[str] = "Phantom (synthetic radiographs)"
    caveat: ClassVar[str] = "the images are synthetic; these results say nothing about performance on patients"
    default_recipe: ClassVar[str] = "quick"
    needs_folder: ClassVar[bool] = False
    rare: ClassVar[tuple[str, ...]] = ("Hernia",)  # as in ChestX-ray14, whose tables it stands in for

    images: int = 2000
    size: int = 256
    seed: int = 0
    mimics: Fraction = 0.0
    views: Fraction = 0.0
    hard_subtypes: Fraction = 0.0
    wrong_labels: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    shift: Fraction = 0.0
    raise_rare: bool = True

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
        people = self._people()
        images = people.images.copy()
        text = images[["image_id", *FINDINGS]].to_csv(index=False, float_format="%.0f", lineterminator="\n")
        labels = Labels("drawn", hashlib.sha256(text.encode()).hexdigest(), f"{VERSION}, {self._describe()}")
        split = Split("phantom, by patient", split_sha256(images))
        return Index(images, _boxes(people), FINDINGS, labels, split, traits=TRAITS if self.views else ())

    def truth(self) -> Array:
        """Return which findings the images show, bool (images, findings), also where labels are wrong."""
        return self._people().labels

    def hard(self) -> Array:
        """Return which findings of the images are of the hard subtype, bool (images, findings)."""
        people = self._people()
        hard: Array = people.labels & people.is_hard
        return hard

    def read(self, image_id: str, path: str | None) -> np.ndarray:
        if path is not None:  # a user's file
            return super().read(image_id, path)
        people = self._people()
        if image_id not in people.row:
            raise DataError(f"{image_id} is not among the {self.images} images of phantom with seed {self.seed}")
        return people.picture(people.row[image_id], self.size)

    def stamp(self, image_id: str, path: str | None) -> str:
        return f"{VERSION}:{self.size}:{self._describe()}"

    def _people(self) -> "Population":
        return _population(self.images, self.seed, self._dials())

    def _dials(self) -> "Dials":
        return Dials(*(getattr(self, name) for name in Dials._fields))

    def _describe(self) -> str:
        """Name all that labels and people follow from; dials only if they are turned."""
        dials = self._dials()._asdict().items()
        turned = [f", {name} {value}" for name, value in dials if value != Dials._field_defaults[name]]
        return f"{self.images} images, seed {self.seed}{''.join(turned)}"


# Who has what --------------------------------------------------------------------------------------------------------


class Dials(NamedTuple):
    """The options of `Phantom` after its seed."""

    mimics: float = 0.0
    views: float = 0.0
    hard_subtypes: float = 0.0
    wrong_labels: float = 0.0
    shift: float = 0.0
    raise_rare: bool = True


@dataclass(frozen=True)
class Population:
    """Everything that is random, for all n images."""

    images: pd.DataFrame  # as in Index
    row: dict[str, int]  # image id to row number
    patient: Array  # (n,) the number of each image's patient
    labels: Array  # bool (n, findings): what the images show
    wrong: Array  # bool (n, findings): where the stated label is another
    person: Person  # one row per patient
    view: View  # one row per image
    lasting: Array  # all but `strength` of each finding's Chance, (patients, findings, LASTING)
    strength: Array  # (n, findings)
    is_hard: Array  # bool (n, findings): whether the finding would be of the hard subtype
    mimics: Array  # (n, look-alikes, 1 + len(Chance._fields)): the image has it if the first is below the dial
    is_ap: Array  # bool (n, 1)
    seed: int
    dials: Dials

    def picture(self, row: int, size: int) -> Array:
        """Draw one image, uint8 (size, size)."""
        body, view = self.bodies([row])
        present = [finding for finding, positive in zip(FINDINGS, self.labels[row], strict=True) if positive]
        signs = [part for finding in present for part in by_lung(finding, self.sign(finding, body, [row]))]
        signs += [
            look_alike(body, Chance(*chance[1:, None, None]))
            for look_alike, chance in zip(LOOK_ALIKES, self.mimics[row], strict=True)
            if chance[0] < self.dials.mimics
        ]
        return drawing.draw(body, view, signs, size, np.random.default_rng([self.seed, KINDS.index("noise"), row]))

    def bodies(self, which: Sequence[int] | Array) -> tuple[Person, View]:
        """Return the bodies in some images, changed by their findings, and the views of them."""
        view = drawing.rows(self.view, which)
        person = drawing.rows(self.person, self.patient[which])
        if self.dials.views:
            ap = self.dials.views * self.is_ap[which].astype(np.float32)
            person = person._replace(heart=person.heart + AP_HEART * ap)
            other_side = np.where(ap > 0, 0.97 - view.letter_x, view.letter_x)
            view = view._replace(density=view.density * (1 + AP_CONTRAST * ap), letter_x=other_side)
        large_heart, trapped_air = (self._bending(finding, which) for finding in ("Cardiomegaly", "Emphysema"))
        return drawing.bend(person, view, large_heart, trapped_air), view

    def sign(self, finding: str, bodies: Person, which: Sequence[int] | Array) -> list[Mark]:
        """Return the marks of a finding in some images, whether or not they have it."""
        k = FINDINGS.index(finding)
        lasting = self.lasting[self.patient[which], k]
        values = [lasting[:, j : j + 1] for j in range(LASTING)]
        chance = Chance._make([*values, self.strength[which, k : k + 1]])
        if not self.dials.hard_subtypes:
            return SIGNS[finding](bodies, chance)
        hard, edge = self.is_hard[which, k : k + 1], np.float32(1 - HARD_PLACE)
        height = np.where(hard, edge + (1 - edge) * chance.height, edge * chance.height)
        marks = SIGNS[finding](bodies, chance._replace(height=height))
        return [mark._replace(amount=mark.amount * np.where(hard, np.float32(FAINT), np.float32(1))) for mark in marks]

    def _bending(self, finding: str, which: Sequence[int] | Array) -> Array:
        """Compute how much a finding changes the bodies in some images: (n, 1), 0 if it is absent."""
        k = FINDINGS.index(finding)
        strength: Array = self.labels[which, k : k + 1] * mix(0.3, 1.0, self.strength[which, k : k + 1])
        return strength * np.where(self.is_hard[which, k : k + 1], np.float32(FAINT), np.float32(1))


NO_DIALS = Dials()


@lru_cache(maxsize=4)
def _population(images: int, seed: int, dials: Dials = NO_DIALS) -> Population:
    """Generate the population; cached, because images are read one by one."""
    patient, number = _series(images, seed)
    patients = patient[-1] + 1
    split = _deal(np.bincount(patient), dials.shift)[patient]
    labels = _labels(patient, split, seed, dials)
    person = drawing.sample(Person, _stream(seed, "person").random((patients, len(RANGES[Person]))))
    ap_share = np.where(split == "test", AP_SHARE * (1 + dials.shift), AP_SHARE)
    is_ap = _stream(seed, "projection").random(images) < ap_share
    names = [f"{whose + 1:08d}_{which:03d}.png" for whose, which in zip(patient, number, strict=True)]
    table = pd.DataFrame({"image_id": names, "patient_id": [name[:8] for name in names], "path": None, "split": split})
    if dials.views:
        table["sex"] = np.where(person.breast[patient, 0] > 0, "F", "M")
        table["age"] = (20 + 70 * _stream(seed, "age").random(patients)).round()[patient]
        table["view"] = np.where(is_ap, "AP", "PA")
    wrong = _wrong_labels(labels, split, seed, dials.wrong_labels)
    stated = (labels ^ wrong).astype(np.float32)
    return Population(
        images=pd.concat([table, pd.DataFrame(stated, columns=list(FINDINGS))], axis=1),
        row={name: row for row, name in enumerate(names)},
        patient=patient,
        labels=labels,
        wrong=wrong,
        person=person,
        view=drawing.sample(View, _stream(seed, "view").random((images, len(RANGES[View])))),
        lasting=_stream(seed, "place").random((patients, len(FINDINGS), LASTING), dtype=np.float32),
        strength=_stream(seed, "strength").random((images, len(FINDINGS)), dtype=np.float32),
        is_hard=_stream(seed, "subtype").random((images, len(FINDINGS))) < dials.hard_subtypes,
        mimics=_stream(seed, "mimic").random((images, len(LOOK_ALIKES), 1 + len(Chance._fields)), dtype=np.float32),
        is_ap=is_ap[:, None],
        seed=seed,
        dials=dials,
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


def _deal(lengths: Array, shift: float) -> Array:
    """Assign each patient to a split; with a shift, the test has fewer short series and more long ones."""
    if not shift:
        return _deal_by(lengths, SPLIT_FRACTIONS)
    is_long = lengths >= LONG_SERIES
    short = 1 - lengths[is_long].sum() / lengths.sum()
    split = np.empty(len(lengths), dtype=object)
    for which, more in ((~is_long, -shift), (is_long, shift * short / (1 - short))):
        test = SPLIT_FRACTIONS["test"] * (1 + more)
        rest = (1 - test) / (1 - SPLIT_FRACTIONS["test"])
        fractions = {name: test if name == "test" else rest * part for name, part in SPLIT_FRACTIONS.items()}
        split[which] = _deal_by(lengths[which], fractions)
    return split.astype(str)


def _deal_by(lengths: Array, fractions: Mapping[str, float]) -> Array:
    """Assign each patient, in order, to the split that is furthest behind its fraction of the images so far."""
    behind = dict.fromkeys(SPLITS, 0.0)
    dealt = []
    for length in lengths.tolist():
        split = max(SPLITS, key=behind.__getitem__)
        behind = {name: images + (fractions[name] - (name == split)) * length for name, images in behind.items()}
        dealt.append(split)
    return np.array(dealt)


def _labels(patient: Array, split: Array, seed: int, dials: Dials) -> Array:
    """Generate labels, bool (images, findings): per split and finding, the images of highest liability are positive."""
    root = np.linalg.cholesky(_correlations())
    chronic = _stream(seed, "chronic").standard_normal((patient[-1] + 1, len(FINDINGS)))[patient]
    acute = _stream(seed, "acute").standard_normal((len(patient), len(FINDINGS)))
    liability = (np.sqrt(CHRONIC) * chronic + np.sqrt(1 - CHRONIC) * acute) @ root.T
    raised = min(MAX_RAISED_FRACTION, MIN_POSITIVES / np.count_nonzero(split == "val"))
    min_fraction = raised if dials.raise_rare else 0.0
    labels = np.zeros(liability.shape, dtype=bool)
    for name in SPLITS:
        rows_of_split, sicker = np.flatnonzero(split == name), 1 + dials.shift * (name == "test")
        for k, positives in enumerate(POSITIVES):
            count = max(1, round(max(positives / IMAGES, min_fraction) * sicker * len(rows_of_split)))
            order = np.argsort(-liability[rows_of_split, k], kind="stable")
            labels[rows_of_split[order[:count]], k] = True
    return labels


def _wrong_labels(labels: Array, split: Array, seed: int, share: float) -> Array:
    """Choose a share of each finding's positives, and as many negatives, whose labels are wrong, except in the test."""
    wrong, rng = np.zeros_like(labels), _stream(seed, "wrong")
    for name in ("train", "val"):
        for k in range(labels.shape[1]):
            count = round(share * np.count_nonzero(labels[split == name, k]))
            for value in (True, False):
                candidates = np.flatnonzero((split == name) & (labels[:, k] == value))
                wrong[rng.permutation(candidates)[:count], k] = True
    return wrong


def _correlations() -> Array:
    lower = np.zeros((len(FINDINGS), len(FINDINGS)))
    for k, row in enumerate(CORRELATIONS):
        lower[k, :k] = np.array(row) / 100
    return lower + lower.T + np.eye(len(FINDINGS))


def _boxes(people: Population) -> pd.DataFrame:
    """Compute the boxes of each positive, in the order of the images: one, or one in each lung."""
    tables = []
    for k, finding in enumerate(FINDINGS):
        which = np.flatnonzero(people.labels[:, k] & ~people.wrong[:, k])
        bodies, views = people.bodies(which)
        names = people.images["image_id"].to_numpy()[which]
        for marks in by_lung(finding, people.sign(finding, bodies, which)):
            around = drawing.box(bodies, views, marks).astype(float)
            table = pd.DataFrame(around, index=which, columns=["x", "y", "w", "h"])
            tables.append(table.assign(image_id=names, finding=finding))
    return pd.concat(tables).sort_index(kind="stable").reset_index(drop=True)[list(BOX_COLUMNS)]
