"""Write a comparison as Markdown and as sentences; A is the first method, B the second."""

from collections.abc import Sequence

from ...leaderboard.rows import equal_budgets, trained_on
from ...leaderboard.speed import COMPARED, inference_cells, latency_cells, others_cell, ratio_text, training_cells
from ...leaderboard.tables import EMPTY, make_table
from ...metrics.intervals import MIN_PATIENTS
from ...metrics.paired import MIN_SEEDS, Difference
from ...records.speed_record import setup_label
from ...utils.text import code, count, display_name, escape, rare_label
from .pair import ALPHA, ComparedPair, ComparedRun
from .run_differences import Timing

MEAN = "Mean"


def comparison_markdown(compared: ComparedPair) -> str:
    """Return the Markdown page, which includes `roc.png` from its folder."""
    runs = "\n".join(
        f"- {letter}: {escape(run.title)}, {code(run.folder.as_posix())}"
        for letter, run in zip("AB", (compared.first, compared.second), strict=True)
    )
    parts = [
        "# A vs. B",
        runs,
        _data(compared.first.first),
        _auc_table(compared),
        _legend(compared),
        " ".join(map(escape, summarize(compared))),
        "![ROC curves of all runs, per finding](roc.png)",
        "## Other differences",
        _facts_table(compared),
        *(part for pair in compared.timings for part in _speed(pair)),
    ]
    return "\n\n".join(parts) + "\n"


def summarize(compared: ComparedPair) -> list[str]:
    """Summarize what the differences show and what they cannot show, in sentences without markup."""
    if all(difference.value is None for difference in compared.comparison.each):
        return ["No finding has both positive and negative test images, so nothing can be compared."]
    sentences = [_significant(compared), _mean(compared.comparison.mean), *_budgets(compared)]
    if compared.is_of_methods:
        return sentences
    return [
        "These are trained networks, not methods: intervals and p are over test patients alone, and the next seed may "
        f"reverse any difference; a comparison of methods needs at least {MIN_SEEDS} seeds of each.",
        *sentences,
    ]


def _budgets(compared: ComparedPair) -> list[str]:
    """Return a sentence if one method trained on more images, which may be the cause of the difference."""
    seen_a, seen_b = (
        sum(trained_on(run.record.stages) for run in method.runs) / len(method.runs)
        for method in (compared.first, compared.second)
    )
    if not seen_a or not seen_b or equal_budgets(seen_a, seen_b):
        return []
    letter = "A" if seen_a > seen_b else "B"
    ratio = max(seen_a, seen_b) / min(seen_a, seen_b)
    return [f"{letter} was trained on {ratio:.1f} times as many images, which may explain the difference."]


def rows(compared: ComparedPair) -> list[tuple[str, Difference]]:
    """Return the differences of the findings, of their mean, and of that without rare ones, by display name."""
    each = [(display_name(finding), difference) for finding, difference in compared.differences.items()]
    rare = rare_label(compared.first.record.dataset.rare)
    without = [(rare, compared.comparison.mean_without)] if rare else []
    return [*each, (MEAN, compared.comparison.mean), *without]


def cells(difference: Difference) -> list[str]:
    """Return AUC of A and of B, difference, interval, p, and corrected p (starred if significant)."""
    if difference.value is None:
        return [EMPTY, EMPTY, EMPTY, difference.reason or "", EMPTY, EMPTY]
    star = "*" if difference.p_corrected is not None and difference.p_corrected <= ALPHA else ""
    ends = EMPTY if difference.low is None else f"{difference.low:+.3f} to {difference.high:+.3f}"
    values = [f"{difference.first:.3f}", f"{difference.second:.3f}", f"{difference.value:+.3f}", ends]
    return [*values, p_text(difference.p), p_text(difference.p_corrected) + star]


def p_text(p: float | None) -> str:
    """Return a p-value with three decimals."""
    if p is None:
        return EMPTY
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def timing_rows(pair: Timing) -> list[tuple[str, str, str]]:
    """Return rows of quantity, value of A, value of B."""
    names = ["Parameters, M", "GFLOPs", "Latency p50, ms", "p95", "p99", "Inference, images/s", "at batch", "peak GB"]
    names += ["Training steps alone, images/s", "reading alone", "end to end", "at batch", "peak GB"]
    names += ["Other processes, % of cores"]
    values_a, values_b = (
        [*latency_cells(speed), *inference_cells(speed), *training_cells(speed), others_cell(speed)] for speed in pair
    )
    return list(zip(names, values_a, values_b, strict=True))


def timing_notes(pair: Timing) -> list[str]:
    """Return what the speeds are worth, in sentences: the ratio A / B if measured together, and doubts."""
    if pair.first.is_shared_with(pair.second):
        notes = ["A and B have the same network, which was measured once: their speed is the same."]
    elif pair.first.is_of_session(pair.second):
        names = ("latency", "inference", "training end to end")
        ratios = [f"{name} {ratio_text(pair.ratio(key))}" for name, key in zip(names, COMPARED, strict=True)]
        notes = [f"A / B in the same rounds, with the 95 % interval: {', '.join(ratios)}."]
    else:
        notes = ["A and B were measured in different sessions: their difference contains that of the sessions."]
    return notes + [
        f"The speed of {letter} is not comparable: {', '.join(why)}." for letter, why in pair.doubts.items()
    ]


def _data(run: ComparedRun) -> str:
    data = run.record.dataset
    return (
        f"{escape(data.title)}, labels {escape(data.labels.version)}: {count(len(run.table), 'test image')} of "
        f"{count(run.table['patient_id'].nunique(), 'patient')}."
    )


def _auc_table(compared: ComparedPair) -> str:
    table = []
    for name, difference in rows(compared):
        *values, corrected = cells(difference)
        table.append([escape(name), *values, escape(corrected)])
    headers = ["Finding", "A", "B", "A − B", "95 % interval", "p", "p, Holm"]
    return make_table(headers, table, "lrrrrrr")


def _legend(compared: ComparedPair) -> str:
    over = "test patients and training seeds" if compared.is_of_methods else "test patients"
    return (
        f"AUC; intervals and p over {over}, from {compared.resamples:,} resamples of patients, the same for all runs. "
        f'"p, Holm" is p corrected for the number of findings, with \\* if it is at most {ALPHA:g}. A finding that '
        f"fewer than {MIN_PATIENTS} patients have, or lack, has no interval and no p."
    )


def _facts_table(compared: ComparedPair) -> str:
    if not compared.facts:
        return "None in the records."
    table = [
        [escape(fact.name), *(EMPTY if value is None else code(value) for value in (fact.first, fact.second))]
        for fact in compared.facts
    ]
    return make_table(["", "A", "B"], table, "lll")


def _speed(pair: Timing) -> Sequence[str]:
    table = make_table(["", "A", "B"], timing_rows(pair), "lrr")
    return f"## Speed on {escape(setup_label(pair.first.setup))}", table, " ".join(map(escape, timing_notes(pair)))


def _significant(compared: ComparedPair) -> str:
    """Return a sentence on the findings that differ, grouped by the better method."""
    tested = sum(difference.p is not None for difference in compared.differences.values())
    if not tested:
        return f"No finding can be tested: fewer than {MIN_PATIENTS} patients have or lack it."
    correction = f"at {ALPHA * 100:.0f} % after Holm's correction for {count(tested, 'finding')}"
    better = []
    for letter, sign in (("A", 1), ("B", -1)):
        findings = [
            f"{display_name(name)} ({value:+.3f})"
            for name in compared.significant
            if sign * (value := compared.differences[name].value or 0) > 0
        ]
        if findings:
            better.append(f"{letter} is better on {_listed(findings)}")
    if not better:
        return f"No finding differs significantly {correction}."
    return f"{correction[0].upper()}{correction[1:]}, {'; '.join(better)}."


def _mean(mean: Difference) -> str:
    if mean.low is None:
        return f"The mean AUC differs by {mean.value:+.3f}; too few patients have or lack a finding for an interval."
    p = p_text(mean.p)
    sign = "< " if p.startswith("<") else "= "
    return f"The mean AUC differs by {mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}], p {sign}{p.lstrip('<')}."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
