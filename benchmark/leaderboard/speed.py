"""Format the speed of the rows of a board: one table and one figure per setup."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..metrics.intervals import Interval
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
    "Ratio to the baseline: latency",
    "inference",
    "end to end",
    "Other processes, % of cores",
)
COMPARED = ("latency", "inference", "end_to_end")  # quantities whose ratios are shown


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
            Dot(row.name, speed, row.mean_auc, *row.interval("mean_auc")[1:], doubtful=bool(record.doubts))
            for row, record in self.timed
            if (speed := record.quartiles("inference")) is not None and not np.isnan(row.mean_auc)
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
    setup, records = section.setup, [record for _, record in section.timed]
    memory = ", ".join(sorted({escape(record.memory) for record in records}))
    sizes = ", ".join(f"{size:,}" for size in setup.batch_sizes)
    return (
        "Measured by `chxbench speed` with random weights. Unlike AUC, speed cannot be recomputed from the record. "
        f"Crops of {setup.crop} pixels, torch {escape(setup.torch)}, {count(setup.threads, 'thread')}. GFLOPs: "
        "convolutions and matrix products in the forward pass of one image, a multiply-add counted as two. Latency: "
        f"batch size 1. Inference: the fastest batch size of {sizes}. Training at batch size {setup.batch_size} with "
        f"{escape(setup.optimizer)}. Steps only: a batch that is already on the device. Data loading only: reading "
        f"batches of {code(setup.dataset)} without computing. End to end: both, as in a run; if it is well below steps "
        f"only, the device waits for data. Peak memory: {memory}. Each round measures every method once, in another "
        f"order; medians of {_rounds(records)} rounds, in parentheses the quartiles. {_ratios(records)}"
        f"{_shared(section)}{_doubtful(section)}"
    )


def _rounds(records: Sequence[SpeedRecord]) -> str:
    return " or ".join(map(str, sorted({len(record.rounds) for record in records})))


def _ratios(records: Sequence[SpeedRecord]) -> str:
    """Name the baselines, and warn of rows that were not measured together."""
    baselines = sorted({record.baseline.method for record in records if record.baseline})
    named = f" ({', '.join(map(code, baselines))})" if baselines else ""
    text = (
        f"Ratio: to the baseline{named} in the same rounds, geometric mean with its 95 % interval (Student's t of the "
        "logarithms)."
    )
    sessions = len({record.created for record in records})
    together = f" Measured in {sessions} sessions: between them, compare the ratios only." if sessions > 1 else ""
    return text + together


def _shared(section: SpeedSection) -> str:
    """List the rows that have the same network and share its measurement; empty if there are none."""
    groups: list[list[Timed]] = []
    for timed in section.timed:
        group = next((group for group in groups if timed.record.is_shared_with(group[0].record)), None)
        if group is None:
            groups.append([timed])
        else:
            group.append(timed)
    shared = [", ".join(row.label for row, _ in group) for group in groups if len(group) > 1]
    return f" Same network, measured once: {'; '.join(shared)}." if shared else ""


def _doubtful(section: SpeedSection) -> str:
    """List the rows that cannot be compared, and why; empty if there are none."""
    doubts = [
        f"{row.label} ({', '.join(map(escape, record.doubts))})" for row, record in section.timed if record.doubts
    ]
    return f" **Not comparable:** {'; '.join(doubts)}." if doubts else ""


def speed_table(timed: Iterable[Timed]) -> str:
    """Tabulate the speed of each row of the board."""
    table = [
        [
            row.label,
            decimals(row.mean_auc),
            *latency_cells(record),
            *inference_cells(record),
            *training_cells(record),
            *ratio_cells(record),
            others_cell(record),
        ]
        for row, record in timed
    ]
    return make_table(HEADERS, table, "l" + "r" * (len(HEADERS) - 1))


def latency_cells(record: SpeedRecord, separator: str = " ") -> list[str]:
    """Format parameters in millions, GFLOPs, and latency in ms (p50, p95, p99)."""
    network, latency = record.network, record.latency
    sizes = [_three_figures(network.parameters / 1e6), _three_figures(network.flops / 1e9)]
    return [*sizes, _spread(record, "latency", separator), *map(_three_figures, (latency.p95, latency.p99))]


def inference_cells(record: SpeedRecord, separator: str = " ") -> list[str]:
    """Format images/s, batch size and GB of inference at its fastest batch size."""
    if record.fastest is None:
        return [EMPTY, EMPTY, EMPTY]
    best = record.inference[record.fastest]
    return [_spread(record, "inference", separator), _size(best.batch_size), _gigabytes(best.peak_memory)]


def training_cells(record: SpeedRecord, separator: str = " ") -> list[str]:
    """Format images/s of steps, of data loading and of both, the batch size, and peak memory in GB."""
    rates = [_spread(record, "steps", separator), _median(record, "loader"), _spread(record, "end_to_end", separator)]
    return [*rates, _size(record.training.batch_size), _gigabytes(record.training.peak_memory)]


def ratio_cells(record: SpeedRecord, separator: str = " ") -> list[str]:
    """Format the ratios of latency, inference and training end to end to those of the baseline; it has none itself."""
    if record.baseline is None:
        return [EMPTY for _ in COMPARED]
    return [ratio_text(record.ratio(record.baseline, quantity), separator) for quantity in COMPARED]


def others_cell(record: SpeedRecord) -> str:
    """Format the share of the cores' time that other processes used, in percent."""
    return EMPTY if record.others is None else f"{100 * record.others:.1f}"


def ratio_text(ratio: Interval, separator: str = " ") -> str:
    """Format a ratio with its interval."""
    if ratio.value is None:
        return EMPTY
    ends = "" if ratio.low is None else f"{separator}[{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.value:.2f}{ends}"


def _spread(record: SpeedRecord, quantity: str, separator: str) -> str:
    """Format the median of a quantity, and its quartiles in parentheses."""
    found = record.quartiles(quantity)
    if found is None:
        return EMPTY
    return f"{_three_figures(found.median)}{separator}({_three_figures(found.low)}–{_three_figures(found.high)})"


def _median(record: SpeedRecord, quantity: str) -> str:
    found = record.quartiles(quantity)
    return EMPTY if found is None else _three_figures(found.median)


def _size(size: int | None) -> str:
    return EMPTY if size is None else f"{size:,}"


def _three_figures(value: float | None) -> str:
    """Round to three significant figures."""
    if value is None:
        return EMPTY
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _gigabytes(size: int | None) -> str:
    return EMPTY if size is None else f"{size / 1e9:.2f}"
