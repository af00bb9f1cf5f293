"""The localisation tables of a board: verified runs in, Markdown out."""

from collections.abc import Sequence

import numpy as np

from ..evaluation.results import Hits
from ..metrics.localization import IOBB, IOU
from ..utils.text import display_name, escape
from .tables import EMPTY, Row, make_table

SHOWN_IOBB, AFP_AT, SHOWN_IOU = (0.1, 0.25, 0.5), 0.25, (0.1, 0.3, 0.5)  # levels of overlap on the board


# Floors of localisation that lie below an interval: of random maps, of the box in the middle.
BEATEN = {
    (True, True): "above both floors",
    (True, False): "above random maps alone",
    (False, True): "above the middle box alone",
    (False, False): "above neither floor",
}


def localization_table(rows: list[Row]) -> str:
    """Means over the findings: pointing game, Acc and AFP at some levels; then the floors."""
    table = [
        [row.label, *_of_maps(row), *_mean_hits([run.record.localization.mean.method for run in row.runs])]
        for row in rows
    ]
    floors = {}
    for row in rows:
        found = row.first.localization
        floors[f"Floor: random maps of {found.grid[0]}x{found.grid[1]} places"] = found.mean.random
        floors["Floor: one box in the middle of every image"] = found.mean.center
    table += [[name, EMPTY, f"{hits.pointing_game:.3f}", *_mean_hits([hits])] for name, hits in floors.items()]
    headers = ["Method", "Heatmap", "Pointing game", *(f"Acc, IoBB > {t:g}" for t in SHOWN_IOBB)]
    headers += [f"AFP, IoBB > {AFP_AT:g}", *(f"Acc, IoU > {t:g}" for t in SHOWN_IOU)]
    return make_table(headers, table, "lll" + "r" * (len(headers) - 3))


def summarize_localization(rows: list[Row]) -> str:
    """Which intervals lie above which floors, in one sentence."""
    told = []
    for name, read in (
        ("the pointing game", lambda hits: hits.pointing_game),
        (f"Acc at IoBB > {AFP_AT:g}", lambda hits: hits.iobb.accuracy[IOBB.index(AFP_AT)]),
    ):
        places: dict[tuple[bool, bool], list[str]] = {beaten: [] for beaten in BEATEN}
        for row in rows:
            means = [run.record.localization.mean for run in row.runs]
            low = np.mean([read(mean.low) for mean in means])
            places[bool(low > read(means[0].random)), bool(low > read(means[0].center))].append(row.label)
        parts = [f"{BEATEN[beaten]} for {', '.join(labels)}" for beaten, labels in places.items() if labels]
        told.append(f"in {name} the whole interval lies {', '.join(parts)}")
    return "**In one sentence:** " + "; ".join(told) + "."


def localization_by_finding(rows: list[Row]) -> str:
    """Acc at T(IoBB) = 0.25 of each finding that has boxes, beside its floors."""
    table = []
    first = rows[0].first.localization
    level = first.t_iobb.index(AFP_AT)
    for finding, hits in first.findings.items():
        if not hits.boxes:
            table.append([escape(display_name(finding)), 0, *[EMPTY] * (len(rows) + 2)])
            continue
        each = [[run.record.localization.findings[finding].method for run in row.runs] for row in rows]
        means = [float(np.mean([one.iobb.accuracy[level] for one in row])) for row in each]
        floors = [f"{floor.iobb.accuracy[level]:.3f}" for floor in (hits.random, hits.center)]
        table.append([escape(display_name(finding)), hits.boxes, *(f"{mean:.3f}" for mean in means), *floors])
    headers = ["Finding", "Boxes", *(row.label for row in rows), "Floor: random", "Floor: middle"]
    return make_table(headers, table, "lr" + "r" * (len(rows) + 2))


def _of_maps(row: Row) -> list[str]:
    means = [run.record.localization.mean for run in row.runs]
    value, low, high = (
        np.mean([hits.pointing_game for hits in three])
        for three in zip(*[(mean.method, mean.low, mean.high) for mean in means], strict=True)
    )
    return [escape(row.first.localization.heatmap), f"{value:.3f} [{low:.3f}, {high:.3f}]"]


def _mean_hits(each: Sequence[Hits]) -> list[str]:
    """The shown levels, averaged over seeds."""
    return [f"{value:.3f}" for value in np.mean([_shown(hits) for hits in each], axis=0)]


def _shown(hits: Hits) -> list[float]:
    accuracy = [hits.iobb.accuracy[IOBB.index(t)] for t in SHOWN_IOBB]
    false = hits.iobb.false_positives[IOBB.index(AFP_AT)]
    return [*accuracy, np.nan if false is None else false, *(hits.iou.accuracy[IOU.index(t)] for t in SHOWN_IOU)]
