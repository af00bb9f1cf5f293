"""Format the secondary metrics: average precision, calibration, sensitivity at fixed thresholds, and subgroups."""

from collections.abc import Callable, Sequence

import numpy as np

from ..evaluation.results import SecondaryMetrics
from ..evaluation.scores import subgroup_name
from ..utils.text import escape
from .rows import Row
from .tables import EMPTY, Item, cross_table, make_table, with_interval

Read = Callable[[SecondaryMetrics], float | None]


def secondary_metrics(rows: Sequence[Row]) -> str:
    """Tabulate the means over the findings for each row of the ranking."""
    columns: dict[str, Callable[[Row], str]] = {
        "Method": lambda row: row.label,
        "Average precision": lambda row: with_interval(row.interval("average_precision")),
        "Brier score": lambda row: with_interval(row.interval("brier"), 4),
        "Calibration error": lambda row: _mean(row, lambda part: part.mean.calibration_error, 4),
        "if calibrated": lambda row: _mean(row, lambda part: part.mean.calibration_error_floor, 4),
    }
    if _have_thresholds(rows):
        columns["Sensitivity"] = lambda row: _mean(row, lambda part: part.mean.sensitivity)
        columns["Specificity"] = lambda row: _mean(row, lambda part: part.mean.specificity)
    table = [[cell(row) for cell in columns.values()] for row in rows]
    return make_table(list(columns), table, "lllrrrr"[: len(columns)])


def secondary_metrics_notes(rows: Sequence[Row]) -> str:
    """Explain the columns, the chance level, and how the thresholds are chosen."""
    metrics = _metrics(rows[0])[0]
    prevalences = [part.prevalence for part in metrics.findings.values() if part.prevalence is not None]
    chance = f"chance level {np.mean(prevalences):.3f}" if prevalences else "undefined for all findings"
    text = (
        "Means over the findings. Average precision: area under the precision-recall curve (step function); "
        f"{chance}; it depends on the number of images, and the interval is that of its mean over test splits of this "
        "size. Brier score and expected calibration error (15 bins of equal count): lower is better; both are small "
        "for rare findings. If calibrated: the mean error of the same probabilities if they were exactly right, for "
        "independent images; an error near it does not indicate miscalibration."
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
        facts = [f"{group.images:,}", f"{group.patients:,}", f"{group.mean_auc.findings:,}"]
        cells = [with_interval(row.interval(subgroup_name(trait, name))) for row in rows]
        items.append(Item(title, title, facts, cells))
    return cross_table(("Group", "Images", "Patients", "Findings"), items, [row.label for row in rows]) if items else ""


def _metrics(row: Row) -> list[SecondaryMetrics]:
    return [run.verified.secondary_metrics for run in row.runs]


def _mean(row: Row, read: Read, digits: int = 3) -> str:
    """Format the mean over the seeds; `EMPTY` if any is undefined."""
    values = [value for part in _metrics(row) if (value := read(part)) is not None]
    return f"{np.mean(values):.{digits}f}" if len(values) == len(row.runs) else EMPTY
