"""Bad files through the command line: one sentence that names the place, status 2, and nothing half-written.

What can only mean one thing is read instead.
"""

import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from nih_release import BOX_HEADER, HEADER, LABELS, TEST, TRAIN_VAL, V2020, claimed_png, paint, release, row
from PIL import Image

from chxbench.benchmark.cli import main
from chxbench.datasets.chestxray14 import ChestXray14

NO_COLUMN = "no comma-separated column"
FIRST, SECOND = TRAIN_VAL[0], TEST[0]
LIST, BOXES = "train_val_list.txt", "BBox_List_2017.csv"
SMALL_PIXELS = {"size": 40, "crop": 32, "max_shift": 2}


@pytest.fixture
def root(tmp_path):
    return release(tmp_path / "nih")


@pytest.fixture
def prepare(root, tmp_path):
    """`chxbench prepare` of the release with these words; click's result."""

    def ask(*words):
        fixed = ["prepare", "--dataset", "chestxray14", "--data-dir", root, "--cache", tmp_path / "cache"]
        for key, value in SMALL_PIXELS.items():
            fixed += ["--set", f"pixels.{key}={value}"]
        return CliRunner().invoke(main, [str(word) for word in [*fixed, *words]])

    return ask


def sentence(ran) -> str:
    """The one sentence of a refusal."""
    assert ran.exit_code == 2 and isinstance(ran.exception, SystemExit), ran.output
    assert "Traceback" not in ran.output
    *_, last = ran.output.strip().splitlines()
    assert [line for line in ran.output.splitlines() if line.startswith("Error: ")] == [last]
    return last.removeprefix("Error: ")


def nothing_half_written(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.name == "manifest.json" or path.suffix == ".part"]


# --- files of the release -----------------------------------------------------------------------------------------


def text(name, change):
    """Change the text of a file."""
    return lambda root: (root / name).write_text(change((root / name).read_text()))


def data(name, content):
    return lambda root: (root / name).write_bytes(content)


def box(line):
    return data(BOXES, f"{BOX_HEADER}\n{line}\n".encode())


def second_copy(content):
    def make(root):
        (root / "images_001").mkdir()
        (root / "images_001" / FIRST).write_bytes(content((root / "images" / FIRST).read_bytes()))

    return make


def oblong(root):
    paint(root / "images" / SECOND, size=(60, 40))
    box(f"{SECOND},Mass,1,1,5,5")(root)


BAD_FILES = [
    pytest.param(text(LIST, lambda t: f"{t}\n{FIRST}"), f"{LIST}, row 6 ({FIRST}): the image is already", id="twice"),
    pytest.param(text(LIST, lambda t: f"{t}\n{SECOND}"), f"1 image in both .*{SECOND}", id="image in two lists"),
    pytest.param(
        text(LIST, lambda t: f"{t}\n{SECOND[:8]}_009.png"),
        f"1 patient in both .*{SECOND[:8]}",
        id="patient in two",
    ),
    pytest.param(data(LIST, b""), f"{LIST} lists no image", id="empty list"),
    pytest.param(data(LIST, b"\n \r\n"), f"{LIST} lists no image", id="blank list"),
    pytest.param(data(LIST, b"\xff\xfe\x00"), f"{LIST} is not a text file", id="list of other bytes"),
    pytest.param(text(LIST, lambda t: t + "\nscan.png"), f"{LIST}, row 6 ('scan.png')", id="strange name"),
    pytest.param(text(LIST, lambda t: t + "\n00000077_000.png"), "00000077_000.png", id="no label"),
    pytest.param(data(V2020, b""), f"{V2020} is not the table", id="empty labels"),
    pytest.param(data(V2020, HEADER.encode()), f"7 listed images missing from .*{V2020}", id="header alone"),
    pytest.param(text(V2020, lambda t: t.replace(",", ";")), f"{V2020} .*{NO_COLUMN} 'Image Index'", id="semicolons"),
    pytest.param(text(V2020, lambda t: t.replace(",", "\t")), f"{V2020} .*{NO_COLUMN} 'Image Index'", id="tabs"),
    pytest.param(
        text(V2020, lambda t: t.replace("Finding Labels", "x")), f"{V2020} .*{NO_COLUMN} 'Finding Labels'", id="column"
    ),
    pytest.param(data(V2020, HEADER.encode() + b"\n\xe4\xf6\n"), f"{V2020} is not a text file", id="Latin-1"),
    pytest.param(data(V2020, HEADER.encode("utf-16")), f"{V2020} is not a text file", id="UTF-16"),
    pytest.param(text(V2020, lambda t: t.replace("Hernia", "Hernja")), "row 6 ('Hernja')", id="unknown finding"),
    pytest.param(text(V2020, lambda t: t.replace("Hernia", "nan")), "row 6 ('nan')", id="NaN for a finding"),
    pytest.param(text(V2020, lambda t: t.replace("Hernia", "1")), "row 6 ('1')", id="number for a finding"),
    pytest.param(text(V2020, lambda t: t + row(FIRST, "Mass")), f"row 9 ({FIRST}): the image already", id="two rows"),
    pytest.param(
        text(V2020, lambda t: t.replace(row(FIRST, "No Finding"), row(FIRST, "No Finding", "2"))),
        f"row 2 ({FIRST}, patient '2'): the patient column disagrees",
        id="patient column",
    ),
    pytest.param(box(f"{SECOND},Mass,1000,0,100,5"), f"{BOXES}, row 2 ({SECOND}): the box is not", id="box outside"),
    pytest.param(box(f"{SECOND},Mass,nan,0,100,5"), f"{BOXES}, row 2 ({SECOND}): the box is not", id="NaN in a box"),
    pytest.param(box("00000099_000.png,Mass,1,1,5,5"), "row 2 (00000099_000.png): the image", id="box of no image"),
    pytest.param(box(f"{SECOND},Massiv,1,1,5,5"), f"row 2 ({SECOND}): unknown finding", id="box of no finding"),
    pytest.param(box(f"{SECOND},Mass"), f"{BOXES} is not the table", id="box cut short"),
    pytest.param(data(BOXES, b""), f"{BOXES} is not the table", id="empty boxes"),
    pytest.param(data(BOXES, b"\xff\n\xff"), f"{BOXES} is not a text file", id="boxes of other bytes"),
    pytest.param(oblong, f"1 image with boxes not square, .*{SECOND} has 60 x 40 pixels", id="box on an oblong"),
    pytest.param(second_copy(lambda old: old + b"x"), f"files of the same name .*{FIRST} and .*{FIRST}", id="copy"),
    pytest.param(
        second_copy(lambda old: old[:-1] + bytes([old[-1] ^ 1])), f"files of the same name .*{FIRST}", id="same size"
    ),
    pytest.param(lambda root: (root / V2020).unlink(), f"has no label file {V2020}", id="no labels"),
    pytest.param(lambda root: (root / LIST).unlink(), f"has no {LIST}", id="no list"),
    pytest.param(lambda root: (root / "images" / FIRST).unlink(), f"1 of the 7 listed images .*{FIRST}", id="missing"),
]


@pytest.mark.parametrize(("damage", "told"), BAD_FILES)
def test_a_bad_file_is_one_sentence_before_anything_is_written(root, prepare, tmp_path, damage, told):
    damage(root)
    assert re.search(told.replace("(", r"\(").replace(")", r"\)"), sentence(prepare()))
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_may_not_be_read_is_named(root, prepare, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("images"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"folder {root / 'images'} cannot be read (Permission denied)" in sentence(prepare())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_may_not_be_read_are_named(root, prepare):
    (root / V2020).chmod(0)
    assert f"{root / V2020} cannot be read (Permission denied)" in sentence(prepare())


def test_a_text_file_beyond_the_bound_is_not_read(root, prepare, monkeypatch):
    monkeypatch.setattr("chxbench.datasets.nih_tables.MAX_BYTES", 300)
    assert f"{root / V2020} has more than 0 MiB" in sentence(prepare())


def test_control_characters_of_a_file_do_not_reach_the_terminal(root, prepare):
    (root / LIST).write_text("00000001\x1b[31m\u202e.png")
    ran = prepare()
    assert "\x1b" not in ran.output and "\u202e" not in ran.output
    assert "00000001" in sentence(ran)


# --- files that can only mean one thing ---------------------------------------------------------------------------


def shuffled(content):
    lines = [line.split(",") for line in content.splitlines()]
    return "\n".join(",".join([*reversed(line), "more"]) for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(text(V2020, lambda t: "\ufeff" + t), id="BOM"),
        pytest.param(text(V2020, lambda t: t.replace("\n", "\r\n")), id="CRLF"),
        pytest.param(text(LIST, lambda t: "\ufeff" + t.replace("\n", "\r\n") + "\r\n\r\n"), id="list with both"),
        pytest.param(text(V2020, shuffled), id="columns in another order, and one more"),
        pytest.param(lambda root: paint(root / "images_001" / "images" / FIRST), id="an equal copy"),
    ],
)
def test_what_can_only_mean_one_thing_is_read(root, prepare, change):
    before = ChestXray14().index(root)
    change(root)
    after = ChestXray14().index(root)
    assert after.images.drop(columns="path").equals(before.images.drop(columns="path"))
    assert prepare().exit_code == 0


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "palette with transparency"])
def test_every_kind_of_8_bit_image_is_read_as_pillow_shows_it(root, prepare, tmp_path, mode):
    colours = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    picture = Image.fromarray(colours).convert("P" if mode.startswith("palette") else mode)
    options = {"transparency": bytes(range(256))} if mode.startswith("palette") else {}
    path = root / "images" / FIRST
    picture.save(path, format="TIFF" if mode == "CMYK" else "PNG", **options)
    assert prepare().exit_code == 0
    (pixels,) = (tmp_path / "cache").glob("*/pixels.u8")
    place = ChestXray14().index(root).images["image_id"].tolist().index(FIRST)
    stored = np.fromfile(pixels, np.uint8).reshape(-1, 40, 40)[place]
    expected = picture.convert("L")
    if options:  # as seen on black
        alpha = Image.fromarray(np.frombuffer(options["transparency"], np.uint8)[np.asarray(picture)])
        expected = Image.composite(expected, Image.new("L", picture.size), alpha)
    np.testing.assert_allclose(stored, np.asarray(expected), rtol=0, atol=1 if options else 0)


# --- images -------------------------------------------------------------------------------------------------------


def deep(path):
    Image.fromarray(np.arange(36, dtype=np.uint16).reshape(6, 6) * 1000).save(path)


def cut(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


BAD_IMAGES = [
    pytest.param(lambda path: path.write_bytes(b""), "cannot identify", id="no byte"),
    pytest.param(lambda path: path.write_text("no image"), "cannot identify", id="text"),
    pytest.param(
        lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "cannot identify", id="EPS"
    ),
    pytest.param(cut, "truncated", id="cut short"),
    pytest.param(lambda path: path.write_bytes(path.read_bytes()[:40]), "cannot be read", id="cut in its header"),
    pytest.param(deep, "more than 8 bits per pixel", id="16 bits"),
    pytest.param(
        lambda path: path.write_bytes(claimed_png(8001, 8001)), "more than 64 million pixels", id="64 million"
    ),
    pytest.param(lambda path: path.write_bytes(claimed_png(10_001, 10_001)), "more than 64 million", id="100 million"),
    pytest.param(lambda path: path.write_bytes(claimed_png(60_000, 60_000)), "more than 64 million", id="3600 million"),
]


@pytest.mark.parametrize(("damage", "told"), BAD_IMAGES)
def test_a_bad_image_is_named_and_no_cache_is_called_whole(root, prepare, tmp_path, damage, told):
    damage(root / "images" / FIRST)
    said = sentence(prepare())
    assert f"1 of 7 images cannot be used: image {root / 'images' / FIRST} cannot be read" in said and told in said
    assert nothing_half_written(tmp_path)


def test_all_bad_images_are_told_at_once(root, prepare):
    for name in LABELS:
        (root / "images" / name).write_bytes(b"")
    said = sentence(prepare())
    assert "7 of 7 images cannot be used" in said and said.endswith("and 4 more")


# --- caches and folders -------------------------------------------------------------------------------------------

JUNK = (b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"sha256": 5}', b'{"sha256": "0"}', b"[" * 100_000)


def manifest(junk):
    return lambda folder: (folder / "manifest.json").write_bytes(junk)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: os.truncate(folder / "pixels.u8", 99), id="pixels cut short"),
        pytest.param(lambda folder: os.truncate(folder / "stamps.u64", 9), id="stamps cut short"),
        pytest.param(lambda folder: (folder / "stamps.u64").write_bytes(b"\xff" * 56), id="stamps of other files"),
        *(pytest.param(manifest(junk), id=f"manifest {junk[:16]}") for junk in JUNK),
    ],
)
def test_a_damaged_cache_is_made_again(root, prepare, tmp_path, damage):
    assert prepare().exit_code == 0
    (folder,) = (path.parent for path in (tmp_path / "cache").glob("*/pixels.u8"))
    before = (folder / "pixels.u8").read_bytes(), (folder / "manifest.json").read_bytes()
    damage(folder)
    ran = prepare()
    assert ran.exit_code == 0, ran.output
    assert ((folder / "pixels.u8").read_bytes(), (folder / "manifest.json").read_bytes()) == before


def test_a_cache_of_other_files_is_not_taken_for_theirs(root, prepare, tmp_path):
    assert prepare().exit_code == 0
    (manifest,) = (tmp_path / "cache").glob("*/manifest.json")
    before = json.loads(manifest.read_text())["sha256"]
    Image.fromarray(np.full((40, 40), 200, np.uint8)).save(root / "images" / FIRST)
    assert prepare().exit_code == 0
    assert json.loads(manifest.read_text())["sha256"] != before


def failing(number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "the cache")

    return refuse


def test_a_cache_that_cannot_be_written_is_one_sentence(root, prepare, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    assert f"{tmp_path / 'cache'}" in sentence(prepare())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", failing(errno.EROFS))
        assert "cannot be written (the cache: Read-only file system): choose a different --cache" in sentence(prepare())


def test_a_full_disk_is_told_and_leaves_no_map(root, prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    assert "pixels.u8 cannot be allocated (No space left on device): choose a different --cache" in sentence(prepare())
    assert not list(tmp_path.glob("cache/*/pixels.u8")) and nothing_half_written(tmp_path)


def test_results_that_are_no_folder_are_one_sentence(tmp_path):
    (tmp_path / "results").write_text("a file")
    ran = CliRunner().invoke(main, ["leaderboard", "--results", str(tmp_path / "results")])
    assert f"{tmp_path / 'results'} is a file: choose a folder for the records" in sentence(ran)
    assert not (tmp_path / "leaderboard.md").exists()


def test_results_that_cannot_be_written_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    ran = CliRunner().invoke(main, ["leaderboard", "--results", str(tmp_path / "results")])
    assert "No space left on device" in sentence(ran)
    assert not (tmp_path / "leaderboard.md").exists() and nothing_half_written(tmp_path)
