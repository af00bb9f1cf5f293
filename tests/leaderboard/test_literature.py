"""literature.csv: what others reported is stated with source and split, and its means are those of its own numbers."""

from importlib.resources import files
from io import StringIO

import pandas as pd
import pytest

from chxbench.benchmark.dataset import FINDINGS

DESCRIPTION = ["key", "title", "year", "source", "dataset", "split", "labels", "protocol"]
MEANS = ["mean_auc", "mean_auc_printed", "mean_auc_without_hernia"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    # Read as package data, because that is where an installed chxbench finds it.
    return pd.read_csv(
        StringIO(files("chxbench.benchmark.leaderboard").joinpath("literature.csv").read_text(encoding="utf-8"))
    )


def test_columns(table):
    assert list(table.columns) == [*DESCRIPTION, *FINDINGS, *MEANS]


def test_every_row_says_what_it_is_and_where_it_comes_from(table):
    assert table["key"].is_unique
    assert table[["key", "title", "source", "dataset", "split", "protocol"]].notna().all(axis=None)
    assert set(table["dataset"]) == {"chestxray14"}
    assert set(table["split"]) == {"NIH official test", "random patient split"}
    assert table["year"].notna().all()


def test_numbers_are_areas(table):
    numbers = table[[*FINDINGS, *MEANS]]
    assert table["mean_auc"].notna().all()
    assert (numbers.isna() | ((numbers > 0) & (numbers < 1))).all(axis=None)


def test_means_are_recomputed_from_the_findings(table):
    full = table[table[list(FINDINGS)].notna().all(axis=1)]
    assert full["key"].tolist() == ["wang2017", "tienet", "bsl", "fam", "sam", "ma"]
    values = full[list(FINDINGS)]
    assert full["mean_auc"].tolist() == values.mean(axis=1).round(4).tolist()
    assert full["mean_auc_without_hernia"].tolist() == values.drop(columns="Hernia").mean(axis=1).round(4).tolist()


def test_printed_means_stay_beside_the_recomputed_ones(table):
    """Two printed means are not the means of their findings: both numbers are kept, neither is corrected away."""
    rows = table.set_index("key")
    assert rows.loc[["wang2017", "tienet", "bsl", "fam", "sam", "ma"], "mean_auc_printed"].tolist() == [
        0.7451,
        0.7724,
        0.7474,
        0.7636,
        0.7758,
        0.7941,
    ]
    differ = rows["mean_auc_printed"].notna() & (rows["mean_auc_printed"] != rows["mean_auc"])
    assert set(rows.index[differ]) == {"tienet", "ma"}


def test_a_row_without_findings_has_only_a_mean(table):
    mean_only = table[table[list(FINDINGS)].isna().any(axis=1)]
    assert mean_only[[*FINDINGS, "mean_auc_without_hernia"]].isna().all(axis=None)
    assert mean_only["protocol"].str.startswith("mean only").all()
