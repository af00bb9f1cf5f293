"""Plugins: the wings, single files, installed packages; and every way in which one can go wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chxbench import DATASETS, METHODS, Dataset, Method, UserError
from chxbench.benchmark.registry import PluginError, Registry, load_plugins

ROOT = Path(__file__).parents[1]
METHOD = '''
from dataclasses import dataclass
from typing import ClassVar
from torch import nn
from chxbench import METHODS, Method, Output

class Pool(nn.Module):
    def __init__(self, findings):
        super().__init__()
        self.maps = nn.Conv2d(3, findings, 4, stride=4)
    def forward(self, images):
        maps = self.maps(images)
        return Output(maps.mean((2, 3)), maps)

@METHODS.register("{name}")
@dataclass(frozen=True)
class Own(Method):
    """Options: none."""
    title: ClassVar[str] = "Own"
    def build(self, findings, weights):
        return Pool(len(findings))
'''


@pytest.fixture
def registry():
    """METHODS, with what a test registers taken out again."""
    before = dict(METHODS._entries)
    yield METHODS
    METHODS._entries = before


def test_every_built_in_plugin_is_found():
    assert {"bsl", "fam", "sam", "ma", "wang2017"} <= {entry.name for entry in METHODS}
    assert {"phantom", "chestxray14"} <= {entry.name for entry in DATASETS}
    assert Path(METHODS.get("ma").file).name == "ma.py"


def test_a_near_name_is_suggested():
    with pytest.raises(UserError, match=re.escape("unknown method 'mma': did you mean ma?")):
        METHODS.get("mma")


@pytest.mark.parametrize("name", ["", None, 5, Registry, ["ma"]])
def test_a_name_of_any_kind_is_answered_with_how_to_pass_a_file(name):
    with pytest.raises(
        UserError, match=r'unknown dataset .*: pass --plugin FILE\.py, in Python plugins=\["FILE\.py"\]'
    ):
        DATASETS.get(name)


def test_a_name_taken_is_rejected_with_both_places():
    registry = Registry("method", "methods")

    class One(Method):
        title = "One"

    class Two(Method):
        title = "Two"

    registry.register("x")(One)
    with pytest.raises(PluginError, match=r"test_registry.py:\d+ is already registered by .*test_registry.py:\d+"):
        registry.register("x")(Two)


def test_a_class_that_does_not_extend_the_contract_is_refused():
    class Stranger:
        title = "Stranger"

    with pytest.raises(
        PluginError, match=r"'mine' \(.*test_registry\.py\): it must be a subclass of chxbench's Method"
    ):
        Registry("method", "methods").register("mine")(Stranger)


NAMES = [
    ("my method", "is not a valid folder name"),
    ("floor_mine", "belongs to `chxbench baselines`"),
    ("fine", "has no title"),
]


@pytest.mark.parametrize(("name", "message"), NAMES)
def test_a_name_or_class_that_could_not_be_recorded_is_rejected(name, message):
    class Nameless: ...

    with pytest.raises(PluginError, match=message):
        Registry("method", "methods").register(name)(Nameless)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("compared_with", "bsl", "compared_with = 'bsl' is invalid: input should be a valid tuple"),
        ("compared_with", ["bsl"], "compared_with .* should be a valid tuple"),
        ("compared_with", (1,), "compared_with .* should be a valid string"),
        ("control", "no", "control = 'no' is invalid: input should be a valid boolean"),
        ("reported", 3, "reported = 3 is invalid"),
        ("paper", None, "paper = None is invalid: input should be a valid string"),
        ("display_options", "pool", "display_options = 'pool' is invalid"),
    ],
)
def test_class_attributes_of_a_method_have_the_types_of_the_contract(attribute, value, message):
    with pytest.raises(PluginError, match=rf"method 'wrong' \(.*test_registry\.py\): the class attribute {message}"):
        METHODS.register("wrong")(type("Wrong", (Method,), {"title": "Wrong", attribute: value}))


@pytest.mark.parametrize(("attribute", "value"), [("needs_folder", 0), ("rare", "Hernia"), ("known_tests", ["x"])])
def test_class_attributes_of_a_dataset_have_the_types_of_the_contract(attribute, value):
    with pytest.raises(PluginError, match=f"dataset 'wrong' .*: the class attribute {attribute} = "):
        DATASETS.register("wrong")(type("Wrong", (Dataset,), {"title": "Wrong", attribute: value}))


def test_a_class_without_a_class_statement_is_refused():
    with pytest.raises(PluginError, match="method 'made' has no source: define it by a class statement"):
        METHODS.register("made")(type("Made", (Method,), {"title": "Made"}))


def test_a_file_is_a_plugin(registry, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(METHOD.format(name="own"))
    load_plugins([path, path])
    assert registry.get("own").file == str(path)


@pytest.mark.parametrize("name", ["r\udcf6.py", "a b\n.py"])
def test_a_plugin_file_has_any_name(registry, tmp_path, name):
    path = tmp_path / name
    path.write_text(METHOD.format(name="own"))
    load_plugins([path])
    assert os.fsencode(registry.get("own").file) == os.fsencode(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("gone.py", None, "does not exist", id="missing"),
        pytest.param("text.txt", "", "must end in .py", id="no Python"),
        pytest.param("bad.py", "import nowhere", r"bad\.py cannot be imported: ModuleNotFoundError", id="fails"),
        pytest.param("syntax.py", "def", r"syntax\.py cannot be imported: SyntaxError", id="syntax"),
        pytest.param("twice.py", METHOD.format(name="ma"), r"'ma' in .*twice\.py:\d+ is already", id="name taken"),
    ],
)
def test_a_file_that_is_not_a_plugin_is_reported(registry, tmp_path, name, text, message):
    METHODS.get("ma")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(PluginError, match=message):
        load_plugins([tmp_path / name])


def install(folder, name, entry_point, module):
    """A package as pip leaves it: a module, and metadata with an entry point."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[chxbench.methods]\n{entry_point}\n")
    (folder / f"{name}.py").write_text(module)


def chxbench(*words, path):
    there = os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "chxbench", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": there}, timeout=300)


def test_an_installed_package_adds_a_method_that_runs(tmp_path):
    install(tmp_path, "strangers", "theirs = strangers:Own", METHOD.format(name="theirs"))
    settings = ["dataset.images=120", "dataset.size=64", "pixels.size=36", "pixels.crop=32", "pixels.max_shift=2"]
    settings += ["train.epochs=1", "evaluate.resamples=100", "compute.precision=float32"]
    words = [word for setting in settings for word in ("--set", setting)]
    ran = chxbench("run", "--method", "theirs", *words, "--results", str(tmp_path / "results"), path=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "Own on" in ran.stdout
    assert len(list((tmp_path / "results").glob("phantom/theirs/*/run.json"))) == 1
    assert "| Own" in (tmp_path / "leaderboard.md").read_text()


def test_an_installed_package_that_fails_is_named(tmp_path):
    install(tmp_path, "broken", "theirs = broken:Own", "import nowhere")
    ran = chxbench("run", "--method", "ma", path=tmp_path)
    assert ran.returncode == 2
    assert "entry point theirs = broken:Own of broken cannot be imported: ModuleNotFoundError" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_method_shown_in_contributing_runs(tmp_path):
    (example,) = re.findall(
        r"```python\n(# my_method\.py.*?)```", (ROOT / "docs" / "contributing-a-method.md").read_text(), re.DOTALL
    )
    (tmp_path / "my_method.py").write_text(example)
    ran = chxbench("list", "--plugin", str(tmp_path / "my_method.py"), path=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^  mine +My method$", ran.stdout, re.MULTILINE)
