"""`chxbench list`: print the available methods, datasets and recipes, one per line."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..recipe import recipe_names, recipe_summary
from ..registry import DATASETS, METHODS, load_plugins
from ..utils.text import plain

WIDTH = 80  # columns
KINDS = {"methods": "--method", "datasets": "--dataset", "recipes": "--recipe"}


def list_plugins(plugins: Sequence[Path] = (), as_json: bool = False) -> None:
    """Print one line per method, dataset and recipe: its name and title.

    Args:
        plugins: files to import first.
        as_json: whether to print JSON: kind to name to description.

    Raises:
        UserError: if a plugin file cannot be imported.
    """
    load_plugins(plugins)
    console = Console(markup=False, emoji=False, highlight=False)
    catalog = read_catalog()
    if as_json:
        console.print(json.dumps(catalog, indent=1), soft_wrap=True)
        return
    width = max(len(name) for names in catalog.values() for name in names)
    for kind, names in catalog.items():
        console.print(f"{kind} ({KINDS[kind]} NAME)")
        for name, description in names.items():
            line = f"  {name:<{width}}  {plain(description)}"
            console.print(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…", soft_wrap=True)
        console.print()
    console.print("`chxbench show NAME` describes one: its options, defaults and reported numbers.")


def read_catalog() -> dict[str, dict[str, str]]:
    """Return the description of each method, dataset and recipe by kind and name."""
    return {
        "methods": {entry.name: entry.cls.title for entry in METHODS},
        "datasets": {entry.name: entry.cls.title for entry in DATASETS},
        "recipes": {name: recipe_summary(name) for name in recipe_names()},
    }
