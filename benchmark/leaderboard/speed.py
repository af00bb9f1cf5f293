"""Speed sections of a board: the speed records that belong to its rows, one table per setup, and a figure."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..records.speed_record import SetupPart, SpeedRecord, matches_run, setup_label
from ..utils.text import code, escape, plain, recipe_label
from .boards import Board, figure_path
from .plots import Dot, dots_sha256, draw_speed
from .rows import Row
from .tables import EMPTY, make_table

HEADERS = (
    "Method",
    "Mean AUC",
    "Parameters, M",
    "GFLOPs",
    "Latency, ms: p50",
    "p95",
    "p99",
    "Inference, images/s",
    "at batch",
    "peak GB",
    "Training, images/s: steps only",
    "data loading only",
    "end to end",
    "at batch",
    "peak GB",
)


class Timed(NamedTuple):
    """A row of a board, and the speed record of its method."""

    row: Row
    record: SpeedRecord


class SpeedSection(NamedTuple):
    """Rows of one board that were measured in one setup.

    Attributes:
        setup: the setup.
        timed: the rows, in the order of the board.
        figure: path of the figure of AUC against speed, relative to the leaderboard.
        title: of the figure.
    """

    setup: SetupPart
    timed: list[Timed]
    figure: str
    title: str

    @property
    def dots(self) -> list[Dot]:
        """The dots of the figure: rows that have both an AUC and a speed. Without any there is no figure."""
        return [
            Dot(row.name, record.best.images_per_second, row.mean("mean_auc"), *row.bounds("mean_auc"))
            for row, record in self.timed
            if record.best is not None
            and record.best.images_per_second is not None
            and not np.isnan(row.mean("mean_auc"))
        ]

    @property
    def sha256(self) -> str:
        """The hash that an up-to-date figure carries."""
        return dots_sha256(self.dots, self.title)

    def draw(self, path: Path) -> None:
        """Draw the figure."""
        draw_speed(self.dots, self.title, path)


def speed_sections(board: Board, speeds: Iterable[SpeedRecord]) -> list[SpeedSection]:
    """Group a board's rows by the setup that their speed was measured in, sorted by setup.

    Args:
        board: the board.
        speeds: all speed records.
    """
    groups = defaultdict(list)
    for record in speeds:
        for rank, row in enumerate(board.rows):
            if matches_run(record, row.first):
                groups[record.setup].append((rank, Timed(row, record)))
    sections = []
    for setup in sorted(groups, key=lambda setup: setup.model_dump_json()):
        timed = [one for _, one in sorted(groups[setup], key=lambda item: item[0])]
        figure = figure_path(board.rows, "speed", [board.key, setup.model_dump(mode="json")])
        sections.append(SpeedSection(setup, timed, figure, _figure_title(board, setup)))
    return sections


def speed_markdown(section: SpeedSection) -> list[str]:
    """Return the section's paragraphs: notes, table, figure."""
    figure = [f"![Mean AUC against inference throughput]({section.figure})"] if section.dots else []
    return [_notes(section), speed_table(section.timed), *figure]


def _figure_title(board: Board, setup: SetupPart) -> str:
    first = board.first
    recipe = "" if first.recipe is None else f", recipe {plain(recipe_label(first.recipe.name))}"
    return f"{plain(first.dataset.title)}{recipe}\n{plain(setup_label(setup))}"


def _notes(section: SpeedSection) -> str:
    """Explain the columns, and what the numbers cannot show."""
    setup = section.setup
    memory = ", ".join(sorted({escape(record.memory) for _, record in section.timed}))
    sizes = ", ".join(f"{size:,}" for size in setup.batch_sizes)
    return (
        "Measured by `chxbench speed` with random weights; unlike scores, speeds cannot be recomputed. Crops of "
        f"{setup.crop} pixels, torch {escape(setup.torch)}, {setup.threads} threads. GFLOPs: convolutions and matrix "
        "products of one image's forward pass, a multiply-add counted as two. Latency: batch size 1. Inference: at the "
        f"fastest batch size of {sizes}. Training at batch size {setup.batch_size} with {escape(setup.optimizer)}: "
        f"steps on a batch that is already on the device; reading batches of {code(setup.dataset)} without computing; "
        "and both, as in a run. If end to end is well below steps only, the device waits for data. Peak memory: "
        f"{memory}."
    )


def speed_table(timed: Iterable[Timed]) -> str:
    """Tabulate the speeds, one line per row of the board."""
    table = [
        [row.label, _three_decimals(row.mean("mean_auc")), *inference_cells(record), *training_cells(record)]
        for row, record in timed
    ]
    return make_table(HEADERS, table, "l" + "r" * (len(HEADERS) - 1))


def inference_cells(record: SpeedRecord) -> list[str]:
    """Format parameters in millions, GFLOPs, latency in ms (p50, p95, p99), and at best: images/s, batch, GB."""
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


def _three_decimals(value: float) -> str:
    return EMPTY if np.isnan(value) else f"{value:.3f}"


def _three_figures(value: float | None) -> str:
    """Round to three significant figures."""
    if value is None:
        return EMPTY
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _gigabytes(count: int | None) -> str:
    return EMPTY if count is None else f"{count / 1e9:.2f}"
