"""Images that cannot be read: a report of all of them, and runs without them, ranked apart from the others."""

import csv
import os

import numpy as np
import pytest
from click.testing import CliRunner
from nih_release import LABELS, TEST, TRAIN_VAL, release

from chxbench.benchmark.cli import main
from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.commands.verify import verify_run
from chxbench.benchmark.data.identity import sample_rows
from chxbench.benchmark.data.pixel_cache import Shrink, prepare_pixels
from chxbench.benchmark.data.unreadable import without_images
from chxbench.benchmark.dataset import DataError, split_sha256
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.leaderboard.leaderboard import check_leaderboard
from chxbench.benchmark.utils.workspace import Workspace
from chxbench.datasets.phantom import Phantom

SKIP = "dataset.skip_unreadable"
BAD = [TRAIN_VAL[0], TEST[1]]


@pytest.fixture
def root(tmp_path):
    made = release(tmp_path / "nih", boxes=[f"{name},Mass,1,1,5,5" for name in TEST])
    for name in BAD:
        (made / "images" / name).write_bytes(b"no image")
    return made


@pytest.fixture
def prepare(root, tmp_path):
    def ask(*words):
        fixed = ["prepare", "--dataset", "chestxray14", "--data-dir", root, "--cache", tmp_path / "cache"]
        return CliRunner().invoke(main, [str(word) for word in [*fixed, *words]])

    return ask


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_report_has_a_line_for_every_bad_image(root, prepare, tmp_path):
    ran = prepare("--report", tmp_path / "bad.csv")
    assert ran.exit_code == 2 and "2 of 7 images cannot be used" in ran.output
    found = rows(tmp_path / "bad.csv")
    assert [line["image_id"] for line in found] == BAD
    assert [line["path"] for line in found] == [str(root / "images" / name) for name in BAD]
    assert all("cannot identify" in line["problem"] for line in found)


def test_the_report_can_hold_any_path(root, tmp_path):
    moved = root.rename(tmp_path / os.fsdecode(b"nih\xf6"))
    words = ["prepare", "--dataset", "chestxray14", "--data-dir", str(moved), "--report", str(tmp_path / "bad.csv")]
    assert CliRunner().invoke(main, [*words, "--cache", str(tmp_path / "cache")]).exit_code == 2
    assert [line["path"].split("/")[-3] for line in rows(tmp_path / "bad.csv")] == [r"nih\xf6"] * 2


def test_the_report_of_no_bad_images_is_a_header(prepare, tmp_path):
    release(tmp_path / "nih")
    assert prepare("--report", tmp_path / "bad.csv").exit_code == 0
    assert (tmp_path / "bad.csv").read_text() == "image_id,path,problem\n"


@pytest.mark.parametrize("place", ["nowhere/bad.csv", "nih"])
def test_a_report_that_cannot_be_written_is_refused_before_the_work(prepare, tmp_path, place):
    ran = prepare("--report", tmp_path / place)
    assert ran.exit_code == 2 and "choose a file in an existing folder" in ran.output
    assert not (tmp_path / "cache").exists()


def test_prepare_continues_without_them_and_reports_it(prepare, tmp_path):
    ran = prepare("--set", f"{SKIP}=true", "--report", tmp_path / "bad.csv")
    assert ran.exit_code == 0, ran.output
    assert f"skipped 2 unreadable images: {', '.join(sorted(BAD))}" in ran.output
    assert "5 images of 256x256 pixels" in ran.output and len(rows(tmp_path / "bad.csv")) == 2


@pytest.mark.parametrize("value", ["1", "yes", "no"])
def test_another_word_than_true_or_false_is_refused(prepare, value):
    ran = prepare("--set", f"{SKIP}={value}")
    assert ran.exit_code == 2 and f"{SKIP} = " in ran.output and "use true or false" in ran.output


def test_a_split_that_would_be_empty_is_refused(root, prepare):
    (root / "images" / TEST[0]).write_bytes(b"")
    ran = prepare("--set", f"{SKIP}=true")
    assert ran.exit_code == 2 and "no image of the test split can be read" in ran.output


def test_what_is_left_is_a_split_of_its_own(root):
    from chxbench.datasets.chestxray14 import ChestXray14

    whole = ChestXray14().index(root)
    assert without_images(whole, []) is whole
    left = without_images(whole, BAD)
    assert set(left.images["image_id"]) == set(LABELS) - set(BAD) and left.skipped == tuple(sorted(BAD))
    assert left.boxes["image_id"].tolist() == [TEST[0]]
    assert left.split.sha256 == split_sha256(left.images) != whole.split.sha256
    assert left.split.name == f"{whole.split.name}, without 2 unreadable images"


@pytest.fixture
def broken(monkeypatch):
    """Three images of phantom that cannot be read, of three splits."""
    images = Phantom(images=120, size=64).index(None).images
    names = images.groupby("split")["image_id"].first().tolist()
    whole = Phantom.read

    def read(self, image_id, path):
        if image_id in names:
            raise DataError(f"image {image_id} cannot be read (broken): replace the file")
        return whole(self, image_id, path)

    monkeypatch.setattr(Phantom, "read", read)
    return names


def test_the_pixels_of_the_others_are_decoded_once_and_stay_in_order(broken, small_config, tmp_path, monkeypatch):
    experiment = build_experiment(small_config(settings={SKIP: True}, cache=tmp_path / "cache"))
    assert experiment.index.skipped == tuple(sorted(broken)) and len(experiment.index.images) == 117
    whole = Phantom(images=120, size=64)
    expected = [
        Shrink(36)(whole.read(name, None)) for name in experiment.index.images["image_id"].iloc[[0, 50, 116]].tolist()
    ]
    broken_read, read = Phantom.read, []
    monkeypatch.setattr(Phantom, "read", lambda self, name, path: read.append(name) or broken_read(self, name, path))
    pixels = prepare_pixels(experiment.dataset, experiment.index, 36, tmp_path / "cache").pixels
    np.testing.assert_array_equal(pixels[[0, 50, 116]], expected)
    assert set(read) == set(experiment.index.images["image_id"].iloc[sample_rows(117)])  # none but the sample


def test_a_setting_that_skips_nothing_changes_no_run(small_config):
    plain, asked = (
        build_experiment(small_config(settings=settings))
        for settings in (
            {},
            {SKIP: True},
        )
    )
    assert asked.run_id == plain.run_id and asked.index.skipped == ()
    assert build_experiment(small_config(settings={SKIP: False})).run_id == plain.run_id


def test_a_run_without_them_is_recorded_verified_and_ranked_apart(broken, small_config, tmp_path, monkeypatch):
    settings = {"train.epochs": 1, "compute.precision": "float32"}
    config = small_config(method="bsl", settings={SKIP: True, **settings}, cache=tmp_path / "cache")
    record, place = run(config)
    assert record.dataset.skipped == sorted(broken)
    assert {split: counts.images for split, counts in record.dataset.counts.items()} == {
        split: count - 1
        for split, count in Phantom(images=120, size=64).index(None).images["split"].value_counts().items()
    }
    assert f"--set {SKIP}=true" in record.command
    assert not verify_run(place).failed
    board = (tmp_path / "leaderboard.md").read_text()
    assert "without 3 unreadable images" in next(line for line in board.splitlines() if line[:3] == "## ")
    assert "unreadable images, excluded" in board
    monkeypatch.undo()
    whole, _ = run(small_config(method="bsl", settings=settings))
    assert whole.run_id != record.run_id and whole.dataset.skipped == []
    assert check_leaderboard(Workspace(config.results)) == 2
    assert (
        sum(line[:3] == "## " and "recipe" in line for line in (tmp_path / "leaderboard.md").read_text().splitlines())
        == 2
    )
