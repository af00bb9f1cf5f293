"""The pixel cache: decoded once, the same pixels as Pillow's, resumable, tied to its source files."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from monai.transforms import Resize
from PIL import Image

from chxbench.benchmark.data import pixel_cache
from chxbench.benchmark.data.pixel_cache import Shrink, prepare_pixels
from chxbench.benchmark.dataset import DataError, Dataset, Index, Labels, Split


@dataclass(frozen=True)
class Files(Dataset):
    """Images as files, with a reader that tests replace."""

    name: ClassVar[str] = "files"

    def read(self, image_id, path):
        return super().read(image_id, path)


def index_of(paths):
    images = pd.DataFrame(
        {
            "image_id": [path.name for path in paths],
            "patient_id": [path.stem for path in paths],
            "path": [str(path) for path in paths],
            "split": "train",
            "Mass": np.float32(0),
        }
    )
    return Index(images, pd.DataFrame(), ("Mass",), Labels("x", "0" * 64, "1"), Split("x", "0" * 64))


@pytest.fixture
def paths(tmp_path):
    """Asymmetric pictures of 40x40, as gray, RGBA, palette and 40x80."""
    rng = np.random.default_rng(0)
    made = []
    for number, mode in enumerate(["L", "RGBA", "P", "L"]):
        picture = Image.fromarray(rng.integers(0, 256, (40, 80 if number == 3 else 40), np.uint8)).convert(mode)
        made.append(tmp_path / f"{number}.png")
        picture.save(made[-1])
    return made


def test_pixels_and_their_orientation_are_those_of_pillow(paths, tmp_path):
    pixels = prepare_pixels(Files(), index_of(paths[:3]), 40, tmp_path / "cache").pixels
    for row, path in zip(pixels, paths, strict=False):
        with Image.open(path) as image:
            np.testing.assert_array_equal(row, np.asarray(image.convert("L")))


def test_shrinking_is_a_box_average(paths, tmp_path):
    pixels = prepare_pixels(Files(), index_of(paths), 20, tmp_path / "cache").pixels
    for row, path in zip(pixels, paths, strict=True):
        with Image.open(path) as image:
            wanted = np.asarray(image.convert("L").resize((20, 20), Image.Resampling.BOX)).astype(int)
        assert np.abs(row.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("shape", [(20, 20), (40, 40), (80, 80), (20, 60), (100, 320), (50, 70), (40, 70), (30, 10)])
def test_shrinking_gives_the_very_pixels_of_monai(shape):
    gray = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mode = {"mode": "area"} if min(shape) >= 20 else {"mode": "bilinear", "align_corners": False}
    wanted = Resize((20, 20), **mode)(torch.tensor(gray, dtype=torch.float32)[None])[0].round()
    np.testing.assert_array_equal(Shrink(20)(gray), wanted.numpy())


def test_a_second_call_decodes_nothing_and_a_changed_file_is_decoded_alone(paths, tmp_path, monkeypatch):
    index, cache = index_of(paths[:3]), tmp_path / "cache"
    before = np.array(prepare_pixels(Files(), index, 40, cache).pixels)
    read = []
    monkeypatch.setattr(Files, "read", lambda self, name, path: read.append(name) or np.zeros((40, 40), np.uint8))
    prepare_pixels(Files(), index, 40, cache)
    assert read == []
    os.utime(paths[1], ns=(1, 1))
    after = prepare_pixels(Files(), index, 40, cache).pixels
    assert read == ["1.png"]
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])


def test_it_resumes_where_it_stopped(paths, tmp_path, monkeypatch):
    index, cache, read = index_of(paths[:3]), tmp_path / "cache", []

    def stop_at_the_third(self, image_id, path):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(image_id)
        return np.zeros((40, 40), np.uint8)

    monkeypatch.setattr(pixel_cache, "IMAGES_PER_TASK", 1)
    monkeypatch.setattr(pixel_cache, "cores", lambda: 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Files, "read", stop_at_the_third)
        prepare_pixels(Files(), index, 40, cache)
    monkeypatch.setattr(Files, "read", lambda self, name, path: read.append(name) or np.ones((40, 40), np.uint8))
    pixels = prepare_pixels(Files(), index, 40, cache).pixels
    assert read == ["0.png", "1.png", "2.png"]
    assert [int(row.max()) for row in pixels] == [0, 0, 1]


def test_decoded_images_are_saved_meanwhile(paths, tmp_path, monkeypatch):
    saved = []

    def count_stamps(self, image_id, path):
        (stamps,) = tmp_path.glob("cache/*/stamps.u64")
        saved.append(int((np.fromfile(stamps, np.uint64) != 0).sum()))
        return np.zeros((40, 40), np.uint8)

    monkeypatch.setattr(pixel_cache, "IMAGES_PER_TASK", 1)
    monkeypatch.setattr(pixel_cache, "FLUSH_EVERY", 2)
    monkeypatch.setattr(pixel_cache, "cores", lambda: 0)
    monkeypatch.setattr(Files, "read", count_stamps)
    prepare_pixels(Files(), index_of(paths), 40, tmp_path / "cache")
    assert saved == [0, 0, 2, 2]


def test_a_map_cut_short_is_made_again(paths, tmp_path):
    index, cache = index_of(paths[:3]), tmp_path / "cache"
    before = np.array(prepare_pixels(Files(), index, 40, cache).pixels)
    (file,) = cache.glob("*/pixels.u8")
    os.truncate(file, 100)
    np.testing.assert_array_equal(prepare_pixels(Files(), index, 40, cache).pixels, before)


def test_all_bad_images_are_reported_at_once_and_the_good_ones_saved(paths, tmp_path):
    paths[0].write_bytes(b"no picture")
    paths[2].write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 3 images cannot be used: .*0\.png.*2\.png"):
        prepare_pixels(Files(), index_of(paths[:3]), 40, tmp_path / "cache")
    (stamps,) = (tmp_path / "cache").glob("*/stamps.u64")
    assert (np.fromfile(stamps, np.uint64) != 0).tolist() == [False, True, False]


def test_missing_files_are_reported(paths, tmp_path):
    paths[1].unlink()
    with pytest.raises(DataError, match=r"1 missing image file: .*1\.png"):
        prepare_pixels(Files(), index_of(paths[:3]), 40, tmp_path / "cache")


def test_many_images_by_several_processes_are_the_same(tmp_path, monkeypatch):
    from chxbench.datasets.phantom import Phantom

    dataset = Phantom(images=160, size=64)
    index = dataset.index(None)
    monkeypatch.setattr(pixel_cache, "cores", lambda: 2)
    parallel = prepare_pixels(dataset, index, 32, tmp_path / "two")
    monkeypatch.setattr(pixel_cache, "cores", lambda: 0)
    alone = prepare_pixels(dataset, index, 32, tmp_path / "one")
    np.testing.assert_array_equal(alone.pixels, parallel.pixels)
    assert alone.sha256 == parallel.sha256 == hashlib.sha256(alone.pixels.tobytes()).hexdigest()


def test_the_same_names_in_another_folder_are_other_pixels(paths, tmp_path):
    index = index_of(paths[:3])
    first = prepare_pixels(Files(), index, 40, tmp_path / "cache").pixels
    before = np.array(first)
    other = tmp_path / "other"
    other.mkdir()
    for path in paths[:3]:
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(other / path.name)
    index = index_of([other / path.name for path in paths[:3]])
    assert prepare_pixels(Files(), index, 40, tmp_path / "cache").pixels.max() == 0
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("image", [np.full((40, 40), 300, np.uint16), np.zeros((40, 40, 3), np.uint8)])
def test_an_image_that_is_not_gray_bytes_is_refused(paths, tmp_path, monkeypatch, image):
    monkeypatch.setattr(Files, "read", lambda self, name, path: image)
    with pytest.raises(DataError, match=r"image 0\.png was read as uint\d+ \(40, 40.*not as uint8"):
        prepare_pixels(Files(), index_of(paths[:1]), 40, tmp_path / "cache")


def test_too_little_space_is_reported_before_anything_is_written(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"GB free: choose a different --cache"):
        prepare_pixels(Files(), index_of(paths[:3]), 40, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*/pixels.u8"))
