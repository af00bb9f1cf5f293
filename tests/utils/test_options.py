"""Options: what pydantic cannot say is said by the docstrings, in one format."""

import json
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest

from chxbench import DATASETS, METHODS, UserError
from chxbench.benchmark.recipe import SECTIONS
from chxbench.benchmark.utils.options import build, field_help, field_names, parse_pairs, to_dict

CLASSES = {
    **{f"method {entry.name}": entry.cls for entry in METHODS},
    **{f"dataset {entry.name}": entry.cls for entry in DATASETS},
    **{f"recipe section {name}": cls for name, cls in SECTIONS.items()},
}


@dataclass
class Base:
    """Base class.

    Options:
        first: explained on
            two lines, with key: value in it
        second: short

    Attributes:
        third: not an option
    """

    first: int = 1
    second: int = 2
    third: int = 3


@dataclass
class Extended(Base):
    """Extension.

    Options:
        second: replaced
        fourth: new
    """

    fourth: int = 4


@dataclass
class Undocumented(Extended):
    fifth: int = 5


def test_help_is_read_from_the_docstring_and_inherited():
    assert field_help(Base) == {"first": "explained on two lines, with key: value in it", "second": "short"}
    assert field_help(Extended) == {**field_help(Base), "second": "replaced", "fourth": "new"}
    assert field_help(Undocumented) == field_help(Extended)


@pytest.mark.parametrize("cls", [pytest.param(cls, id=name) for name, cls in CLASSES.items()])
def test_every_option_is_explained(cls):
    assert list(field_help(cls)) == field_names(cls, "")


def test_an_error_in_the_code_of_a_class_is_told_with_its_line():
    @dataclass(frozen=True)
    class Broken:
        size: int = 0

        def __post_init__(self):
            1 / self.size

    with pytest.raises(
        UserError, match=r"^Broken \(.*test_options\.py:\d+\) fails: ZeroDivisionError: division by zero$"
    ):
        build(Broken, {}, "")


class Color(Enum):
    RED = "red"


@dataclass(frozen=True)
class Typed:
    alpha: float = 0.5
    day: date | None = None
    color: Color = Color.RED
    file: Path | None = None
    anything: object = ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": float("nan")}, "own.alpha = nan is invalid: input should be a finite number"),
        ({"alpha": "inf"}, "own.alpha = inf is invalid"),
        ({"anything": [1, [float("inf")]]}, "own.anything .* finite number"),
        ({"day": date(2026, 1, 2)}, "own.day .*: records cannot hold a date: make the option a text, number or bool"),
        ({"anything": {1, 2}}, "records cannot hold a set"),
        ({"anything": {"a": object()}}, "records cannot hold a object"),
    ],
)
def test_what_a_record_cannot_hold_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        build(Typed, values, "own.")


def test_paths_and_members_of_an_enumeration_are_recorded_as_text():
    typed = build(Typed, {"file": "w.pt", "color": "red", "anything": (1, "a", None, {"b": 2.5})}, "")
    assert (typed.file, typed.color) == (Path("w.pt"), Color.RED)
    recorded = to_dict(typed)
    assert recorded["file"] == "w.pt" and recorded["color"] == "red"
    assert build(Typed, json.loads(json.dumps(recorded)), "").file == typed.file


def test_a_sentence_of_the_class_itself_stays_as_it_is():
    @dataclass(frozen=True)
    class Limited:
        size: int = 0

        def __post_init__(self):
            raise UserError("size 0 is too small: use 1")

    with pytest.raises(UserError, match=r"^size 0 is too small: use 1$"):
        build(Limited, {}, "")


def of_type(kind, default):
    """A class with one option, `value`, of this type."""

    @dataclass(frozen=True)
    class Own:
        value: kind = default

    return Own


@pytest.mark.parametrize(("kind", "default"), [(int, None), (tuple[str, ...], "bsl"), (Literal["a"], "b")])
def test_a_default_is_checked_as_it_is_when_it_is_read_from_a_record(kind, default):
    with pytest.raises(UserError, match=rf"^value = {default!r}, the default in Own, is invalid: input should be "):
        build(of_type(kind, default), {}, "")


def test_a_default_and_the_same_value_given_are_one():
    cls = of_type(float, 1)
    assert json.dumps(to_dict(build(cls, {}, ""))) == json.dumps(to_dict(build(cls, {"value": 1}, "")))


def test_a_field_that_the_class_computes_is_no_option():
    @dataclass(frozen=True)
    class Computing:
        given: int = 2
        computed: object = field(init=False, default=None)

    assert to_dict(build(Computing, {}, "")) == {"given": 2}
    with pytest.raises(UserError, match="unknown setting 'computed'"):
        build(Computing, {"computed": 3}, "")


@pytest.mark.parametrize("text", ["2024-01-31", "12:30:00", "2024-01-31T12:30:00Z", "1\nother=2", "1 2"])
def test_what_no_option_can_be_is_text(text):
    assert build(of_type(str, ""), parse_pairs([f"value={text}"], "--option"), "").value == text
