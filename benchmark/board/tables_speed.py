"""The speed tables: speed records in, Markdown or the cells of the screen's table out."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..speed_record import SpeedRecord
from .tables import NOTHING, Row, make_table

HEADERS = ("Method", "Mean AUC", "Parameters, M", "GFLOPs", "Latency, ms: p50", "p95", "p99")
HEADERS += ("Inference, images/s", "at batch", "peak GB", "Training: steps alone", "reading alone", "end to end")
HEADERS += ("at batch", "peak GB")


class Timed(NamedTuple):
    """A row of a board, and the record of its method's speed."""

    row: Row
    record: SpeedRecord


def speed_table(timed: Iterable[Timed]) -> str:
    """One line a row of the board."""
    table = [
        [row.label, _fixed(row.mean("mean_auc")), *inference_cells(record), *training_cells(record)]
        for row, record in timed
    ]
    return make_table(HEADERS, table, "l" + "r" * (len(HEADERS) - 1))


def inference_cells(record: SpeedRecord) -> list[str]:
    """Parameters in millions, GFLOPs, latency in ms (p50, p95, p99), best images/s, its batch, its peak in GB."""
    network, latency, best = record.network, record.latency, record.best
    sizes = [_rounded(network.parameters / 1e6), _rounded(network.operations / 1e9)]
    times = [_rounded(value) for value in (latency.p50, latency.p95, latency.p99)]
    if best is None:
        return [*sizes, *times, NOTHING, NOTHING, NOTHING]
    return [*sizes, *times, _rounded(best.images_per_second), f"{best.batch_size:,}", _gigabytes(best.peak_memory)]


def training_cells(record: SpeedRecord) -> list[str]:
    """Images/s of steps alone, reading alone and both, the batch, and the peak in GB."""
    steps = record.training
    rates = (steps.images_per_second, record.loader.images_per_second, record.end_to_end.images_per_second)
    batch = NOTHING if steps.batch_size is None else f"{steps.batch_size:,}"
    return [*map(_rounded, rates), batch, _gigabytes(steps.peak_memory)]


def _fixed(value: float) -> str:
    return NOTHING if np.isnan(value) else f"{value:.3f}"


def _rounded(value: float | None) -> str:
    """Three figures."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _gigabytes(count: int | None) -> str:
    return NOTHING if count is None else f"{count / 1e9:.2f}"
