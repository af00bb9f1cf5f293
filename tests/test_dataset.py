"""What every index must keep, whichever plugin made it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from chxbench.benchmark.dataset import DataError, Dataset, Index, Labels, Split, check, split_sha256


@pytest.fixture
def index():
    images = pd.DataFrame(
        {
            "image_id": ["a", "b", "c", "d"],
            "patient_id": ["1", "1", "2", "3"],
            "path": [None] * 4,
            "split": ["train", "train", "val", "test"],
            "Mass": np.array([0, 1, np.nan, 1], np.float32),
        }
    )
    split = Split("by hand", split_sha256(images))
    return Index(images, pd.DataFrame(), ("Mass",), Labels("none", "0" * 64, "1"), split)


def test_a_good_index_passes_and_gives_rows_and_targets(index):
    assert check(index) is index
    assert index.rows("train").tolist() == [0, 1]
    np.testing.assert_array_equal(index.targets(), [[0], [1], [np.nan], [1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"images": lambda t: t.drop(columns="Mass")}, "no column 'Mass'", id="finding"),
        pytest.param(
            {"images": lambda t: t.assign(patient_id=[None, "1", "2", "3"])},
            "1 image without image_id",
            id="no patient",
        ),
        pytest.param(
            {"images": lambda t: t.assign(patient_id=[1, "1", "1", "3"])}, "1 patient in several splits", id="1 and '1'"
        ),
        pytest.param({"split": lambda s: Split("x", "0" * 64)}, "split hash is not split_sha256", id="split hash"),
        pytest.param({"labels": lambda s: Labels("x", "none", "1")}, "is not a SHA-256", id="label hash"),
    ],
)
def test_an_index_that_breaks_the_contract_is_rejected(index, change, message):
    ((field, make),) = change.items()
    with pytest.raises(DataError, match=message):
        check(replace(index, **{field: make(getattr(index, field))}))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        pytest.param("image_id", ["a", "a", "c", "d"], "1 repeated image, a first", id="image twice"),
        pytest.param("image_id", ["a", "b\udcf6", "c", "d"], r"1 image_id not text \(b\\xf6\)", id="not text"),
        pytest.param("split", ["train", "dev", "val", "test"], "unknown split 'dev'", id="unknown split"),
        pytest.param("Mass", [0, 2, 0, 1], "1 label not 0, 1 or NaN", id="label out of range"),
        pytest.param("patient_id", ["1", "2", "2", "3"], "1 patient in several splits, 2 first", id="shared patient"),
        pytest.param("split", ["train", "train", "train", "test"], "the val split has no image", id="empty split"),
    ],
)
def test_what_the_protocol_forbids_is_rejected(index, column, values, message):
    with pytest.raises(DataError, match=message):
        check(replace(index, images=index.images.assign(**{column: pd.Series(values, dtype=object)})))


TRAITS = {"sex": ["F", "M", None, "diverse"], "age": [0.5, 120, np.nan, 58], "scanner": ["A1", "A2", "A1", None]}


def test_traits_have_any_name_and_values_and_change_no_hash(index):
    images = index.images.assign(**TRAITS)
    assert check(replace(index, images=images, traits=tuple(TRAITS))).split == index.split
    check(replace(index, images=images, traits=("age",)))


@pytest.mark.parametrize(
    ("trait", "values", "message"),
    [
        pytest.param("sex", ["F", 1, None, "M"], "'sex' of the index mixes types", id="mixed"),
        pytest.param("age", None, "has no column 'age', which its traits include", id="absent"),
        pytest.param("Mass", None, "reserved column name 'Mass'", id="finding"),
        pytest.param("split", None, "reserved column name 'split'", id="contract"),
        pytest.param("score Mass", ["a"] * 4, "reserved column name 'score Mass'", id="column of the score table"),
    ],
)
def test_a_trait_that_breaks_the_contract_is_rejected(index, trait, values, message):
    images = index.images if values is None else index.images.assign(**{trait: values})
    with pytest.raises(DataError, match=message):
        check(replace(index, images=images, traits=(trait,)))


def test_the_listed_index_is_the_index_by_default(index):
    class Mine(Dataset):
        def index(self, data_dir):
            return index

    assert Mine().listed(None) is index


def test_the_hash_of_a_split_is_of_its_members_alone(index):
    images = index.images
    assert split_sha256(images.iloc[::-1]) == split_sha256(images)
    assert split_sha256(images.iloc[:3]) != split_sha256(images)
    assert split_sha256(images.assign(split=["train", "train", "test", "val"])) != split_sha256(images)


BOX = {"image_id": "d", "finding": "Mass", "x": 0.2, "y": 0.1, "w": 0.8, "h": 0.5}


def test_a_box_on_a_listed_image_passes(index):
    check(replace(index, boxes=pd.DataFrame([BOX, {**BOX, "x": 0.0}])))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        pytest.param([{**BOX, "x": 205, "w": 300}], "1 invalid box: Mass of d is not inside its image", id="pixels"),
        pytest.param([BOX, {**BOX, "w": 0}], "1 invalid box: .* is not inside", id="no width"),
        pytest.param([{**BOX, "y": np.nan}], "is not inside", id="NaN"),
        pytest.param([{**BOX, "finding": "Mas"}], "is of a finding that is not listed", id="finding"),
        pytest.param([{**BOX, "image_id": "e"}], "is on an image that is not listed", id="image"),
        pytest.param([BOX, BOX], "1 invalid box: Mass of d is listed twice", id="twice"),
        pytest.param([{key: value for key, value in BOX.items() if key != "h"}], "no column 'h'", id="column"),
    ],
)
def test_boxes_that_no_heatmap_could_be_scored_against_are_rejected(index, boxes, message):
    with pytest.raises(DataError, match=message):
        check(replace(index, boxes=pd.DataFrame(boxes)))
