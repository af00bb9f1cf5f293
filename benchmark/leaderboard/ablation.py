"""Compute paired differences between methods and those they claim to improve on, over the same replicates."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..records.schema import Record
from .rows import Row
from .tables import MAX_NAMED, make_table

SAME_BUDGET = 0.05  # budgets count as equal if the numbers of images seen differ by at most 5 %
BUDGETS = ("equal", "more", "fewer")
# A gain is not called significant: the interval does not contain the variance between training seeds.
GAIN, NEITHER, LOSS = "gain", "no significant difference", "loss"
OUTSIDE = "95 % CI over test patients excludes 0"
INTERVAL = {GAIN: OUTSIDE, NEITHER: "95 % CI of the difference includes 0", LOSS: OUTSIDE}


class PairedDifference(NamedTuple):
    """Paired difference between the mean AUC of a method and that of a method it claims to improve on.

    Attributes:
        upper: the method, restricted to the seeds that both have.
        lower: the method it is compared with, restricted to the same seeds.
        by_seed: difference for each seed.
        low: lower bound of the 95 % interval of the mean difference, over resampled patients.
        high: upper bound of the interval.
    """

    upper: Row
    lower: Row
    by_seed: list[float]
    low: float
    high: float

    @property
    def difference(self) -> float:
        """The mean difference over the common seeds."""
        return float(np.mean(self.by_seed))

    @property
    def budget_ratio(self) -> float:
        """The ratio of the images seen in training, of the upper to the lower method."""
        return self.upper.images() / self.lower.images()

    @property
    def budget(self) -> str:
        """The training budget relative to the lower method, one of `BUDGETS`."""
        if abs(self.budget_ratio - 1) <= SAME_BUDGET:
            return "equal"
        return "more" if self.budget_ratio > 1 else "fewer"

    @property
    def outcome(self) -> str:
        """The conclusion from the interval: `GAIN`, `NEITHER` or `LOSS`."""
        if self.low > 0:
            return GAIN
        return LOSS if self.high < 0 else NEITHER


def paired_differences(rows: Sequence[Row]) -> list[PairedDifference]:
    """Compare every row with the rows of the methods in its `compared_with` if their shared options are equal."""
    pairs = []
    for upper in rows:
        for name in upper.first.method.compared_with:
            for lower in rows:
                if lower.first.method.name == name and _same_options(upper.first, lower.first):
                    pairs += _paired_difference(upper, lower)
    return pairs


def ablation_table(pairs: Sequence[PairedDifference]) -> str:
    """Tabulate the paired differences, one line per pair."""
    table = [
        [
            pair.upper.label,
            pair.lower.label,
            f"{pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]",
            ", ".join(f"{value:+.3f}" for value in pair.by_seed),
            f"{pair.budget_ratio:.2f}",
        ]
        for pair in pairs
    ]
    headers = ["Method", "Compared with", "Difference in mean AUC [95 % CI]", "Per seed", "Images seen (ratio)"]
    return make_table(headers, table, "llllr")


def summary_list(
    pairs: Sequence[PairedDifference], caveat: str, name: Callable[[Row], str] = lambda row: row.label
) -> str:
    """Summarize the outcomes of the differences and their limits as a list, one item per line.

    Args:
        pairs: paired differences, at least one.
        caveat: what results on the dataset do not show; may be empty.
        name: function that returns the name of a row.
    """
    items = []
    for budget in BUDGETS:
        for outcome in (GAIN, NEITHER, LOSS):
            group = [pair for pair in pairs if (pair.budget, pair.outcome) == (budget, outcome)]
            if group:
                items.append(f"{_claim(budget, outcome, group)}: {_name_pairs(group, name)}")
    single_seed = min(len(pair.by_seed) for pair in pairs) == 1
    limits = ["a difference from one seed may be due to its initialization"] if single_seed else []
    limits += [caveat] if caveat else []
    if limits:
        items.append(f"note that {', and that '.join(limits)}")
    return "\n".join(f"- {item[0].upper()}{item[1:]}." for item in items)


def _name_pairs(pairs: Sequence[PairedDifference], name: Callable[[Row], str]) -> str:
    if len(pairs) > MAX_NAMED:
        values = [pair.difference for pair in pairs]
        return f"{len(pairs)} of the comparisons (from {min(values):+.3f} to {max(values):+.3f})"
    return ", ".join(f"{name(pair.upper)} vs. {name(pair.lower)} ({pair.difference:+.3f})" for pair in pairs)


def _claim(budget: str, outcome: str, pairs: Sequence[PairedDifference]) -> str:
    if budget == "equal":
        return f"{outcome} at equal training budget ({INTERVAL[outcome]})"
    ratios = sorted({f"{pair.budget_ratio:.1f}x" for pair in pairs}, key=lambda text: float(text[:-1]))
    times = ratios[0] if len(ratios) == 1 else f"{ratios[0]} to {ratios[-1]}"
    # More training alone can raise the AUC, so such a gain cannot be attributed to the method.
    caution = ", which may explain all of it" if (budget, outcome) == ("more", GAIN) else ""
    return f"{outcome} with {times} the images seen in training ({INTERVAL[outcome]}){caution}"


def _same_options(upper: Record, lower: Record) -> bool:
    """Return whether all options that both methods have are equal."""
    options, reference = upper.method.options, lower.method.options
    return all(options[key] == reference[key] for key in options.keys() & reference.keys())


def _paired_difference(upper: Row, lower: Row) -> list[PairedDifference]:
    """Return a list with the difference over the common seeds; empty if there is no common seed or defined AUC."""
    seeds = {run.record.seed for run in upper.runs} & {run.record.seed for run in lower.runs}
    if not seeds:
        return []
    upper, lower = (row._replace(runs=[run for run in row.runs if run.record.seed in seeds]) for row in (upper, lower))
    # All records of a board resample the same patients in the same order: replicate r of one pairs with r of the other.
    means = [np.mean([run.verified.bootstrap() for run in row.runs], axis=0) for row in (upper, lower)]
    differences = means[0] - means[1]
    if np.isnan(differences).all():
        return []
    low, high = np.nanquantile(differences, [0.025, 0.975])
    by_seed = (upper.values("mean_auc") - lower.values("mean_auc")).tolist()
    return [PairedDifference(upper, lower, by_seed, float(low), float(high))]
