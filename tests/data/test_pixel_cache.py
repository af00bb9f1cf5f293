"""The pixel cache: decoded once, the same pixels as Pillow's, resumable, tied to its source files."""

import hashlib
import os
import re
import shutil
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from monai.transforms import Resize
from other_user import as_other_user, read_only, shared_folder
from PIL import Image

from chxbench.benchmark.data import pixel_cache
from chxbench.benchmark.data.pixel_cache import Shrink, prepare_pixels
from chxbench.benchmark.data.source import load_index
from chxbench.benchmark.dataset import DataError, Dataset, Index, Labels, Split
from chxbench.benchmark.utils.files import hold_lock


@dataclass(frozen=True)
class Files(Dataset):
    """Images as files, with a reader that tests replace."""

    name: ClassVar[str] = "files"

    def read(self, image_id, path):
        return super().read(image_id, path)


class Plain(Dataset):
    """Images as files, read as most datasets do: no code of its own, which other users may not read, is hashed."""

    name: ClassVar[str] = "plain"


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


def test_a_second_call_decodes_a_sample_and_a_changed_file_is_decoded_alone(paths, tmp_path, monkeypatch):
    index, cache, whole = index_of(paths[:3]), tmp_path / "cache", Files.read
    before = np.array(prepare_pixels(Files(), index, 40, cache).pixels)
    read = []
    monkeypatch.setattr(Files, "read", lambda self, name, path: read.append(name) or whole(self, name, path))
    monkeypatch.setattr(pixel_cache, "sample_rows", lambda _: np.array([0]))
    prepare_pixels(Files(), index, 40, cache)
    assert read == ["0.png"]
    os.utime(paths[1], ns=(1, 1))
    Image.new("L", (40, 40), 255).save(paths[1])
    after = prepare_pixels(Files(), index, 40, cache).pixels
    assert read[1:] == ["0.png", "1.png"]  # the sample, then what changed
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert after[1].min() == 255


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_sample_that_is_read_differently_makes_all_be_decoded_again(
    paths, tmp_path, monkeypatch, capsys, is_complete
):
    index, cache, whole = index_of(paths[:3]), tmp_path / "cache", Files.read
    prepare_pixels(Files(), index, 40, cache)
    if not is_complete:
        next(cache.glob("*/manifest.json")).unlink()
    monkeypatch.setattr(Files, "read", lambda self, name, path: 255 - whole(self, name, path))
    pixels = prepare_pixels(Files(), index, 40, cache).pixels
    assert "0.png is read differently than for" in capsys.readouterr().err
    np.testing.assert_array_equal(pixels, [Shrink(40)(Files().read(path.name, str(path))) for path in paths[:3]])


def test_what_other_versions_of_a_decoder_round_differently_is_not_decoded_again(paths, tmp_path, monkeypatch, capsys):
    index, cache, whole = index_of(paths[:3]), tmp_path / "cache", Files.read
    before = prepare_pixels(Files(), index, 40, cache)
    monkeypatch.setattr(Files, "read", lambda self, name, path: whole(self, name, path) // 2 * 2)
    assert prepare_pixels(Files(), index, 40, cache).sha256 == before.sha256


def test_a_read_that_depends_on_chance_is_refused(paths, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    monkeypatch.setattr(Files, "read", lambda *_: random.integers(0, 256, (40, 40), np.uint8))
    prepare_pixels(Files(), index_of(paths[:3]), 40, tmp_path)
    with pytest.raises(DataError, match=r"image 0\.png is read differently each time: .* the same pixels"):
        prepare_pixels(Files(), index_of(paths[:3]), 40, tmp_path)


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
    assert read == ["0.png", "1.png", "0.png", "1.png", "2.png"]  # those decoded are the sample
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


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (np.full((40, 40), 300, np.uint16), r"uint16 \(40, 40\)"),
        (np.zeros((40, 40, 3), np.uint8), r"uint8 \(40, 40, 3\)"),
        (np.zeros((0, 40), np.uint8), r"uint8 \(0, 40\)"),
        ([[0, 1]], "list"),
        (None, "NoneType"),
    ],
)
def test_an_image_that_is_not_gray_bytes_is_refused(paths, tmp_path, monkeypatch, image, kind):
    monkeypatch.setattr(Files, "read", lambda self, name, path: image)
    with pytest.raises(DataError, match=rf"image \S*0\.png was read as {kind}, not as uint8 \(H, W\)"):
        prepare_pixels(Files(), index_of(paths[:1]), 40, tmp_path / "cache")


def test_too_little_space_is_reported_before_anything_is_written(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"GB free: choose a different --cache"):
        prepare_pixels(Files(), index_of(paths[:3]), 40, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*/pixels.u8"))


def made_again(damage, paths, tmp_path):
    """Damage a complete cache; return the pixels before and after."""
    index, cache = index_of(paths[:3]), tmp_path / "cache"
    before = np.array(prepare_pixels(Files(), index, 40, cache).pixels)
    (folder,) = cache.iterdir()
    damage(folder)
    return before, prepare_pixels(Files(), index, 40, cache).pixels


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: (folder / "stamps.u64").write_bytes(bytes(24)), id="stamps are zero"),
        pytest.param(lambda folder: (folder / "stamps.u64").write_bytes(bytes(800)), id="stamps are longer"),
        pytest.param(lambda folder: (folder / "pixels.u8").unlink(), id="no pixels"),
        pytest.param(lambda folder: (folder / "manifest.json.part").write_text("{"), id="part left over"),
        pytest.param(lambda folder: (folder / "lock").unlink(), id="no lock"),
    ],
)
def test_a_damaged_file_of_the_cache_is_made_again(paths, tmp_path, damage):
    np.testing.assert_array_equal(*made_again(damage, paths, tmp_path))


@pytest.mark.parametrize("name", ["pixels.u8", "stamps.u64", "manifest.json"])
def test_a_folder_in_place_of_a_file_is_one_sentence(paths, tmp_path, name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    with pytest.raises(DataError, match=f"cannot be written .*{name}: Is a directory"):
        made_again(damage, paths, tmp_path)


def test_a_complete_cache_is_used_while_another_process_holds_its_lock(paths, tmp_path):
    def hold(folder):
        stack.enter_context(hold_lock(folder / "lock", "x"))

    with ExitStack() as stack:
        np.testing.assert_array_equal(*made_again(hold, paths, tmp_path))


def test_another_user_reads_a_complete_cache_and_is_told_that_an_incomplete_one_cannot_be_completed(paths):
    with shared_folder() as folder:
        here = [Path(shutil.copy(path, folder)) for path in paths[:3]]
        index, cache = index_of(here), folder / "cache"
        before = prepare_pixels(Plain(), index, 40, cache).sha256
        read_only(cache)
        assert as_other_user(lambda: prepare_pixels(Plain(), index, 40, cache).sha256) == before
        (manifest,) = cache.glob("*/manifest.json")
        os.utime(here[1], ns=(1, 1))
        told = (
            r"is incomplete or out of date, "
            r"and cannot be written \(.*Permission denied\): choose a different --cache, or have"
        )
        with pytest.raises(DataError, match=told):
            as_other_user(lambda: prepare_pixels(Plain(), index, 40, cache).sha256)
        assert manifest.exists()  # its owner's cache is as it was


def many(tmp_path):
    picture = Image.fromarray(np.zeros((40, 40), np.uint8))
    made = [tmp_path / f"{number}.png" for number in range(60)]
    for path in made:
        picture.save(path)
    return made


def fail_at(name, fail):
    """Return a `read` that fails at one image."""

    def read(self, image_id, path):
        if image_id == name:
            fail()
        return np.zeros((40, 40), np.uint8)

    return read


def out_of_memory():
    raise MemoryError


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("name", "fail", "told"),
    [
        pytest.param("0.png", kill_itself, "a reading process was killed", id="first image"),
        pytest.param("37.png", kill_itself, "a reading process was killed", id="killed"),
        pytest.param("37.png", lambda: os._exit(3), "a reading process was killed", id="exited"),
        pytest.param("37.png", out_of_memory, "too little memory", id="memory"),
    ],
)
def test_the_image_that_ended_a_reading_process_is_named(tmp_path, monkeypatch, name, fail, told):
    index, cache = index_of(many(tmp_path)), tmp_path / "cache"
    monkeypatch.setattr(pixel_cache, "cores", lambda: 2)
    with monkeypatch.context() as patch, pytest.raises(DataError) as error:
        patch.setattr(Files, "read", fail_at(name, fail))
        prepare_pixels(Files(), index, 40, cache)
    wanted = f"{told} while image {name} was read: free memory and check the file, then rerun the same command"
    assert str(error.value) == wanted
    (stamps,) = cache.glob("*/stamps.u64")
    assert (np.fromfile(stamps, np.uint64) != 0).sum() >= (0 if name == "0.png" else 8)  # nothing read is lost
    prepare_pixels(Files(), index, 40, cache)


@pytest.mark.parametrize(
    ("name", "action"), [("read", "read image"), ("stamp", "stamp image"), ("index", "list its images")]
)
def test_an_error_in_a_plugins_code_is_told_with_its_line(tmp_path, monkeypatch, name, action):
    monkeypatch.setattr(Files, name, lambda *_: 1 / 0)
    monkeypatch.setattr(Files, "needs_folder", False)
    told = rf"dataset files \({re.escape(__file__)}:\d+\) fails to {action}.*ZeroDivisionError: division by zero"
    with pytest.raises(DataError, match=told):
        if name == "index":
            load_index(Files(), None)
        prepare_pixels(Files(), index_of(many(tmp_path)[:3]), 40, tmp_path / "cache")
