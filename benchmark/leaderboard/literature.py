"""Read the values reported by papers (literature.csv), which are shown in separate columns and not ranked."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

LITERATURE = Path(__file__).with_name("literature.csv")


class Reported(NamedTuple):
    """The mean AUC of a method reported by a paper.

    Attributes:
        mean_auc: mean over the 14 findings, computed from their AUCs if the paper prints them.
        source: citation of the paper.
        split: name of the list of test images, such as "NIH official test".
        labels: version of the label file; "not stated" if the paper does not state it.
    """

    mean_auc: float
    source: str
    split: str
    labels: str


def literature() -> pd.DataFrame:
    """Read the table: one row per method, source, split and label version."""
    return pd.read_csv(LITERATURE)


@cache
def reported(key: str | None, dataset: str) -> Reported | None:
    """Return the value reported for a key and dataset; None if there is none."""
    table = literature()
    rows = table[(table["key"] == key) & (table["dataset"] == dataset)]
    if rows.empty:
        return None
    row = rows.iloc[0]
    return Reported(float(row["mean_auc"]), str(row["source"]), str(row["split"]), str(row["labels"]))
