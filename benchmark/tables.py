"""The tables of a board: verified runs in, Markdown out."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from .metrics import mean_auc_draws
from .schema import Interval, Record
from .text import code, escape, plain

NOTHING = "–"


class Run(NamedTuple):
    """A verified record.

    Attributes:
        record: the record.
        place: its folder, relative to the leaderboard.
        members: the digest of the images and labels it was scored on.
        boxes: the digest of the boxes it was localised against; None without.
        table: its scores.
    """

    record: Record
    place: str
    members: str
    boxes: str | None
    table: pd.DataFrame


class Row(NamedTuple):
    """A method with its options, and its runs with different seeds."""

    label: str
    runs: list[Run]

    @property
    def first(self) -> Record:
        return self.runs[0].record

    @property
    def name(self) -> str:
        """The label without markup, for figures."""
        told = _details(self.first)
        return plain(self.first.method.title + (f" ({told})" if told else ""))

    def values(self, name: str) -> np.ndarray:
        """One number a seed: a finding's AUC, or "mean_auc", "mean_auc_without_hernia"; NaN where undefined."""
        found = [_interval(run.record, name).value for run in self.runs]
        return np.array([np.nan if value is None else value for value in found])

    def mean(self, name: str) -> float:
        """Mean over the seeds; NaN where any is undefined."""
        return float(self.values(name).mean())

    def bounds(self, name: str) -> tuple[float, float]:
        """Ends of the 95 % interval; the means of the seeds' where the row's mean is defined."""
        intervals = [_interval(run.record, name) for run in self.runs]
        low, high = np.mean([[interval.low, interval.high] for interval in intervals], axis=0).tolist()
        return low, high

    def images(self) -> float:
        """Images trained on, all epochs of all stages; the mean over the seeds."""
        return float(np.mean([sum(s.examples * s.epochs for s in run.record.stages) for run in self.runs]))


class Step(NamedTuple):
    """A row against another one that it claims to better: the paired difference of their mean AUCs."""

    upper: Row
    lower: Row
    by_seed: list[float]
    low: float
    high: float

    @property
    def difference(self) -> float:
        """The mean over the seeds that both have."""
        return float(np.mean(self.by_seed))

    @property
    def work(self) -> float:
        """How many times the other's training images the upper row had."""
        return self.upper.images() / self.lower.images()

    @property
    def effort(self) -> str:
        """The same in words; 5 % more or less are equal."""
        if abs(self.work - 1) <= 0.05:
            return "at equal training"
        return "with more training images" if self.work > 1 else "with fewer training images"

    @property
    def outcome(self) -> str:
        """What the interval says."""
        if self.low > 0:
            return "a gain"
        return "a loss" if self.high < 0 else "no difference that its interval shows"


def make_rows(runs: Iterable[Run]) -> list[Row]:
    """Runs of the same method, options and plugin source in one row; the best mean AUC first."""
    rows = defaultdict(list)
    for run in runs:
        method = run.record.method
        source = "" if method.built_in else method.source_sha256
        rows[method.name, json.dumps(method.options, sort_keys=True), source].append(run)
    made = [Row(_label(group[0].record), sorted(group, key=lambda run: run.record.seed)) for group in rows.values()]
    return sorted(made, key=lambda row: (-np.nan_to_num(row.mean("mean_auc"), nan=-1), row.label))


def ranking(rows: list[Row]) -> str:
    """Mean AUC of each row with its interval, seeds, and how much it trained."""
    table = []
    for number, row in enumerate(rows, start=1):
        values = row.values("mean_auc")
        seeds = f"{len(values)}" + (f" ({values.min():.3f} to {values.max():.3f})" if len(values) > 1 else "")
        means = [_with_interval(row, "mean_auc"), _with_interval(row, "mean_auc_without_hernia")]
        table.append([number, row.label, *means, row.first.mean_auc.findings, seeds, f"{row.images():,.0f}"])
    headers = ["#", "Method", "Mean AUC", "without Hernia", "Findings", "Seeds", "Images trained on"]
    return make_table(headers, table, "rlllrlr")


def make_steps(rows: list[Row]) -> list[Step]:
    """Every row against the rows of the methods that it names, options being equal where both have them."""
    steps = []
    for upper in rows:
        for name in upper.first.method.compared_with:
            for lower in rows:
                if lower.first.method.name == name and _alike(upper.first, lower.first):
                    steps += _step(upper, lower)
    return steps


def ladder(steps: list[Step]) -> str:
    """The paired differences."""
    table = [
        [
            step.upper.label,
            step.lower.label,
            f"{step.difference:+.3f} [{step.low:+.3f}, {step.high:+.3f}]",
            ", ".join(f"{value:+.3f}" for value in step.by_seed),
            f"{step.work:.2f}",
        ]
        for step in steps
    ]
    headers = ["Method", "Against", "Difference in mean AUC", "Seed by seed", "Training images, times the other's"]
    return make_table(headers, table, "llllr")


def in_words(steps: list[Step], caveat: str) -> str:
    """What the differences show, and what not, in one sentence."""
    told = []
    for effort in ("at equal training", "with more training images", "with fewer training images"):
        for outcome in ("a gain", "no difference that its interval shows", "a loss"):
            found = [step for step in steps if (step.effort, step.outcome) == (effort, outcome)]
            more = ", which may be all of it" if outcome == "a gain" and "more" in effort else ""
            if found:
                told.append(f"{_pairs(found)} {'is' if len(found) == 1 else 'are each'} {outcome} {effort}{more}")
    few = "a difference from one seed may be the luck of its initial weights"
    if min(len(step.by_seed) for step in steps) > 1:
        few = ""
    ends = [text for text in (few, escape(caveat)) if text]
    return "**In one sentence:** " + "; ".join(told) + (f"; but {', and '.join(ends)}" if ends else "") + "."


def by_finding(rows: list[Row], first: Record) -> str:
    """AUC of each finding, one column a row of the ranking."""
    table = []
    for finding, auc in first.auc.items():
        table.append([spoken(finding), auc.positives, *best_in_bold([row.mean(finding) for row in rows])])
    for name, title in (("mean_auc", "Mean"), ("mean_auc_without_hernia", "Mean without Hernia")):
        table.append([title, "", *best_in_bold([row.mean(name) for row in rows])])
    headers = ["Finding", "Test positives", *(row.label for row in rows)]
    return make_table(headers, table, "lr" + "r" * len(rows))


def run_table(rows: list[Row]) -> str:
    """Each run, where its files lie, and the command that repeats it."""
    table = []
    for row in rows:
        for run in row.runs:
            record, place = run.record, run.place
            hardware = record.environment.hardware
            where = f"{hardware.get('device')} ({hardware.get('cores')} cores), {record.environment.precision}"
            if hardware.get("processes", 1) != 1:
                where += f", {hardware['processes']} processes, BatchNorm {hardware.get('batch_norm')}"
            links = f"[record]({place}/run.json), [ROC]({place}/roc.png)"
            links += f", [heatmaps]({place}/heatmaps.png)" if record.localization else ""
            table.append([row.label, record.seed, _stages(record), escape(where), _code_state(record), links])
    made = make_table(["Method", "Seed", "Stages", "Trained on", "Code", "Files"], table, "lrllll")
    commands = "\n".join(plain(run.record.command) for row in rows for run in row.runs)
    fence = "`" * (3 + max((len(ticks) for ticks in re.findall("`+", commands)), default=0))
    return f"{made}\n\nTo run them again:\n\n{fence}console\n{commands}\n{fence}"


def make_table(headers: Sequence[str], rows: Sequence[Sequence[object]], align: str) -> str:
    """A Markdown table; `align` has an l or r for each column."""
    sides = [{"l": "left", "r": "right"}[side] for side in align]
    return tabulate(rows, headers, tablefmt="pipe", colalign=sides if rows else None, disable_numparse=True)


def best_in_bold(values: Sequence[float], digits: int = 3) -> list[str]:
    """Numbers as texts, the highest (as printed) in bold."""
    texts = [NOTHING if np.isnan(value) else f"{value:.{digits}f}" for value in values]
    best = max((text for text in texts if text != NOTHING), default=None)
    return [f"**{text}**" if text == best and len(texts) > 1 else text for text in texts]


def _label(record: Record) -> str:
    told = _details(record)
    return escape(record.method.title) + (f" ({code(told)})" if told else "")


def _details(record: Record) -> str:
    """What tells a row from others of its method: the options that the user set, the plugin's source."""
    changed = ", ".join(f"{key}={value}" for key, value in record.method.changed.items())
    plugin = "" if record.method.built_in else f"plugin {record.method.source_sha256[:7]}"
    return ", ".join(part for part in (changed, plugin) if part)


def _alike(one: Record, other: Record) -> bool:
    mine, others = one.method.options, other.method.options
    return all(mine[key] == others[key] for key in mine.keys() & others.keys())


def _step(upper: Row, lower: Row) -> list[Step]:
    """The difference over the seeds that both have; nothing where they have none in common."""
    seeds = sorted({run.record.seed for run in upper.runs} & {run.record.seed for run in lower.runs})
    if not seeds:
        return []
    upper, lower = (Row(row.label, [run for run in row.runs if run.record.seed in seeds]) for row in (upper, lower))
    drawn = np.mean([_draws(run) for run in upper.runs], axis=0) - np.mean([_draws(run) for run in lower.runs], axis=0)
    if np.isnan(drawn).all():
        return []
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return [Step(upper, lower, (upper.values("mean_auc") - lower.values("mean_auc")).tolist(), low, high)]


def _draws(run: Run) -> np.ndarray:
    test = run.table[run.table["split"] == "test"].sort_values("image_id")
    findings = list(run.record.auc)
    scores, labels = (test[[f"{kind} {f}" for f in findings]].to_numpy(float) for kind in ("score", "label"))
    resamples = run.record.recipe["evaluate"]["resamples"]
    return mean_auc_draws(scores, labels, test["patient_id"].to_numpy(), resamples)


def _pairs(steps: list[Step]) -> str:
    return ", ".join(f"{step.upper.label} over {step.lower.label} ({step.difference:+.3f})" for step in steps)


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
    if not record.method.built_in:
        return f"plugin {code(record.method.source_sha256[:10])}"
    commit, dirty = record.environment.code.get("commit"), record.environment.code.get("dirty")
    if not commit:
        return f"version {escape(record.environment.versions.get('chxbench', '?'))}"
    return code(str(commit)[:10]) + (" + changes" if dirty else "")


def _interval(record: Record, name: str) -> Interval:
    return record.auc[name] if name in record.auc else getattr(record, name)


def _with_interval(row: Row, name: str) -> str:
    if np.isnan(row.mean(name)):
        return NOTHING
    low, high = row.bounds(name)
    return f"{row.mean(name):.3f} [{low:.3f}, {high:.3f}]"


def spoken(finding: str) -> str:
    """A finding's name as it is said."""
    return escape(finding.replace("_", " "))
