"""What papers report, from literature.csv: in columns of its own, never ranked with what was measured here."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

LITERATURE = Path(__file__).with_name("literature.csv")


class Reported(NamedTuple):
    """What a paper reports of a method.

    Attributes:
        mean_auc: over the 14 findings, computed from them where they are printed.
        source: the paper.
        split: the list of test images: "official", or another.
        labels: the version of the label file; "not stated" where two were to be had.
    """

    mean_auc: float
    source: str
    split: str
    labels: str


def literature() -> pd.DataFrame:
    """The table: one row a method, of one source, split and label version."""
    return pd.read_csv(LITERATURE)


@cache
def reported(key: str | None, dataset: str) -> Reported | None:
    """The row of that key, where it is of that dataset; None without."""
    table = literature()
    found = table[(table["key"] == key) & (table["dataset"] == dataset)]
    if found.empty:
        return None
    row = found.iloc[0]
    return Reported(float(row["mean_auc"]), row["source"], row["split"], row["labels"])
