"""Format the localization tables of a board, with two baselines that do not use the image."""

from collections.abc import Callable, Sequence

import numpy as np

from ..evaluation.results import Hits, MeanHits
from ..metrics.localization import IOBB, IOU
from ..utils.text import display_name, escape
from .rows import Row
from .tables import EMPTY, MAX_NAMED, Item, cross_table, make_table, short_names

MAIN_IOBB = 0.25  # overlap threshold of the main table
OTHER_IOBB, OTHER_IOU = (0.1, 0.5), (0.1, 0.3, 0.5)  # overlap thresholds of the second table; the records contain more

# Keys: whether the lower bound of the interval is above the random baseline, and whether above the center-box baseline.
ABOVE = {
    (True, True): "above both baselines",
    (True, False): "above the random baseline but not above the center-box baseline",
    (False, True): "above the center-box baseline but not above the random baseline",
    (False, False): "above neither baseline",
}


def localization_table(rows: Sequence[Row]) -> str:
    """Tabulate pointing game, and accuracy and false positives at IoBB > 0.25; means over the findings.

    Args:
        rows: rows whose runs all have localization scores.
    """
    table = [[row.label, *_heatmap_cells(row), *_mean_cells(_method_hits(row), _main_metrics)] for row in rows]
    for name, hits in _baselines(rows).items():
        table.append([name, EMPTY, f"{hits.pointing_game:.3f}", *_mean_cells([hits], _main_metrics)])
    headers = [
        "Method",
        "Heatmap",
        "Pointing game [95 % CI]",
        f"Acc, IoBB > {MAIN_IOBB:g}",
        f"AFP, IoBB > {MAIN_IOBB:g}",
    ]
    return make_table(headers, table, "lllrr")


def other_levels_table(rows: Sequence[Row]) -> str:
    """Tabulate the accuracy at other overlap thresholds; means over the findings."""
    table = [[row.label, *_mean_cells(_method_hits(row), _other_metrics)] for row in rows]
    table += [[name, *_mean_cells([hits], _other_metrics)] for name, hits in _baselines(rows).items()]
    headers = [*(f"Acc, IoBB > {t:g}" for t in OTHER_IOBB), *(f"Acc, IoU > {t:g}" for t in OTHER_IOU)]
    return make_table(["Method", *headers], table, "l" + "r" * len(headers))


def _baselines(rows: Sequence[Row]) -> dict[str, Hits]:
    """Return the scores of the baselines by name; random heatmaps have the size of the heatmaps of a row."""
    baselines: dict[str, Hits | None] = {}
    for row in rows:
        first = row.localizations[0]
        baselines[f"Baseline: random {first.grid[0]}x{first.grid[1]} heatmaps"] = first.mean.random
        baselines["Baseline: one box in the center"] = first.mean.center
    return {name: hits for name, hits in baselines.items() if hits is not None}


def summarize_localization(rows: Sequence[Row]) -> str:
    """Summarize as a list which intervals are above which baselines."""
    items = []
    for metric, read in (("Pointing game", _pointing), (f"Acc at IoBB > {MAIN_IOBB:g}", _main_accuracy)):
        labels: dict[tuple[bool, bool], list[str]] = {above: [] for above in ABOVE}
        for row in rows:
            means = [part.mean for part in row.localizations]
            low = np.mean([read(mean.low) for mean in means])
            labels[bool(low > read(means[0].random)), bool(low > read(means[0].center))].append(row.label)
        for above, names in labels.items():
            if names:
                items.append(f"- {metric}, 95 % interval {ABOVE[above]}: {_name_or_count(names, rows)}.")
    return "\n".join(items)


def _name_or_count(names: Sequence[str], rows: Sequence[Row]) -> str:
    if len(names) == len(rows) > 1:
        return "all methods"
    return ", ".join(names) if len(names) <= MAX_NAMED else f"{len(names)} of {len(rows)} rows"


def _pointing(hits: Hits | None) -> float:
    return np.nan if hits is None else hits.pointing_game


def _main_accuracy(hits: Hits | None) -> float:
    return np.nan if hits is None else hits.iobb.accuracy[IOBB.index(MAIN_IOBB)]


def localization_by_finding(rows: Sequence[Row]) -> str:
    """Tabulate the accuracy at IoBB > 0.25 of each finding, with the baselines."""
    first = rows[0].localizations[0]
    short = dict(zip(first.findings, short_names(list(first.findings)), strict=True))
    items = []
    for finding, hits in first.findings.items():
        values = [
            float(np.mean([_main_accuracy(part.findings[finding].method) for part in row.localizations]))
            for row in rows
        ]
        values += [_main_accuracy(hits.random), _main_accuracy(hits.center)]
        cells = [EMPTY if np.isnan(value) else f"{value:.3f}" for value in values]
        title, head = (escape(display_name(name)) for name in (finding, short[finding]))
        items.append(Item(title, head, [f"{hits.boxes:,}"], cells))
    labels = [*(row.label for row in rows), "Baseline: random", "Baseline: center box"]
    return cross_table(("Finding", "Boxes"), items, labels)


def _method_hits(row: Row) -> list[Hits]:
    return [part.mean.method for part in row.localizations if part.mean.method is not None]


def _heatmap_cells(row: Row) -> list[str]:
    """Format the source of the heatmaps, and the pointing game with its interval, averaged over the seeds."""
    means: list[MeanHits] = [part.mean for part in row.localizations]
    value, low, high = np.mean([[_pointing(h) for h in (mean.method, mean.low, mean.high)] for mean in means], axis=0)
    return [escape(row.localizations[0].heatmap), f"{value:.3f} [{low:.3f}, {high:.3f}]"]


def _mean_cells(runs: Sequence[Hits], metrics: Callable[[Hits], list[float]]) -> list[str]:
    """Format metrics, averaged over the seeds."""
    return [f"{value:.3f}" for value in np.mean([metrics(hits) for hits in runs], axis=0)]


def _main_metrics(hits: Hits) -> list[float]:
    false_positives = hits.iobb.false_positives[IOBB.index(MAIN_IOBB)]
    return [_main_accuracy(hits), np.nan if false_positives is None else false_positives]


def _other_metrics(hits: Hits) -> list[float]:
    at_iobb = [hits.iobb.accuracy[IOBB.index(t)] for t in OTHER_IOBB]
    return [*at_iobb, *(hits.iou.accuracy[IOU.index(t)] for t in OTHER_IOU)]
