"""Format the tables of a board in Markdown: the ranking, AUC per finding, and helpers for all tables."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from ..evaluation.results import IntervalPart
from ..metrics.intervals import Interval
from ..utils.text import display_name, escape, rare_label
from .rows import Row

EMPTY = "–"
MAX_METHOD_COLUMNS = 8  # columns that fit on a page of GitHub, which is about 1,000 pixels wide
MAX_NAMED = 8  # maximum number of items named in a sentence; more are counted
SHORT_NAME = 4  # minimum number of letters of an abbreviated finding


class Item(NamedTuple):
    """An item of a table with one value per method, such as a finding.

    Attributes:
        title: name of the item, in Markdown.
        short: abbreviated name for the header of a narrow column, in Markdown.
        facts: values that do not depend on the method, such as the number of positives.
        cells: values of the methods.
    """

    title: str
    short: str
    facts: list[str]
    cells: list[str]


def ranking(rows: Sequence[Row], ranks: Sequence[str]) -> str:
    """Tabulate the mean AUC of each row with its interval, seeds, training images, and the value reported by its paper.

    Args:
        rows: rows of the board.
        ranks: rank of each row, formatted.
    """
    headers, align = ["Rank", "Method", "Mean AUC [95 % CI]"], "lll"
    table = [
        [rank, _marked(row), with_interval(row.interval("mean_auc"))] for rank, row in zip(ranks, rows, strict=True)
    ]
    if rare := rare_label(rows[0].first.dataset.rare):
        headers, align = [*headers, rare], align + "l"
        means = [with_interval(row.interval("mean_auc_without_rare")) for row in rows]
        table = [[*cells, mean] for cells, mean in zip(table, means, strict=True)]
    if any(row.first.stages for row in rows):
        headers, align = [*headers, "Seeds (range)", "Images trained on", "of all stages"], align + "lrr"
        table = [[*cells, *_training_cells(row)] for cells, row in zip(table, rows, strict=True)]
    if any(row.reported for row in rows):
        headers, align = [*headers, "Reported", "Source", "Measured − reported"], align + "rlr"
        table = [[*cells, *_reported_cells(row)] for cells, row in zip(table, rows, strict=True)]
    return make_table(headers, table, align)


def _training_cells(row: Row) -> list[str]:
    return [seeds(row), f"{row.budget:,.0f}", f"{row.cost:,.0f}"] if row.first.stages else [EMPTY] * 3


def _marked(row: Row) -> str:
    return f"{row.label} (control)" if row.is_control else row.label


def seeds(row: Row) -> str:
    """Format the number of seeds and the range of their mean AUCs."""
    values = np.array([statistic.value for statistic in row.statistics("mean_auc")])
    defined = values[~np.isnan(values)]
    return f"{len(row.runs)}" + (f" ({defined.min():.3f}–{defined.max():.3f})" if len(defined) > 1 else "")


def _reported_cells(row: Row) -> list[str]:
    """Format the reported mean, its source with split and labels, and the difference if the protocols match."""
    paper = row.reported
    if paper is None:
        return [EMPTY] * 3
    source = escape(f"{paper.source}; {paper.split} split, {paper.labels} labels")
    difference = f"{row.mean_auc - paper.mean_auc:+.3f}" if row.same_protocol(paper) else EMPTY
    return [f"{paper.mean_auc:.4f}", source, difference]


def by_finding(rows: Sequence[Row]) -> str:
    """Tabulate the AUC of each finding for the first `MAX_METHOD_COLUMNS` rows."""
    return _by_finding(rows, rows[:MAX_METHOD_COLUMNS])


def by_finding_of_all(rows: Sequence[Row]) -> str:
    """Tabulate the AUC of each finding for all rows; empty if `by_finding` shows all."""
    return _by_finding(rows, rows) if len(rows) > MAX_METHOD_COLUMNS else ""


def _by_finding(rows: Sequence[Row], shown: Sequence[Row]) -> str:
    headers = ("Finding", "Test positives", "of patients")
    return cross_table(headers, _finding_items(rows), [row.label for row in shown])


def _finding_items(rows: Sequence[Row]) -> list[Item]:
    first = rows[0].first
    short = dict(zip(first.auc, short_names(list(first.auc)), strict=True))
    items = []
    for finding, auc in first.auc.items():
        cells = [decimals(row.finding_auc(finding)) for row in rows]
        title, head = (escape(display_name(name)) for name in (finding, short[finding]))
        items.append(Item(title, head, [f"{auc.positives:,}", f"{auc.positive_patients:,}"], cells))
    means = {"mean_auc": "Mean", "mean_auc_without_rare": rare_label(first.dataset.rare)}
    for name, label in means.items():
        if label is not None:
            items.append(Item(label, label, ["", ""], [decimals(row.interval(name).value) for row in rows]))
    return items


def cross_table(headers: Sequence[str], items: Sequence[Item], labels: Sequence[str]) -> str:
    """Tabulate items and methods; methods are columns, or rows if there are more than `MAX_METHOD_COLUMNS`.

    Args:
        headers: header of the items, followed by the header of each fact.
        items: items of the table, such as findings.
        labels: names of the methods, in Markdown; only the cells of these methods are shown.
    """
    _, *facts = headers
    if len(labels) <= MAX_METHOD_COLUMNS:
        table = [[item.title, *item.facts, *item.cells[: len(labels)]] for item in items]
        return make_table([*headers, *labels], table, "l" + "r" * (len(facts) + len(labels)))
    table = [[fact, *(item.facts[number] for item in items)] for number, fact in enumerate(facts)]
    for number, label in enumerate(labels):
        unbroken = label.replace(" ", "\u00a0")  # otherwise names would wrap at every space
        table.append([unbroken, *(item.cells[number] for item in items)])
    return make_table(["Method", *(item.short for item in items)], table, "l" + "r" * len(items))


def short_names(names: Sequence[str]) -> list[str]:
    """Abbreviate names to their shortest unique prefixes of at least four letters, such as "Pneumot."."""
    return [_short_name(name, [other for other in names if other != name]) for name in names]


def _short_name(name: str, others: Sequence[str]) -> str:
    for length in range(SHORT_NAME, len(name) - 1):
        if not any(other.startswith(name[:length]) for other in others):
            return f"{name[:length].rstrip('_')}."
    return name


def make_table(headers: Sequence[str], rows: Sequence[Sequence[object]], align: str) -> str:
    """Format a Markdown table; `align` contains l or r for each column."""
    sides = [{"l": "left", "r": "right"}[side] for side in align]
    return str(tabulate(rows, headers, tablefmt="pipe", colalign=sides if rows else None, disable_numparse=True))


def decimals(value: float | None, digits: int = 3) -> str:
    """Format a number; `EMPTY` if it is None or NaN."""
    return EMPTY if value is None or np.isnan(value) else f"{value:.{digits}f}"


def with_interval(interval: Interval | IntervalPart, digits: int = 3) -> str:
    """Format a value with its 95 % interval, if it has one; `EMPTY` if it is undefined."""
    if interval.low is None or interval.high is None:
        return decimals(interval.value, digits)
    value, low, high = (decimals(number, digits) for number in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"
