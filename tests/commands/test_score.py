"""Scores from elsewhere, end to end: a file in, a record and a row on the leaderboard out, or one sentence."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from record_factory import edit, publish, recheck, score_table
from sklearn.metrics import roc_auc_score

from chxbench.benchmark.cli import main
from chxbench.benchmark.dataset import FINDINGS, split_sha256
from chxbench.benchmark.evaluation.artifacts import image_list_sha256 as sha256_of_test
from chxbench.benchmark.leaderboard.leaderboard import check_leaderboard
from chxbench.benchmark.recipe import Evaluate
from chxbench.benchmark.records import record as records
from chxbench.benchmark.utils.workspace import Workspace
from chxbench.datasets.chestxray14 import ChestXray14
from chxbench.datasets.phantom import Phantom

PHANTOM = ["--dataset", "phantom", "--set", "dataset.images=120"]
SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="module")
def images():
    """Images and labels of a small phantom."""
    return Phantom(images=120).index(None).images


def predictions(images, skill=1.0, seed=0):
    """Probabilities that tell the findings apart as well as `skill` says, columns as people write them."""
    odds = np.random.default_rng(seed).standard_normal((len(images), 14)) + skill * images[list(FINDINGS)].to_numpy()
    table = pd.DataFrame(1 / (1 + np.exp(2 - odds)), columns=[f"prob_{finding}" for finding in FINDINGS])
    return table.assign(image=images["image_id"].to_numpy())


def of(images, *splits):
    return images[images["split"].isin(splits)]


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    """Intervals from a tenth of the draws: their numbers are no matter here."""
    monkeypatch.setattr(Evaluate, "resamples", 100)


@pytest.fixture
def ask(tmp_path, images):
    """Score a table (the test images of phantom, if none is given) with these words; click's result."""

    def run(*words, table=None, name="theirs", dataset=PHANTOM, file="theirs.csv"):
        path = tmp_path / file
        (predictions(of(images, "test")) if table is None else table).to_csv(path, index=False)
        fixed = [path, "--name", name, "--results", tmp_path / "results"]
        return CliRunner().invoke(main, ["score", *map(str, [*fixed, *dataset, *words])])

    return run


@pytest.fixture
def published(tmp_path):
    """Every published record, by its place under the results."""

    def read():
        places = records.find(tmp_path / "results")
        return {folder.relative_to(tmp_path / "results").as_posix(): records.read(folder) for folder in places}

    return read


def test_a_file_becomes_a_verified_record_and_a_row(ask, published, tmp_path, images):
    table = predictions(of(images, "test")).sample(frac=1, random_state=0)
    ran = ask("--title", "Theirs, 5 models", table=table)
    assert ran.exit_code == 0, ran.output
    ((place, record),) = published().items()
    assert place == f"phantom/theirs/{record.run_id}" and record.run_id.startswith("theirs-")
    test = of(images, "test").set_index("image_id").loc[table["image"]]
    for finding, found in record.auc.items():
        expected = roc_auc_score(test[finding], table[f"prob_{finding}"])
        assert found.value == pytest.approx(expected, abs=1e-12)
        assert found.positives == test[finding].sum()
    assert (record.recipe, record.seed, record.stages, record.localization) == (None, None, [], None)
    assert (record.submission.columns, record.submission.scale) == ("prob_{finding}", "probability")
    assert (record.submission.file, record.submission.image_column) == ("theirs.csv", "image")
    assert record.dataset.counts.keys() == {"test"} and record.dataset.split.name == "phantom, by patient"
    assert (tmp_path / "results" / place / "roc.png").is_file()
    assert "Theirs, 5 models" in (tmp_path / "leaderboard.md").read_text()
    assert check_leaderboard(Workspace(tmp_path / "results")) == 1
    for told in ("columns 'prob_{finding}'", "scale: probability", "Theirs, 5 models on Phantom", "leaderboard  "):
        assert told in ran.output
    assert "chxbench predict" not in ran.output


def test_the_recorded_command_finds_the_same_record(ask, published, tmp_path):
    words = ["--title", "A b", "--columns", "prob_{finding}", "--scale", "probability", "--split", "our own"]
    assert ask(*words).exit_code == 0
    ((_, record),) = published().items()
    program, *typed = shlex.split(record.command)
    assert program == "chxbench"
    typed[typed.index("theirs.csv")] = str(tmp_path / "theirs.csv")
    again = CliRunner().invoke(main, [*typed, "--results", str(tmp_path / "results")])
    assert again.exit_code == 0 and "already published in" in again.output
    for word in (*words, "theirs", "phantom", "dataset.images=120"):
        assert word in typed


def test_the_same_command_finds_its_record_and_another_title_replaces_it(ask, published, tmp_path):
    assert ask().exit_code == 0
    ((place, _),) = published().items()
    before = (tmp_path / "results" / place / "run.json").read_bytes()
    again = ask()
    assert "already published in" in again.output and again.exit_code == 0
    assert (tmp_path / "results" / place / "run.json").read_bytes() == before
    replaced = ask("--title", "Another")
    assert "replaced the record in" in replaced.output
    assert [record.method.title for record in published().values()] == ["Another"]
    (tmp_path / "results" / place / "scores.parquet").unlink()
    assert "replaced the record in" in ask("--title", "Another").output


@pytest.mark.parametrize(
    ("splits", "counted", "told"),
    [
        pytest.param(
            ("test", "val"), {"test", "val"}, "and are used to choose the thresholds", id="all validation images"
        ),
        pytest.param(("test", "train"), {"test"}, "training images", id="training images"),
        pytest.param(("test", "val", "train"), {"test", "val"}, "training images", id="everything"),
    ],
)
def test_images_of_other_splits_are_ignored_or_used_for_thresholds(ask, published, images, splits, counted, told):
    ran = ask(table=predictions(of(images, *splits)))
    assert told in ran.output
    ((_, record),) = published().items()
    assert set(record.dataset.counts) == counted
    assert record.dataset.counts["test"].images == len(of(images, "test"))
    assert record.dataset.split.sha256 == split_sha256(of(images, "test"))
    thresholds = [each.threshold for each in record.secondary_metrics.findings.values()]
    assert any(value is not None for value in thresholds) == ("val" in counted)


def test_a_part_of_the_validation_images_is_ignored(ask, published, images):
    table = predictions(of(images, "test", "val"))
    ran = ask(table=table[table["image"] != of(images, "val")["image_id"].iloc[0]])
    val = len(of(images, "val"))
    assert f"ignored: {val - 1} of the {val} validation images" in ran.output
    assert {*next(iter(published().values())).dataset.counts} == {"test"}


def test_missing_test_images_are_refused_until_they_are_named_a_split(ask, published, tmp_path, images):
    test = of(images, "test")
    few = predictions(pd.concat([test.iloc[5:], of(images, "train").iloc[:20]]))
    refused = ask(table=few)
    assert refused.exit_code == 2
    assert (
        f"5 of the {len(test)} test images have no row ({', '.join(test['image_id'][:3])} and 2 more)" in refused.output
    )
    assert "--split NAME" in refused.output and not (tmp_path / "results").exists()
    assert ask().exit_code == 0
    assert ask("--split", "our random split", table=few, file="few.csv").exit_code == 0
    own, official = sorted(published().values(), key=lambda record: record.submission.file)
    assert own.dataset.split.name == "our random split"
    assert own.dataset.counts["test"].images == len(few) and own.dataset.split.sha256 != official.dataset.split.sha256
    headings = [line for line in (tmp_path / "leaderboard.md").read_text().splitlines() if line.startswith("## ")]
    assert sum("external predictions" in line for line in headings) == 2
    assert any("our random split: external predictions" in line for line in headings)


def test_two_submissions_of_the_same_images_share_a_board(ask, published, tmp_path, images):
    assert ask().exit_code == 0
    better = predictions(of(images, "test", "val"), skill=3, seed=1)
    better.columns = [name.replace("prob_", "").replace("_", " ") for name in better]
    assert ask(name="better", table=better, file="better.csv").exit_code == 0
    assert ask(name="again").exit_code == 0  # the same bytes under another name
    assert len({record.run_id for record in published().values()}) == 3
    text = (tmp_path / "leaderboard.md").read_text()
    assert text.count("external predictions\n") == 1
    assert text.index("| better") < text.index("| theirs")
    assert (
        text.count("\n| –      | ") == 3 and "without seeds: intervals and tests are over test patients alone" in text
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(["--name", "a/b"], "--name 'a/b' is not a valid folder name", id="name with a slash"),
        pytest.param(["--name", ".."], "is not a valid folder name", id="parent folder"),
        pytest.param(["--name", "x" * 101], "is not a valid folder name", id="long name"),
        pytest.param(["--name", "ma"], "ma is a method of chxbench", id="name of a method"),
        pytest.param(["--title", "<b>"], "--title '<b>' is not a valid title", id="title with markup"),
        pytest.param(["--title", " "], "--title ' ' is not a valid title", id="blank title"),
        pytest.param(["--split", "a|b"], "--split 'a|b' is not a valid title", id="split with a bar"),
        pytest.param(["--set", "train.lr=1"], "--set train.lr is not a dataset option", id="recipe"),
        pytest.param(["--set", "dataset.imags=9"], "did you mean dataset.images", id="misspelt option"),
        pytest.param(["--dataset", "phantm"], "did you mean phantom?", id="misspelt dataset"),
        pytest.param(["--dataset", "chestxray14"], "--data-dir", id="no folder"),
        pytest.param(["--columns", "p_{finding}"], "no column like 'p_{finding}'", id="columns"),
        pytest.param(["--columns", "prob_X"], "does not contain {finding} exactly once", id="pattern"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2_and_writes_nothing(ask, tmp_path, words, told):
    ran = ask(*words, dataset=[] if "chestxray14" in words else PHANTOM)
    assert (ran.exit_code, ran.exception.__class__) == (2, SystemExit)
    assert told in ran.output and len(ran.output.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.csv"]


def test_a_name_of_a_trained_method_is_refused(ask, published, tmp_path):
    publish(tmp_path / "results", score_table(1), "r0", "Trained", name="theirs", built_in=False)
    (tmp_path / "results" / "made").rename(tmp_path / "results" / "phantom")
    refused = ask()
    assert refused.exit_code == 2 and "theirs is a trained method" in refused.output
    assert [record.method.title for record in published().values()] == ["Trained"]


def test_a_name_of_the_baselines_is_refused_before_they_are_there(ask, tmp_path):
    refused = ask(name="floor_x")
    assert refused.exit_code == 2 and "--name floor_x belongs to `chxbench baselines`" in refused.output
    assert not (tmp_path / "results").exists()


def test_a_name_of_a_method_that_was_trained_on_another_dataset_is_free(ask, published, tmp_path):
    publish(tmp_path / "results", score_table(1), "r0", "Trained", name="theirs", built_in=False)
    assert ask().exit_code == 0
    assert {record.dataset.name for record in published().values()} == {"made", "phantom"}


def test_other_scores_of_the_same_images_need_another_name_and_title(ask, published, images):
    assert ask().exit_code == 0
    other = predictions(of(images, "test"), seed=7)
    refused = ask(table=other)
    assert refused.exit_code == 2
    assert "other predictions for these images already have the name theirs" in refused.output
    assert len(published()) == 1
    refused = ask("--title", "theirs", table=other, name="other")
    assert refused.exit_code == 2 and "already have the title theirs" in refused.output
    assert len(published()) == 1
    assert ask(table=other, name="other").exit_code == 0
    assert ask("--split", "few", table=other.iloc[:30]).exit_code == 0  # other images: another board
    assert len(published()) == 3


def test_a_leaderboard_of_somebody_else_is_not_overwritten(ask, tmp_path):
    (tmp_path / "leaderboard.md").write_text("mine")
    refused = ask()
    assert refused.exit_code == 2 and "was not written by chxbench" in refused.output
    assert not (tmp_path / "results").exists()


# --- ChestX-ray14: labels and lists, no image ----------------------------------------------------------------------

NAMES = [f"{patient:08}_{image:03}.png" for patient in range(1, 41) for image in range(2)]
TEST = NAMES[40:]


@pytest.fixture
def nih(tmp_path):
    """Labels and lists of a small release; no image lies there."""
    root = tmp_path / "nih"
    root.mkdir()
    rows = [
        f"{name},{FINDINGS[k % 14]}|{FINDINGS[(k + 3) % 14]},{int(name[:8])},{40 + k % 30},F,PA"
        for k, name in enumerate(NAMES)
    ]
    header = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]))
    (root / "train_val_list.txt").write_text("\n".join(NAMES[:40]))
    (root / "test_list.txt").write_text("\n".join(TEST))
    return root


def test_labels_and_lists_are_enough_and_names_need_no_extension(ask, published, nih):
    table = predictions(ChestXray14().listed(nih).images.iloc[40:])
    table["image"] = "images/" + table["image"].str.removesuffix(".png")
    ran = ask(table=table, dataset=["--data-dir", nih])
    assert ran.exit_code == 0, ran.output
    ((place, record),) = published().items()
    assert place.startswith("chestxray14/theirs/")
    assert record.dataset.split.name == "custom lists, validation by patient (seed 0, 12.5 %)"
    assert record.secondary_metrics.subgroups["view"].keys() == {"PA"}


def test_a_list_that_is_known_gives_its_name_whatever_the_user_calls_it(ask, published, nih, monkeypatch):
    monkeypatch.setattr(ChestXray14, "known_tests", {sha256_of_test(TEST): "The list"})
    table = predictions(ChestXray14().listed(nih).images.iloc[40:])
    assert ask(table=table, dataset=["--data-dir", nih]).exit_code == 0
    assert ask("--split", "ours", table=table, name="other", dataset=["--data-dir", nih]).exit_code == 0
    assert len({record.dataset.split for record in published().values()}) == 1
    assert {record.dataset.split.name for record in published().values()} == {"The list"}


def test_options_that_leave_the_test_images_alone_leave_the_board_alone(ask, published, tmp_path, nih):
    table = predictions(ChestXray14().listed(nih).images)
    assert ask(table=table, dataset=["--data-dir", nih]).exit_code == 0
    seeded = ["--data-dir", nih, "--set", "dataset.split_seed=1"]
    assert ask(table=table, name="other", dataset=seeded).exit_code == 0
    assert len({record.dataset.options["split_seed"] for record in published().values()}) == 2
    assert (tmp_path / "leaderboard.md").read_text().count(": external predictions\n") == 1


def test_no_torch_is_loaded(tmp_path, images):
    """A second of start-up instead of ten, and a machine without a working torch will do."""
    predictions(of(images, "test")).to_csv(tmp_path / "theirs.csv", index=False)
    words = ["score", "theirs.csv", "--name", "theirs", *PHANTOM]
    code = (
        "import json, sys; from chxbench.benchmark.cli import main\n"
        f"main({words!r}, standalone_mode=False)\n"
        "print(json.dumps(sorted({'torch', 'monai', 'timm', 'accelerate'} & set(sys.modules))))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(ran.stdout.splitlines()[-1]) == []
    assert (tmp_path / "leaderboard.md").is_file()


def test_constant_scores_are_reported(ask, images):
    table = predictions(of(images, "test")).assign(prob_Mass=0.5)
    told = ask(table=table).stderr
    assert "check Mass: all scores are equal" in " ".join(told.split())
    assert "all scores are equal" not in ask(name="others").stderr


def test_a_split_of_ones_own_says_where_its_images_are_from_and_takes_no_name_of_a_list(ask, images):
    table = predictions(of(images, "train", "test"))
    counts = images["split"].value_counts()
    ran = ask("--split", "mine", table=table)
    assert ran.exit_code == 0
    assert f"images (in the splits of the dataset: {counts['train']:,} train, {counts['test']:,} test" in " ".join(
        ran.stderr.split()
    )
    taken = ask("--split", " Phantom,  BY patient", table=table, name="others")
    assert taken.exit_code == 2
    assert "is the name of one of the dataset's lists" in " ".join(taken.output.split())


def test_scores_that_claim_another_split_are_refused(ask, published, tmp_path):
    assert ask().exit_code == 0
    (place,) = published()
    path = tmp_path / "results" / place / "run.json"
    edit(path, lambda content: (content["dataset"]["split"].update(sha256="1" * 64), recheck(content)))
    for words in (["verify", path.parent], ["leaderboard", "--results", tmp_path / "results"]):
        answer = CliRunner().invoke(main, list(map(str, words)))
        assert answer.exit_code == 2
        assert "splithash111111111111" in "".join(answer.output.replace("│", "").split())


def test_the_official_list_is_recognised():
    if not (SHARED / "nih").is_dir():
        pytest.skip(f"the real NIH files are not there: {SHARED / 'nih'} is missing")
    names = (SHARED / "nih" / "test_list.txt").read_text().split()
    assert ChestXray14.known_tests[sha256_of_test(names[::-1])] == "NIH official test"
