"""What runs and caches follow from: everything that changes a result, and nothing else."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chxbench.benchmark.data.identity import cache_key, experiment_sha256, index_sha256, pixel_sample, run_id
from chxbench.benchmark.data.pixel_cache import decode_sample, prepare_pixels
from chxbench.benchmark.dataset import Dataset, Index, Labels, Split
from chxbench.benchmark.recipe import load_recipe

METHOD = {"name": "mine", "source": "0" * 64, "options": {"width": 1}}


@dataclass(frozen=True)
class Plain(Dataset):
    """Files, read by the harness."""

    name: ClassVar[str] = "plain"
    split_seed: int = 0


@dataclass(frozen=True)
class Brightened(Dataset):
    """Files, read by the dataset's own code."""

    name: ClassVar[str] = "brightened"
    gamma: float = 1.0
    mask: str = ""

    def read(self, image_id, path):
        return (255 * (super().read(image_id, path) / 255) ** self.gamma).astype(np.uint8)


@pytest.fixture
def index(tmp_path):
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (16, 16), np.uint8)).save(path)
    images = pd.DataFrame({"image_id": [path.name for path in paths], "path": [str(path) for path in paths]})
    images["patient_id"] = [f"p{number // 2}" for number in range(20)]
    images["split"], images["Mass"], images["sex"] = "train", 0.0, "F"
    box = {"image_id": "0.png", "finding": "Mass", "x": 0.1, "y": 0.1, "w": 0.2, "h": 0.2}
    labels, split = Labels("x", "0" * 64, "1"), Split("x", "0" * 64)
    return Index(images, pd.DataFrame([box]), ("Mass",), labels, split, traits=("sex",))


def identity(index, dataset=None, method=METHOD, **settings):
    return experiment_sha256(method, dataset or Plain(), index, load_recipe("quick", settings))


def test_a_dataset_that_reads_its_images_itself_has_a_cache_per_option(index, tmp_path):
    pixels = [np.array(prepare_pixels(Brightened(gamma), index, 16, tmp_path / "cache").pixels) for gamma in (1, 3)]
    np.testing.assert_array_equal(pixels[1], (255 * (pixels[0] / 255) ** 3).astype(np.uint8))


def test_options_that_cannot_change_pixels_share_a_cache(index):
    assert cache_key(Plain(0), index, 16) == cache_key(Plain(1), index, 16) != cache_key(Plain(0), index, 8)
    assert identity(index, Plain(0)) != identity(index, Plain(1))


def test_a_file_that_an_option_names_counts_by_its_content(index, tmp_path):
    one, same, other = (tmp_path / name for name in ("one.npy", "same.npy", "other.npy"))
    for path, content in ((one, b"a"), (same, b"a"), (other, b"b")):
        path.write_bytes(content)
    for identify in (
        lambda path: cache_key(Brightened(mask=str(path)), index, 16),
        lambda path: identity(index, Brightened(mask=str(path))),
        lambda path: identity(index, method={**METHOD, "options": {"checkpoint": str(path)}}),
        lambda path: identity(index, method={**METHOD, "options": {"checkpoints": [str(path)]}}),
        lambda path: identity(index, **{"model.weights": str(path)}),
    ):
        assert identify(one) == identify(same) != identify(other)


def change_label(index):
    return replace(index, images=index.images.assign(Mass=[1.0] + 19 * [0.0]))


def change_box(index):
    return replace(index, boxes=index.boxes.assign(x=0.3))


def change_trait(index):
    return replace(index, images=index.images.assign(sex="M"))


def change_order(index):
    return replace(index, images=index.images[::-1].reset_index(drop=True))


@pytest.mark.parametrize("change", [change_label, change_box, change_trait, change_order])
def test_the_index_counts_even_if_its_own_hashes_do_not_change(index, change):
    assert identity(change(index)) != identity(index)


def test_where_the_images_are_does_not_count(index):
    elsewhere = replace(index, images=index.images.assign(path=lambda images: "/elsewhere/" + images["image_id"]))
    assert index_sha256(elsewhere) == index_sha256(index)


def test_the_method_counts_by_name_code_and_options_and_the_recipe_by_its_settings(index):
    changes = [{**METHOD, "name": "x"}, {**METHOD, "source": "1" * 64}, {**METHOD, "options": {"width": 2}}]
    hashes = {identity(index, method=method) for method in [METHOD, *changes]}
    assert len(hashes | {identity(index, **{"train.epochs": 9})}) == 5
    recipe = load_recipe("quick", {})
    assert run_id(replace(recipe, name="my.toml"), 3, "0" * 64).startswith("my-seed3-")
    assert run_id(recipe, 0, "0" * 64)[-10:] != run_id(recipe, 1, "0" * 64)[-10:]


def test_a_sample_of_the_pixels_is_decoded_again_alone(index, tmp_path):
    dataset = Brightened(2)
    sample = pixel_sample(index, prepare_pixels(dataset, index, 8, tmp_path / "cache").pixels)
    assert (len(sample), min(sample), max(sample)) == (16, "0.png", "9.png")
    skipped = next(name for name in index.images["image_id"] if name not in sample)
    Path(tmp_path / skipped).unlink()
    assert decode_sample(dataset, index, 8, sample) == sample
    assert decode_sample(Brightened(1), index, 8, sample).items().isdisjoint(sample.items())
