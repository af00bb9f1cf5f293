"""Differences between rows of a board, over test patients and training seeds: pairs, ranks, and a check without effect.

A conclusion about methods needs `MIN_SEEDS` seeds of both: from one seed, a difference may be due to it alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ..metrics.intervals import (
    Spread,
    Statistic,
    compare_means,
    mean_statistic,
    spread,
    subtract,
)
from ..metrics.paired import MIN_SEEDS, holm
from ..records.schema import Record, StagePart
from ..utils.text import count
from .rows import Row, equal_budgets, pool_seeds
from .tables import EMPTY, MAX_NAMED, make_table

BUDGETS = ("equal", "more", "fewer")
SAME_EXAMPLES = 0.9  # share of all candidates above which any two selections are nearly the same examples
SIGNIFICANCE = 0.05
CONVERGED = 0.01  # rise of the validation AUC in the last epoch up to which training counts as converged
GAIN, NEITHER, LOSS = "gain", "no significant difference", "loss"
INTERVAL = "the 95 % interval over test patients and training seeds {} 0"
ABOVE, SAME, BELOW = "significantly above", "not significantly different from", "significantly below"
REASONS = {GAIN: INTERVAL.format("excludes"), NEITHER: INTERVAL.format("includes"), LOSS: INTERVAL.format("excludes")}


class Difference(NamedTuple):
    """Difference between the mean AUCs of two rows.

    Attributes:
        upper, lower: the rows.
        value: difference of their means over seeds.
        spread: its standard error over test patients and, if any row of the board has two seeds, training seeds; None
            if there are too few patients (metrics/intervals.py).
    """

    upper: Row
    lower: Row
    value: float
    spread: Spread | None

    @property
    def p(self) -> float | None:
        """The two-sided p-value of no difference; None if it is `untested`."""
        return None if self.spread is None or self.untested else self.spread.p_value(self.value)

    @property
    def budget_ratio(self) -> float:
        """The ratio of the images that the scored networks were trained on, of the upper to the lower method."""
        return self.upper.budget / self.lower.budget

    @property
    def cost_ratio(self) -> float:
        """The ratio of the images of all stages, of the upper to the lower method."""
        return self.upper.cost / self.lower.cost

    @property
    def budget(self) -> str:
        """The training budget relative to the lower method, one of `BUDGETS`."""
        if equal_budgets(self.upper.budget, self.lower.budget):
            return "equal"
        return "more" if self.budget_ratio > 1 else "fewer"

    @property
    def untested(self) -> str | None:
        """Why there is no test; None if there is one.

        A listed difference is not tested either if it says nothing about what the upper method adds.
        """
        if not (self.upper.is_tested and self.lower.is_tested):
            return f"a conclusion needs at least {MIN_SEEDS} seeds of each method"
        if self.spread is None:
            return "too few test patients have or lack a finding"
        if not _is_listed(self.upper, self.lower):
            return None
        return _inactive_part(self.upper, self.lower) or _same_examples(self.upper, self.lower)

    @property
    def outcome(self) -> str:
        """The conclusion, if one is possible: `GAIN`, `NEITHER` or `LOSS`."""
        if self.p is None or self.p >= SIGNIFICANCE:
            return NEITHER
        return GAIN if self.value > 0 else LOSS


def difference(upper: Row, lower: Row) -> Difference | None:
    """Return the difference between the mean AUCs of two rows of a board; None if it is undefined."""
    # All records of a board resample the same patients in the same order: replicate r of one pairs with r of the other.
    first, second = upper.statistics("mean_auc"), lower.statistics("mean_auc")
    found, error = compare_means(first, second, upper.seed_variance["mean_auc"])
    return None if np.isnan(found.value) else Difference(upper, lower, found.value, error)


def paired_differences(rows: Sequence[Row]) -> list[Difference]:
    """Compare every row with the rows of the methods in its `compared_with` if their shared options are equal."""
    pairs = [
        difference(upper, lower)
        for upper in rows
        for name in upper.first.method.compared_with
        for lower in rows
        if lower.first.method.name == name and _is_listed(upper, lower)
    ]
    return [pair for pair in pairs if pair is not None]


def _is_listed(upper: Row, lower: Row) -> bool:
    """Return whether a method claims to improve on another one and all options that both have are equal."""
    options, reference = upper.first.method.options, lower.first.method.options
    return lower.first.method.name in upper.first.method.compared_with and all(
        options[key] == reference[key] for key in options.keys() & reference.keys()
    )


def compare_with_floor(row: Row, name: str, floor: Statistic | None) -> tuple[float, float] | None:
    """Test a metric of a method against the same metric of scores or heatmaps that do not see the image.

    External predictions are tested over test patients alone.

    Args:
        row: the method.
        name: name of the statistic, see `evaluation.scores.Statistics`.
        floor: the metric of the floor, which does not depend on a seed; None if it has none.

    Returns:
        The difference and its p; None if it cannot be tested.
    """
    runs, enough = row.statistics(name), row.is_tested or row.first.submission is not None
    if floor is None or not enough or not runs or len(floor.replicates) != len(runs[0].replicates):
        return None
    found = subtract(mean_statistic(runs), floor)
    error = spread(found, 1 / len(runs), row.seed_variance[name])
    return None if error is None else (found.value, error.p_value(found.value))


def floor_sentences(
    rows: Sequence[Row], name: str, floor: Callable[[Row], Statistic | None], texts: tuple[str, str]
) -> list[str]:
    """State how the methods compare with a floor, as items of a list; p are corrected for their number (Holm 1979).

    Args:
        rows: the methods.
        name: name of the statistic.
        floor: function that returns the floor's statistic for a row.
        texts: the metric and the floor, in words.
    """
    tests = [compare_with_floor(row, name, floor(row)) for row in rows]
    corrected = holm([test and test[1] for test in tests])
    outcomes: dict[str | None, list[str]] = {ABOVE: [], SAME: [], BELOW: [], None: []}
    for row, test, p in zip(rows, tests, corrected, strict=True):
        outcomes[_against_floor(test, p)].append(row.label)
    metric, title = texts
    untested = f"not tested against {title} (too few seeds or patients)"
    return [
        f"- {metric}, {f'{outcome} {title}' if outcome else untested}: {_name_or_count(names, rows)}."
        for outcome, names in outcomes.items()
        if names
    ]


def _against_floor(test: tuple[float, float] | None, p: float | None) -> str | None:
    if test is None or p is None:
        return None
    if p >= SIGNIFICANCE:
        return SAME
    return ABOVE if test[0] > 0 else BELOW


def _name_or_count(names: Sequence[str], rows: Sequence[Row]) -> str:
    if len(names) == len(rows) > 1:
        return "all methods"
    return ", ".join(names) if len(names) <= MAX_NAMED else f"{len(names)} of {len(rows)} rows"


class Rank(NamedTuple):
    """Rank of a row among those of a board with the same training budget.

    Attributes:
        best, worst: ends of its 95 % interval, from 1; equal if it differs from all others.
        total: number of these rows.
    """

    best: int
    worst: int
    total: int


def rank_rows(rows: Sequence[Row]) -> list[Rank | None]:
    """Rank each row among those of equal training budget; None if it cannot be tested or is alone.

    The best rank counts the rows that are significantly better, the worst those that are not significantly worse, by
    tests of all pairs of the group that have one, corrected for their number (Holm 1979). Rows that are not told apart
    share ranks.
    """
    ranks: list[Rank | None] = [None] * len(rows)
    for group in _same_budget(rows):
        better = _better(rows, group)
        for number in group if len(group) > 1 else ():
            above = sum(loser == number for _, loser in better)
            below = sum(winner == number for winner, _ in better)
            ranks[number] = Rank(1 + above, len(group) - below, len(group))
    return ranks


def ranked_rows(rows: Sequence[Row], floors: Sequence[Row]) -> list[tuple[Row, str]]:
    """Return the methods of a board with their ranks, formatted, and the floors among them by mean AUC."""
    ranked = [(row, rank_text(rank)) for row, rank in zip(rows, rank_rows(rows), strict=True)]
    ranked += [(row, "floor") for row in floors]
    return sorted(ranked, key=lambda pair: -np.nan_to_num(pair[0].mean_auc, nan=-1))  # equal rows stay in order


def rank_text(rank: Rank | None) -> str:
    """Format a rank, as "1–3 of 5"; `EMPTY` without one."""
    if rank is None:
        return EMPTY
    place = str(rank.best) if rank.best == rank.worst else f"{rank.best}–{rank.worst}"
    return f"{place} of {rank.total}"


class NullPair(NamedTuple):
    """Two runs of the same row, with different seeds, and the p-value of their difference."""

    first: Record
    second: Record
    p: float

    @property
    def commits_differ(self) -> bool:
        """Whether they are of different commits of chxbench."""
        return self.first.environment.code != self.second.environment.code

    @property
    def torch_differs(self) -> bool:
        """Whether they were trained with different versions of torch."""
        return self.first.environment.versions.get("torch") != self.second.environment.versions.get("torch")


def check_null(rows: Sequence[Row]) -> list[NullPair]:
    """Compare all pairs of runs of the same row by the test that compares methods.

    The variance between seeds is that of the other rows: if it contained the differences that are tested, hardly any
    could be large in relation to it.
    """
    pairs = []
    for row in rows:
        variance = pool_seeds([other.runs for other in rows if other is not row], "mean_auc")
        runs = zip(row.runs, row.statistics("mean_auc"), strict=False)
        for (first, one), (second, two) in combinations(runs, 2) if variance else ():
            found, error = compare_means([one], [two], variance)
            if error is not None:
                pairs.append(NullPair(first.record, second.record, error.p_value(found.value)))
    return pairs


def null_sentence(rows: Sequence[Row]) -> str:
    """State the result of `check_null`; empty without two seeds of two methods."""
    pairs = check_null(rows)
    if not pairs:
        return ""
    different = sum(pair.p < SIGNIFICANCE for pair in pairs)
    others = {
        "commit of chxbench": sum(pair.commits_differ for pair in pairs),
        "version of torch": sum(pair.torch_differs for pair in pairs),
    }
    also = " and ".join(f"{number} also differ in the {what}" for what, number in others.items() if number)
    return (
        f"Check without an effect: of {count(len(pairs), 'pair')} of runs of the same method with different seeds, the "
        f"test finds {different} different ({100 * different / len(pairs):.0f} %), with the variance between seeds "
        "taken from the other methods. In simulated boards, whose methods all vary alike, it finds 3 to 4 %."
        + (f" Of these pairs, {also}." if also else "")
    )


def ablation_table(pairs: Sequence[Difference]) -> str:
    """Tabulate the paired differences, one line per pair."""
    table = [
        [
            pair.upper.label,
            pair.lower.label,
            f"{pair.value:+.3f}{_interval_text(pair)}",
            EMPTY if pair.p is None else "<0.001" if pair.p < 0.001 else f"{pair.p:.3f}",
            f"{len(pair.upper.runs)} vs. {len(pair.lower.runs)}",
            f"{pair.budget_ratio:.2f}",
            f"{pair.cost_ratio:.2f}",
        ]
        for pair in pairs
    ]
    headers = ["Method", "Compared with", "Difference in mean AUC [95 % CI]", "p", "Seeds"]
    return make_table([*headers, "Images trained on (ratio)", "of all stages (ratio)"], table, "lllrrrr")


def summary_list(pairs: Sequence[Difference], caveat: str, name: Callable[[Row], str] = lambda row: row.label) -> str:
    """Summarize the outcomes of the differences and their limits as a list, one item per line.

    Args:
        pairs: paired differences, at least one.
        caveat: what results on the dataset do not show; may be empty.
        name: function that returns the name of a row.
    """
    items = []
    for budget in BUDGETS:
        for outcome in (GAIN, NEITHER, LOSS):
            group = [pair for pair in pairs if not pair.untested and (pair.budget, pair.outcome) == (budget, outcome)]
            if group:
                items.append(f"{_claim(budget, outcome, group)}: {_name_pairs(group, name)}")
    for reason in dict.fromkeys(pair.untested for pair in pairs if pair.untested):
        group = [pair for pair in pairs if pair.untested == reason]
        items.append(f"not tested, because {reason}: {_name_pairs(group, name)}")
    items += filter(None, (_unequal_costs(pairs, name), _not_converged(pairs, name)))
    if caveat:
        items.append(f"note that {caveat}")
    return "\n".join(f"- {item[0].upper()}{item[1:]}." for item in items)


def _same_budget(rows: Sequence[Row]) -> list[list[int]]:
    """Group the positions of the rows that can be tested by their training budget."""
    tested = [number for number, row in enumerate(rows) if row.is_tested and not np.isnan(row.mean_auc)]
    groups: list[list[int]] = []
    for number in sorted(tested, key=lambda number: rows[number].budget):
        if groups and equal_budgets(rows[groups[-1][0]].budget, rows[number].budget):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _better(rows: Sequence[Row], group: Iterable[int]) -> set[tuple[int, int]]:
    """Return the pairs (winner, loser) of rows whose mean AUCs differ significantly after correction for all pairs."""
    pairs = [(b, a) if _is_listed(rows[b], rows[a]) else (a, b) for a, b in combinations(group, 2)]
    found = [difference(rows[first], rows[second]) for first, second in pairs]
    corrected = holm([None if one is None else one.p for one in found])
    return {
        (first, second) if one.value > 0 else (second, first)
        for (first, second), one, p in zip(pairs, found, corrected, strict=True)
        if one is not None and p is not None and p < SIGNIFICANCE
    }


def _inactive_part(upper: Row, lower: Row) -> str | None:
    """Explain that a part which only the upper method has does nothing; None if all are active or not measured."""
    shared = {check.name for run in lower.runs for check in run.record.part_checks}
    if lower.is_control and not shared:
        return None  # a control without measurements: it has the parts of the method that it controls for
    values: defaultdict[tuple[str, float], dict[int | None, float]] = defaultdict(dict)
    for run in upper.runs:
        for check in run.record.part_checks:
            if check.name not in shared:
                values[check.name, check.minimum][run.record.seed] = check.value
    for (name, minimum), found in values.items():
        mean = np.mean(list(found.values()))
        if mean < minimum:
            seeds = ", ".join(map(str, found))
            where = f"; measured in {len(found)} of {count(len(upper.runs), 'run')}, seed {seeds}"
            where = where if len(found) < len(upper.runs) else ""
            return f"a part of the method is inactive ({name}: {mean:.2g}, minimum {minimum:g}{where})"
    return None


def _same_examples(upper: Row, lower: Row) -> str | None:
    """Explain that two methods repeat nearly the same examples, so that their selection cannot matter; else None."""
    shares = [_repeated_share(run.record) for row in (upper, lower) for run in row.runs]
    known = [share for share in shares if share is not None]
    if len(known) < len(shares) or min(known) < SAME_EXAMPLES:
        return None
    return f"both repeat at least {100 * min(known):.0f} % of the training images with a finding, nearly the same ones"


def _repeated_share(record: Record) -> float | None:
    """Return the smallest share of the images with a finding that a stage repeats; None if none selects examples."""
    candidates = record.dataset.counts["train"].with_finding
    selected = [_repeated_images(stage) for stage in record.stages if stage.hard_positives is not None]
    return min(selected) / candidates if selected and candidates else None


def _repeated_images(stage: StagePart) -> int:
    return (stage.hard_positives or {}).get("images", 0)


def _interval_text(pair: Difference) -> str:
    if pair.spread is None:
        return ""
    low, high = pair.value - pair.spread.margin, pair.value + pair.spread.margin
    return f" [{low:+.3f}, {high:+.3f}]"


def _name_pairs(pairs: Sequence[Difference], name: Callable[[Row], str]) -> str:
    if len(pairs) > MAX_NAMED:
        values = [pair.value for pair in pairs]
        return f"{len(pairs)} of the comparisons (from {min(values):+.3f} to {max(values):+.3f})"
    return ", ".join(f"{name(pair.upper)} vs. {name(pair.lower)} ({pair.value:+.3f})" for pair in pairs)


def _unequal_costs(pairs: Sequence[Difference], name: Callable[[Row], str]) -> str:
    """Name the pairs of equal training budget whose numbers of images of all stages differ; empty if none do."""
    unequal = [pair for pair in pairs if pair.budget == "equal" and not equal_budgets(pair.upper.cost, pair.lower.cost)]
    if not unequal:
        return ""
    listed = [f"{name(pair.upper)} vs. {name(pair.lower)} ({pair.cost_ratio:.1f}x)" for pair in unequal]
    return (
        "note that at equal training budget the images of all stages differ, because an earlier stage selected the "
        f"examples: {', '.join(listed) if len(listed) <= MAX_NAMED else count(len(listed), 'comparison')}"
    )


def _not_converged(pairs: Sequence[Difference], name: Callable[[Row], str]) -> str:
    """Name the methods whose validation AUC still rose at the end of training; empty if none did."""
    rows = {name(row): row.last_rise for pair in pairs for row in (pair.upper, pair.lower)}
    rising = [f"{label} (+{rise:.3f})" for label, rise in rows.items() if rise is not None and rise > CONVERGED]
    if not rising:
        return ""
    listed = ", ".join(rising) if len(rising) <= MAX_NAMED else f"{len(rising)} methods"
    return (
        f"note that training may not have converged (the validation AUC rose by more than {CONVERGED:g} in the last "
        f"epoch, mean over the seeds), so that a difference may be one in speed of training: {listed}"
    )


def _claim(budget: str, outcome: str, pairs: Sequence[Difference]) -> str:
    if budget == "equal":
        return f"{outcome} at equal training budget ({REASONS[outcome]})"
    ratios = sorted({f"{pair.budget_ratio:.1f}x" for pair in pairs}, key=lambda text: float(text[:-1]))
    times = ratios[0] if len(ratios) == 1 else f"{ratios[0]} to {ratios[-1]}"
    # More training alone can raise the AUC, so such a gain cannot be attributed to the method.
    caution = ", which may explain all of it" if (budget, outcome) == ("more", GAIN) else ""
    return f"{outcome} with {times} the images that the scored network was trained on ({REASONS[outcome]}){caution}"
