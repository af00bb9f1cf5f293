"""`chxbench show NAME`: describe a method, dataset or recipe, its options, and the numbers that papers report."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
import pandas as pd
from pydantic.fields import FieldInfo
from rich.console import Console

from ..data.source import DATASET_PREFIX, SKIP
from ..dataset import FINDINGS
from ..leaderboard.literature import literature
from ..recipe import RECIPES, SECTIONS, load_recipe, recipe_names, recipe_summary
from ..registry import DATASETS, METHODS, PLUGIN_HINT, Entry, load_plugins
from ..utils.errors import UserError, did_you_mean
from ..utils.options import field_help, format_value, to_dict
from ..utils.text import display_name, plain

WIDTH = 80  # columns
LABEL = 14  # columns reserved for the name of a fact
EMPTY = '""'  # shown for a default that is an empty string
BOUNDS: dict[type, tuple[str, str]] = {
    annotated_types.Gt: ("gt", ">"),
    annotated_types.Ge: ("ge", ">="),
    annotated_types.Lt: ("lt", "<"),
    annotated_types.Le: ("le", "<="),
}
TYPES = {bool: "true | false", int: "integer", float: "number", str: "string"}
Description = dict[str, Any]


def show_plugin(name: str, plugins: Sequence[Path] = (), as_json: bool = False) -> None:
    """Print the description of a method, dataset or recipe.

    Args:
        name: name of the method, dataset or recipe, as in `chxbench list`.
        plugins: files to import first.
        as_json: whether to print JSON: a list of one description, or of several if kinds share the name.

    Raises:
        UserError: if a plugin file cannot be imported, or nothing has that name.
    """
    load_plugins(plugins)
    descriptions = describe(name)
    if as_json:
        Console(highlight=False).print(json.dumps(descriptions, indent=1), markup=False, emoji=False, soft_wrap=True)
        return
    for description in descriptions:
        _print(description)


def describe(name: str) -> list[Description]:
    """Return the description of every method, dataset and recipe of this name. Raises UserError if nothing has it."""
    descriptions = []
    if name in METHODS:
        descriptions.append(_describe_method(METHODS.get(name)))
    if name in DATASETS:
        descriptions.append(_describe_dataset(DATASETS.get(name)))
    if name in recipe_names():
        descriptions.append(_describe_recipe(name))
    if not descriptions:
        names = [*(entry.name for registry in (METHODS, DATASETS) for entry in registry), *recipe_names()]
        raise UserError(f"no method, dataset or recipe is called {name!r}: {did_you_mean(name, names)} {PLUGIN_HINT}")
    return descriptions


def _describe_method(entry: Entry) -> Description:
    cls = entry.cls
    rows = literature()
    return {
        "kind": "method",
        "name": entry.name,
        "title": cls.title,
        "facts": _facts(
            paper=cls.paper,
            defined_in=entry.place,
            compared_with=", ".join(cls.compared_with),
            role="control: marked on the leaderboard, and ranked like methods" if cls.control else "",
        ),
        "options_flag": "--option KEY=VALUE",
        "options": list(_options(cls)),
        "reported": _reported(rows[rows["key"] == cls.reported]),
    }


def _describe_dataset(entry: Entry) -> Description:
    cls = entry.cls
    rows = literature()
    skip = "skip images that cannot be read; results are on a separate board. Every dataset has this option."
    return {
        "kind": "dataset",
        "name": entry.name,
        "title": cls.title,
        "facts": _facts(
            defined_in=entry.place,
            default_recipe=cls.default_recipe,
            files="passed with --data-dir" if cls.needs_folder else "none: nothing to download",
            caveat=cls.caveat,
        ),
        "options_flag": "--set KEY=VALUE",
        "options": [
            *_options(cls, DATASET_PREFIX),
            {"name": SKIP, "type": TYPES[bool], "default": "false", "help": skip},
        ],
        "reported": _reported(rows[rows["dataset"] == entry.name]),
    }


def _describe_recipe(name: str) -> Description:
    recipe = load_recipe(name, {})
    options = []
    for section, cls in SECTIONS.items():
        values = to_dict(getattr(recipe, section))
        options += [
            {**option, "default": format_value(values[field.name])}
            for option, field in zip(_options(cls, f"{section}."), fields(cls), strict=True)
        ]
    return {
        "kind": "recipe",
        "name": name,
        "title": recipe_summary(name),
        "facts": _facts(defined_in=str(RECIPES / f"{name}.toml")),
        "options_flag": "--set KEY=VALUE",
        "options": options,
        "reported": [],
    }


def _facts(**facts: str) -> dict[str, str]:
    return {key.replace("_", " "): text for key, text in facts.items() if text}


def _options(cls: type, prefix: str = "") -> Iterator[dict[str, str]]:
    hints, explanations = get_type_hints(cls, include_extras=True), field_help(cls)
    for field in fields(cls):
        yield {
            "name": prefix + field.name,
            "type": type_label(hints[field.name]),
            "default": _default(field),
            "help": explanations.get(field.name, ""),
        }


def _default(option: Field[Any]) -> str:
    if option.default is not MISSING:
        return format_value(option.default)
    return format_value(option.default_factory()) if option.default_factory is not MISSING else "(required)"


def type_label(hint: Any) -> str:
    """Return the display name of an option's type: `concat | parsenet`, `integer >= 0`, `list of integer`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is Annotated:
        return f"{type_label(args[0])} {' and '.join(_bounds(args[1:]))}".strip()
    if origin in (Union, UnionType):
        return " | ".join(map(type_label, args))
    if origin in (tuple, list):
        return f"list of {type_label(args[0])}"
    return TYPES.get(hint, getattr(hint, "__name__", str(hint)))


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    """Yield the bounds in the metadata of an annotation, pydantic's or annotated_types'."""
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _bounds(item.metadata)
        elif type(item) in BOUNDS:
            attribute, sign = BOUNDS[type(item)]
            yield f"{sign} {getattr(item, attribute):g}"


def _reported(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows of literature.csv as plain values, the highest mean AUC first."""
    rows = rows.sort_values("mean_auc", ascending=False)
    columns = ("title", "source", "dataset", "split", "labels", "mean_auc")
    return [
        {
            **{key: row[key] for key in columns},
            "auc": {finding: row[finding] for finding in FINDINGS if pd.notna(row[finding])},
        }
        for row in rows.to_dict("records")
    ]


def _print(description: Description) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(f"{description['kind']} {description['name']}: {plain(description['title'])}", style="bold")
    for key, text in description["facts"].items():
        console.print(_wrap(text, f"  {key:<{LABEL}} "), soft_wrap=True)
    console.print(f"\noptions ({description['options_flag']})", style="bold")
    for option in description["options"]:
        console.print(f"  {option['name']}={option['default'] or EMPTY}  ({option['type']})", soft_wrap=True)
        if option["help"]:
            console.print(_wrap(option["help"]), soft_wrap=True)
    if not description["options"]:
        console.print("  none")
    if description["reported"]:
        console.print("\nreported by papers, not measured by chxbench", style="bold")
        for row in description["reported"]:
            _print_reported(console, row, details=description["kind"] == "method")


def _print_reported(console: Console, row: Mapping[str, Any], details: bool) -> None:
    """Print a row of literature.csv: its mean and, with `details`, its source and the AUC of each finding."""
    console.print(f"  mean AUC {row['mean_auc']:.3f}  {plain(row['title'])}", soft_wrap=True)
    if details:
        console.print(
            _wrap(f"{row['source']}; {row['dataset']}, {row['split']}, labels {row['labels']}"), soft_wrap=True
        )
        cells = ", ".join(f"{display_name(finding)} {value:.3f}" for finding, value in row["auc"].items())
        console.print(_wrap(cells), soft_wrap=True)


def _wrap(text: str, first: str = " " * 6) -> str:
    """Wrap text at `WIDTH` columns, after `first` and indented by its width; paths are not broken."""
    indent = " " * len(first)
    wrapper = textwrap.TextWrapper(WIDTH, first, indent, break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(plain(text))
