"""The embedded dataset: who has which finding, and that a picture shows it where its box says and nowhere else."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from chxbench import UserError
from chxbench.benchmark.dataset import BOX_COLUMNS, FINDINGS, SPLITS, DataError, check
from chxbench.benchmark.registry import DATASETS
from chxbench.benchmark.utils.options import build
from chxbench.datasets import phantom, phantom_drawing
from chxbench.datasets.phantom import IMAGES, POSITIVES, VERSION, Phantom
from chxbench.datasets.phantom_signs import IN_BOTH_LUNGS, LOOK_ALIKES, SIGNS, Chance

# Images of the release with both findings: the commonest pairs, pairs far above chance, and two below it.
PAIRS = {
    ("Atelectasis", "Effusion"): 3275,
    ("Infiltration", "Edema"): 981,
    ("Effusion", "Edema"): 593,
    ("Infiltration", "Pneumonia"): 605,
    ("Pneumothorax", "Emphysema"): 747,
    ("Mass", "Nodule"): 906,
    ("Effusion", "Consolidation"): 1287,
    ("Cardiomegaly", "Pneumothorax"): 49,
    ("Pneumothorax", "Edema"): 33,
}
# Findings that change the body, and so a little of what lies around them.
BENDING = ("Cardiomegaly", "Emphysema")
# Mean gray of 8 x 8 tiles of images at 64 pixels, as drawn by phantom-2: see test_the_drawing_is_that_of_its_version.
GOLDEN = {
    "00000015_000.png": [  # Infiltration, Mass, Nodule, Pneumonia, Consolidation, Edema
        [6, 12, 43, 161, 193, 77, 17, 6],
        [140, 175, 142, 167, 205, 156, 164, 108],
        [176, 179, 111, 151, 198, 163, 162, 200],
        [135, 160, 125, 172, 200, 173, 153, 181],
        [138, 151, 133, 187, 215, 162, 152, 166],
        [147, 157, 148, 193, 216, 170, 155, 161],
        [159, 208, 225, 227, 227, 222, 193, 154],
        [190, 228, 228, 229, 229, 228, 227, 162],
    ],
    "00000043_001.png": [  # Atelectasis, Cardiomegaly, Effusion, Emphysema, Pleural_Thickening
        [24, 63, 112, 172, 174, 141, 105, 81],
        [162, 173, 90, 145, 167, 86, 173, 178],
        [176, 155, 74, 128, 166, 82, 156, 179],
        [177, 144, 85, 137, 181, 101, 127, 177],
        [177, 142, 90, 149, 202, 125, 100, 179],
        [178, 151, 91, 134, 205, 166, 112, 177],
        [180, 184, 188, 203, 212, 204, 195, 189],
        [204, 210, 211, 211, 214, 212, 211, 211],
    ],
    "00000017_005.png": [  # Cardiomegaly, Effusion, Pneumonia, Pneumothorax, Fibrosis
        [74, 111, 140, 176, 201, 144, 113, 52],
        [199, 188, 122, 151, 203, 120, 152, 193],
        [186, 173, 128, 157, 200, 131, 134, 199],
        [174, 169, 132, 187, 209, 134, 138, 194],
        [180, 162, 139, 194, 217, 185, 147, 192],
        [185, 179, 160, 188, 216, 213, 172, 193],
        [192, 215, 222, 223, 224, 224, 197, 194],
        [214, 225, 225, 226, 226, 224, 225, 209],
    ],
}


@pytest.fixture(scope="module")
def index():
    return check(Phantom().index(None))


@pytest.fixture(scope="module")
def many():
    """So many images that no finding is rare enough to be raised."""
    return Phantom(images=70_000).index(None)


def positives(index, split):
    return index.targets()[index.rows(split)].sum(axis=0)


def test_the_registry_knows_it():
    assert DATASETS.get("phantom").cls is Phantom


# Labels, patients, splits


@pytest.mark.parametrize("split", SPLITS)
def test_at_the_default_size_every_split_has_sixteen_of_each_finding(index, split):
    assert (positives(index, split) >= 16).all()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("images", [60, 100, 333])
def test_small_sets_have_each_finding_in_every_split_and_images_without(images, seed):
    small = check(Phantom(images=images, seed=seed).index(None))
    assert len(small.images) == images
    for split in SPLITS:
        assert (positives(small, split) >= 1).all()
        assert (positives(small, split) < len(small.rows(split))).all()


def test_a_good_part_of_the_images_shows_nothing(index, many):
    assert 0.35 <= (index.targets().sum(axis=1) == 0).mean() <= 0.5
    assert (many.targets().sum(axis=1) == 0).mean() == pytest.approx(60_361 / IMAGES, abs=0.015)  # the release's


@pytest.mark.parametrize("split", SPLITS)
def test_findings_are_as_frequent_as_in_the_release(many, split):
    expected = np.array(POSITIVES) / IMAGES * len(many.rows(split))
    np.testing.assert_allclose(positives(many, split), expected, atol=0.51)


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_findings_occur_together_as_in_the_release(many, pair):
    both = many.images[list(pair)].all(axis=1).sum()
    scale = len(many.images) / IMAGES
    assert both == pytest.approx(PAIRS[pair] * scale, rel=0.15, abs=15)
    by_chance = np.prod([POSITIVES[FINDINGS.index(finding)] for finding in pair]) / IMAGES
    assert (both > by_chance * scale) == (PAIRS[pair] > by_chance)


def test_rare_findings_are_raised_but_never_above_common_ones(index):
    order = np.argsort(POSITIVES)
    for split in SPLITS:
        assert (np.diff(positives(index, split)[order]) >= 0).all()


def test_patients_have_one_to_twelve_images_and_splits_their_shares(many):
    lengths = many.images.groupby("patient_id").size()
    assert lengths.max() == 12
    assert (lengths == 1).mean() == pytest.approx(17_503 / 30_805, abs=0.01)
    shares = many.images["split"].value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.58, "val": 0.12, "test": 0.30}, abs=0.001)


def test_images_are_named_like_the_releases(index):
    assert index.images["image_id"].str.fullmatch(r"\d{8}_\d{3}\.png").all()
    assert (index.images["image_id"].str[:8] == index.images["patient_id"]).all()
    assert index.images["path"].isna().all()


def test_images_of_a_patient_tend_to_share_findings(index):
    first, second = index.images[:-1].reset_index(drop=True), index.images[1:].reset_index(drop=True)
    same = (first["patient_id"] == second["patient_id"]).to_numpy()
    for finding in ("Infiltration", "Effusion"):
        again = second[finding].to_numpy()[same & (first[finding] == 1).to_numpy()].mean()
        assert again > 1.5 * index.images[finding].mean()


def test_a_larger_set_begins_with_the_patients_and_the_split_of_a_smaller_one(index):
    larger = Phantom(images=3000).index(None)
    columns = ["image_id", "patient_id", "split"]
    assert larger.images[columns][:2000].equals(index.images[columns])


def test_the_identity_of_the_labels_names_all_that_changes_them(index):
    again, more, other = (Phantom(**options).index(None).labels for options in ({}, {"images": 2001}, {"seed": 1}))
    assert again == index.labels
    assert len({index.labels.sha256, more.sha256, other.sha256}) == 3
    assert len({index.labels.version, more.version, other.version}) == 3
    assert VERSION in index.labels.version


def test_the_stamp_changes_with_all_that_changes_pixels():
    sets = (Phantom(), Phantom(images=2001), Phantom(size=64), Phantom(seed=1))
    stamps = {each.stamp("00000001_000.png", None) for each in sets}
    assert len(stamps) == len(sets)
    assert all(VERSION in stamp for stamp in stamps)


@pytest.mark.parametrize("options", [{"images": 59}, {"size": 31}, {"seed": -1}], ids=str)
def test_what_cannot_be_drawn_is_rejected(options):
    with pytest.raises(DataError, match=f"phantom cannot .*{next(iter(options.values()))}"):
        Phantom(**options)


def test_an_unknown_image_is_rejected():
    with pytest.raises(DataError, match=r"99999999_000\.png is not among the 2000 images"):
        Phantom().read("99999999_000.png", None)


# Pixels


@pytest.mark.parametrize("size", [64, 100, 256])
def test_pictures_are_gray_and_have_the_requested_size(size):
    pixels = Phantom(size=size).read("00000001_000.png", None)
    assert pixels.shape == (size, size)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 25


def test_pixels_do_not_depend_on_the_order_of_reading_nor_on_the_process(index):
    names = index.images["image_id"][:12].tolist()
    before = [Phantom(size=64).read(name, None) for name in names]
    phantom._population.cache_clear()
    fresh = pickle.loads(pickle.dumps(Phantom(size=64)))  # noqa: S301
    after = [fresh.read(name, None) for name in reversed(names)]
    np.testing.assert_array_equal(before, after[::-1])


def test_pixels_do_not_depend_on_the_other_images():
    few, more = (Phantom(images=images, size=64) for images in (2000, 2100))
    a, b = (each.index(None).images.head(200) for each in (few, more))
    alike = a["image_id"][(a[list(FINDINGS)] == b[list(FINDINGS)]).all(axis=1)]
    assert len(alike) > 150
    for name in alike[:20]:
        np.testing.assert_array_equal(few.read(name, None), more.read(name, None))


def test_seeds_draw_different_people():
    one, other = (Phantom(size=64, seed=seed).read("00000001_000.png", None).astype(int) for seed in (0, 1))
    assert np.abs(one - other).mean() > 5


def test_a_small_picture_shows_what_a_large_one_shows():
    large, small = (Phantom(size=size).read("00000001_000.png", None).astype(float) for size in (256, 64))
    tiles = large.reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.corrcoef(tiles.ravel(), small.ravel())[0, 1] > 0.98


def test_anatomy_is_the_patients_and_pose_is_the_images():
    """Held in the same pose, images of a patient differ less than images of two patients."""
    people = phantom._population(2000, 0)
    still = replace(people, view=type(people.view)(*(trait * 0 + trait[0] for trait in people.view)))
    healthy = ~people.labels.any(axis=1)
    rows = np.flatnonzero(healthy[:-1] & healthy[1:])
    same = people.patient[rows] == people.patient[rows + 1]

    def differ(which, source):
        pairs = [(source.picture(row, 64).astype(float), source.picture(row + 1, 64)) for row in which[:20]]
        return np.mean([np.abs(one - other).mean() for one, other in pairs])

    assert differ(rows[same], still) < 0.5 * differ(rows[~same], still)
    assert differ(rows[same], people) > 2 * differ(rows[same], still)


# Boxes


def test_every_positive_has_one_box_or_one_in_each_lung_and_nothing_else_has(index):
    assert tuple(index.boxes.columns) == BOX_COLUMNS
    boxed = set(zip(index.boxes["image_id"], index.boxes["finding"], strict=True))
    names = index.images["image_id"].to_numpy()
    positive = {(names[i], FINDINGS[k]) for i, k in np.argwhere(index.targets() == 1)}
    assert boxed == positive
    counts = index.boxes.groupby(["finding", "image_id"]).size().groupby("finding").unique()
    assert {finding: list(found) for finding, found in counts.items()} == {
        finding: [2 if finding in IN_BOTH_LUNGS else 1] for finding in FINDINGS
    }


def test_the_boxes_of_both_lungs_do_not_meet(index):
    for _, pair in index.boxes[index.boxes["finding"].isin(IN_BOTH_LUNGS)].groupby(["finding", "image_id"]):
        right, left = pair.sort_values("x").to_dict("records")
        assert right["x"] + right["w"] <= left["x"] + 0.02  # of a turned chest they may touch


def test_boxes_are_in_the_image_and_have_the_size_of_their_finding(many):
    boxes = many.boxes
    assert (boxes[["x", "y"]] >= 0).all(axis=None)
    assert (boxes["x"] + boxes["w"] <= 1 + 1e-6).all()
    assert (boxes["y"] + boxes["h"] <= 1 + 1e-6).all()
    assert (boxes[["w", "h"]] > 0.005).all(axis=None)
    sides = boxes[["w", "h"]].max(axis=1).groupby(boxes["finding"])
    assert sides.max()["Nodule"] < sides.min()["Mass"] < 0.2
    assert (boxes.loc[boxes["finding"] == "Cardiomegaly", "w"] > 0.25).all()


def with_and_without(finding):
    """The same six images with the finding and without it, and its boxes [(x, y, w, h)], all in pixels."""
    people = phantom._population(2000, 0)
    healthy = np.flatnonzero(~people.labels.any(axis=1))[:6]
    labels = people.labels.copy()
    labels[healthy, FINDINGS.index(finding)] = True
    sick = replace(people, labels=labels, strength=np.ones_like(people.strength))
    boxes = phantom._boxes(sick).set_index(["image_id", "finding"])
    for row in healthy:
        around = boxes.loc[[(people.images["image_id"][row], finding)]].to_numpy(float) * 256
        yield sick.picture(row, 256).astype(float), people.picture(row, 256).astype(float), around


def near(boxes, points):
    """Where a square of 256 pixels is in one of the boxes or so many pixels beside it, bool (256, 256)."""
    inside = np.zeros((256, 256), dtype=bool)
    for x, y, w, h in boxes:
        inside[max(int(y - points), 0) : int(y + h + points + 1), max(int(x - points), 0) : int(x + w + points + 1)] = (
            True
        )
    return inside


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_sign_is_seen_in_its_box_and_nowhere_else(finding):
    for ill, well, boxes in with_and_without(finding):
        change = np.abs(ill - well)
        assert change[near(boxes, 3)].sum() > 0.97 * change.sum()  # a grid point is 1.6 pixels
        for box in boxes:
            assert change[near([box], 3)].max() > 12


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_box_neither_cuts_its_sign_nor_is_too_large_for_it(finding, monkeypatch):
    """Paint without the window of the box: the sign must end where the box ends."""
    monkeypatch.setattr(phantom_drawing, "_window", lambda around: (slice(None), slice(None)))
    for ill, well, boxes in with_and_without(finding):
        changed = np.abs(ill - well) > 3
        assert finding in BENDING or not changed[~near(boxes, 3)].any()
        for box in boxes:
            rows, columns = np.nonzero(changed & near([box], 3))
            assert np.ptp(columns) > 0.6 * box[2]
            assert np.ptp(rows) > 0.6 * box[3]


def test_every_finding_has_a_sign_of_its_own():
    assert set(SIGNS) == set(FINDINGS)
    assert len(set(SIGNS.values())) == len(FINDINGS)


# Dials

DIALS = {"mimics": 0.5, "views": 1.0, "hard_subtypes": 0.2, "wrong_labels": 0.1, "shift": 0.5, "raise_rare": False}


def changed(rows, size=100, **dials):
    """The change in gray levels that dials make to images, (n, size, size), negative where they become darker."""
    plain, turned = Phantom(size=size), Phantom(size=size, **dials)
    names = plain.index(None).images["image_id"].iloc[rows]
    return np.stack([turned.read(name, None).astype(int) - plain.read(name, None) for name in names])


@pytest.mark.parametrize("dial", DIALS)
def test_a_dial_changes_the_identity_of_labels_and_pixels(dial, index):
    turned = Phantom(**{dial: DIALS[dial]})
    assert f", {dial} {DIALS[dial]}" in turned.index(None).labels.version
    assert turned.stamp("00000001_000.png", None) != Phantom().stamp("00000001_000.png", None)


def test_all_dials_together_keep_the_contract():
    turned = check(Phantom(**DIALS).index(None))
    assert turned.traits == ("sex", "age", "view")
    assert set(turned.images["sex"]) == {"F", "M"}
    assert turned.images["age"].between(20, 90).all()
    assert (turned.images.groupby("patient_id")["age"].nunique() == 1).all()


@pytest.mark.parametrize("options", [{"mimics": 1.1}, {"views": -0.1}, {"wrong_labels": 0.6}, {"raise_rare": 2}])
def test_a_dial_has_its_range(options):
    with pytest.raises(UserError, match=f"dataset.{next(iter(options))}"):
        build(Phantom, options, "dataset.")


def test_look_alikes_are_in_as_many_images_as_asked_and_change_no_label(index):
    assert Phantom(mimics=0.5).index(None).images.equals(index.images)
    assert Phantom(mimics=0.5).index(None).boxes.equals(index.boxes)
    rows = np.arange(0, 2000, 40)
    shown = (np.abs(changed(rows, mimics=0.5)).max(axis=(1, 2)) > 10).mean()
    assert shown == pytest.approx(1 - 0.5 ** len(LOOK_ALIKES), abs=0.12)
    assert (np.abs(changed(rows[:9], mimics=1.0)).max(axis=(1, 2)) > 10).all()


@pytest.mark.parametrize("look_alike", LOOK_ALIKES)
def test_a_look_alike_is_a_round_shadow_of_a_nodule_or_mass(look_alike):
    people = phantom._population(2000, 0)
    body, view = people.bodies([7])
    for seed in range(30):
        chance = Chance(*np.random.default_rng(seed).random((len(Chance._fields), 1, 1), dtype=np.float32))
        for mark in look_alike(body, chance):
            assert 0.02 < mark.shape.along.item() < 0.085
            assert mark.shape.along.item() > 0.04 or mark.shape.along.item() < 0.037
            assert mark.amount.item() > 0.2
            field = phantom_drawing._field(body, view._replace(turn=view.turn * 0, magnify=view.magnify * 0 + 1))
            inside = field.lung[mark.shape.reach(field) < 0.8]
            assert look_alike.__name__ != "_outside" or inside.max(initial=0) < 0.5


def test_the_view_changes_only_ap_images_and_makes_their_hearts_look_large():
    turned = Phantom(views=1.0).index(None)
    is_ap = (turned.images["view"] == "AP").to_numpy()
    assert is_ap.mean() == pytest.approx(0.4, abs=0.04)
    rows = np.flatnonzero(is_ap)[:6].tolist() + np.flatnonzero(~is_ap)[:6].tolist()
    change = np.abs(changed(rows, views=1.0)).mean(axis=(1, 2))
    assert (change[:6] > 5).all()
    assert (change[6:] == 0).all()
    plain = phantom._population(2000, 0).bodies(np.arange(2000))[0].heart
    larger = (Phantom(views=1.0)._people().bodies(np.arange(2000))[0].heart - plain)[:, 0]
    assert larger[is_ap] == pytest.approx(0.1, abs=0.0101)  # less with the narrow heart of Emphysema
    assert (larger[~is_ap] == 0).all()


def test_hard_subtypes_are_faint_and_elsewhere():
    turned = Phantom(hard_subtypes=0.2)
    hard, truth = turned.hard(), turned.truth()
    assert hard.sum() / truth.sum() == pytest.approx(0.2, abs=0.03)
    assert not (hard & ~truth).any()
    people, k = turned._people(), FINDINGS.index("Nodule")
    healthy = np.flatnonzero(~people.labels.any(axis=1))[:40]
    labels = people.labels.copy()
    labels[healthy, k] = True
    contrast, height = {}, {}
    for is_hard in (True, False):
        sick = replace(people, labels=labels, is_hard=np.full_like(people.is_hard, is_hard))
        contrast[is_hard] = [
            np.abs(sick.picture(row, 100).astype(int) - people.picture(row, 100)).max() for row in healthy[:8]
        ]
        body, _ = sick.bodies(healthy)
        (mark,) = sick.sign("Nodule", body, healthy)
        height[is_hard] = (mark.shape.y - body.apex) / (body.dome + body.depth - body.apex)
    assert np.mean(contrast[True]) < 0.45 * np.mean(contrast[False])
    assert height[True].min() > height[False].max() - 0.02


def test_wrong_labels_keep_prevalence_truth_and_pixels(index):
    turned = Phantom(wrong_labels=0.1)
    noisy, truth = turned.index(None), turned.truth()
    assert (truth == index.targets()).all()
    wrong = noisy.targets() != truth
    for split in ("train", "val"):
        rows = noisy.rows(split)
        assert wrong[rows].sum(axis=0) == pytest.approx(0.2 * truth[rows].sum(axis=0), abs=1.01)
        assert (noisy.targets()[rows].sum(axis=0) == truth[rows].sum(axis=0)).all()
    assert not wrong[noisy.rows("test")].any()
    assert (changed(range(10), wrong_labels=0.1) == 0).all()
    boxed = noisy.boxes[["image_id", "finding"]].drop_duplicates()
    assert len(boxed) == (noisy.targets()[truth] == 1).sum()


def test_a_shifted_test_split_is_sicker_with_longer_series_and_more_ap():
    plain, turned = (check(Phantom(images=6000, views=1.0, shift=shift).index(None)) for shift in (0.0, 1.0))
    assert turned.images["split"].value_counts(normalize=True)["test"] == pytest.approx(0.3, abs=0.01)
    expected = 2 * positives(plain, "test") * len(turned.rows("test")) / len(plain.rows("test"))
    np.testing.assert_allclose(positives(turned, "test"), expected, rtol=0.05)
    assert positives(turned, "train") == pytest.approx(positives(plain, "train"), rel=0.05)

    def of_test(index):
        test = index.images.iloc[index.rows("test")]
        return len(test) / test["patient_id"].nunique(), (test["view"] == "AP").mean()

    (length, ap), (longer, more_ap) = of_test(plain), of_test(turned)
    assert longer > 2 * length
    assert (ap, more_ap) == pytest.approx((0.4, 0.8), abs=0.03)


def test_without_raising_a_rare_finding_is_rare(index):
    plain = Phantom(raise_rare=False).index(None)
    expected = np.maximum(1, np.array(POSITIVES) / IMAGES * len(plain.rows("train")))
    np.testing.assert_allclose(positives(plain, "train"), expected, atol=0.51)
    assert positives(plain, "train")[-1] < positives(index, "train")[-1] / 10


# The version


@pytest.mark.parametrize("name", GOLDEN)
def test_the_drawing_is_that_of_its_version(name):
    """If this fails and the change is meant, raise VERSION and put the numbers of the new drawing here."""
    tiles = Phantom(size=64).read(name, None).reshape(8, 8, 8, 8).mean(axis=(1, 3))
    np.testing.assert_allclose(tiles, GOLDEN[name], atol=0.7, err_msg=f"not drawn as by {VERSION}")


def test_the_labels_are_those_of_their_version(index):
    """If this fails and the change is meant, raise VERSION and put the new hashes here."""
    assert VERSION == "phantom-2"
    assert index.labels.sha256[:16] == "5465f65380c48349"
    assert index.split.sha256[:16] == "832f8c217d83e45a"
