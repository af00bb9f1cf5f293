"""Recipes and options: what comes with the package, what --set changes, and an answer to every mistake."""

import pytest

from chxbench.benchmark.recipe import load_recipe, recipe_identity, recipe_names, recipe_table, setting_keys
from chxbench.benchmark.utils.errors import UserError, did_you_mean
from chxbench.benchmark.utils.options import parse_pairs


def test_paper_recipe_is_the_papers_training():
    recipe = load_recipe("paper", {})
    assert (recipe.pixels.size, recipe.pixels.crop, recipe.pixels.max_shift) == (256, 224, 12)
    train = recipe.train
    assert (train.optimizer, train.lr, train.momentum, train.weight_decay) == ("sgd", 0.01, 0.9, 1e-4)
    assert (train.batch_size, train.drop_after, train.drop_factor) == (96, (20,), 0.1)
    assert recipe.model.weights == "imagenet"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_loads(name):
    assert load_recipe(name, {}).name == name


def test_settings_are_laid_over_and_recorded():
    recipe = load_recipe("quick", {"train.epochs": "3", "train.drop_after": [1, 2]})
    assert recipe.train.epochs == 3
    assert recipe_table(recipe)["changed"] == {"train.drop_after": [1, 2], "train.epochs": 3}


def test_a_file_extends_a_recipe_and_is_the_same_recipe_whatever_its_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "quick"\n[train]\nepochs = 7\n')
    mine = load_recipe(str(path), {})
    assert mine.train.epochs == 7
    assert recipe_identity(recipe_table(mine)) == recipe_identity(
        recipe_table(load_recipe("quick", {"train.epochs": 7}))
    )
    assert recipe_identity(recipe_table(mine)) != recipe_identity(recipe_table(load_recipe("quick", {})))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        pytest.param("quik", {}, "did you mean quick", id="unknown recipe"),
        pytest.param(
            "nowhere.toml", {}, "cannot be read .*: pass one of paper, quick, or an existing file", id="missing file"
        ),
        pytest.param("quick", {"train.epoch": 3}, "did you mean train.epochs", id="unknown key"),
        pytest.param("quick", {"train.epochs": 0}, "train.epochs = 0 is invalid", id="out of range"),
        pytest.param("quick", {"train.lr": "fast"}, "valid number", id="no number"),
        pytest.param("quick", {"train.optimizer": "adam"}, "'sgd' or 'adamw'", id="no choice"),
        pytest.param("quick", {"pixels.crop": 140}, "does not fit into pixels.size 144", id="crop too large"),
    ],
)
def test_a_mistake_is_answered(name, settings, message):
    with pytest.raises(UserError, match=message):
        load_recipe(name, settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[train\n", "is not valid TOML .*: correct it", id="not TOML"),
        pytest.param("[trian]\n", "did you mean train", id="unknown section"),
        pytest.param("[train]\nepochs = 1\n", 'begin with extends = "quick"', id="incomplete"),
        pytest.param('extnds = "quick"\n', "did you mean extends", id="extends misspelt"),
        pytest.param('extends = "quick"\n[train]\nlr = []\n', "train.lr = .* is invalid", id="value"),
    ],
)
def test_a_bad_recipe_file_is_answered(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_recipe(str(path), {})


def test_a_recipe_extends_the_one_beside_it_but_never_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "base.toml").write_text('extends = "quick"\n[train]\nepochs = 9\n')
    (tmp_path / "folder" / "mine.toml").write_text('extends = "base.toml"\n')
    assert load_recipe("folder/mine.toml", {}).train.epochs == 9
    (tmp_path / "folder" / "base.toml").write_text('extends = "mine.toml"\n')
    with pytest.raises(UserError, match="extends itself"):
        load_recipe("folder/mine.toml", {})


def test_pairs_hold_toml_values_or_plain_words():
    assert parse_pairs(["a=1", "b=1e-3", "c=true", "d=[1, 2]", "e=mean_logit", "f=x=y"], "--set") == {
        "a": 1,
        "b": 1e-3,
        "c": True,
        "d": [1, 2],
        "e": "mean_logit",
        "f": "x=y",
    }
    with pytest.raises(UserError, match="--set 'epochs' is not key=value"):
        parse_pairs(["epochs"], "--set")


def test_the_nearest_name_is_meant():
    assert did_you_mean("mma", ["bsl", "fam", "sam", "ma", "wang2017"]) == "did you mean ma?"
    assert did_you_mean("zzz", ["b", "a"]) == "choose from: a, b"


@pytest.mark.parametrize("key", setting_keys())
def test_every_setting_is_part_of_the_identity(key):
    table = recipe_table(load_recipe("quick", {}))
    section, field = key.split(".")
    changed = {**table, section: {**table[section], field: "other"}}
    assert recipe_identity(changed) != recipe_identity(table)
    assert recipe_identity({**table, "name": "other", "changed": {key: 1}}) == recipe_identity(table)
