"""Format the localization tables of a board, with baselines that do not see the image."""

from collections.abc import Callable, Sequence

import numpy as np

from ..evaluation.localization import MAIN_IOBB
from ..evaluation.results import Hits
from ..metrics.intervals import Statistic
from ..metrics.localization import IOBB, IOU
from ..utils.text import display_name, escape
from .ablation import floor_sentences
from .rows import Row
from .tables import EMPTY, Item, cross_table, make_table, short_names, with_interval

OTHER_IOBB, OTHER_IOU = (0.1, 0.5), (0.1, 0.3, 0.5)  # overlap thresholds of the second table; the records contain more


def localization_table(rows: Sequence[Row]) -> str:
    """Tabulate pointing game, and accuracy and false positives at IoBB > 0.25; means over the findings.

    The baselines follow the methods.

    Args:
        rows: rows whose runs all have localization scores.
    """
    table = [[row.label, *_heatmap_cells(row), *_mean_cells(_method_hits(row), _false_positives)] for row in rows]
    for name, hits in _baselines(rows).items():
        values = [f"{value:.3f}" for value in (hits.pointing_game, _main_accuracy(hits))]
        table.append([name, EMPTY, *values, *_mean_cells([hits], _false_positives)])
    headers = [
        "Method",
        "Heatmap",
        "Pointing game [95 % CI]",
        f"Acc, IoBB > {MAIN_IOBB:g} [95 % CI]",
        f"AFP, IoBB > {MAIN_IOBB:g}",
    ]
    return make_table(headers, table, "llllr")


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
        grid = f"{first.grid[0]}x{first.grid[1]} heatmaps"
        baselines[f"Baseline: random {grid}"] = first.mean.random
        baselines["Baseline: one box in the center"] = first.mean.center
        baselines[f"Baseline: boxes of other patients, {grid}"] = first.mean.prior
    return {name: hits for name, hits in baselines.items() if hits is not None}


def summarize_localization(rows: Sequence[Row]) -> str:
    """Summarize as a list how the methods compare with the boxes of other patients, by paired tests."""
    items: list[str] = []
    for metric, name in (("Pointing game", "pointing_game"), (f"Acc at IoBB > {MAIN_IOBB:g}", "accuracy")):

        def prior(row: Row, name: str = f"prior_{name}") -> Statistic:
            return row.statistics(name)[0]  # the same for all seeds

        items += floor_sentences(rows, name, prior, (metric, "the boxes of other patients"))
    return "\n".join(items)


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
        values += [_main_accuracy(baseline) for baseline in (hits.random, hits.center, hits.prior)]
        cells = [EMPTY if np.isnan(value) else f"{value:.3f}" for value in values]
        title, head = (escape(display_name(name)) for name in (finding, short[finding]))
        items.append(Item(title, head, [f"{hits.boxes:,}"], cells))
    labels = [*(row.label for row in rows), "Baseline: random", "center box", "boxes of others"]
    return cross_table(("Finding", "Boxes"), items, labels)


def _method_hits(row: Row) -> list[Hits]:
    return [part.mean.method for part in row.localizations if part.mean.method is not None]


def _heatmap_cells(row: Row) -> list[str]:
    """Format the source of the heatmaps, and pointing game and accuracy with their intervals."""
    intervals = [with_interval(row.interval(name)) for name in ("pointing_game", "accuracy")]
    return [escape(row.localizations[0].heatmap), *intervals]


def _mean_cells(runs: Sequence[Hits], metrics: Callable[[Hits], list[float]]) -> list[str]:
    """Format metrics, averaged over the seeds."""
    return [f"{value:.3f}" for value in np.mean([metrics(hits) for hits in runs], axis=0)]


def _false_positives(hits: Hits) -> list[float]:
    rate = hits.iobb.false_positives[IOBB.index(MAIN_IOBB)]
    return [np.nan if rate is None else rate]


def _other_metrics(hits: Hits) -> list[float]:
    at_iobb = [hits.iobb.accuracy[IOBB.index(t)] for t in OTHER_IOBB]
    return [*at_iobb, *(hits.iou.accuracy[IOU.index(t)] for t in OTHER_IOU)]
