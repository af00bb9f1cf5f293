"""Group runs into the rows of a board: a method with its options, and one run per seed."""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..evaluation.results import IntervalPart
from ..records.schema import LocalizationPart, Record
from ..utils.text import changed_options, code, escape, plain
from .literature import Reported, reported
from .verified_cache import Verified


class Run(NamedTuple):
    """A record, its folder relative to the leaderboard, and the values recomputed from its artifacts."""

    record: Record
    folder: str
    verified: Verified


class Row(NamedTuple):
    """A method with its options and one run per seed, or one set of external predictions."""

    label: str
    runs: list[Run]

    @property
    def first(self) -> Record:
        """The record with the lowest seed."""
        return self.runs[0].record

    @property
    def is_control(self) -> bool:
        """Whether it is shown for comparison only, without a rank."""
        return self.first.method.control

    @property
    def reported(self) -> Reported | None:
        """The mean AUC reported by its paper on this dataset; None if the user changed options."""
        method = self.first.method
        return None if method.changed else reported(method.reported, self.first.dataset.name)

    @property
    def localizations(self) -> list[LocalizationPart]:
        """The localization scores of the runs; empty unless all runs have them."""
        parts = [run.record.localization for run in self.runs if run.record.localization is not None]
        return parts if len(parts) == len(self.runs) else []

    def same_protocol(self, paper: Reported) -> bool:
        """Return whether it was evaluated on the test images of the paper, with the same version of the labels."""
        origin = self.runs[0].verified.origin
        return origin.test == paper.split and self.first.dataset.labels.version.startswith(paper.labels)

    @property
    def name(self) -> str:
        """The label without markup, for figures and the terminal."""
        details = _details(self.first)
        return plain(self.first.method.title + (f" ({details})" if details else ""))

    def values(self, name: str) -> np.ndarray:
        """Return the AUC of each seed (S,) for a finding, "mean_auc" or "mean_auc_without_rare"; NaN if undefined."""
        values = [_interval(run.record, name).value for run in self.runs]
        return np.array([np.nan if value is None else value for value in values])

    def mean(self, name: str) -> float:
        """Return the mean of an AUC over the seeds; NaN if any is undefined."""
        return float(self.values(name).mean())

    def bounds(self, name: str) -> tuple[float, float]:
        """Return the mean lower and mean upper bound of the seeds' 95 % intervals; NaN if any is undefined."""
        intervals = [_interval(run.record, name) for run in self.runs]
        bounds = np.array([[interval.low, interval.high] for interval in intervals], dtype=float)
        low, high = bounds.mean(axis=0)
        return float(low), float(high)

    def images(self) -> float:
        """Return the images seen in training, over all epochs of all stages; the mean over the seeds."""
        return float(np.mean([sum(s.examples * s.epochs for s in run.record.stages) for run in self.runs]))


def make_rows(runs: Iterable[Run]) -> list[Row]:
    """Group runs of the same method, options and plugin source into rows, sorted by mean AUC."""
    groups = defaultdict(list)
    for run in runs:
        method = run.record.method
        source = "" if method.built_in else method.source_sha256
        groups[method.name, json.dumps(method.options, sort_keys=True), source].append(run)
    rows = [Row(_label(group[0].record), sorted(group, key=_seed)) for group in groups.values()]
    return sorted(rows, key=lambda row: (-np.nan_to_num(row.mean("mean_auc"), nan=-1), row.label))


def _seed(run: Run) -> int:
    return run.record.seed or 0


def _label(record: Record) -> str:
    details = _details(record)
    return escape(record.method.title) + (f" ({code(details)})" if details else "")


def _details(record: Record) -> str:
    """Return what distinguishes rows of the same method: options changed by the user, and the source of a plugin."""
    changed = changed_options(record.method.changed)
    is_plugin = record.submission is None and not record.method.built_in
    plugin = f"plugin {record.method.name} {record.method.source_sha256[:7]}" if is_plugin else ""
    return ", ".join(part for part in (changed, plugin) if part)


def _interval(record: Record, name: str) -> IntervalPart:
    if name in record.auc:
        return record.auc[name]
    return {"mean_auc": record.mean_auc, "mean_auc_without_rare": record.mean_auc_without_rare}[name]
