"""Build frozen dataclasses from `key=value` strings and TOML tables, with a helpful message for every mistake.

Recipes, methods and datasets are frozen dataclasses whose fields are options; the user's strings are converted to their
values only here. pydantic validates the values.
"""

import inspect
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from .errors import UserError, describe_error, did_you_mean, place_in_code

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def parse_pairs(pairs: Iterable[str], flag: str) -> dict[str, Any]:
    """Parse `["a=1", "b=x"]` to `{"a": 1, "b": "x"}`.

    Args:
        pairs: `key=value` strings; the last value of a repeated key counts.
        flag: the command-line option that they were passed with, for messages.

    Returns:
        Values as TOML reads them; what is not TOML is a string.

    Raises:
        UserError: a pair without `=` or without a key.
    """
    parsed = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{flag} {pair!r} is not key=value: write for example {flag} key=1")
        parsed[key.strip()] = _parse_value(value.strip())
    return parsed


def build(cls: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """Build an instance of a dataclass from field values.

    Args:
        cls: the dataclass; its annotations are the types and ranges that are checked.
        values: by field name; a field without a value takes its default, which is checked as well.
        prefix: what the user writes before the names ("train."), for messages.

    Raises:
        UserError: an unknown key (the message suggests similar ones), a missing key, an invalid value, or one that a
            record cannot hold.
    """
    names = field_names(cls, prefix)
    for key in values:
        if prefix + key not in names:
            raise UserError(f"unknown setting {prefix + key!r}: {did_you_mean(prefix + key, names)}")
    try:
        instance = TypeAdapter(cls).validate_python({**_defaults(cls), **values})
    except ValidationError as error:
        raise UserError("; ".join(_problem(item, cls, values, prefix) for item in error.errors())) from error
    except UserError:
        raise
    except Exception as error:  # of a plugin's __post_init__
        raise UserError(f"{cls.__name__} ({place_in_code(error, cls)}) fails: {describe_error(error)}") from error
    for key, value in to_dict(instance).items():
        if problem := _not_recordable(value):
            raise UserError(f"{prefix}{key} = {value!r} is invalid: {problem}")
    return instance


def _not_recordable(value: Any) -> str | None:
    """Say why a record, which is JSON, cannot hold an option's value; None if it can."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return next(filter(None, map(_not_recordable, value)), None)
    if isinstance(value, float) and not math.isfinite(value):
        return "input should be a finite number"
    if value is None or isinstance(value, str | int | float):
        return None
    return f"records cannot hold a {type(value).__name__}: make the option a text, number or bool, or a list of these"


def field_names(cls: "type[DataclassInstance]", prefix: str) -> list[str]:
    """List a dataclass's options as the user writes them: `train.epochs`, `train.lr`, ..."""
    return [prefix + field.name for field in fields(cls) if field.init]


def field_help(cls: "type[DataclassInstance]") -> dict[str, str]:
    """Read the explanations of a dataclass's fields from its docstring.

    They are in a section of this form, where continuation lines are indented further. A subclass inherits the
    explanations of its bases and may replace them::

        Options:
            name: explanation, which may
                continue on further lines

    Returns:
        The explanations, on one line each, in the order of the fields; fields without one are omitted.
    """
    explanations: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        explanations |= _options_section(inspect.cleandoc(base.__doc__ or ""))
    return {field.name: explanations[field.name] for field in fields(cls) if field.name in explanations}


def to_dict(instance: "DataclassInstance") -> dict[str, Any]:
    """Convert the options to JSON-serializable values: tuples to lists, paths and members of an enumeration to text."""
    values = asdict(instance)
    return {name: _plain(values[name]) for name in field_names(type(instance), "")}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, PurePath) else value


def format_value(value: Any) -> str:
    """Format a value as the user would write it after `key=`."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _options_section(docstring: str) -> dict[str, str]:
    lines = docstring.splitlines()
    if "Options:" not in lines:
        return {}
    explanations: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("Options:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if entry := re.fullmatch(r" {4}(\w+): (.+)", line):
            name = entry[1]
            explanations[name] = entry[2].strip()
        elif name and line.strip():
            explanations[name] += " " + line.strip()
    return explanations


def _defaults(cls: "type[DataclassInstance]") -> dict[str, Any]:
    """Return the defaults of a dataclass's options, which dataclasses do not check."""
    options = [field for field in fields(cls) if field.init]
    made = {field.name: field.default_factory() for field in options if field.default_factory is not MISSING}
    return made | {field.name: field.default for field in options if field.default is not MISSING}


def _parse_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # No option is a date, and a second line belongs to the value.
    return text if len(table) > 1 or isinstance(table["value"], date | time) else table["value"]


def _problem(item: Any, cls: type, values: Mapping[str, Any], prefix: str) -> str:
    """Phrase one of pydantic's errors as a sentence with the user's key."""
    key = prefix + ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{key} is missing: add it"
    if item["type"] == "value_error" and not item["loc"]:
        return message  # raised by the dataclass, with the keys
    default = "" if set(item["loc"][:1]) <= set(values) else f", the default in {cls.__name__},"
    return f"{key} = {item['input']!r}{default} is invalid: {message[0].lower() + message[1:]}"
