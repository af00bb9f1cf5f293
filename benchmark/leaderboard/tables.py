"""The tables of a board: verified runs in, Markdown out."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from ..evaluation.results import IntervalPart
from ..records.schema import Record
from ..utils.text import changed_options, code, display_name, escape, plain
from .literature import Reported, reported
from .verification import Verified

EMPTY = "–"


class Run(NamedTuple):
    """A record, its folder relative to the leaderboard, and what was found to follow from its evidence."""

    record: Record
    place: str
    verified: Verified


class Row(NamedTuple):
    """A method with its options, and its runs with different seeds; or scores from elsewhere."""

    label: str
    runs: list[Run]

    @property
    def first(self) -> Record:
        return self.runs[0].record

    @property
    def is_control(self) -> bool:
        """Whether it is there to be compared with, not to win."""
        return self.first.method.control

    @property
    def reported(self) -> Reported | None:
        """What its paper reports on this dataset; with options of the user's it is not the paper's method."""
        method = self.first.method
        return None if method.changed else reported(method.reported, self.first.dataset.name)

    def repeats(self, of: Reported) -> bool:
        """Whether it was measured as that was: on the same test images with the same labels."""
        found = self.runs[0].verified.origin
        return found.test == of.split and self.first.dataset.labels.version.startswith(of.labels)

    @property
    def name(self) -> str:
        """The label without markup, for figures."""
        told = _details(self.first)
        return plain(self.first.method.title + (f" ({told})" if told else ""))

    def values(self, name: str) -> np.ndarray:
        """One number a seed: a finding's AUC, or "mean_auc", "mean_auc_without_rare"; NaN where undefined."""
        found = [_interval(run.record, name).value for run in self.runs]
        return np.array([np.nan if value is None else value for value in found])

    def mean(self, name: str) -> float:
        """Mean over the seeds; NaN where any is undefined."""
        return float(self.values(name).mean())

    def bounds(self, name: str) -> tuple[float, float]:
        """Ends of the 95 % interval; the means of the seeds', NaN where any is undefined."""
        intervals = [_interval(run.record, name) for run in self.runs]
        low, high = np.mean([[interval.low, interval.high] for interval in intervals], axis=0, dtype=float).tolist()
        return low, high

    def images(self) -> float:
        """Images trained on, all epochs of all stages; the mean over the seeds."""
        return float(np.mean([sum(s.examples * s.epochs for s in run.record.stages) for run in self.runs]))


def make_rows(runs: Iterable[Run]) -> list[Row]:
    """Runs of the same method, options and plugin source in one row; the best mean AUC first."""
    rows = defaultdict(list)
    for run in runs:
        method = run.record.method
        source = "" if method.built_in else method.source_sha256
        rows[method.name, json.dumps(method.options, sort_keys=True), source].append(run)
    made = [Row(_label(group[0].record), sorted(group, key=_seed)) for group in rows.values()]
    return sorted(made, key=lambda row: (-np.nan_to_num(row.mean("mean_auc"), nan=-1), row.label))


def ranking(rows: list[Row]) -> str:
    """Mean AUC of each row with its interval, seeds, how much it trained, and what its paper reports."""
    table = []
    for rank, row in zip(ranks(rows), rows, strict=True):
        means = [with_interval(row, "mean_auc"), with_interval(row, "mean_auc_without_rare")]
        table.append([rank, row.label, *means, row.first.mean_auc.findings])
    headers, align = ["#", "Method", "Mean AUC", "without Hernia", "Findings"], "rlllr"
    if any(row.first.stages for row in rows):
        headers, align = [*headers, "Seeds", "Images trained on"], align + "lr"
        table = [[*cells, seeds(row), f"{row.images():,.0f}"] for cells, row in zip(table, rows, strict=True)]
    if any(row.reported for row in rows):
        headers, align = [*headers, "Reported", "by, on", "Measured − reported"], align + "rlr"
        table = [[*cells, *_reported_cells(row)] for cells, row in zip(table, rows, strict=True)]
    return make_table(headers, table, align)


def ranks(rows: Sequence[Row]) -> list[str]:
    """The place of each row, the same for the same mean; controls have none."""
    means = [row.mean("mean_auc") for row in rows if not row.is_control]
    place = {mean: number for number, mean in reversed(list(enumerate(means, 1)))}
    return ["control" if row.is_control else str(place.get(row.mean("mean_auc"), len(means))) for row in rows]


def seeds(row: Row) -> str:
    """How many, and from the lowest to the highest mean AUC."""
    values = row.values("mean_auc")
    known = values[~np.isnan(values)]
    return f"{len(values)}" + (f" ({known.min():.3f} to {known.max():.3f})" if len(known) > 1 else "")


def _reported_cells(row: Row) -> list[str]:
    """The reported mean, its source with split and labels, and the difference where the protocol is the same."""
    found = row.reported
    if found is None:
        return [EMPTY] * 3
    source = escape(f"{found.source}; {found.split} split, {found.labels} labels")
    difference = f"{row.mean('mean_auc') - found.mean_auc:+.3f}" if row.repeats(found) else EMPTY
    return [f"{found.mean_auc:.4f}", source, difference]


def by_finding(rows: list[Row], first: Record) -> str:
    """AUC of each finding, one column a row of the ranking."""
    table = []
    for finding, auc in first.auc.items():
        table.append(
            [escape(display_name(finding)), f"{auc.positives:,}", *best_in_bold([row.mean(finding) for row in rows])]
        )
    for name, title in (("mean_auc", "Mean"), ("mean_auc_without_rare", "Mean without Hernia")):
        table.append([title, "", *best_in_bold([row.mean(name) for row in rows])])
    headers = ["Finding", "Test positives", *(row.label for row in rows)]
    return make_table(headers, table, "lr" + "r" * len(rows))


def run_table(rows: list[Row]) -> str:
    """Each run, where its files lie, and the command that repeats it."""
    table = []
    for row in rows:
        for run in row.runs:
            record, place = run.record, run.place
            links = f"[record]({place}/run.json), [ROC]({place}/roc.png)"
            links += f", [heatmaps]({place}/heatmaps.png)" if record.localization else ""
            table.append([row.label, *_made(record), _code_state(record), links])
    trained = rows[0].first.submission is None
    headers = ["Method", *(["Seed", "Stages", "Trained on"] if trained else ["Scores"]), "Code", "Files"]
    made = make_table(headers, table, "lrllll" if trained else "llll")
    commands = "\n".join(plain(run.record.command) for row in rows for run in row.runs)
    fence = "`" * (3 + max((len(ticks) for ticks in re.findall("`+", commands)), default=0))
    again = "To run them again" if trained else "To judge them again"
    return f"{made}\n\n{again}:\n\n{fence}console\n{commands}\n{fence}"


def _made(record: Record) -> list[object]:
    """How the scores came to be: seed, stages and hardware, or the file they were read from."""
    if record.submission is not None:
        read = record.submission
        return [f"{code(read.file)}, SHA-256 {code(read.sha256[:12])}, as {read.scale}"]
    hardware = record.environment.hardware
    where = f"{hardware.get('device')} ({hardware.get('cores')} cores), {record.environment.precision}"
    if hardware.get("processes", 1) != 1:
        where += f", {hardware['processes']} processes, BatchNorm {hardware.get('batch_norm')}"
    return [record.seed, _stages(record), escape(where)]


def make_table(headers: Sequence[str], rows: Sequence[Sequence[object]], align: str) -> str:
    """A Markdown table; `align` has an l or r for each column."""
    sides = [{"l": "left", "r": "right"}[side] for side in align]
    return tabulate(rows, headers, tablefmt="pipe", colalign=sides if rows else None, disable_numparse=True)


def best_in_bold(values: Sequence[float], digits: int = 3) -> list[str]:
    """Numbers as texts, the highest (as printed) in bold."""
    texts = [EMPTY if np.isnan(value) else f"{value:.{digits}f}" for value in values]
    best = max((text for text in texts if text != EMPTY), default=None)
    return [f"**{text}**" if text == best and len(texts) > 1 else text for text in texts]


def _seed(run: Run) -> int:
    return run.record.seed or 0


def _label(record: Record) -> str:
    told = _details(record)
    return escape(record.method.title) + (f" ({code(told)})" if told else "")


def _details(record: Record) -> str:
    """What tells a row from others of its method: the options that the user set, the plugin's source."""
    changed = changed_options(record.method.changed)
    foreign = record.submission is None and not record.method.built_in
    plugin = f"plugin {record.method.name} {record.method.source_sha256[:7]}" if foreign else ""
    return ", ".join(part for part in (changed, plugin) if part)


def _stages(record: Record) -> str:
    told = []
    for stage in record.stages:
        hard = stage.hard_positives
        having = record.dataset.counts["train"].with_finding
        extra = f" ({hard['images']:,} of {having:,} with a finding repeated for it)" if hard else ""
        told.append(
            f"{escape(stage.name)}: {stage.examples:,} images{extra}, epoch {stage.best_epoch} of {stage.epochs}, "
            f"{stage.images_per_second:,.0f} images/s"
        )
    return "<br>".join(told)


def _code_state(record: Record) -> str:
    if not record.method.built_in and record.submission is None:
        return f"plugin {code(record.method.source_sha256[:10])}"
    commit, dirty = record.environment.code.commit, record.environment.code.dirty
    if not commit:
        return f"version {escape(record.environment.versions.get('chxbench', '?'))}"
    return code(str(commit)[:10]) + (" + changes" if dirty else "")


def _interval(record: Record, name: str) -> IntervalPart:
    return record.auc[name] if name in record.auc else getattr(record, name)


def with_interval(row: Row, name: str) -> str:
    """A mean over the seeds with the means of their interval's ends."""
    if np.isnan(row.mean(name)):
        return EMPTY
    low, high = row.bounds(name)
    return f"{row.mean(name):.3f} [{low:.3f}, {high:.3f}]"
