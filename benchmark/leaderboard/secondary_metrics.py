"""Format the secondary metrics: average precision, calibration, sensitivity at fixed thresholds, and subgroups."""

from collections.abc import Callable, Sequence

import numpy as np

from ..evaluation.results import IntervalPart, SecondaryMetrics
from ..utils.text import escape
from .rows import Row
from .tables import EMPTY, Item, cross_table, make_table

Read = Callable[[SecondaryMetrics], float | None]
UNDEFINED = IntervalPart(value=None, low=None, high=None)


def secondary_metrics(rows: Sequence[Row]) -> str:
    """Tabulate the means over the findings for each row of the ranking."""
    columns: dict[str, Callable[[Row], str]] = {
        "Method": lambda row: row.label,
        "Average precision": lambda row: _with_interval(row, lambda part: part.mean.average_precision),
        "Brier score": lambda row: _mean(row, lambda part: part.mean.brier, 4),
        "Calibration error": lambda row: _mean(row, lambda part: part.mean.calibration_error, 4),
    }
    if _have_thresholds(rows):
        columns["Sensitivity"] = lambda row: _mean(row, lambda part: part.mean.sensitivity)
        columns["Specificity"] = lambda row: _mean(row, lambda part: part.mean.specificity)
    table = [[cell(row) for cell in columns.values()] for row in rows]
    return make_table(list(columns), table, "llrrrr"[: len(columns)])


def secondary_metrics_notes(rows: Sequence[Row]) -> str:
    """Explain the columns, the chance level, and how the thresholds are chosen."""
    metrics = _metrics(rows[0])[0]
    prevalences = [part.prevalence for part in metrics.findings.values() if part.prevalence is not None]
    chance = f"chance level {np.mean(prevalences):.3f}" if prevalences else "undefined for all findings"
    text = (
        "Means over the findings. Average precision: area under the precision-recall curve (step function); "
        f"{chance}. Brier score and expected calibration error (15 bins of equal count): lower is better; both are "
        "small for rare findings."
    )
    if not _have_thresholds(rows):
        return (
            f"{text} Sensitivity and specificity are undefined: there are no validation scores of negative images to "
            "choose thresholds, and chxbench chooses none on the test split."
        )
    return (
        f"{text} Sensitivity and specificity are computed on the test split at one threshold per finding. The "
        "validation split is used to choose the thresholds, so that at least "
        f"{100 * metrics.target_specificity:.0f} % of its negatives score below them."
    )


def _have_thresholds(rows: Sequence[Row]) -> bool:
    return any(part.mean.sensitivity is not None for row in rows for part in _metrics(row))


def subgroup_table(rows: Sequence[Row]) -> str:
    """Tabulate the mean AUC in subgroups of the test images; empty if there are none."""
    groups = {
        (trait, name): group
        for row in rows
        for part in _metrics(row)
        for trait, subgroups in part.subgroups.items()
        for name, group in subgroups.items()
    }
    items = []
    for (trait, name), group in groups.items():
        title = f"{escape(trait)} {escape(name)}"
        items.append(Item(title, title, [f"{group.images:,}", f"{group.patients:,}"], _group_cells(rows, trait, name)))
    return cross_table(("Group", "Images", "Patients"), items, [row.label for row in rows]) if items else ""


def _group_cells(rows: Sequence[Row], trait: str, name: str) -> list[str]:
    def mean_auc(part: SecondaryMetrics) -> IntervalPart:
        group = part.subgroups.get(trait, {}).get(name)
        return UNDEFINED if group is None else group.mean_auc

    return [_with_interval(row, mean_auc) for row in rows]


def _metrics(row: Row) -> list[SecondaryMetrics]:
    return [run.verified.secondary_metrics for run in row.runs]


def _mean(row: Row, read: Read, digits: int = 3) -> str:
    """Format the mean over the seeds; `EMPTY` if any is undefined."""
    values = [value for part in _metrics(row) if (value := read(part)) is not None]
    return f"{np.mean(values):.{digits}f}" if len(values) == len(row.runs) else EMPTY


def _with_interval(row: Row, read: Callable[[SecondaryMetrics], IntervalPart]) -> str:
    """Format the mean over the seeds with the means of the interval bounds; `EMPTY` if any is undefined."""
    intervals = [read(part) for part in _metrics(row)]
    numbers = np.array([[part.value, part.low, part.high] for part in intervals], dtype=float)
    if np.isnan(numbers).any():
        return EMPTY
    value, low, high = numbers.mean(axis=0)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
