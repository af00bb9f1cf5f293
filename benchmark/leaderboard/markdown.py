"""A board as Markdown: what it holds, what it ranks by, its tables and what they mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..dataset import FINDINGS
from ..leaderboard import ablation, localization, secondary_metrics, tables
from ..recipe import SECTIONS, recipe_table
from ..records.schema import Record
from ..records.speed_record import SpeedRecord
from ..utils.errors import first_few
from ..utils.options import format_value
from ..utils.text import code, display_name, escape
from .boards import Board, heading, ranked_by
from .figures import auc_figure
from .literature import literature
from .speed import speed_markdown, speed_sections
from .tables import Row, best_in_bold, make_table

ABLATION_NOTES = (
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
    if steps := ablation.paired_differences(rows):
        sections += ["### What each step adds", ABLATION_NOTES, ablation.ablation_table(steps)]
        sections += [f"**In one sentence:** {ablation.summarize(steps, escape(board.first.dataset.caveat))}"]
    sections += ["### AUC by finding", tables.by_finding(rows, board.first)]
    sections += [
        "### Beyond the AUC",
        secondary_metrics.secondary_metrics_notes(rows),
        secondary_metrics.secondary_metrics(rows),
    ]
    if groups := secondary_metrics.subgroup_table(rows):
        sections += ["Mean AUC within groups of the test images, over the findings that are defined there:", groups]
    sections += _localization_section(rows)
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
        lines.append(f"- recipe: {code(_settings(recipe_table(record.recipe)))}")
    return "\n".join(lines)


def _differences_left_out(rows: Sequence[Row]) -> list[str]:
    """Why a reported value stands without a difference, where one does."""
    if all(row.repeats(row.reported) for row in rows if row.reported):
        return []
    return [
        "A difference to a reported value is given only on the same list of test images with the same version of the "
        "labels; what else differs (training, seeds, picked epoch) the papers do not always say."
    ]


def _localization_section(rows: Sequence[Row]) -> list[str]:
    localized = [row for row in rows if all(run.record.localization for run in row.runs)]
    if not localized:
        return []
    return [
        "### Localisation",
        _localization_notes(localized[0].first),
        localization.localization_table(localized),
        localization.summarize_localization(localized),
        "Acc at IoBB > 0.25 by finding:",
        localization.localization_by_finding(localized),
    ]


def _localization_notes(record: Record) -> str:
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
    return "; ".join(
        f"{name} " + " ".join(f"{k}={format_value(v)}" for k, v in part.items()) for name, part in sections
    )


def literature_sections() -> list[str]:
    """Sections of Markdown: the paper's Table 1, then means that others report, by split."""
    table = literature()
    whole = table[table[list(FINDINGS)].notna().all(axis=1)]
    rest = table.drop(whole.index)
    by_finding = [[escape(display_name(f)), *best_in_bold(whole[f].tolist(), 4)] for f in FINDINGS]
    for column, title in (("mean_auc", "Mean"), ("mean_auc_without_hernia", "Mean without Hernia")):
        by_finding.append([title, *best_in_bold(whole[column].tolist(), 4)])
    sections = [
        "## Reported by the papers",
        "Not measured here. ChestX-ray14, as printed in Table 1 of Ma et al. 2019 (official split; means computed from "
        "the rows). These numbers are no yardstick for boards of another dataset, split or recipe.",
        make_table(["Finding", *map(escape, whole["title"])], by_finding, "l" + "r" * len(whole)),
    ]
    for split, group in rest.sort_values("mean_auc", ascending=False).groupby("split"):
        cells = [[escape(row.title), f"{row.mean_auc:.3f}", escape(row.source)] for row in group.itertuples()]
        sections += [
            f"Means reported, {escape(split)}:",
            make_table(["Method", "Mean AUC", "Source"], cells, "lrl"),
        ]
    return sections
