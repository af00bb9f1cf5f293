"""Errors that are shown to the user as one sentence, without a traceback and with exit status 2."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from .text import plain

LIKENESS = 0.6  # of two names, from 0 to 1, above which one may be a misspelling of the other
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
