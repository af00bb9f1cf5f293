"""What else the scores say: the tables of average precision, calibration, rates at fixed thresholds, and groups."""

from collections.abc import Callable, Sequence

import numpy as np

from ..evaluation.results import IntervalPart, SecondaryMetrics
from ..utils.text import escape
from .tables import EMPTY, Row, make_table

Read = Callable[[SecondaryMetrics], float | None]
UNDEFINED = IntervalPart(value=None, low=None, high=None)


def secondary_metrics(rows: list[Row]) -> str:
    """Means over the findings, one line a row of the ranking."""
    columns: dict[str, Callable[[Row], str]] = {
        "Method": lambda row: row.label,
        "Average precision": lambda row: _with_ends(row, lambda part: part.mean.average_precision),
        "Brier score": lambda row: _mean(row, lambda part: part.mean.brier, 4),
        "Calibration error": lambda row: _mean(row, lambda part: part.mean.calibration_error, 4),
    }
    if _have_thresholds(rows):
        columns["Sensitivity"] = lambda row: _mean(row, lambda part: part.mean.sensitivity)
        columns["at specificity"] = lambda row: _mean(row, lambda part: part.mean.specificity)
    return make_table(
        list(columns), [[cell(row) for cell in columns.values()] for row in rows], "llrrrr"[: len(columns)]
    )


def secondary_metrics_notes(rows: list[Row]) -> str:
    """What the numbers mean."""
    wanted = _parts(rows[0])[0].target_specificity
    shares = [part.prevalence for part in _parts(rows[0])[0].findings.values() if part.prevalence is not None]
    chance = f"a ranking by chance has {np.mean(shares):.3f}" if shares else "no finding is defined"
    text = (
        f"Means over the findings. Average precision: the area under the precision-recall curve as a sum of steps; "
        f"{chance}. Brier score and expected calibration error (15 bins of equal count, over images): 0 is best, and "
        "both are small where findings are rare."
    )
    if not _have_thresholds(rows):
        return (
            f"{text} Without validation scores of negative images no threshold can be fixed, and none is chosen on the "
            "test split."
        )
    return (
        f"{text} Sensitivity and specificity on the test split, at the threshold of each finding that leaves "
        f"{wanted:.0%} of its negatives below it on the validation split: none is chosen on the test split."
    )


def _have_thresholds(rows: list[Row]) -> bool:
    return any(part.mean.sensitivity is not None for row in rows for part in _parts(row))


def subgroup_table(rows: list[Row]) -> str:
    """Mean AUC within groups of the test images, one line a group; empty where the labels tell of none.

    Early records do not tell whose images they scored: a dash.
    """
    groups = {
        (trait, name): group
        for row in rows
        for part in _parts(row)
        for trait, found in part.subgroups.items()
        for name, group in found.items()
    }
    table = []
    for (trait, name), group in groups.items():
        cells = [_with_ends(row, lambda part, t=trait, n=name: _mean_within(part, t, n)) for row in rows]
        table.append([f"{escape(trait)} {escape(name)}", f"{group.images:,}", f"{group.patients:,}", *cells])
    headers = ["Group", "Images", "Patients", *(row.label for row in rows)]
    return make_table(headers, table, "lrr" + "l" * len(rows)) if table else ""


def _mean_within(part: SecondaryMetrics, trait: str, name: str) -> IntervalPart:
    group = part.subgroups.get(trait, {}).get(name)
    return UNDEFINED if group is None else group.mean_auc


def _parts(row: Row) -> Sequence[SecondaryMetrics]:
    return [run.verified.statistics for run in row.runs]


def _mean(row: Row, read: Read, digits: int = 3) -> str:
    values = [read(part) for part in _parts(row)]
    return EMPTY if None in values else f"{np.mean(values):.{digits}f}"


def _with_ends(row: Row, read: Callable[[SecondaryMetrics], IntervalPart]) -> str:
    """The mean over the seeds, with the means of the intervals' ends."""
    intervals = [read(part) for part in _parts(row)]
    if any(None in (interval.value, interval.low, interval.high) for interval in intervals):
        return EMPTY
    value, low, high = np.mean([[part.value, part.low, part.high] for part in intervals], axis=0)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
