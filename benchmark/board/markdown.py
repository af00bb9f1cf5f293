"""A board as Markdown: what it holds, what it ranks by, its tables and what they mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import first_few
from ..options import as_typed
from ..recipe import SECTIONS
from ..schema import Record
from ..speed_record import SpeedRecord
from ..text import code, escape
from . import tables, tables_localization, tables_statistics, tables_steps
from .boards import Board, heading, ranked_by
from .pictures import auc_figure
from .speed_sections import speed_markdown, speed_sections
from .tables import Row

STEPS = (
    "Paired differences of the mean AUC, on the same draws of patients; brackets hold their 95 % intervals, over the "
    "test set and not over seeds. A gain that comes with more training images is no evidence for a method."
)


def introduction(count: int) -> str:
    """What stands above all boards."""
    return (
        f"{count} record{'s' if count != 1 else ''}, every number computed again from its `scores.parquet` and "
        "`maps.npz`. "
        "A board ranks only runs on the same images, labels, split and recipe. AUC is the area under the ROC curve on "
        "the test split; brackets hold 95 % intervals from resampled patients (with several seeds: the mean of their "
        "bounds, and behind their number the range of their values). A finding without positives or without negatives "
        "in the test split has no AUC and is left out of the mean. Whether two intervals overlap says little about a "
        "difference: paired differences do, below or by `chxbench compare`. Controls are there to be compared with and "
        "have no rank. In the table by finding, the highest value of a row is bold."
    )


def board_markdown(board: Board, speeds: Sequence[SpeedRecord]) -> list[str]:
    """The paragraphs of a board.

    Args:
        board: the board.
        speeds: all speed records.
    """
    rows = board.rows
    sections = [f"## {escape(heading(board))}", facts(board), tables.ranking(rows), *_differences_left_out(rows)]
    sections += [f"![Mean AUC of each method with its 95 % interval]({auc_figure(board)})"]
    if steps := tables_steps.make_steps(rows):
        sections += ["### What each step adds", STEPS, tables_steps.ladder(steps)]
        sections += [f"**In one sentence:** {tables_steps.in_words(steps, escape(board.first.dataset.caveat))}"]
    sections += ["### AUC by finding", tables.by_finding(rows, board.first)]
    sections += ["### Beyond the AUC", tables_statistics.statistics_facts(rows), tables_statistics.statistics(rows)]
    if groups := tables_statistics.subgroups(rows):
        sections += ["Mean AUC within groups of the test images, over the findings that are defined there:", groups]
    sections += _localization(rows)
    for speed in speed_sections(rows, board.key, speeds):
        sections += speed_markdown(speed)
    return [*sections, "### Runs" if board.is_trained else "### Files", tables.run_table(rows)]


def facts(board: Board) -> str:
    """What the board ranks by, and what is the same for all its rows."""
    record, origin = board.first, board.rows[0].runs[0].verified.origin
    counts = "; ".join(
        f"{split} {part.images:,} images of {part.patients:,} patients"
        + (f" ({part.absent:,} listed images absent)" if part.absent else "")
        for split, part in record.dataset.counts.items()
        if board.is_trained or split == "test"
    )
    labels, split = record.dataset.labels, record.dataset.split
    known = ", whose hash is known" if origin.labels else ""
    test = f"; the test images are the {escape(origin.test)} list, whose hash is known" if origin.test else ""
    lines = [
        f"{escape(ranked_by(board))}\n",
        f"- images: {counts}{test}",
        f"- labels: {escape(labels.version)}{known}, {code(labels.file)}, SHA-256 {code(labels.sha256[:12])}",
        f"- split: {escape(split.name)}, SHA-256 {code(split.sha256[:12])}",
        f"- labels and split were compared {origin.checked}"
        if origin.checked
        else "- that these images have these labels was not checked here, where the label file is not at hand: "
        "`chxbench verify RUN --data-dir DIR` does",
    ]
    if record.dataset.skipped:
        lines.append(f"- left out, because they cannot be read: {code(first_few(record.dataset.skipped))}")
    if record.recipe is not None:
        lines.append(f"- recipe: {code(_settings(record.recipe))}")
    return "\n".join(lines)


def _differences_left_out(rows: Sequence[Row]) -> list[str]:
    """Why a reported value stands without a difference, where one does."""
    if all(row.repeats(row.reported) for row in rows if row.reported):
        return []
    return [
        "A difference to a reported value is given only on the same list of test images with the same version of the "
        "labels; what else differs (training, seeds, picked epoch) the papers do not always say."
    ]


def _localization(rows: Sequence[Row]) -> list[str]:
    localized = [row for row in rows if all(run.record.localization for run in row.runs)]
    if not localized:
        return []
    return [
        "### Localisation",
        _localization_facts(localized[0].first),
        tables_localization.localization(localized),
        tables_localization.localization_in_words(localized),
        "Acc at IoBB > 0.25 by finding:",
        tables_localization.localization_by_finding(localized),
    ]


def _localization_facts(record: Record) -> str:
    found = record.localization
    return (
        f"{found.mean.boxes:,} boxes of {found.mean.findings} findings on {found.images:,} test images; means over "
        "these findings. Heatmaps are normalised per image and cut at 60 and 180 of 255; each connected region is a "
        "box (Wang et al. 2017). Acc: the share of true boxes that a found box meets so well; IoBB is the intersection "
        "over the found box. AFP: found boxes that meet none, over all true boxes. Pointing game: of the images with "
        "boxes of a finding, the share where the highest place of its heatmap lies in one of them. Brackets hold 95 % "
        "intervals from resampled patients. A heatmap is worth what it scores above the floors. All levels stand in "
        "the records."
    )


def _settings(recipe: Mapping[str, Any]) -> str:
    """All settings of the recipe as run: two files of one name may differ."""
    sections = ((section, recipe[section]) for section in SECTIONS)
    return "; ".join(f"{name} " + " ".join(f"{k}={as_typed(v)}" for k, v in part.items()) for name, part in sections)
