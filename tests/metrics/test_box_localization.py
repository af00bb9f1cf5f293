"""Boxes from heatmaps and what they score: by hand, against references, and through the real pixel path."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage

from chxbench import Dataset, Index
from chxbench.benchmark.data.loader import center_crops, gather_crops
from chxbench.benchmark.data.pixel_cache import prepare_pixels
from chxbench.benchmark.dataset import BOX_COLUMNS, Labels, Split, split_sha256
from chxbench.benchmark.metrics import localization
from chxbench.benchmark.metrics.localization import IOBB, LEVELS, Boxes, Frame
from chxbench.benchmark.recipe import Pixels

WHOLE = Frame(size=64, side=64)


def truth(*boxes, images=1, patients=None):
    """Boxes as (image, finding, (x, y, w, h))."""
    image, finding, rectangles = zip(*boxes, strict=True)
    named = np.arange(images) if patients is None else np.array(patients)
    return Boxes(np.array(image), np.array(finding), np.array(rectangles, float), named)


def lit(*rectangles, side=64, background=0.0):
    """One map (1, side, side), 1 within rectangles x, y, w, h of pixels."""
    heat = np.full((1, side, side), background)
    for x, y, w, h in rectangles:
        heat[0, y : y + h, x : x + w] = 1
    return heat


def test_overlaps_of_two_boxes_computed_by_hand():
    predicted, true = np.array([[0.0, 0, 0.5, 0.5]]), np.array([[0.25, 0.25, 0.75, 0.5]])
    iobb, iou = localization.overlaps(predicted, true)
    assert iobb[0] == pytest.approx(0.0625 / 0.25)  # over the predicted box
    assert iou[0] == pytest.approx(0.0625 / (0.25 + 0.375 - 0.0625))
    apart, _ = localization.overlaps(predicted, np.array([[0.6, 0.6, 0.1, 0.1]]))
    assert apart[0] == 0


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (7, 3)])
def test_enlarging_is_torchs_bilinear(shape):
    maps = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size=(30, 30), mode="bilinear")[0]
    np.testing.assert_allclose(localization.enlarge(maps, 30), wanted.numpy(), atol=1e-5)


def test_each_region_above_each_threshold_has_its_box():
    heat = lit((8, 16, 8, 4), (40, 40, 16, 8)) * 0.5 + lit((44, 42, 4, 4)) * 0.5
    boxes = localization.predict_boxes(heat, WHOLE).boxes * 64
    # Above 60: both rectangles. Above 180: the small bright one alone.
    assert sorted(map(tuple, boxes.round().astype(int))) == [(8, 16, 8, 4), (40, 40, 16, 8), (44, 42, 4, 4)]


def test_regions_that_meet_at_a_corner_are_two_and_images_do_not_touch():
    corner = lit((0, 0, 8, 8), (8, 8, 8, 8))
    predicted = localization.predict_boxes(np.concatenate([corner, lit((0, 0, 8, 8))]), WHOLE)
    assert np.bincount(predicted.image).tolist() == [2, 1]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.6, 0.9, 1.0])
def test_regions_are_those_of_scipy(share):
    """As a loop over the masks finds them; dense masks touch every edge, middling ones wind and join below."""
    masks = np.random.default_rng(0).random((40, 9, 12)) < share
    wanted = []
    for k, mask in enumerate(masks):
        for rows, columns in ndimage.find_objects(ndimage.label(mask)[0]):
            size = columns.stop - columns.start, rows.stop - rows.start
            wanted.append((k, columns.start, rows.start, *size))
    assert sorted(map(tuple, localization.regions(masks).tolist())) == sorted(wanted)


def test_boxes_do_not_depend_on_how_many_maps_are_held_at_a_time(monkeypatch):
    maps = np.random.default_rng(0).random((30, 7, 7))
    whole = localization.predict_boxes(maps, WHOLE)
    monkeypatch.setattr(localization, "MAX_PIXELS", 7 * WHOLE.side**2)
    for part, other in zip(whole, localization.predict_boxes(maps, WHOLE), strict=True):
        np.testing.assert_array_equal(part, other)


def test_a_map_without_contrast_has_no_box():
    assert len(localization.predict_boxes(np.full((2, 4, 4), 3.0), WHOLE).boxes) == 0


def test_the_scale_of_a_map_does_not_matter():
    heat = np.random.default_rng(0).random((5, 1, 4, 4))
    boxes = truth((0, 0, (0.1, 0.1, 0.5, 0.5)), (3, 0, (0.5, 0.5, 0.4, 0.4)), images=5)
    for one, other in zip(
        localization.match_boxes(heat, boxes, WHOLE), localization.match_boxes(7 * heat - 30, boxes, WHOLE), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_accuracy_and_false_positives_are_counted_as_wang_et_al_count_them():
    """Finding 0: one box found whole, one missed. Finding 1: one found by a quarter (IoBB 0.25). Finding 2: no box."""
    heat = np.zeros((2, 3, 64, 64))
    heat[0, 0] = lit((16, 16, 16, 16))[0]
    heat[1, 0] = lit((0, 0, 8, 8))[0]
    heat[0, 1] = lit((32, 32, 16, 16))[0]
    heat[:, 2] = lit((0, 0, 4, 4))[0]
    boxes = truth(
        (0, 0, (0.25, 0.25, 0.25, 0.25)), (1, 0, (0.5, 0.5, 0.25, 0.25)), (0, 1, (0.625, 0.625, 0.25, 0.25)), images=2
    )
    score = localization.score(localization.match_boxes(heat, boxes, WHOLE), boxes)
    at = {level: k for k, level in enumerate(IOBB)}
    assert score.accuracy[:, at[0.1]].tolist()[:2] == [0.5, 1.0]
    assert score.accuracy[:, at[0.25]].tolist()[:2] == [0.5, 0.0]  # found means above the level
    assert score.accuracy[0, len(IOBB) + 6] == 0.5  # IoU > 0.7
    # A region that is the same at 60 and at 180 is one box: one false one on image 1; above 0.25 that of finding 1 too.
    assert (score.false_positives[:2, at[0.1]] * 3).tolist() == [1.0, 0.0]
    assert (score.false_positives[:2, at[0.25]] * 3).tolist() == [1.0, 1.0]
    assert score.pointing_game[:2].tolist() == [0.5, 0.0]
    assert all(np.isnan(part[2]).all() for part in score)  # no box: unknown, not 0
    mean = localization.mean_score(score)
    assert mean.accuracy[at[0.1]] == pytest.approx(0.75)
    assert mean.pointing_game == pytest.approx(0.25)


def test_the_pointing_game_takes_any_box_of_the_finding_and_the_centre_of_the_place():
    maps = np.zeros((1, 2, 4, 4))
    maps[0, 0, 3, 0] = maps[0, 1, 0, 0] = 1  # at x 0.125, y 0.875; and at 0.125, 0.125
    two, one = [(0, 0, (0.5, 0.5, 0.2, 0.2)), (0, 0, (0.1, 0.8, 0.1, 0.1))], (0, 1, (0.13, 0.1, 0.1, 0.1))
    boxes = truth(*two, one)
    assert localization.match_boxes(maps, boxes, WHOLE).pointed.tolist() == [True, True, False]
    # Two boxes of a finding on an image are one question: beside another image where it is missed, half of two.
    more = truth(*two, (1, 0, (0.1, 0.1, 0.1, 0.1)), images=2)
    twice = np.concatenate([maps, maps])
    assert localization.score(localization.match_boxes(twice, more, WHOLE), more).pointing_game[0] == 0.5
    pointing, *_ = localization.evaluate_means(localization.match_boxes(twice, more, WHOLE), more, 200)
    assert pointing.value == 0.5 and set(pointing.replicates) == {0.0, 0.5, 1.0}


def test_a_map_without_contrast_points_nowhere():
    boxes = truth((0, 0, (0.0, 0.0, 1.0, 1.0)))
    assert not localization.match_boxes(np.zeros((1, 1, 4, 4)), boxes, WHOLE).pointed.any()


def test_the_random_baseline_points_as_often_as_boxes_are_large():
    generator = np.random.default_rng(1)
    corners = generator.random((400, 2)) * 0.5
    boxes = truth(*[(k, k % 2, (*corner, 0.5, 0.25)) for k, corner in enumerate(corners)], images=400)
    baselines = [localization.random_baseline((8, 8), 2, boxes, WHOLE, seed).pointed.mean() for seed in range(20)]
    assert np.mean(baselines) == pytest.approx(0.125, abs=0.015)
    assert len(set(baselines)) > 1


def test_the_center_baseline_is_one_box_per_image():
    boxes = truth((0, 0, (0.25, 0.25, 0.5, 0.5)), (1, 1, (0.0, 0.0, 0.2, 0.2)), images=2)
    marks = localization.center_baseline(2, boxes)
    assert marks.found[0].all()
    assert not marks.found[1].any()
    assert marks.false.tolist() == [[1] * len(LEVELS), [2] * len(LEVELS)]
    assert marks.pointed.tolist() == [True, False]


def test_replicates_resample_patients():
    generator = np.random.default_rng(0)
    where = [(k, 0, (0.25, 0.25, 0.5, 0.5)) for k in range(60)]
    maps = generator.random((60, 1, 4, 4))
    alone = truth(*where, images=60)
    together = truth(*where, images=60, patients=np.arange(60) // 30)
    marks = localization.match_boxes(maps, alone, WHOLE)
    value = localization.mean_score(localization.score(marks, alone)).pointing_game
    pointing, *accuracy = localization.evaluate_means(marks, alone, 500)
    assert (pointing.value, pointing.patients) == (value, 60) and len(accuracy) == len(LEVELS)
    assert pointing.replicates.mean() == pytest.approx(value, abs=0.01)
    of_two, *_ = localization.evaluate_means(marks, together, 500)
    halves = [marks.pointed[:30].mean(), marks.pointed[30:].mean()]
    assert set(of_two.replicates.round(6)) == {round(x, 6) for x in (*halves, np.mean(halves))}


def test_the_boxes_of_other_patients_are_a_map_without_the_image():
    """Patient a's map shows where b's box is, patient b's where a's is; each only for the finding of the box."""
    quarter = (0.0, 0.0, 0.5, 0.5)
    boxes = truth((0, 0, quarter), (1, 0, quarter), (2, 0, (0.5, 0.5, 0.5, 0.5)), (3, 1, quarter), images=4)
    found = localization.prior_baseline((4, 4), 2, boxes, WHOLE)
    level = localization.IOU.index(0.7) + len(localization.IOBB)
    # Two of three other patients have the first quarter, one of them the last: only what both leave is above 180.
    assert found.found[:, level].tolist() == [True, True, False, False]
    assert found.pointed.tolist() == [True, True, False, False]  # nobody else has the second finding


def test_the_boxes_of_the_same_patient_are_left_out():
    quarter = (0.0, 0.0, 0.5, 0.5)
    boxes = truth((0, 0, quarter), (1, 0, quarter), images=2, patients=np.array([7, 7]))
    assert not localization.prior_baseline((4, 4), 1, boxes, WHOLE).pointed.any()


def test_a_prior_covers_cells_in_parts_and_only_the_crop():
    """A crop of half the side: a box to the left of it covers nothing, one half in a cell half of it."""
    crop = Frame(8, 4)
    inside = crop.to_crop(np.array([[0.25, 0.25, 0.0625, 0.125], [0.0, 0.0, 0.25, 0.25]]))
    np.testing.assert_allclose(localization._covered(inside[:, 0], inside[:, 2], 4), [[0.5, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(crop.to_image(inside)[0], [0.25, 0.25, 0.0625, 0.125])


@dataclass(frozen=True)
class Squares(Dataset):
    """Bright squares on black, 1024 pixels wide, as PNG files."""

    title: ClassVar[str] = "Squares"

    def index(self, data_dir):
        generator = np.random.default_rng(5)
        rows, boxes = [], []
        for k in range(6):
            x, y, w, h = generator.integers((100, 100, 150, 150), (500, 500, 400, 400))
            image = np.zeros((1024, 1024), np.uint8)
            image[y : y + h, x : x + w] = 255
            name = f"{k}.png"
            Image.fromarray(image).save(data_dir / name)
            rows.append((name, str(k), str(data_dir / name), ("train", "val", "test")[k % 3], 1.0))
            boxes.append((name, "Mass", x / 1024, y / 1024, w / 1024, h / 1024))
        images = pd.DataFrame(rows, columns=["image_id", "patient_id", "path", "split", "Mass"])
        table = pd.DataFrame(boxes, columns=list(BOX_COLUMNS))
        return Index(images, table, ("Mass",), Labels("x", "0" * 64, "x"), Split("x", split_sha256(images)))


@pytest.mark.parametrize(("size", "crop"), [(256, 224), (128, 128), (75, 60)])
def test_a_painted_square_is_found_at_every_size_of_cache_and_crop(tmp_path, size, crop):
    dataset = Squares()
    dataset.__class__.name = "squares"
    index = dataset.index(tmp_path)
    pixels = prepare_pixels(dataset, index, size, tmp_path / "cache").pixels
    seen = gather_crops(pixels, center_crops(np.arange(6), Pixels(size, crop, 0)), crop).numpy()
    boxes = Boxes(np.arange(6), np.zeros(6, int), index.boxes[["x", "y", "w", "h"]].to_numpy(), np.arange(6))
    marks = localization.match_boxes(seen[:, None].astype(float), boxes, Frame(size, crop))
    assert marks.found.all()  # up to IoU > 0.7 and IoBB > 0.9
    shifted = localization.match_boxes(seen[:, None].astype(float), boxes, Frame(size, size)) if crop < size else None
    assert shifted is None or not shifted.found.all()  # the crop's place matters
