"""Values that papers report, from literature.csv: shown in columns of their own, never ranked with measured ones."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

LITERATURE = Path(__file__).with_name("literature.csv")


class Reported(NamedTuple):
    """The mean AUC that a paper reports of a method.

    Attributes:
        mean_auc: over the 14 findings, computed from them where they are printed.
        source: the paper.
        split: the list of test images, such as "NIH official test".
        labels: the version of the label file; "not stated" where the paper does not name one of several.
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
    """Return the value of this key on this dataset; None if no paper reports one."""
    table = literature()
    found = table[(table["key"] == key) & (table["dataset"] == dataset)]
    if found.empty:
        return None
    row = found.iloc[0]
    return Reported(float(row["mean_auc"]), str(row["source"]), str(row["split"]), str(row["labels"]))
