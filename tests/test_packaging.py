"""What is installed is what is here: the root is the package, so every sub-package has to be named."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
WINGS = ("benchmark", "methods", "datasets")


def test_every_sub_package_is_installed():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for wing in WINGS for path in (ROOT / wing).rglob("*.py")}
    there = {".".join(("chxbench", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert set(named) == {"chxbench", *there}
    assert all((folder / "__init__.py").is_file() for folder in folders)
