"""The one kind of error that is shown to the user as a sentence, without a traceback and with exit status 2."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from .text import plain


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do, in one line."""

    def __str__(self) -> str:
        return plain(super().__str__())


class DataError(UserError):
    """A data folder, label file, list or image that is not what it should be."""


def first_few(items: Sequence[object], most: int = 3) -> str:
    """`a, b, c and 7 more`: enough to find the trouble, never a screenful."""
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown} and {len(items) - most:,} more" if len(items) > most else shown


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean ma?` where something near exists, else the list of what there is."""
    likeness = {other: SequenceMatcher(None, name.lower(), other.lower()).ratio() for other in sorted(known)}
    best = max(likeness.values(), default=0)
    if best < 0.6:
        return f"there is: {', '.join(likeness) or 'nothing'}"
    near = [other for other, ratio in likeness.items() if ratio > best - 0.05]
    return f"did you mean {' or '.join(near[:3])}?"
