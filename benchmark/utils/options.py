"""`key=value` texts and TOML tables into frozen dataclasses, with an answer to every mistake.

Recipes, methods and datasets are all frozen dataclasses; this is the one place where a user's words become their
fields. Checking the values is pydantic's work; naming the wrong key is ours.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from .errors import UserError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def parse_pairs(pairs: Iterable[str], flag: str) -> dict[str, Any]:
    """`["a=1", "b=x"]` to `{"a": 1, "b": "x"}`: values as in TOML, anything else is a string; the last of a key wins.

    Raises UserError, naming the flag, where there is no `=`.
    """
    parsed = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{flag} {pair!r} is not key=value: write for example {flag} key=1")
        parsed[key.strip()] = _value(value.strip())
    return parsed


def build(cls: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """An instance of the dataclass with these field values; `prefix` ("train.") is how the user wrote the keys.

    Raises UserError for an unknown key (with the near ones), a missing key, or a value that does not fit.
    """
    known = {field.name for field in fields(cls)}
    for key in values:
        if key not in known:
            raise UserError(f"unknown setting {prefix + key!r}: {did_you_mean(prefix + key, field_names(cls, prefix))}")
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        raise UserError("; ".join(_problem(item, prefix) for item in error.errors())) from error


def field_names(cls: "type[DataclassInstance]", prefix: str) -> list[str]:
    """The dataclass's fields as the user writes them: `train.epochs`, `train.lr`, …"""
    return [prefix + field.name for field in fields(cls)]


def to_dict(instance: "DataclassInstance") -> dict[str, Any]:
    """The fields as plain values that JSON can hold (tuples become lists)."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(instance).items()}


def format_value(value: Any) -> str:
    """A value as the user would write it behind `key=`."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _problem(item: Any, prefix: str) -> str:
    key = prefix + ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{key} is missing: add it"
    if item["type"] == "value_error" and not item["loc"]:
        return message
    return f"{key} = {item['input']!r} does not fit: {message[0].lower() + message[1:]}"
