"""Rows of a board, and its ranking and by-finding tables in Markdown."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from ..evaluation.results import IntervalPart
from ..records.schema import LocalizationPart, Record
from ..utils.text import changed_options, code, display_name, escape, plain
from .literature import Reported, reported
from .verification import Verified

EMPTY = "–"
MAX_METHOD_COLUMNS = 8  # methods that fit next to each other on GitHub's page, which is about 1,000 pixels wide
MAX_NAMED = 8  # items that a sentence names; more are counted
SHORT_NAME = 4  # letters of an abbreviated finding at least


class Run(NamedTuple):
    """A record, its folder relative to the leaderboard, and what was recomputed from its artifacts."""

    record: Record
    folder: str
    verified: Verified


class Row(NamedTuple):
    """A method with its options and one run per seed, or one set of external predictions."""

    label: str
    runs: list[Run]

    @property
    def first(self) -> Record:
        """The record of the lowest seed."""
        return self.runs[0].record

    @property
    def is_control(self) -> bool:
        """Whether it is shown for comparison only, without a rank."""
        return self.first.method.control

    @property
    def reported(self) -> Reported | None:
        """The mean AUC that its paper reports on this dataset; None for changed options: not the paper's method."""
        method = self.first.method
        return None if method.changed else reported(method.reported, self.first.dataset.name)

    @property
    def localizations(self) -> list[LocalizationPart]:
        """The localization scores of its runs; empty unless every run has them."""
        parts = [run.record.localization for run in self.runs if run.record.localization is not None]
        return parts if len(parts) == len(self.runs) else []

    def same_protocol(self, paper: Reported) -> bool:
        """Whether it was evaluated on the paper's test images with the paper's version of the labels."""
        origin = self.runs[0].verified.origin
        return origin.test == paper.split and self.first.dataset.labels.version.startswith(paper.labels)

    @property
    def name(self) -> str:
        """The label without markup, for figures and the terminal."""
        details = _details(self.first)
        return plain(self.first.method.title + (f" ({details})" if details else ""))

    def values(self, name: str) -> np.ndarray:
        """Return one AUC per seed (S,) of a finding, "mean_auc" or "mean_auc_without_rare"; NaN where undefined."""
        values = [_interval(run.record, name).value for run in self.runs]
        return np.array([np.nan if value is None else value for value in values])

    def mean(self, name: str) -> float:
        """Average an AUC over the seeds; NaN where any is undefined."""
        return float(self.values(name).mean())

    def bounds(self, name: str) -> tuple[float, float]:
        """Average the bounds of the 95 % intervals over the seeds; NaN where any is undefined."""
        intervals = [_interval(run.record, name) for run in self.runs]
        bounds = np.array([[interval.low, interval.high] for interval in intervals], dtype=float)
        low, high = bounds.mean(axis=0)
        return float(low), float(high)

    def images(self) -> float:
        """Count the images seen in training, all epochs of all stages; the mean over the seeds."""
        return float(np.mean([sum(s.examples * s.epochs for s in run.record.stages) for run in self.runs]))


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


def make_rows(runs: Iterable[Run]) -> list[Row]:
    """Group runs of the same method, options and plugin source into rows, the best mean AUC first."""
    groups = defaultdict(list)
    for run in runs:
        method = run.record.method
        source = "" if method.built_in else method.source_sha256
        groups[method.name, json.dumps(method.options, sort_keys=True), source].append(run)
    rows = [Row(_label(group[0].record), sorted(group, key=_seed)) for group in groups.values()]
    return sorted(rows, key=lambda row: (-np.nan_to_num(row.mean("mean_auc"), nan=-1), row.label))


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


def _seed(run: Run) -> int:
    return run.record.seed or 0


def _label(record: Record) -> str:
    details = _details(record)
    return escape(record.method.title) + (f" ({code(details)})" if details else "")


def _details(record: Record) -> str:
    """Name what distinguishes rows of one method: the options that the user changed, the plugin's source."""
    changed = changed_options(record.method.changed)
    is_plugin = record.submission is None and not record.method.built_in
    plugin = f"plugin {record.method.name} {record.method.source_sha256[:7]}" if is_plugin else ""
    return ", ".join(part for part in (changed, plugin) if part)


def _interval(record: Record, name: str) -> IntervalPart:
    if name in record.auc:
        return record.auc[name]
    return {"mean_auc": record.mean_auc, "mean_auc_without_rare": record.mean_auc_without_rare}[name]
