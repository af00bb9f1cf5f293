"""`chxbench baselines`: what the floors are computed from, and that they stand on every board of their test images."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from record_factory import as_floor, publish, score_table, split_of
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from small_runs import SMALL_DATA, invoke

from chxbench import Index
from chxbench.benchmark.commands.baselines.features import fit_scores, thumbnails, trait_features
from chxbench.benchmark.dataset import Labels, Split
from chxbench.benchmark.leaderboard.boards import make_boards
from chxbench.benchmark.leaderboard.leaderboard import read_runs, render
from chxbench.benchmark.utils.workspace import Workspace

SETTINGS = {**SMALL_DATA, "pixels.size": 40, "pixels.crop": 32, "pixels.max_shift": 4}
WORDS = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
COMPLETE = {"evaluate.resamples": 1000}  # as many as those of a floor


def index_of(targets, splits, **traits):
    images = pd.DataFrame({"image_id": [f"i{k}" for k in range(len(targets))], "split": splits, **traits})
    images = images.assign(patient_id=images["image_id"], path=None, a=targets[:, 0], b=targets[:, 1])
    boxes = pd.DataFrame(columns=["image_id", "finding", "x", "y", "w", "h"])
    return Index(images, boxes, ("a", "b"), Labels("l", "0" * 64, "1"), Split("s", "0" * 64), traits=tuple(traits))


def test_a_thumbnail_has_gray_values_and_their_contrast_in_cells():
    image = np.zeros((2, 35, 35), np.uint8)  # 3 pixels beyond 8 cells of 4 are left out
    image[0] = 100
    image[1, 8:12, 16:20] = 200  # one bright cell, row 2, column 4
    gray, contrast, normalized = thumbnails(image).reshape(2, 3, 8, 8).transpose(1, 0, 2, 3)
    assert (gray[0] == 100).all() and (contrast[0] == 0).all() and (normalized[0] == 0).all()
    assert gray[1, 2, 4] == 200 and gray[1].sum() == 200
    assert contrast[1].argmax() == normalized[1].argmax() == 2 * 8 + 4
    assert normalized[1, 2, 3] < 0 and (contrast[1, 6:] == 0).all()


def test_traits_are_numbers_with_squares_and_texts_with_indicators():
    names = [f"p{k}" for k in range(25)]
    age = [20.0, 40.0, np.nan] + [30.0] * 22
    index = index_of(np.zeros((25, 2)), "train", age=age, view=["PA", "AP", None] + ["PA"] * 22, name=names)
    found = trait_features(index)
    assert found.shape == (25, 5)  # the age, its square, whether it is unknown; AP, PA; no names
    assert found[1, 0] == -found[0, 0] > 0 and found[1, 1] == found[1, 0] ** 2
    assert found[2].tolist() == [0, 0, 1, 0, 0] and found[0, 3:].tolist() == [0, 1] and found[1, 3:].tolist() == [1, 0]
    assert trait_features(index_of(np.zeros((25, 2)), "train", name=names)) is None


def test_scores_are_those_of_a_logistic_regression_chosen_on_the_validation_split():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 5)) * [1, 2, 3, 4, 5]
    targets = (features[:, :2] + rng.standard_normal((300, 2)) > 0).astype(float)
    targets[3, 0] = np.nan
    splits = np.array(["train"] * 200 + ["val"] * 50 + ["test"] * 50)
    found = fit_scores(features, index_of(targets, splits))
    scaled = (features - features[:200].mean(0)) / features[:200].std(0)
    by_strength = []
    for strength in (0.0001, 0.001, 0.01, 0.1):
        known = [np.flatnonzero(~np.isnan(targets[:200, c])) for c in range(2)]
        models = [LogisticRegression(C=strength).fit(scaled[known[c]], targets[known[c], c]) for c in range(2)]
        scores = np.stack([model.decision_function(scaled) for model in models], axis=1)
        by_strength.append(
            (np.mean([roc_auc_score(targets[200:250, c], scores[200:250, c]) for c in range(2)]), scores)
        )
    np.testing.assert_allclose(found, max(by_strength, key=lambda pair: pair[0])[1], atol=1e-3)


def test_without_features_or_with_one_class_a_score_is_the_prevalence():
    targets = np.array([[1, 0], [1, 0], [0, 0], [0, 0], [0, 1], [1, 0]], float)
    index = index_of(targets, np.array(["train"] * 4 + ["val", "test"]))
    np.testing.assert_allclose(fit_scores(np.empty((6, 0)), index), np.log([[2.5 / 2.5, 0.5 / 4.5]] * 6))
    with_features = fit_scores(np.arange(6.0)[:, None], index)
    assert len(set(with_features[:, 0])) == 6 and set(with_features[:, 1]) == {np.log(0.5 / 4.5)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A results folder with the floors of a small dataset."""
    base = tmp_path_factory.mktemp("made")
    ran = invoke("baselines", *WORDS, "--results", base / "results", "--cache", base / "cache")
    assert ran.exit_code == 0, ran.output
    return base, ran.output


def test_floors_are_published_and_verified(made):
    base, output = made
    folders = sorted((base / "results" / "phantom").glob("floor_*/*"))
    assert [folder.parent.name for folder in folders] == ["floor_prevalence", "floor_thumbnail"]
    assert "no floor from traits: the dataset has none" in output
    prevalence, thumbnail = (json.loads((folder / "run.json").read_text()) for folder in folders)
    assert prevalence["mean_auc"] == {"value": 0.5, "low": None, "high": None, "findings": 14}
    assert thumbnail["mean_auc"]["value"] > 0.6 and thumbnail["method"]["floor"]
    assert thumbnail["command"].startswith("chxbench baselines --dataset phantom --set dataset.images=120")
    for folder in folders:
        assert invoke("verify", folder).exit_code == 0
    assert invoke("leaderboard", "--results", base / "results", "--check").exit_code == 0
    again = invoke("baselines", *WORDS, "--results", base / "results", "--cache", base / "cache")
    assert again.exit_code == 0 and len(list((base / "results" / "phantom").glob("floor_*/*"))) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "pixels.size=7", "--set", "pixels.crop=7", "--set", "pixels.max_shift=0"], "pixels.size"),
        (["--dataset", "nothing"], "nothing"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_sentence(tmp_path, words, told):
    ran = invoke("baselines", *words, "--results", tmp_path / "results", "--cache", tmp_path / "cache")
    assert ran.exit_code == 2 and told in ran.output and len(ran.output.strip().splitlines()) == 1


@pytest.fixture
def boards(tmp_path):
    """Two methods with two seeds, above and below a floor, on a board and one of another recipe; the results folder."""
    results = tmp_path / "results"
    for seed in (0, 1):
        publish(results, score_table(3.0, seed), f"a{seed}", "Good", seed=seed, name="ma", settings=COMPLETE)
        publish(results, score_table(0.2, seed), f"b{seed}", "Bad", seed=seed, name="sam", settings=COMPLETE)
    publish(results, score_table(1.2, 5), "c0", "Longer", settings={**COMPLETE, "train.epochs": 9})
    split = split_of(score_table(1.2))
    publish(results, score_table(1.2, 7), "f0", "Thumbs", name="floor_thumbnail", split=split, change=as_floor)
    return results


def test_floors_stand_on_every_board_of_their_test_images(boards):
    made = sorted(make_boards(read_runs(Workspace(boards))), key=lambda board: -len(board.rows))
    assert [[row.label for row in board.floors] for board in made] == [["Thumbs"], ["Thumbs"]]
    page = render(made)
    table = page[page.index("| Rank") : page.index("Floors need no network")]
    names = [line.split("|")[2].strip() for line in table.splitlines()[2:] if line]
    assert names == ["Good", "Thumbs", "Bad"] and "| floor " in table
    assert "- Mean AUC, significantly above Thumbs: Good." in page
    assert "- Mean AUC, significantly below Thumbs: Bad." in page
    assert "- Mean AUC, not tested against Thumbs (too few seeds or patients): Longer." in page


def test_floors_of_other_images_are_on_no_board(boards):
    table = score_table(1)
    table["image_id"] = "x" + table["image_id"]
    other = {"name": "floor_other", "split": split_of(table), "change": as_floor}
    publish(boards, table, "f1", "Elsewhere", **other)
    assert "Elsewhere" not in render(make_boards(read_runs(Workspace(boards))))
    shutil.rmtree(boards / "made" / "floor_other")


def test_a_floor_of_other_resamples_is_not_compared(boards):
    for seed in (0, 1):
        publish(boards, score_table(3.0, seed), f"d{seed}", "Few", seed=seed, settings={"evaluate.resamples": 100})
    page = render(make_boards(read_runs(Workspace(boards))))
    assert "not tested against Thumbs (too few seeds or patients): Few." in page
