"""The commands as a user types them: help at once, one sentence and status 2 for a mistake."""

import subprocess
import sys

import pytest
from small_runs import invoke


@pytest.mark.parametrize(
    "command", ["", "run", "score", "speed", "predict", "prepare", "compare", "verify", "list", "leaderboard", "status"]
)
def test_help_shows_an_example(command):
    shown = invoke(*command.split(), "--help")
    assert shown.exit_code == 0
    assert f"chxbench {command or 'run'}" in shown.output.split("Example")[1]


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from chxbench.benchmark.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'timm', 'numpy', 'pandas', 'pydantic', 'rich', 'matplotlib', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--method", "mma"], "unknown method 'mma': did you mean ma?", id="method"),
        pytest.param(["--method", "ma", "--dataset", "phantm"], "did you mean phantom?", id="dataset"),
        pytest.param(["--method", "ma", "--recipe", "papre"], "did you mean paper?", id="recipe"),
        pytest.param(["--method", "ma", "--set", "train.epoch=3"], "did you mean train.epochs", id="setting"),
        pytest.param(["--method", "ma", "--set", "dataset.imags=3"], "did you mean dataset.images", id="data option"),
        pytest.param(["--method", "ma", "--set", "train.epochs"], "is not key=value", id="no value"),
        pytest.param(["--method", "ma", "--option", "poool=lse"], "did you mean pool?", id="option"),
        pytest.param(["--method", "ma", "--option", "pool=mean"], "pool = 'mean' does not fit", id="option value"),
        pytest.param(["--method", "ma", "--dataset", "chestxray14"], "--data-dir", id="no folder"),
        pytest.param(
            ["--method", "ma", "--dataset", "chestxray14", "--data-dir", "nowhere"], "does not exist", id="folder"
        ),
        pytest.param(
            ["--method", "ma", "--dataset", "chestxray14", "--data-dir", "."], "has no label file", id="no labels"
        ),
        pytest.param(["--method", "ma", "--set", "model.weights=x.pth"], "neither imagenet, none nor", id="weights"),
        pytest.param(["--method", "ma", "--data-dir", "."], "phantom reads no files", id="folder of no use"),
        pytest.param(["--method", "ma", "--plugin", "nowhere.py"], "does not exist", id="plugin"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = invoke("run", *words)
    assert (ran.exit_code, ran.exception.__class__) == (2, SystemExit)
    assert message in ran.output
    assert len(ran.output.strip().splitlines()) == 1
    assert not (tmp_path / "results").exists()


def test_list_names_every_plugin_with_its_options():
    shown = invoke("list").output
    for words in (
        "method ma",
        "--option threshold=0.5",
        "dataset phantom",
        "dataset.allow_missing=false",
        "every dataset also takes\n    --set dataset.skip_unreadable=false",
        "open | random",
        "--set train.lr=0.01",
    ):
        assert words in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "Interrupted: the same command goes on"), (["--fresh"], "the same command without --fresh goes on")],
)
def test_an_interrupt_says_that_the_same_command_goes_on(words, message, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("chxbench.benchmark.commands.run.run.run", interrupted)
    ran = invoke("run", "--method", "ma", *words)
    assert ran.exit_code == 130
    assert message in ran.output


def test_prepare_fills_the_cache_once(tmp_path):
    words = ["prepare", "--set", "dataset.images=60", "--set", "dataset.size=64", "--cache", tmp_path]
    first, second = invoke(*words), invoke(*words)
    assert first.exit_code == second.exit_code == 0, first.output
    assert "decoding: 60/60" in first.output
    assert "all 60 images are in" in second.output
