"""The commands as a user types them: help at once, one sentence and status 2 for a mistake."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest
from small_runs import invoke

from chxbench import METHODS

RECIPES = ["paper", "quick"]


@pytest.mark.parametrize(
    "command",
    ["", "run", "score", "speed", "predict", "prepare", "compare", "verify", "list", "show", "leaderboard", "status"],
)
def test_help_shows_an_example(command):
    shown = invoke(*command.split(), "--help")
    assert shown.exit_code == 0
    assert f"chxbench {command or 'run'}" in shown.output.split("Example")[1]


@pytest.mark.parametrize(
    "command",
    [
        "run --method bsl --results {}",
        "run --method bsl --results {}/below",
        "run --method bsl --plugin {}",
        "run --method bsl --cache {}",
        "run --method bsl --dataset chestxray14 --data-dir {}",
        "leaderboard --results {}",
        "status --results {}",
        "baselines --results {}",
        "speed --method bsl --results {}",
        "score {} --name mine",
        "predict x.png --run {}",
        "verify {}",
        "compare {} {}",
    ],
)
def test_a_link_to_itself_is_told(tmp_path, command):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    done = invoke(*command.format(loop, loop).split())
    assert done.exit_code == 2
    assert "a link that leads back to itself: correct or remove the link" in " ".join(done.output.split())


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
        pytest.param(
            ["--method", "mma"], "unknown method 'mma': did you mean ma? (if a file registers it", id="method"
        ),
        pytest.param(
            ["--method", "ma", "--dataset", "phantm"], "phantom? (if a file registers it: pass --p", id="data"
        ),
        pytest.param(["--method", "ma", "--seed", "9" * 20], "use an integer from 0 to 4294967295", id="seed"),
        pytest.param(["--method", "ma", "--set", f"train.epochs={'[' * 5000}"], "nested too deeply", id="deep"),
        pytest.param(["--method", "ma", "--recipe", "papre"], "did you mean paper?", id="recipe"),
        pytest.param(["--method", "ma", "--set", "train.epoch=3"], "did you mean train.epochs", id="setting"),
        pytest.param(["--method", "ma", "--set", "dataset.imags=3"], "did you mean dataset.images", id="data option"),
        pytest.param(["--method", "ma", "--set", "train.epochs"], "is not key=value", id="no value"),
        pytest.param(["--method", "ma", "--option", "poool=lse"], "did you mean pool?", id="option"),
        pytest.param(["--method", "ma", "--option", "pool=mean"], "pool = 'mean' is invalid", id="option value"),
        pytest.param(["--method", "ma", "--dataset", "chestxray14"], "--data-dir", id="no folder"),
        pytest.param(
            ["--method", "ma", "--dataset", "chestxray14", "--data-dir", "nowhere"], "does not exist", id="folder"
        ),
        pytest.param(
            ["--method", "ma", "--dataset", "chestxray14", "--data-dir", "."], "has no label file", id="no labels"
        ),
        pytest.param(["--method", "ma", "--set", "model.weights=x.h5"], "neither imagenet, none nor", id="weights"),
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


def test_list_has_one_line_per_plugin_and_recipe_within_80_columns():
    lines = invoke("list").output.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    names = [name for name in names if name not in METHODS or METHODS.get(name).built_in]  # other tests have theirs
    assert names == ["bsl", "fam", "ma", "ma_again", "ma_random", "sam", "wang2017", "chestxray14", "phantom", *RECIPES]
    assert max(map(len, lines)) <= 80
    assert any(re.fullmatch(r"  phantom +Phantom \(synthetic radiographs\)", line) for line in lines)


def test_list_as_json_has_the_same_names():
    catalog = json.loads(invoke("list", "--json").output)
    assert catalog["methods"]["ma"] == "MA (FAM + SAM + HEM)"
    assert list(catalog["recipes"]) == RECIPES


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param(
            "ma", ["method ma: MA", "threshold=0.5  (number > 0 and < 1)", "gates=open  (open |"], id="options"
        ),
        pytest.param("ma", ["compared with  sam, ma_ran", "methods/ma.py:", "mean AUC 0.794", "r of pool"], id="facts"),
        pytest.param("phantom", ["dataset.images=2000  (integer)", "dataset.skip_unreadable=false"], id="dataset"),
        pytest.param("paper", ["train.lr=0.01  (number > 0)", "train.drop_after=[20]  (list of integer"], id="recipe"),
    ],
)
def test_show_has_facts_options_and_reported_numbers(name, words):
    shown = invoke("show", name)
    assert shown.exit_code == 0, shown.output
    for word in words:
        assert word in shown.output
    assert all(len(line) <= 80 for line in shown.output.splitlines() if "defined in" not in line)


def test_every_method_dataset_and_recipe_can_be_shown_as_json():
    for kind, names in json.loads(invoke("list", "--json").output).items():
        for name in names:
            (shown,) = json.loads(invoke("show", name, "--json").output)
            assert (shown["name"], shown["kind"] + "s") == (name, kind)


PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar
from chxbench import METHODS, Method

@METHODS.register("show_mine")
@dataclass(frozen=True)
class Mine(Method):
    """A method of one layer.

    Options:
        width: of the
            layer.
    """

    title: ClassVar[str] = "Mine"
    width: int = 7
'''


def test_show_takes_a_plugin_file(tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    try:
        shown = invoke("show", "show_mine", "--plugin", plugin)
    finally:
        METHODS._entries.pop("show_mine", None)
    assert "width=7  (integer)\n      of the layer." in shown.output


def test_show_suggests_the_name_that_was_meant():
    wrong = invoke("show", "phantm")
    assert wrong.exit_code == 2
    assert "no method, dataset or recipe is called 'phantm': did you mean phantom? (if a file" in wrong.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Interrupted: rerun the same command to resume."),
        (["--fresh"], "the same command without --fresh to resume."),
    ],
)
def test_an_interrupt_shows_how_to_resume(words, message, monkeypatch):
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


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(MemoryError(), "Error: too little memory: stop other programs", id="memory"),
        pytest.param(MemoryError("3 GiB for an array"), "Error: too little memory (3 GiB for an array): s", id="array"),
        pytest.param(RecursionError("depth"), "Error: an option or a file is nested too deeply", id="recursion"),
        pytest.param(
            UnicodeEncodeError("utf-8", "\udcff", 0, 1, "no"), "is not valid text ('utf-8' codec", id="encode"
        ),
        pytest.param(OSError(errno.EIO, "I/O error"), "Error: a file: I/O error: fix it", id="file without a name"),
    ],
)
def test_an_error_of_the_system_is_one_sentence(error, told, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("chxbench.benchmark.commands.run.run.run", fail)
    ran = invoke("run", "--method", "ma")
    assert (ran.exit_code, ran.exception.__class__) == (2, SystemExit)
    assert told in ran.output


def outside(words, **options):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "chxbench", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
@pytest.mark.parametrize("words", [["--help"], ["list"]])
def test_output_to_a_full_disk_is_one_sentence(words):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = outside(words, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "Error: standard output: No space left on device: fix it or choose another location\n"


@pytest.mark.parametrize("words", [["--help"], ["list", "--json"]])
def test_a_reader_that_closed_the_pipe_ends_the_command_in_silence(words):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = outside(words, stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_terminal_without_a_character_shows_its_number(tmp_path):
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "ascii"}
    done = outside(["status", "--results", tmp_path / "é" / "results"], stdout=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No runs in" in done.stdout and "\\xe9/runs" in done.stdout
