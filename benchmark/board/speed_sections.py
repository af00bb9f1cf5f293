"""The speed sections of a board: which speed records belong to its rows, what they say, and their figure."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..figures.board import Dot, dots_sha256, draw_speed
from ..schema import Record
from ..speed_record import SetupPart, SpeedRecord
from ..text import code, escape, plain
from .tables import Row
from .tables_speed import Timed, speed_table


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
            if belongs(record, row.first):
                found[record.setup].append((number, Timed(row, record)))
    sections = []
    for setup in sorted(found, key=lambda setup: setup.model_dump_json()):
        timed = [one for _, one in sorted(found[setup], key=lambda item: item[0])]
        sections.append(SpeedSection(setup, timed, _figure_place(rows, key, setup), _figure_title(rows, setup)))
    return sections


def speed_markdown(section: SpeedSection) -> list[str]:
    """The section's paragraphs."""
    shown = [f"![Mean AUC against images per second of inference]({section.figure})"] if section.dots else []
    return [f"### Speed on {escape(where(section.setup))}", _facts(section), speed_table(section.timed), *shown]


def belongs(speed: SpeedRecord, run: Record) -> bool:
    """Whether the speed is of the run's method with its options and crop; a plugin's source counts too."""
    mine, its = speed.method, run.method
    same = (mine.name, mine.options, mine.built_in) == (its.name, its.options, its.built_in)
    same_source = mine.built_in or mine.source_sha256 == its.source_sha256
    trained = run.recipe is not None
    return trained and same and same_source and speed.setup.crop == run.recipe["pixels"]["crop"]


def _figure_place(rows: Sequence[Row], key: Sequence[str], setup: SetupPart) -> str:
    """In the folder of the board's dataset."""
    shown = json.dumps([key, setup.model_dump(mode="json")])
    digest = hashlib.sha256(shown.encode()).hexdigest()[:10]
    return (Path(rows[0].runs[0].place).parents[1] / f"speed-{digest}.png").as_posix()


def _figure_title(rows: Sequence[Row], setup: SetupPart) -> str:
    first = rows[0].first
    return f"{plain(first.dataset.title)}, recipe {plain(Path(first.recipe['name']).name)}\n{plain(where(setup))}"


def where(setup: SetupPart) -> str:
    cores = f" ({setup.cores} cores)" if setup.kind == "cpu" else ""
    compiled = ", compiled" if setup.compiled else ""
    return f"{setup.device}{cores}, {setup.precision}, {setup.layout}{compiled}"


def _facts(section: SpeedSection) -> str:
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
