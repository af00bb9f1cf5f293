"""Errors that are shown to the user as one sentence, without a traceback and with exit status 2."""

import inspect
import traceback
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from .text import plain

LIKENESS = 0.6  # of two names, from 0 to 1, above which one may be a misspelling of the other
MAX_MESSAGE = 300  # characters of a library's message; some list every tensor of a network
CLOSE = 0.05  # names whose likeness is this close to the best one are suggested as well


class UserError(Exception):
    """A problem that the user can fix: the message says what is wrong, where, and what to do, in one line."""

    def __str__(self) -> str:
        return plain(super().__str__())


class DataError(UserError):
    """A data folder, label file, list or image that is missing, damaged or inconsistent."""


def first_few(items: Sequence[object], limit: int = 3) -> str:
    """Join the first items for a message: `a, b, c and 7 more`."""
    shown = ", ".join(str(item) for item in items[:limit])
    return f"{shown} and {len(items) - limit:,} more" if len(items) > limit else shown


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Suggest what a misspelled name may mean: `did you mean ma?`, or `choose from: ...` if none is similar."""
    likeness = {other: SequenceMatcher(None, name.lower(), other.lower()).ratio() for other in sorted(choices)}
    best = max(likeness.values(), default=0)
    if best < LIKENESS:
        return f"choose from: {', '.join(likeness) or 'nothing'}"
    similar = [other for other, ratio in likeness.items() if ratio > best - CLOSE]
    return f"did you mean {' or '.join(similar[:3])}?"


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error's message, without the advice that some libraries add for programmers."""
    return str(error).strip().partition("\n")[0].partition(". ")[0].strip("(). ") or type(error).__name__


def describe_error(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:MAX_MESSAGE].rstrip(' .:')}" if lines else type(error).__name__


def place_in_code(error: Exception, cls: type) -> str:
    """Return `file:line` of the innermost call in the folder of the method's class; of the class if there is none."""
    file = inspect.getsourcefile(cls) or "?"
    folder = Path(file).resolve().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        # Installed packages may lie below the folder, in a virtual environment.
        if path.is_relative_to(folder) and "site-packages" not in path.relative_to(folder).parts:
            return f"{frame.filename}:{frame.lineno}"
    return f"{file}:{inspect.getsourcelines(cls)[1]}"
