"""Options: what pydantic cannot say is said by the docstrings, in one format."""

from dataclasses import dataclass

import pytest

from chxbench import DATASETS, METHODS, UserError
from chxbench.benchmark.recipe import SECTIONS
from chxbench.benchmark.utils.options import build, field_help, field_names

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


def test_a_sentence_of_the_class_itself_stays_as_it_is():
    @dataclass(frozen=True)
    class Limited:
        size: int = 0

        def __post_init__(self):
            raise UserError("size 0 is too small: use 1")

    with pytest.raises(UserError, match=r"^size 0 is too small: use 1$"):
        build(Limited, {}, "")
