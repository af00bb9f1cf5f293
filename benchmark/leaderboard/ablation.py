"""What each step adds: a row against those that it claims to better, on the same draws of patients."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..records.schema import Record
from .tables import Row, make_table


class PairedDifference(NamedTuple):
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


def paired_differences(rows: list[Row]) -> list[PairedDifference]:
    """Every row against the rows of the methods that it names, options being equal where both have them."""
    steps = []
    for upper in rows:
        for name in upper.first.method.compared_with:
            for lower in rows:
                if lower.first.method.name == name and _same_options(upper.first, lower.first):
                    steps += _paired_difference(upper, lower)
    return steps


def ablation_table(steps: list[PairedDifference]) -> str:
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


def summarize(steps: list[PairedDifference], caveat: str, name: Callable[[Row], str] = lambda row: row.label) -> str:
    """What the differences show, and what not, in one sentence.

    Args:
        steps: at least one.
        caveat: what a result on the dataset does not show.
        name: how the sentence names a row.
    """
    told = []
    for effort in ("at equal training", "with more training images", "with fewer training images"):
        for outcome in ("a gain", "no difference that its interval shows", "a loss"):
            found = [step for step in steps if (step.effort, step.outcome) == (effort, outcome)]
            more = ", which may be all of it" if outcome == "a gain" and "more" in effort else ""
            if found:
                pairs = ", ".join(f"{name(s.upper)} over {name(s.lower)} ({s.difference:+.3f})" for s in found)
                told.append(f"{pairs} {'is' if len(found) == 1 else 'are each'} {outcome} {effort}{more}")
    few = "a difference from one seed may be the luck of its initial weights"
    if min(len(step.by_seed) for step in steps) > 1:
        few = ""
    ends = [text for text in (few, caveat) if text]
    return "; ".join(told) + (f"; but {', and '.join(ends)}" if ends else "") + "."


def _same_options(one: Record, other: Record) -> bool:
    mine, others = one.method.options, other.method.options
    return all(mine[key] == others[key] for key in mine.keys() & others.keys())


def _paired_difference(upper: Row, lower: Row) -> list[PairedDifference]:
    """The difference over the seeds that both have; nothing where they have none in common."""
    seeds = sorted({run.record.seed for run in upper.runs} & {run.record.seed for run in lower.runs})
    if not seeds:
        return []
    upper, lower = (Row(row.label, [run for run in row.runs if run.record.seed in seeds]) for row in (upper, lower))
    mine, other = (np.mean([run.verified.drawn() for run in row.runs], axis=0) for row in (upper, lower))
    drawn = mine - other
    if np.isnan(drawn).all():
        return []
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return [PairedDifference(upper, lower, (upper.values("mean_auc") - lower.values("mean_auc")).tolist(), low, high)]
