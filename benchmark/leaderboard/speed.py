"""Format the speed of the rows of a board: one table and one figure per setup."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..records.speed_record import SetupPart, SpeedRecord, matches_run, setup_label
from ..utils.text import code, count, escape, link, plain, recipe_label
from .boards import Board, figure_path
from .plots import Dot, dots_sha256, draw_speed
from .rows import Row
from .tables import EMPTY, decimals, make_table

HEADERS = (
    "Method",
    "Mean AUC",
    "Parameters, M",
    "GFLOPs",
    "Latency, ms: p50",
    "p95",
    "p99",
    "Inference, images/s",
    "batch size",
    "peak GB",
    "Training, images/s: steps only",
    "data loading only",
    "end to end",
    "batch size",
    "peak GB",
)


class Timed(NamedTuple):
    """A row of a board and the speed record of its method."""

    row: Row
    record: SpeedRecord


class SpeedSection(NamedTuple):
    """Rows of a board measured in the same setup.

    Attributes:
        setup: setup of the measurements.
        timed: rows with their speed records, in the order of the board.
        figure: path of the figure of AUC vs. speed, relative to the leaderboard.
        title: title of the figure.
    """

    setup: SetupPart
    timed: list[Timed]
    figure: str
    title: str

    @property
    def dots(self) -> list[Dot]:
        """The dots of the figure: rows with both an AUC and a speed. If it is empty, there is no figure."""
        return [
            Dot(row.name, record.best.images_per_second, row.mean_auc, *row.interval("mean_auc")[1:])
            for row, record in self.timed
            if record.best is not None and record.best.images_per_second is not None and not np.isnan(row.mean_auc)
        ]

    @property
    def sha256(self) -> str:
        """The hash embedded in an up-to-date figure."""
        return dots_sha256(self.dots, self.title)

    def draw(self, path: Path) -> None:
        """Draw the figure."""
        draw_speed(self.dots, self.title, path)


def speed_sections(board: Board, speeds: Iterable[SpeedRecord]) -> list[SpeedSection]:
    """Group the rows of a board by the setup of their speed records, sorted by setup.

    Args:
        board: board with the rows.
        speeds: all speed records.
    """
    groups = defaultdict(list)
    for record in speeds:
        for rank, row in enumerate(board.rows):
            if matches_run(record, row.first):
                groups[record.setup].append((rank, Timed(row, record)))
    sections = []
    for setup in sorted(groups, key=lambda setup: setup.model_dump_json()):
        timed = [row for _, row in sorted(groups[setup], key=lambda item: item[0])]
        figure = figure_path(board.rows, "speed", [board.key, setup.model_dump(mode="json")])
        sections.append(SpeedSection(setup, timed, figure, _figure_title(board, setup)))
    return sections


def speed_markdown(section: SpeedSection) -> list[str]:
    """Return the paragraphs of a section: notes, table and figure."""
    figure = ["!" + link("Mean AUC vs. inference throughput", section.figure)] if section.dots else []
    return [_notes(section), speed_table(section.timed), *figure]


def _figure_title(board: Board, setup: SetupPart) -> str:
    first = board.first
    recipe = "" if first.recipe is None else f", recipe {plain(recipe_label(first.recipe.name))}"
    return f"{plain(first.dataset.title)}{recipe}\n{plain(setup_label(setup))}"


def _notes(section: SpeedSection) -> str:
    """Explain the columns and the limits of the measurements."""
    setup = section.setup
    memory = ", ".join(sorted({escape(record.memory) for _, record in section.timed}))
    sizes = ", ".join(f"{size:,}" for size in setup.batch_sizes)
    return (
        "Measured by `chxbench speed` with random weights. Unlike AUC, speed cannot be recomputed from the record. "
        f"Crops of {setup.crop} pixels, torch {escape(setup.torch)}, {count(setup.threads, 'thread')}. GFLOPs: "
        "convolutions and matrix products in the forward pass of one image, a multiply-add counted as two. Latency: "
        f"batch size 1. Inference: the fastest batch size of {sizes}. Training at batch size {setup.batch_size} with "
        f"{escape(setup.optimizer)}. Steps only: a batch that is already on the device. Data loading only: reading "
        f"batches of {code(setup.dataset)} without computing. End to end: both, as in a run; if it is well below steps "
        f"only, the device waits for data. Peak memory: {memory}.{_doubtful(section)}"
    )


def _doubtful(section: SpeedSection) -> str:
    """List the rows that cannot be compared, and why; empty if there are none."""
    doubts = [
        f"{row.label} ({', '.join(map(escape, record.doubts))})" for row, record in section.timed if record.doubts
    ]
    return f" **Not comparable:** {'; '.join(doubts)}." if doubts else ""


def speed_table(timed: Iterable[Timed]) -> str:
    """Tabulate the speed of each row of the board."""
    table = [
        [row.label, decimals(row.mean_auc), *inference_cells(record), *training_cells(record)] for row, record in timed
    ]
    return make_table(HEADERS, table, "l" + "r" * (len(HEADERS) - 1))


def inference_cells(record: SpeedRecord) -> list[str]:
    """Format parameters in millions, GFLOPs, latency in ms (p50, p95, p99), and images/s, batch and GB at best."""
    network, latency, best = record.network, record.latency, record.best
    sizes = [_three_figures(network.parameters / 1e6), _three_figures(network.flops / 1e9)]
    times = [_three_figures(value) for value in (latency.p50, latency.p95, latency.p99)]
    if best is None:
        return [*sizes, *times, EMPTY, EMPTY, EMPTY]
    return [
        *sizes,
        *times,
        _three_figures(best.images_per_second),
        f"{best.batch_size:,}",
        _gigabytes(best.peak_memory),
    ]


def training_cells(record: SpeedRecord) -> list[str]:
    """Format images/s of steps, of data loading and of both, the batch size, and peak memory in GB."""
    steps = record.training
    rates = (steps.images_per_second, record.loader.images_per_second, record.end_to_end.images_per_second)
    batch = EMPTY if steps.batch_size is None else f"{steps.batch_size:,}"
    return [*map(_three_figures, rates), batch, _gigabytes(steps.peak_memory)]


def _three_figures(value: float | None) -> str:
    """Round to three significant figures."""
    if value is None:
        return EMPTY
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _gigabytes(size: int | None) -> str:
    return EMPTY if size is None else f"{size / 1e9:.2f}"
