"""Rooms of the package, and which may import which: the table of docs/architecture.md, enforced."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import chxbench

CONTRACTS = ("dataset", "method", "recipe", "registry")

# What each room may import, floor by floor. A room is a folder of benchmark/, one of its files, or a wing of plug-ins.
MAY_IMPORT = {
    "utils": set(),
    "metrics": set(),
    "dataset": {"utils"},
    "method": {"utils"},
    "recipe": {"utils"},
    "registry": {"utils", "dataset", "method"},
    "data": {"utils", "dataset", "registry", "recipe"},
    "evaluation": {"metrics", "utils", "dataset", "recipe"},
    "engine": {"data", "metrics", "utils", *CONTRACTS},
    "records": {"evaluation", "metrics", "utils", "dataset", "registry", "recipe"},
    "leaderboard": {"records", "evaluation", "metrics", "utils", "dataset", "recipe"},
    "commands": {"leaderboard", "records", "engine", "evaluation", "data", "metrics", "utils", *CONTRACTS},
    "cli": {"commands", "utils"},
    "methods": {"method", "registry", "utils"},
    "datasets": {"dataset", "registry", "utils"},
    "api": {"commands", "records"},
    "root": {"api", "evaluation", "records", "utils", *CONTRACTS},
}
SHARED_BY_COMMANDS = "benchmark.commands.trained_run"  # all that one command may import of another
TORCH = {"torch", "torchvision", "timm", "monai", "accelerate", "safetensors"}
WITHOUT_TORCH = {"cli", "utils", "metrics", "dataset", "registry", "recipe", "evaluation", "records", "leaderboard"}


def _modules():
    """Every module of the package by its dotted name, the package itself being the empty one."""
    wings = [chxbench.ROOT / wing for wing in ("benchmark", "methods", "datasets")]
    root = [chxbench.ROOT / name for name in ("__init__.py", "api.py")]
    for path in (*root, *(path for wing in wings for path in sorted(wing.rglob("*.py")))):
        parts = path.relative_to(chxbench.ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


def _imports(name, path, everywhere=True):
    """Modules of the package that a module imports, anywhere in it or at its top alone, and the names of others."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name.split(".") if path.name == "__init__.py" and name else name.split(".")[:-1]
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from ((None, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield None, node.module
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                yield (inner if inner in MODULES else ".".join(base)), None


def _room(name):
    parts = name.split(".")
    if parts[0] != "benchmark":
        return parts[0] or "root"
    return parts[1] if len(parts) > 1 else "root"


def _arrows(everywhere=True):
    for name, path in MODULES.items():
        yield from ((name, target) for target, _ in _imports(name, path, everywhere) if target is not None)


def test_the_house_has_at_most_eight_rooms_and_five_files():
    inside = [path for path in (chxbench.ROOT / "benchmark").iterdir() if not path.name.startswith("_")]
    assert len([path for path in inside if path.is_dir() and list(path.glob("*.py"))]) <= 8
    assert len([path for path in inside if path.suffix == ".py"]) <= 5


def test_the_map_shows_every_file():
    shown = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = (path for path in (chxbench.ROOT / "benchmark").rglob("*.py") if path.name != "__init__.py")
    assert [path.name for path in files if not re.search(rf"(?<!\w){re.escape(path.name)}\b", shown)] == []


def test_every_import_is_in_the_table():
    wrong = [
        f"{name} imports {target}"
        for name, target in _arrows()
        if _room(name) != _room(target) and _room(target) not in MAY_IMPORT[_room(name)]
    ]
    assert not wrong


def test_no_command_imports_another():
    def command(name):
        return ".".join(name.split(".")[:3])

    wrong = [
        f"{name} imports {target}"
        for name, target in _arrows()
        if _room(name) == _room(target) == "commands"
        and command(name) != command(target)
        and target not in (SHARED_BY_COMMANDS, "benchmark.commands")
    ]
    assert not wrong


def test_no_import_goes_in_a_circle():
    graph = {}
    for name, target in _arrows(everywhere=False):
        graph.setdefault(name, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_rooms_below_training_do_not_import_torch():
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if _room(name) in WITHOUT_TORCH or name == "benchmark.data.source"
        for _, other in _imports(name, path, everywhere=False)
        if other is not None and other.split(".")[0] in TORCH
    ]
    assert not wrong


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--help"], id="help"),
        pytest.param(["run", "--help"], id="run --help"),
        pytest.param(["status", "--results", "{empty}"], id="status"),
        pytest.param(["verify", "{record}"], id="verify"),
        pytest.param(["score", "absent.csv", "--name", "x", "--dataset", "phantom"], id="score"),
        pytest.param(["leaderboard", "--results", "{empty}"], id="leaderboard"),
    ],
)
def test_commands_that_run_no_network_do_not_load_torch(words, tmp_path):
    (tmp_path / "results").mkdir()
    record = next((Path(__file__).parents[1] / "results" / "phantom").glob("*/*/run.json")).parent
    words = [word.format(empty=tmp_path / "results", record=record) for word in words]
    code = f"""
import contextlib, sys
from chxbench.benchmark.cli import main
with contextlib.suppress(SystemExit):
    main({words!r})
sys.exit("torch was loaded" if "torch" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_root_is_where_the_package_is():
    """Records tell their commit, and what was verified before is kept, by what lies below it."""
    assert (chxbench.ROOT / "benchmark" / "cli.py").is_file()
    from chxbench.benchmark.leaderboard.verified_cache import _sources

    assert {path.name for path in _sources()} >= {"cli.py", "auc.py", "recompute.py", "phantom.py"}
