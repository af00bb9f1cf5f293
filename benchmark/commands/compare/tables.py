"""A comparison as Markdown and as sentences; A is the first run, B the second."""

from collections.abc import Sequence

from ...leaderboard.speed import inference_cells, training_cells
from ...leaderboard.tables import EMPTY, make_table
from ...metrics.paired import Difference
from ...records.speed_record import setup_label
from ...utils.text import code, display_name, escape
from .pair import LEVEL, ComparedPair, Side
from .run_differences import Timing

SAME_BUDGET = 1.05  # ratio of training images up to which two runs have the same budget
MEANS = ("Mean", "Mean without Hernia")


def comparison_markdown(compared: ComparedPair) -> str:
    """Return the page, which shows the `roc.png` next to it."""
    sides = "\n".join(
        f"- {letter}: {escape(side.title)}, {code(side.folder.as_posix())}"
        for letter, side in zip("AB", (compared.first, compared.second), strict=True)
    )
    parts = [
        "# A against B",
        sides,
        _data(compared.first),
        _auc_table(compared),
        _legend(compared),
        " ".join(map(escape, summarize(compared))),
        "![ROC curves of both, finding by finding](roc.png)",
        "## What else differs",
        _facts_table(compared),
        *(part for pair in compared.timings for part in _speed(pair)),
    ]
    return "\n\n".join(parts) + "\n"


def summarize(compared: ComparedPair) -> list[str]:
    """Return what the differences show and what they cannot show, in sentences without markup."""
    defined = [one for one in compared.found.each if one.value is not None]
    if not defined:
        return ["No finding has both positive and negative test images, so nothing can be compared."]
    sentences = [_significant(compared, len(defined)), _mean(compared.found.mean)]
    smallest = 2 * len(defined) / (compared.resamples + 1)
    if smallest > LEVEL:
        sentences.append(
            f"With {compared.resamples:,} resamples no finding can differ: the smallest possible corrected p is "
            f"{min(1, smallest):.2f}; use --resamples {resamples_needed(len(defined))} or more."
        )
    elif smallest > LEVEL / 10:
        sentences.append(f"With {compared.resamples:,} resamples the smallest possible corrected p is {smallest:.3f}.")
    sentences += _budgets(compared)
    sentences.append("Only test patients are resampled: no interval includes the variation between training seeds.")
    return sentences


def _budgets(compared: ComparedPair) -> list[str]:
    """Return a sentence if one run saw more training images, which may be the cause of the difference."""
    one, other = (
        sum(stage.examples * stage.epochs for stage in side.record.stages) for side in (compared.first, compared.second)
    )
    if not one or not other or max(one, other) <= SAME_BUDGET * min(one, other):
        return []
    letter = "A" if one > other else "B"
    times = max(one, other) / min(one, other)
    return [f"{letter} saw {times:.1f} times as many training images, which may explain the difference."]


def resamples_needed(findings: int) -> int:
    """Return the resamples needed for one of so many findings to differ at `LEVEL` after Holm's correction."""
    return round(2 * findings / LEVEL) - 1


def rows(compared: ComparedPair) -> list[tuple[str, Difference]]:
    """Return the differences of the findings and of the two means, by display name."""
    means = zip(MEANS, (compared.found.mean, compared.found.mean_without), strict=True)
    return [*((display_name(finding), one) for finding, one in compared.each.items()), *means]


def cells(one: Difference) -> list[str]:
    """Return AUC of A and of B, difference, interval, corrected p (starred where significant), analytic p."""
    if one.value is None:
        return [EMPTY, EMPTY, EMPTY, one.reason or "", EMPTY, EMPTY]
    star = "*" if one.p_corrected is not None and one.p_corrected <= LEVEL else ""
    ends = EMPTY if one.low is None else f"{one.low:+.3f} to {one.high:+.3f}"
    values = [f"{one.first:.3f}", f"{one.second:.3f}", f"{one.value:+.3f}", ends]
    return [*values, p_text(one.p_corrected) + star, p_text(one.p_analytic)]


def p_text(p: float | None) -> str:
    """Return a p-value with three decimals."""
    if p is None:
        return EMPTY
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def timing_rows(pair: Timing) -> list[tuple[str, str, str]]:
    """Return rows of quantity, value of A, value of B."""
    names = ["Parameters, M", "GFLOPs", "Latency p50, ms", "p95", "p99", "Inference, images/s", "at batch", "peak GB"]
    names += ["Training steps alone, images/s", "reading alone", "end to end", "at batch", "peak GB"]
    one, other = ([*inference_cells(record), *training_cells(record)] for record in pair)
    return list(zip(names, one, other, strict=True))


def _data(side: Side) -> str:
    data = side.record.dataset
    return (
        f"{escape(data.title)}, labels {escape(data.labels.version)}: {len(side.table):,} test images of "
        f"{side.table['patient_id'].nunique():,} patients."
    )


def _auc_table(compared: ComparedPair) -> str:
    table = []
    for name, one in rows(compared):
        *values, corrected, analytic = cells(one)
        table.append([escape(name), *values, p_text(one.p), escape(corrected), analytic])
    headers = ["Finding", "A", "B", "A − B", "95 % interval", "p", "p, Holm", "p, analytic"]
    return make_table(headers, table, "lrrrrrrr")


def _legend(compared: ComparedPair) -> str:
    return (
        f'AUC; intervals and p from {compared.resamples:,} resamples of patients, the same for both. "p, Holm" is p '
        'corrected for the number of findings, with \\* where it is at most 0.05. "p, analytic" is a second, '
        "uncorrected estimate of p, from the variance of Obuchowski 1997."
    )


def _facts_table(compared: ComparedPair) -> str:
    if not compared.facts:
        return "Nothing that is in the records."
    table = [
        [escape(fact.name), *(EMPTY if value is None else code(value) for value in (fact.first, fact.second))]
        for fact in compared.facts
    ]
    return make_table(["", "A", "B"], table, "lll")


def _speed(pair: Timing) -> Sequence[str]:
    return f"## Speed on {escape(setup_label(pair.first.setup))}", make_table(["", "A", "B"], timing_rows(pair), "lrr")


def _significant(compared: ComparedPair, defined: int) -> str:
    """Return a sentence on the findings that differ, by which run is better."""
    correction = f"at {LEVEL * 100:.0f} % after Holm's correction for {defined} findings"
    better = []
    for letter, sign in (("A", 1), ("B", -1)):
        found = [
            f"{name.replace('_', ' ')} ({one.value:+.3f})"
            for name in compared.significant
            if sign * ((one := compared.each[name]).value or 0) > 0
        ]
        if found:
            better.append(f"{letter} is better on {_listed(found)}")
    if not better:
        return f"No finding differs {correction}."
    return f"{correction[0].upper()}{correction[1:]}, {'; '.join(better)}."


def _mean(mean: Difference) -> str:
    ends = "" if mean.low is None else f" [{mean.low:+.3f}, {mean.high:+.3f}]"
    p = p_text(mean.p)
    return f"The mean AUC differs by {mean.value:+.3f}{ends}, p {'< ' if p.startswith('<') else '= '}{p.lstrip('<')}."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
