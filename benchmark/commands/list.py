"""`chxbench list`: the methods, datasets and recipes there are."""

from dataclasses import MISSING, Field, fields
from typing import Literal, get_args, get_origin, get_type_hints

from rich.console import Console

from ..data.source import SKIP
from ..recipe import SECTIONS, load_recipe, recipe_names
from ..registry import DATASETS, METHODS, Registry
from ..utils.options import format_value, to_dict


def report_plugins() -> None:
    """Every method and dataset with its options and defaults, then the recipes."""
    console = Console(highlight=False)
    _report(console, METHODS, "--option ")
    _report(console, DATASETS, "--set dataset.")
    console.print(f"every dataset also takes\n    --set {SKIP}=false\n", markup=False, soft_wrap=True)
    for name in recipe_names():
        console.print(f"recipe [bold]{name}[/]  (--recipe {name}; change a setting with --set SECTION.KEY=VALUE)")
        recipe = load_recipe(name, {})
        for section in SECTIONS:
            for key, value in to_dict(getattr(recipe, section)).items():
                console.print(f"    --set {section}.{key}={format_value(value)}", markup=False, soft_wrap=True)


def _report(console: Console, registry: Registry, prefix: str) -> None:
    for entry in registry:
        console.print(f"{registry.kind} [bold]{entry.name}[/]", end=" ")
        console.print(f"{entry.cls.title} ({entry.place})", markup=False, soft_wrap=True)
        hints = get_type_hints(entry.cls)
        for option in fields(entry.cls):
            choices = get_args(hints[option.name]) if get_origin(hints[option.name]) is Literal else ()
            told = f"    {prefix}{option.name}={_default(option)}"
            told += f"  ({' | '.join(map(str, choices))})" if choices else ""
            console.print(told, markup=False, soft_wrap=True)
    console.print()


def _default(option: Field) -> str:
    if option.default is not MISSING:
        return format_value(option.default)
    return format_value(option.default_factory()) if option.default_factory is not MISSING else "(required)"
