"""Group runs into the rows of a board: a method with its options, and one run per seed."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..evaluation.results import IntervalPart
from ..records.schema import LocalizationPart, Record
from ..utils.files import json_sha256
from ..utils.text import changed_options, code, escape, plain
from .literature import Reported, reported
from .verified_cache import Verified


class Run(NamedTuple):
    """A record, its folder relative to the leaderboard, and the values recomputed from its artifacts."""

    record: Record
    folder: str
    verified: Verified


class Row(NamedTuple):
    """A method with its options and one run per seed, or one set of external predictions.

    Attributes:
        details: what distinguishes the row from others of the same method; empty if nothing does.
        runs: runs by seed.
    """

    details: str
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
        return plain(self.first.method.title + (f" ({self.details})" if self.details else ""))

    @property
    def label(self) -> str:
        """The name of the row in Markdown: title and details."""
        return escape(self.first.method.title) + (f" ({code(self.details)})" if self.details else "")

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
    """Group runs that differ only in their seed into rows, sorted by mean AUC."""
    groups = defaultdict(list)
    for run in runs:
        groups[_identity(run.record)].append(run)
    titles = Counter((group[0].record.method.title, _details(group[0].record)) for group in groups.values())
    rows = []
    for identity, group in groups.items():
        record = group[0].record
        is_ambiguous = titles[record.method.title, _details(record)] > 1
        variant = f"variant {json_sha256(identity)[:7]}" if is_ambiguous else ""
        rows.append(Row(", ".join(filter(None, (_details(record), variant))), sorted(group, key=_seed)))
    return sorted(rows, key=lambda row: (-np.nan_to_num(row.mean("mean_auc"), nan=-1), row.label))


def _identity(record: Record) -> tuple[object, ...]:
    """Return what the results of a row follow from, except for the seed."""
    method, pixels, weights = record.method, record.dataset.pixels, record.weights
    return (
        method.name,
        json.dumps(method.options, sort_keys=True),
        method.source_sha256,
        record.experiment_sha256,
        pixels and pixels.sha256,
        weights and weights.source,
    )


def _seed(run: Run) -> int:
    return run.record.seed or 0


def _details(record: Record) -> str:
    """Return what distinguishes rows of the same method: options changed by the user, and the code of a plugin."""
    changed = changed_options(record.method.changed)
    is_plugin = record.submission is None and not record.method.built_in
    plugin = f"plugin {record.method.name} {record.method.source_sha256[:7]}" if is_plugin else ""
    return ", ".join(part for part in (changed, plugin) if part)


def _interval(record: Record, name: str) -> IntervalPart:
    if name in record.auc:
        return record.auc[name]
    return {"mean_auc": record.mean_auc, "mean_auc_without_rare": record.mean_auc_without_rare}[name]
