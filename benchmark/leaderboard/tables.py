"""Format the tables of a board in Markdown: the ranking, AUC per finding, and helpers for all tables."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from ..records.schema import Record
from ..utils.text import display_name, escape
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


def ranking(rows: Sequence[Row]) -> str:
    """Tabulate the mean AUC of each row with its interval, seeds, images seen, and the value reported by its paper."""
    headers, align = ["#", "Method", "Mean AUC [95 % CI]"], "rll"
    table = [[rank, row.label, with_interval(row, "mean_auc")] for rank, row in zip(ranks(rows), rows, strict=True)]
    if rare := rare_label(rows[0].first):
        headers, align = [*headers, rare], align + "l"
        table = [[*cells, with_interval(row, "mean_auc_without_rare")] for cells, row in zip(table, rows, strict=True)]
    if any(row.first.stages for row in rows):
        headers, align = [*headers, "Seeds (range)", "Images seen"], align + "lr"
        table = [[*cells, seeds(row), f"{row.images():,.0f}"] for cells, row in zip(table, rows, strict=True)]
    if any(row.reported for row in rows):
        headers, align = [*headers, "Reported", "Source", "Measured − reported"], align + "rlr"
        table = [[*cells, *_reported_cells(row)] for cells, row in zip(table, rows, strict=True)]
    return make_table(headers, table, align)


def ranks(rows: Sequence[Row]) -> list[str]:
    """Rank the rows; rows with equal means share a rank, and controls have none."""
    means = [row.mean("mean_auc") for row in rows if not row.is_control]
    # Reversed, so that equal means get the rank of the first of them.
    rank = {mean: number for number, mean in reversed(list(enumerate(means, 1)))}
    return ["control" if row.is_control else str(rank.get(row.mean("mean_auc"), len(means))) for row in rows]


def seeds(row: Row) -> str:
    """Format the number of seeds and the range of their mean AUCs."""
    values = row.values("mean_auc")
    defined = values[~np.isnan(values)]
    return f"{len(values)}" + (f" ({defined.min():.3f}–{defined.max():.3f})" if len(defined) > 1 else "")


def rare_label(record: Record) -> str | None:
    """Return the label of the mean without rare findings; None if the dataset has no rare findings."""
    rare = record.dataset.rare
    if not rare:
        return None
    return f"Without {display_name(rare[0])}" if len(rare) == 1 else "Without rare findings"


def _reported_cells(row: Row) -> list[str]:
    """Format the reported mean, its source with split and labels, and the difference if the protocols match."""
    paper = row.reported
    if paper is None:
        return [EMPTY] * 3
    source = escape(f"{paper.source}; {paper.split} split, {paper.labels} labels")
    difference = f"{row.mean('mean_auc') - paper.mean_auc:+.3f}" if row.same_protocol(paper) else EMPTY
    return [f"{paper.mean_auc:.4f}", source, difference]


def by_finding(rows: Sequence[Row]) -> str:
    """Tabulate the AUC of each finding for the first `MAX_METHOD_COLUMNS` rows."""
    shown = [row.label for row in rows[:MAX_METHOD_COLUMNS]]
    return cross_table(("Finding", "Test positives"), _finding_items(rows), shown)


def by_finding_of_all(rows: Sequence[Row]) -> str:
    """Tabulate the AUC of each finding for all rows; empty if `by_finding` shows all."""
    if len(rows) <= MAX_METHOD_COLUMNS:
        return ""
    return cross_table(("Finding", "Test positives"), _finding_items(rows), [row.label for row in rows])


def _finding_items(rows: Sequence[Row]) -> list[Item]:
    first = rows[0].first
    short = dict(zip(first.auc, short_names(list(first.auc)), strict=True))
    items = []
    for finding, auc in first.auc.items():
        cells = best_in_bold([row.mean(finding) for row in rows])
        title, head = (escape(display_name(name)) for name in (finding, short[finding]))
        items.append(Item(title, head, [f"{auc.positives:,}"], cells))
    means = {"mean_auc": "Mean", "mean_auc_without_rare": rare_label(first)}
    for name, label in means.items():
        if label is not None:
            items.append(Item(label, label, [""], best_in_bold([row.mean(name) for row in rows])))
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


def best_in_bold(values: Sequence[float], digits: int = 3) -> list[str]:
    """Format numbers, with the highest (as printed) in bold if there are several."""
    texts = [EMPTY if np.isnan(value) else f"{value:.{digits}f}" for value in values]
    best = max((text for text in texts if text != EMPTY), default=None)
    return [f"**{text}**" if text == best and len(texts) > 1 else text for text in texts]


def with_interval(row: Row, name: str) -> str:
    """Format an AUC with its 95 % interval, both averaged over the seeds."""
    if np.isnan(row.mean(name)):
        return EMPTY
    low, high = row.bounds(name)
    return f"{row.mean(name):.3f} [{low:.3f}, {high:.3f}]"
