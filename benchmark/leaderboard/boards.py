"""Boards: groups of comparable records with the same dataset, labels, split and recipe.

The rows of a board are methods with their options; the seeds of a row are averaged. External predictions, whose
training is unknown, are ranked on separate boards with the same dataset, labels and test images.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..recipe import Recipe, recipe_identity, recipe_table
from ..records.record import RecordError
from ..records.schema import Record
from ..utils.files import json_sha256
from ..utils.text import count, recipe_label
from .rows import BUDGET, Row, Run, make_rows

EXTERNAL = "external predictions"


class Board(NamedTuple):
    """Comparable rows and their common key, and floors on the same test images.

    Attributes:
        key: what the rows have in common.
        rows: the methods, sorted by mean AUC.
        floors: scores that need no network, sorted by mean AUC; they may be on several boards.
    """

    key: tuple[str, ...]
    rows: list[Row]
    floors: list[Row]

    @property
    def first(self) -> Record:
        """The record of the first run, whose dataset, labels, split and recipe all rows share."""
        return self.rows[0].first

    @property
    def is_trial(self) -> bool:
        """Whether listed images were missing: such runs test the harness and do not measure methods."""
        return any(counts.absent for counts in self.first.dataset.counts.values())

    @property
    def is_trained(self) -> bool:
        """Whether the rows are runs of chxbench, rather than external predictions."""
        return self.first.submission is None


def make_boards(runs: Iterable[Run]) -> list[Board]:
    """Group runs into boards, external predictions after runs, and trials last; floors alone have no board.

    Raises:
        RecordError: if runs of the same board were evaluated on different images, labels or boxes, or a row contains a
            seed twice.
    """
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    floors: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        if run.record.method.floor:
            floors[_test_key(run)].append(run)
        else:
            groups[_key(run.record)].append(run)
    for group in (*groups.values(), *floors.values()):
        _check_same_test_set(group)
        _check_distinct_seeds(group)
    boards = [
        Board(key, make_rows(group), make_rows(floors.get(_test_key(group[0]), []))) for key, group in groups.items()
    ]
    return sorted(boards, key=lambda board: (board.is_trial, not board.is_trained, board.key))


def heading(board: Board) -> str:
    """Return the heading of a board as plain text."""
    first = board.first
    trial = "Trial, not a benchmark result: " if board.is_trial else ""
    if first.recipe is None:
        # If its hash is not recognized, the name of a test list was chosen by the user.
        custom = "" if board.rows[0].runs[0].verified.origin.test else "custom split "
        return f"{trial}{first.dataset.title}, {custom}{first.dataset.split.name}: {EXTERNAL}"
    changed = ", ".join(f"{key} = {value}" for key, value in first.recipe.changed.items() if key != BUDGET)
    recipe = recipe_label(first.recipe.name) + (f" with {changed}" if changed else "")
    skipped = len(first.dataset.skipped)
    unreadable = f", without {count(skipped, 'unreadable image')}" if skipped else ""
    return f"{trial}{first.dataset.title}, recipe {recipe}{unreadable}"


def ranked_by(board: Board) -> str:
    """Explain in plain text how the board is ranked and how the epoch was selected."""
    ranked = f"Ranked by mean test AUC over {count(board.first.mean_auc.findings, 'finding')}."
    if not board.is_trained:
        return (
            f"{ranked} These are external predictions, without seeds: intervals and tests are over test patients "
            "alone, and there are no ranks. The training data are unknown, and so is whether anything was selected on "
            "these test images."
        )
    return (
        f"{ranked} Weights are those of {board.first.selection}; chxbench selects no checkpoint or threshold on the "
        "test split. A gain that comes with more training images is not evidence for a method."
    )


def higher_floor(board: Board) -> str:
    """State in plain text that a floor is above the best method; empty if none is."""
    floors = [floor for floor in board.floors if floor.mean_auc > board.rows[0].mean_auc]
    if not floors:
        return ""
    return (
        f"The highest mean AUC, {floors[0].mean_auc:.3f}, is that of a floor, which needs no network: {floors[0].name}."
    )


def figure_path(rows: Sequence[Row], name: str, identity: object) -> str:
    """Return the path of a board's figure relative to the leaderboard, named after a hash of its identity.

    Args:
        rows: rows of the board; the figure is in the folder of their dataset.
        name: prefix of the file name.
        identity: JSON-serializable value that distinguishes the figure from others.
    """
    digest = json_sha256(identity)[:10]
    return (Path(rows[0].runs[0].folder).parents[1] / f"{name}-{digest}.png").as_posix()


def _key(record: Record) -> tuple[str, ...]:
    dataset = record.dataset
    data = dataset.split.sha256, dataset.labels.sha256
    if record.recipe is None or record.weights is None:  # dataset options matter only if they change images or labels
        return dataset.name, EXTERNAL, *data
    return (
        dataset.name,
        _recipe_identity(record.recipe, record.weights.file_sha256),
        *data,
        json.dumps(dataset.options, sort_keys=True),
    )


def _test_key(run: Run) -> tuple[str, ...]:
    """Return what a floor must have in common with a board: the dataset, its labels, and the test images."""
    return run.record.dataset.name, run.record.dataset.labels.sha256, run.verified.test


def shared_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that the rows of a board have in common, by section."""
    table = recipe_table(recipe)
    section, key = BUDGET.split(".")
    del table[section][key]
    return table


def _recipe_identity(recipe: Recipe, weights_sha256: str | None) -> str:
    """Hash the settings of a recipe except for the budget; a file of initial weights counts by its content."""
    table = shared_settings(recipe)
    if weights_sha256:
        table["model"]["weights"] = weights_sha256
    return recipe_identity(table)


def _check_same_test_set(runs: Sequence[Run]) -> None:
    """Check that runs with the same key were evaluated on the same images, labels and boxes."""
    first, *rest = runs
    for run in rest:
        if run.verified.ground_truth != first.verified.ground_truth:
            raise RecordError(
                f"{run.folder} and {first.folder} have the same split hash, but were evaluated on different images or "
                "labels: remove the incorrect record"
            )
    by_boxes = {run.verified.boxes: run for run in runs if run.verified.boxes}
    if len(by_boxes) > 1:
        folder, conflicting, *_ = (run.folder for run in by_boxes.values())
        raise RecordError(
            f"{folder} and {conflicting} have the same split hash, but were localized against different boxes: remove "
            "the incorrect record"
        )


def _check_distinct_seeds(runs: Sequence[Run]) -> None:
    """Check that no row has two runs with the same seed."""
    for row in make_rows(runs):
        seeds = [run.record.seed for run in row.runs]
        if len(set(seeds)) < len(seeds):
            folders = ", ".join(run.folder for run in row.runs)
            raise RecordError(f"{row.first.method.name} has a seed twice on the same board ({folders}): remove one")
