"""Tables of a board in Markdown: the ranking, AUC by finding, and how any of its tables is formatted."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from ..records.schema import Record
from ..utils.text import display_name, escape
from .rows import Row

EMPTY = "–"
MAX_METHOD_COLUMNS = 8  # methods that fit next to each other on GitHub's page, which is about 1,000 pixels wide
MAX_NAMED = 8  # items that a sentence names; more are counted
SHORT_NAME = 4  # letters of an abbreviated finding at least


class Item(NamedTuple):
    """A line of a table that has one value per method, such as a finding.

    Attributes:
        title: the name, in Markdown.
        short: the name where it heads a narrow column, in Markdown.
        facts: what holds for all methods, such as the number of positives.
        cells: one per method.
    """

    title: str
    short: str
    facts: list[str]
    cells: list[str]


def ranking(rows: Sequence[Row]) -> str:
    """Tabulate the mean AUC of each row with its interval, seeds, training budget, and the paper's value."""
    headers, align = ["#", "Method", "Mean AUC [95 % CI]"], "rll"
    table = [[rank, row.label, with_interval(row, "mean_auc")] for rank, row in zip(ranks(rows), rows, strict=True)]
    if rare := rare_label(rows[0].first):
        headers, align = [*headers, rare], align + "l"
        table = [[*cells, with_interval(row, "mean_auc_without_rare")] for cells, row in zip(table, rows, strict=True)]
    if any(row.first.stages for row in rows):
        headers, align = [*headers, "Seeds (range)", "Training images"], align + "lr"
        table = [[*cells, seeds(row), f"{row.images():,.0f}"] for cells, row in zip(table, rows, strict=True)]
    if any(row.reported for row in rows):
        headers, align = [*headers, "Reported", "Source", "Measured − reported"], align + "rlr"
        table = [[*cells, *_reported_cells(row)] for cells, row in zip(table, rows, strict=True)]
    return make_table(headers, table, align)


def ranks(rows: Sequence[Row]) -> list[str]:
    """Rank the rows; equal means share a rank, controls have none."""
    means = [row.mean("mean_auc") for row in rows if not row.is_control]
    # Reversed, so that of several equal means the first, and so the lowest rank, is the one that stays.
    rank = {mean: number for number, mean in reversed(list(enumerate(means, 1)))}
    return ["control" if row.is_control else str(rank.get(row.mean("mean_auc"), len(means))) for row in rows]


def seeds(row: Row) -> str:
    """Format the number of seeds, and the range of their mean AUCs."""
    values = row.values("mean_auc")
    defined = values[~np.isnan(values)]
    return f"{len(values)}" + (f" ({defined.min():.3f}–{defined.max():.3f})" if len(defined) > 1 else "")


def rare_label(record: Record) -> str | None:
    """Name the mean without rare findings; None where the dataset has none."""
    rare = record.dataset.rare
    if not rare:
        return None
    return f"Without {display_name(rare[0])}" if len(rare) == 1 else "Without rare findings"


def _reported_cells(row: Row) -> list[str]:
    """Format the reported mean, its source with split and labels, and the difference if the protocol is the same."""
    paper = row.reported
    if paper is None:
        return [EMPTY] * 3
    source = escape(f"{paper.source}; {paper.split} split, {paper.labels} labels")
    difference = f"{row.mean('mean_auc') - paper.mean_auc:+.3f}" if row.same_protocol(paper) else EMPTY
    return [f"{paper.mean_auc:.4f}", source, difference]


def by_finding(rows: Sequence[Row]) -> str:
    """Tabulate the AUC of each finding for the best rows, as many as fit next to each other."""
    shown = [row.label for row in rows[:MAX_METHOD_COLUMNS]]
    return cross_table(("Finding", "Test positives"), _finding_items(rows), shown)


def by_finding_of_all(rows: Sequence[Row]) -> str:
    """Tabulate the AUC of each finding for all rows; empty where `by_finding` shows all."""
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
    """Tabulate items against methods; methods are columns, or rows where more than `MAX_METHOD_COLUMNS`.

    Args:
        headers: the name of the items, then of each of their facts.
        items: such as findings.
        labels: the methods, in Markdown; of the cells of an item, the first ones are shown.
    """
    _, *facts = headers
    if len(labels) <= MAX_METHOD_COLUMNS:
        table = [[item.title, *item.facts, *item.cells[: len(labels)]] for item in items]
        return make_table([*headers, *labels], table, "l" + "r" * (len(facts) + len(labels)))
    table = [[fact, *(item.facts[number] for item in items)] for number, fact in enumerate(facts)]
    for number, label in enumerate(labels):
        unbroken = label.replace(" ", "\u00a0")  # next to many narrow columns, a name would break at every space
        table.append([unbroken, *(item.cells[number] for item in items)])
    return make_table(["Method", *(item.short for item in items)], table, "l" + "r" * len(items))


def short_names(names: Sequence[str]) -> list[str]:
    """Abbreviate names to their shortest distinct beginnings of at least four letters, as in "Pneumot."."""
    return [_short_name(name, [other for other in names if other != name]) for name in names]


def _short_name(name: str, others: Sequence[str]) -> str:
    for length in range(SHORT_NAME, len(name) - 1):
        if not any(other.startswith(name[:length]) for other in others):
            return f"{name[:length].rstrip('_')}."
    return name


def make_table(headers: Sequence[str], rows: Sequence[Sequence[object]], align: str) -> str:
    """Format a Markdown table; `align` has an l or r for each column."""
    sides = [{"l": "left", "r": "right"}[side] for side in align]
    return str(tabulate(rows, headers, tablefmt="pipe", colalign=sides if rows else None, disable_numparse=True))


def best_in_bold(values: Sequence[float], digits: int = 3) -> list[str]:
    """Format numbers, the highest (as printed) in bold unless there is only one."""
    texts = [EMPTY if np.isnan(value) else f"{value:.{digits}f}" for value in values]
    best = max((text for text in texts if text != EMPTY), default=None)
    return [f"**{text}**" if text == best and len(texts) > 1 else text for text in texts]


def with_interval(row: Row, name: str) -> str:
    """Format an AUC with its 95 % interval, both averaged over the seeds."""
    if np.isnan(row.mean(name)):
        return EMPTY
    low, high = row.bounds(name)
    return f"{row.mean(name):.3f} [{low:.3f}, {high:.3f}]"
