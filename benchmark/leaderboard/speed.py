"""The speed sections of a board: which speed records belong to its rows, what they say, and their figure."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..records.speed_record import SetupPart, SpeedRecord, matches_run, setup_label
from ..utils.text import code, escape, plain, recipe_label
from .plots import Dot, dots_sha256, draw_speed
from .tables import EMPTY, Row, make_table

HEADERS = ("Method", "Mean AUC", "Parameters, M", "GFLOPs", "Latency, ms: p50", "p95", "p99")


HEADERS += ("Inference, images/s", "at batch", "peak GB", "Training: steps alone", "reading alone", "end to end")


HEADERS += ("at batch", "peak GB")


class Timed(NamedTuple):
    """A row of a board, and the record of its method's speed."""

    row: Row
    record: SpeedRecord


class SpeedSection(NamedTuple):
    """Rows of one board that were measured in one setup.

    Attributes:
        setup: the setup.
        timed: the rows, in the order of the board.
        figure: the place of the figure of AUC against speed, relative to the leaderboard.
        title: the figure's.
    """

    setup: SetupPart
    timed: list[Timed]
    figure: str
    title: str

    @property
    def dots(self) -> list[Dot]:
        """What the figure shows: the rows that have both an AUC and a speed; no figure without any."""
        return [
            Dot(row.name, record.best.images_per_second, row.mean("mean_auc"), *row.bounds("mean_auc"))
            for row, record in self.timed
            if record.best and not np.isnan(row.mean("mean_auc"))
        ]

    @property
    def sha256(self) -> str:
        """The hash that an up-to-date figure carries."""
        return dots_sha256(self.dots, self.title)

    def draw(self, path: Path) -> None:
        """The figure."""
        draw_speed(self.dots, self.title, path)


def speed_sections(rows: Sequence[Row], key: Sequence[str], speeds: Iterable[SpeedRecord]) -> list[SpeedSection]:
    """The sections of a board, sorted by setup; none where nothing on it was measured.

    Args:
        rows: of the board.
        key: what makes the board this one; names the figures.
        speeds: all speed records.
    """
    found = defaultdict(list)
    for record in speeds:
        for number, row in enumerate(rows):
            if matches_run(record, row.first):
                found[record.setup].append((number, Timed(row, record)))
    sections = []
    for setup in sorted(found, key=lambda setup: setup.model_dump_json()):
        timed = [one for _, one in sorted(found[setup], key=lambda item: item[0])]
        sections.append(SpeedSection(setup, timed, _figure_place(rows, key, setup), _figure_title(rows, setup)))
    return sections


def speed_markdown(section: SpeedSection) -> list[str]:
    """The section's paragraphs."""
    shown = [f"![Mean AUC against images per second of inference]({section.figure})"] if section.dots else []
    return [f"### Speed on {escape(setup_label(section.setup))}", _notes(section), speed_table(section.timed), *shown]


def _figure_place(rows: Sequence[Row], key: Sequence[str], setup: SetupPart) -> str:
    """In the folder of the board's dataset."""
    shown = json.dumps([key, setup.model_dump(mode="json")])
    digest = hashlib.sha256(shown.encode()).hexdigest()[:10]
    return (Path(rows[0].runs[0].place).parents[1] / f"speed-{digest}.png").as_posix()


def _figure_title(rows: Sequence[Row], setup: SetupPart) -> str:
    first = rows[0].first
    return f"{plain(first.dataset.title)}, recipe {plain(recipe_label(first.recipe.name))}\n{plain(setup_label(setup))}"


def _notes(section: SpeedSection) -> str:
    """What the numbers mean, and what they cannot show."""
    setup = section.setup
    memory = ", ".join(sorted({escape(record.memory) for _, record in section.timed}))
    sizes = ", ".join(f"{size:,}" for size in setup.batch_sizes)
    return (
        "Speed cannot be computed again from evidence: these numbers stand as `chxbench speed` measured them, with "
        f"random weights, crops of {setup.crop} pixels, torch {escape(setup.torch)} and {setup.threads} threads. "
        "GFLOPs: operations of one image's forward pass, of convolutions and matrix products alone, a multiply-add "
        "being two. Latency: one image at a time. Inference: at the batch size with the most images per second, of "
        f"{sizes}. Training, in images per second: steps of {setup.batch_size} images by {escape(setup.optimizer)} on "
        f"a batch that lies on the device; reading the batches of {code(setup.dataset)}, nothing computed; and end to "
        "end, as a run trains. Where the last is well below the first, the device waits for data. Peak memory: "
        f"{memory}."
    )


def speed_table(timed: Iterable[Timed]) -> str:
    """One line a row of the board."""
    table = [
        [row.label, _three_decimals(row.mean("mean_auc")), *inference_cells(record), *training_cells(record)]
        for row, record in timed
    ]
    return make_table(HEADERS, table, "l" + "r" * (len(HEADERS) - 1))


def inference_cells(record: SpeedRecord) -> list[str]:
    """Parameters in millions, GFLOPs, latency in ms (p50, p95, p99), best images/s, its batch, its peak in GB."""
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
    """Images/s of steps alone, reading alone and both, the batch, and the peak in GB."""
    steps = record.training
    rates = (steps.images_per_second, record.loader.images_per_second, record.end_to_end.images_per_second)
    batch = EMPTY if steps.batch_size is None else f"{steps.batch_size:,}"
    return [*map(_three_figures, rates), batch, _gigabytes(steps.peak_memory)]


def _three_decimals(value: float) -> str:
    return EMPTY if np.isnan(value) else f"{value:.3f}"


def _three_figures(value: float | None) -> str:
    """Three figures."""
    if value is None:
        return EMPTY
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _gigabytes(count: int | None) -> str:
    return EMPTY if count is None else f"{count / 1e9:.2f}"
