"""Group runs into the rows of a board: a method with its options, and one run per seed."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..metrics.intervals import (
    UNDEFINED,
    Interval,
    SeedVariance,
    Statistic,
    interval,
    mean_statistic,
    pool_seed_variance,
)
from ..metrics.paired import MIN_SEEDS
from ..records.schema import LocalizationPart, Record, StagePart
from ..utils.files import json_sha256
from ..utils.text import changed_options, code, escape, plain
from .literature import Reported, reported
from .verified_cache import Verified

BUDGET = "train.images"  # the setting of a recipe that boards do not separate, because each row shows its images
SAME_BUDGET = 0.05  # training budgets count as equal if they differ by at most 5 %


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
        seed_variance: variance of each statistic between seeds, pooled over the rows of the board; None if no row has
            two seeds.
    """

    details: str
    runs: list[Run]
    seed_variance: Mapping[str, SeedVariance | None]

    @property
    def first(self) -> Record:
        """The record with the lowest seed."""
        return self.runs[0].record

    @property
    def is_control(self) -> bool:
        """Whether it is trained like a method without the part that it controls for."""
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

    def finding_auc(self, finding: str) -> float:
        """Return the mean of the AUC of a finding over the seeds; NaN if any is undefined."""
        values = [run.record.auc[finding].value for run in self.runs]
        return float(np.mean([np.nan if value is None else value for value in values]))

    def statistics(self, name: str) -> list[Statistic]:
        """Return a metric of each run, see `evaluation.scores.Statistics`; empty unless all runs have it."""
        found = [statistic for run in self.runs if (statistic := run.verified.statistic(name)) is not None]
        return found if len(found) == len(self.runs) else []

    def interval(self, name: str) -> Interval:
        """Return the mean of a statistic over the seeds with its 95 % interval.

        It is over test patients and training seeds, or over test patients alone if no row of the board has two seeds.
        """
        found = self.statistics(name)
        if not found:
            return UNDEFINED
        return interval(mean_statistic(found), 1 / len(found), self.seed_variance[name])

    @property
    def mean_auc(self) -> float:
        """The mean AUC over findings and seeds; NaN if undefined."""
        value = self.interval("mean_auc").value
        return np.nan if value is None else value

    @property
    def is_tested(self) -> bool:
        """Whether there are enough seeds for a conclusion about the method; external predictions have none."""
        return len(self.runs) >= MIN_SEEDS

    @property
    def last_rise(self) -> float | None:
        """The rise of the validation AUC in the last epoch of training, mean over the seeds; None if it is unknown."""
        rises = []
        for stage in (run.record.stages[-1] for run in self.runs if run.record.stages):
            before, after = [None, None, *stage.validation_auc][-2:]
            if before is not None and after is not None:
                rises.append(after - before)
        return float(np.mean(rises)) if rises else None

    @property
    def budget(self) -> float:
        """The images that the scored network was trained on, see `trained_on`; the mean over the seeds."""
        return float(np.mean([trained_on(run.record.stages) for run in self.runs]))

    @property
    def cost(self) -> float:
        """The images of all stages, see `all_images`; the mean over the seeds."""
        return float(np.mean([all_images(run.record.stages) for run in self.runs]))


def all_images(stages: Sequence[StagePart]) -> int:
    """Count the images of all epochs of stages, including repeated ones."""
    return sum(stage.examples * stage.epochs for stage in stages)


def trained_on(stages: Sequence[StagePart]) -> int:
    """Count the images that a run's scored network was trained on: its training budget.

    These are the images of the last stage that starts from the initial weights, and of those after it. A stage before
    it selected examples, and its network was discarded. Epochs after the selected one count, as for every method.
    """
    last_start = max((k for k, stage in enumerate(stages) if stage.start == "initial"), default=0)
    return all_images(stages[last_start:])


def equal_budgets(first: float, second: float) -> bool:
    """Return whether two numbers of training images are equal up to `SAME_BUDGET` of the smaller one."""
    return max(first, second) <= min(first, second) * (1 + SAME_BUDGET)


def make_rows(runs: Iterable[Run]) -> list[Row]:
    """Group the runs of a board that differ only in their seed into rows, sorted by mean AUC."""
    groups = defaultdict(list)
    for run in runs:
        groups[_identity(run.record)].append(run)
    names = dict.fromkeys(name for group in groups.values() for name in group[0].verified.statistics)
    variance = {name: pool_seeds(groups.values(), name) for name in names}
    titles = Counter((group[0].record.method.title, _details(group[0].record)) for group in groups.values())
    rows = []
    for identity, group in groups.items():
        record = group[0].record
        is_ambiguous = titles[record.method.title, _details(record)] > 1
        variant = f"variant {json_sha256(identity)[:7]}, {record.environment.precision}" if is_ambiguous else ""
        rows.append(Row(", ".join(filter(None, (_details(record), variant))), sorted(group, key=_seed), variance))
    return sorted(rows, key=lambda row: (-np.nan_to_num(row.mean_auc, nan=-1), row.label))


def pool_seeds(groups: Collection[Sequence[Run]], name: str) -> SeedVariance | None:
    """Pool the variance of a statistic between seeds over the groups for which it is defined."""
    found = [[run.verified.statistic(name) for run in group] for group in groups]
    defined = [[one for one in group if one is not None and not np.isnan(one.value)] for group in found]
    return pool_seed_variance([group for group in defined if group])


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
        record.environment.precision,
    )


def _seed(run: Run) -> int:
    return run.record.seed or 0


def _details(record: Record) -> str:
    """Return what distinguishes rows of the same method: changed options, training budget, and a plugin's code."""
    budget = {BUDGET: record.recipe.changed[BUDGET]} if record.recipe and BUDGET in record.recipe.changed else {}
    changed = changed_options({**record.method.changed, **budget})
    is_plugin = record.submission is None and not record.method.built_in
    plugin = f"plugin {record.method.name} {record.method.source_sha256[:7]}" if is_plugin else ""
    return ", ".join(part for part in (changed, plugin) if part)
