"""Boards: the records that may be ranked with each other, on the same dataset, labels, split and recipe.

Rows of a board are methods with their options; the seeds of a row are averaged. External predictions, whose training is
unknown, have boards of their own: same dataset, labels and test images.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..recipe import recipe_identity, recipe_table
from ..records.record import RecordError
from ..records.schema import Record
from ..utils.files import json_sha256
from ..utils.text import recipe_label
from .rows import Row, Run, make_rows

EXTERNAL = "external predictions"


class Board(NamedTuple):
    """Comparable rows, and the key that they share."""

    key: tuple[str, ...]
    rows: list[Row]

    @property
    def first(self) -> Record:
        """The record of the first run; its dataset, labels, split and recipe are those of all."""
        return self.rows[0].first

    @property
    def is_trial(self) -> bool:
        """Whether listed images were allowed to be missing: such a run tests the harness, it measures no method."""
        return any(counts.absent for counts in self.first.dataset.counts.values())

    @property
    def is_trained(self) -> bool:
        """Whether its rows are runs of chxbench, not external predictions."""
        return self.first.submission is None


def make_boards(runs: Iterable[Run]) -> list[Board]:
    """Group runs into boards, external predictions after runs, and trials last.

    Raises:
        RecordError: runs of one board were not evaluated on the same images, labels or boxes, or repeat a seed.
    """
    groups = defaultdict(list)
    for run in runs:
        groups[_key(run.record)].append(run)
    for group in groups.values():
        _check_same_test_set(group)
        _check_distinct_seeds(group)
    boards = [Board(key, make_rows(group)) for key, group in groups.items()]
    return sorted(boards, key=lambda board: (board.is_trial, not board.is_trained, board.key))


def heading(board: Board) -> str:
    """Name the board in plain text."""
    first = board.first
    trial = "Trial, not a benchmark result: " if board.is_trial else ""
    if first.recipe is None:
        # A test list that is not recognized by its hash has only the name that the user gave it.
        own = "" if board.rows[0].runs[0].verified.origin.test else "own split "
        return f"{trial}{first.dataset.title}, {own}{first.dataset.split.name}: {EXTERNAL}"
    changed = ", ".join(f"{key} = {value}" for key, value in first.recipe.changed.items())
    recipe = recipe_label(first.recipe.name) + (f" with {changed}" if changed else "")
    skipped = len(first.dataset.skipped)
    unreadable = f", without {skipped:,} unreadable image{'s' if skipped > 1 else ''}" if skipped else ""
    return f"{trial}{first.dataset.title}, recipe {recipe}{unreadable}"


def ranked_by(board: Board) -> str:
    """Explain in plain text what the ranking is based on, and how the epoch was selected."""
    findings = board.first.mean_auc.findings
    ranked = f"Ranked by mean test AUC over {findings} finding{'s' if findings != 1 else ''}."
    if not board.is_trained:
        return (
            f"{ranked} These are external predictions, evaluated here: what the methods were trained on, and whether "
            "anything was selected on these test images, is unknown."
        )
    return (
        f"{ranked} Weights are those of {board.first.selection}; nothing is selected on the test split. A gain that "
        "comes with more training images (all epochs of all stages) is not evidence for a method."
    )


def figure_path(rows: Sequence[Row], name: str, identity: object) -> str:
    """Name a board's figure, relative to the leaderboard, after a hash of what makes it this one.

    Args:
        rows: of the board; the figure is in the folder of their dataset.
        name: what the figure shows.
        identity: what JSON can hold.
    """
    digest = json_sha256(identity)[:10]
    return (Path(rows[0].runs[0].folder).parents[1] / f"{name}-{digest}.png").as_posix()


def _key(record: Record) -> tuple[str, ...]:
    dataset = record.dataset
    data = dataset.split.sha256, dataset.labels.sha256
    if record.recipe is None:  # options that change neither images nor labels change nothing for external predictions
        return dataset.name, EXTERNAL, *data
    return (
        dataset.name,
        recipe_identity(recipe_table(record.recipe)),
        *data,
        json.dumps(dataset.options, sort_keys=True),
    )


def _check_same_test_set(runs: Sequence[Run]) -> None:
    """Check that runs with one key were evaluated on the same images, labels and boxes."""
    first, *rest = runs
    for run in rest:
        if run.verified.ground_truth != first.verified.ground_truth:
            raise RecordError(
                f"{run.folder} and {first.folder} name the same split, but were evaluated on different images or "
                "labels: remove the one that does not belong to it"
            )
    by_boxes = {run.verified.boxes: run for run in runs if run.verified.boxes}
    if len(by_boxes) > 1:
        one, other, *_ = (run.folder for run in by_boxes.values())
        raise RecordError(
            f"{one} and {other} name the same split, but were localized against different boxes: remove the one that "
            "does not belong to it"
        )


def _check_distinct_seeds(runs: Sequence[Run]) -> None:
    """Check that no seed of a row counts twice."""
    for row in make_rows(runs):
        seeds = [run.record.seed for run in row.runs]
        if len(set(seeds)) < len(seeds):
            folders = ", ".join(run.folder for run in row.runs)
            raise RecordError(f"{row.first.method.name} has a seed twice on one board ({folders}): remove one")
