"""Which records may be ranked with each other: same dataset, labels, split and recipe.

Rows of a board are methods with their options; seeds of a row are averaged. Scores from elsewhere, of whose training
nothing is known, have boards of their own: same dataset, labels and test images.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ..recipe import recipe_identity, recipe_table
from ..records.record import RecordError
from ..records.schema import Record
from ..utils.text import recipe_label
from .tables import Row, Run, make_rows

EXTERNAL = "scores from elsewhere"


class Board(NamedTuple):
    """Rows that may be compared, and what is the same for all of them."""

    key: tuple[str, ...]
    rows: list[Row]

    @property
    def first(self) -> Record:
        return self.rows[0].first

    @property
    def is_trial(self) -> bool:
        """Whether the user let listed images be missing: such a run tries the harness, it measures no method."""
        return any(counts.absent for counts in self.first.dataset.counts.values())

    @property
    def is_trained(self) -> bool:
        """Whether its rows were trained here."""
        return self.first.submission is None


def make_boards(runs: Iterable[Run]) -> list[Board]:
    """The boards, scores from elsewhere and trials last. Raises RecordError where runs claim to be comparable."""
    found = defaultdict(list)
    for run in runs:
        found[_key(run.record)].append(run)
    for board in found.values():
        _check_same_test_set(board)
    boards = [Board(key, make_rows(board)) for key, board in found.items()]
    return sorted(boards, key=lambda board: (board.is_trial, not board.is_trained, board.key))


def heading(board: Board) -> str:
    """The board's name, plain text."""
    first = board.first
    trial = "Trial, not a benchmark result: " if board.is_trial else ""
    if first.recipe is None:
        own = "" if board.rows[0].runs[0].verified.origin.test else "own split "
        return f"{trial}{first.dataset.title}, {own}{first.dataset.split.name}: {EXTERNAL}"
    changed = ", ".join(f"{key} = {value}" for key, value in first.recipe.changed.items())
    recipe = recipe_label(first.recipe.name) + (f" with {changed}" if changed else "")
    skipped = len(first.dataset.skipped)
    left_out = f", without {skipped:,} image{'s' if skipped > 1 else ''} that cannot be read" if skipped else ""
    return f"{trial}{first.dataset.title}, recipe {recipe}{left_out}"


def ranked_by(board: Board) -> str:
    """What the ranking follows from, and how the epoch was picked; plain text."""
    ranked = "Ranked by the mean test AUC over the findings. "
    if not board.is_trained:
        return (
            ranked + "These scores were computed elsewhere and judged here: what the methods were trained on, and "
            "whether anything was chosen on these test images, is not known."
        )
    return (
        f"{ranked}Weights are those of {board.first.selection}; nothing is chosen on the test split. "
        "Rows whose training saw more images (all epochs of all stages) had more of everything: a gain that comes "
        "with them is not yet the method's."
    )


def _key(record: Record) -> tuple[str, ...]:
    dataset = record.dataset
    asked = dataset.split.sha256, dataset.labels.sha256
    if record.recipe is None:  # options that change neither images nor labels change nothing for scores from elsewhere
        return dataset.name, EXTERNAL, *asked
    recipe = recipe_identity(recipe_table(record.recipe))
    return dataset.name, recipe, *asked, json.dumps(dataset.options, sort_keys=True)


def _check_same_test_set(board: list[Run]) -> None:
    """Runs of a board were scored on the same images with the same labels, and no seed counts twice."""
    first, *rest = board
    for run in rest:
        if run.verified.truth != first.verified.truth:
            raise RecordError(
                f"{run.place} and {first.place} claim one split, but were scored on other images or labels"
            )
    boxed = {run.verified.boxes: run for run in board if run.verified.boxes}
    if len(boxed) > 1:
        one, other, *_ = (run.place for run in boxed.values())
        raise RecordError(f"{one} and {other} claim one split, but were localised against other boxes")
    for row in make_rows(board):
        seeds = [run.record.seed for run in row.runs]
        if len(set(seeds)) < len(seeds):
            places = ", ".join(run.place for run in row.runs)
            raise RecordError(
                f"a seed of {row.runs[0].record.method.name} stands twice on a board ({places}): remove one"
            )
