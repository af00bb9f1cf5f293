"""Groups of patients within which a method is judged again: by sex, by age, by view position."""

from collections.abc import Callable

import pandas as pd

Belongs = Callable[[pd.Series], pd.Series]  # a trait of each image to whether it is of the group; unknown: of none

AGES = ((0, 20), (20, 40), (40, 60), (60, 80), (80, 121))  # years, from the first up to but without the second


def _is(value: str) -> Belongs:
    return lambda trait: trait == value


def _between(low: int, high: int) -> Belongs:
    return lambda trait: trait.between(low, high, inclusive="left")


# Trait -> group -> its images. The names are those of the record and of the leaderboard.
GROUPS: dict[str, dict[str, Belongs]] = {
    "sex": {"F": _is("F"), "M": _is("M")},
    "age": {f"{low} to {high - 1}": _between(low, high) for low, high in AGES},
    "view": {"PA": _is("PA"), "AP": _is("AP")},
}
