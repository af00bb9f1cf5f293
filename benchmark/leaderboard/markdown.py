"""The leaderboard page in Markdown: contents, boards, and values reported by papers.

Of a board, the page shows the ranking, one figure, the paired differences, the AUC by finding and the localization
means. Everything else is folded into `<details>`, so that a page of a hundred records can still be read.
"""

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..dataset import FINDINGS
from ..recipe import SECTIONS, recipe_table
from ..records.speed_record import SpeedRecord, setup_label
from ..utils.errors import first_few
from ..utils.options import format_value
from ..utils.text import code, display_name, escape, plain
from .ablation import ablation_table, paired_differences, summarize
from .boards import Board, heading, ranked_by
from .figure_files import auc_figure
from .literature import literature
from .localization import (
    MAIN_IOBB,
    localization_by_finding,
    localization_table,
    other_levels_table,
    summarize_localization,
)
from .rows import Row
from .run_list import run_list
from .secondary_metrics import secondary_metrics, secondary_metrics_notes, subgroup_table
from .speed import speed_markdown, speed_sections
from .tables import (
    EMPTY,
    MAX_METHOD_COLUMNS,
    best_in_bold,
    by_finding,
    by_finding_of_all,
    make_table,
    ranking,
    with_interval,
)

READING_NOTES = """\
- **Boards.** A board ranks only runs on the same images, labels, split and recipe.
- **AUC.** Area under the ROC curve on the test split. A finding without positives or without negatives there has no \
AUC and is left out of the mean.
- **Brackets.** 95 % intervals over resampled patients. With several seeds, a row shows the mean of their values and \
of their interval bounds, and after the number of seeds the range of their values.
- **Comparing methods.** Overlapping intervals say little about a difference; paired differences do, here or from \
`chxbench compare`.
- **Controls** are shown for comparison and have no rank.
- **Bold** is the highest value of a finding.\
"""
ABLATION_NOTES = (
    "Paired differences of the mean AUC over the same resampled patients. The intervals cover the choice of test "
    "patients, not of seeds, and are not corrected for multiple comparisons."
)
LOCALIZATION_NOTES = (
    "Protocol of Wang et al. 2017: heatmaps are normalized per image and thresholded at 60 and at 180 of 255; the "
    "bounding box of each connected region is a predicted box. Acc: share of true boxes that a predicted box overlaps "
    "by more than the threshold. IoBB: intersection over the predicted box. AFP: predicted boxes that overlap none, "
    "per true box. Pointing game: share of image-finding pairs with the maximum of the heatmap inside a true box. The "
    "records hold all thresholds."
)


def introduction(count: int) -> str:
    """Introduce the page.

    Args:
        count: number of records.
    """
    return "\n\n".join(
        [
            f"{count:,} record{'s' if count != 1 else ''}. Every number is recomputed from the published scores "
            "(`scores.parquet`) and heatmaps (`maps.npz`).",
            *_details("How to read the tables", READING_NOTES),
        ]
    )


def contents(boards: Sequence[Board]) -> list[str]:
    """Return a table of contents, with each board's best method; empty for fewer than two boards."""
    if len(boards) < 2:
        return []
    table = [
        [f"[{escape(heading(board))}](#{anchor})", *_best(board)]
        for board, anchor in zip(boards, _anchors([heading(board) for board in boards]), strict=True)
    ]
    return [make_table(["Board", "Methods", "Best method", "Mean AUC [95 % CI]"], table, "lrll")]


def _best(board: Board) -> list[str]:
    """Return the number of methods, controls left out, and the best one with its mean AUC."""
    ranked = [row for row in board.rows if not row.is_control]
    if not ranked or (mean := with_interval(ranked[0], "mean_auc")) == EMPTY:
        return [str(len(ranked)), EMPTY, EMPTY]
    return [str(len(ranked)), ranked[0].label, mean]


def _anchors(headings: Sequence[str]) -> list[str]:
    """Return the anchors that GitHub gives to headings; repeated ones are numbered."""
    seen: Counter[str] = Counter()
    anchors = []
    for text in headings:
        anchor = re.sub(r"[^\w\- ]", "", plain(text).strip().lower()).replace(" ", "-")
        anchors.append(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return anchors


def board_markdown(board: Board, speeds: Sequence[SpeedRecord]) -> list[str]:
    """Return the paragraphs of a board.

    Args:
        board: the board.
        speeds: all speed records.
    """
    rows = board.rows
    return [
        f"## {escape(heading(board))}",
        f"{_test_images(board)} {escape(ranked_by(board))}",
        ranking(rows),
        *_reported_notes(rows),
        f"![Mean AUC of each method with its 95 % interval]({auc_figure(board)})",
        *_ablation(board),
        *_by_finding(rows),
        *_localization(rows),
        *_details("Data, labels, split and recipe", facts(board)),
        *_secondary(rows),
        *(
            part
            for section in speed_sections(board, speeds)
            for part in _details(f"Speed on {setup_label(section.setup)}", *speed_markdown(section))
        ),
        *_details("Runs, files and commands" if board.is_trained else "Files and commands", *run_list(rows)),
    ]


def facts(board: Board) -> str:
    """List what all rows of a board have in common: images, labels, split, recipe, and how they were checked."""
    record, origin = board.first, board.rows[0].runs[0].verified.origin
    counts = "; ".join(
        f"{split} {part.images:,} images of {part.patients:,} patients"
        + (f" ({part.absent:,} listed images absent)" if part.absent else "")
        for split, part in record.dataset.counts.items()
        if board.is_trained or split == "test"
    )
    labels, split = record.dataset.labels, record.dataset.split
    recognized = ", recognized by hash" if origin.labels else ""
    test = f"; the test images are the {escape(origin.test)} list, recognized by hash" if origin.test else ""
    lines = [
        f"- images: {counts}{test}",
        f"- labels: {escape(labels.version)}{recognized}, {code(labels.file)}, SHA-256 {code(labels.sha256[:12])}",
        f"- split: {escape(split.name)}, SHA-256 {code(split.sha256[:12])}",
        f"- labels and split were compared {origin.checked}"
        if origin.checked
        else "- labels of these images not compared with the label file, which is not part of the records: "
        "`chxbench verify RUN --data-dir DIR` does that",
    ]
    if record.dataset.skipped:
        lines.append(f"- left out as unreadable: {code(first_few(record.dataset.skipped))}")
    if record.recipe is not None:
        lines.append(f"- recipe: {code(_settings(recipe_table(record.recipe)))}")
    return "\n".join(lines)


def _test_images(board: Board) -> str:
    """Count the test images, which are all that external predictions have in common."""
    counts = board.first.dataset.counts["test"]
    return f"{counts.images:,} test images of {counts.patients:,} patients."


def _reported_notes(rows: Sequence[Row]) -> list[str]:
    """Explain why a reported value has no difference, where one has none."""
    if all(row.same_protocol(row.reported) for row in rows if row.reported):
        return []
    return [
        "A difference to a reported value is given only for the same test images and label version; papers do not "
        "always state what else differs (training, seeds, epoch selection)."
    ]


def _ablation(board: Board) -> list[str]:
    pairs = paired_differences(board.rows)
    if not pairs:
        return []
    summary = summarize(pairs, escape(board.first.dataset.caveat))
    return ["### Paired differences (ablation)", ABLATION_NOTES, ablation_table(pairs), f"**Summary:** {summary}"]


def _by_finding(rows: Sequence[Row]) -> list[str]:
    note = [text] if (text := _first_rows(rows).strip()) else []
    complete = by_finding_of_all(rows)
    return [
        "### AUC by finding",
        *note,
        by_finding(rows),
        *(_details(f"AUC by finding, all {len(rows)} rows", complete) if complete else []),
    ]


def _localization(rows: Sequence[Row]) -> list[str]:
    localized = [row for row in rows if row.localizations]
    if not localized:
        return []
    part, shown = localized[0].localizations[0], localized[:MAX_METHOD_COLUMNS]
    return [
        "### Localization",
        f"{part.mean.boxes:,} boxes of {part.mean.findings} findings on {part.images:,} test images; means over these "
        f"findings. A heatmap is worth what it scores above the baselines.{_first_rows(localized)}",
        localization_table(shown),
        summarize_localization(localized),
        *_details(
            "Localization protocol, other levels of overlap, and accuracy by finding",
            LOCALIZATION_NOTES,
            *([localization_table(localized)] if len(shown) < len(localized) else []),
            other_levels_table(localized),
            f"Acc at IoBB > {MAIN_IOBB:g} by finding:",
            localization_by_finding(localized),
        ),
    ]


def _first_rows(rows: Sequence[Row]) -> str:
    """State that a table shows the first rows only, where that is so."""
    count = len(rows)
    return f" The first {MAX_METHOD_COLUMNS} of {count} rows of the ranking." if count > MAX_METHOD_COLUMNS else ""


def _secondary(rows: Sequence[Row]) -> list[str]:
    parts = [secondary_metrics_notes(rows), secondary_metrics(rows)]
    if groups := subgroup_table(rows):
        parts += ["Mean AUC in subgroups of the test images, over the findings that are defined there:", groups]
    return _details(
        "Secondary metrics: average precision, calibration, sensitivity" + (", subgroups" if groups else ""), *parts
    )


def _details(summary: str, *parts: str) -> list[str]:
    """Fold paragraphs of Markdown under a summary of plain text.

    GitHub reads the paragraphs as Markdown only after a blank line: callers join all paragraphs by one.
    """
    return [f"<details><summary>{html.escape(plain(summary), quote=False)}</summary>", *parts, "</details>"]


def _settings(recipe: Mapping[str, Any]) -> str:
    """List all settings of a recipe as run: two files of one name may differ."""
    sections = ((section, recipe[section]) for section in SECTIONS)
    return "; ".join(
        f"{name} " + " ".join(f"{k}={format_value(v)}" for k, v in part.items()) for name, part in sections
    )


def literature_sections() -> list[str]:
    """Return the paragraphs of reported values: Table 1 of Ma et al., then means by split."""
    table = literature()
    complete = table[table[list(FINDINGS)].notna().all(axis=1)]
    sections = [
        "## Reported by the papers",
        "Not measured here, and not comparable with boards of another dataset, split or recipe.",
        *_details(
            "ChestX-ray14, official split: Table 1 of Ma et al. 2019, by finding",
            "As printed; the means are computed from the rows.",
            _complete_table(complete),
        ),
    ]
    means = table.drop(complete.index).sort_values("mean_auc", ascending=False)
    for split, group in means.groupby("split"):
        cells = [[escape(row.title), f"{row.mean_auc:.3f}", escape(row.source)] for row in group.itertuples()]
        sections += _details(f"Mean AUC, {split}", make_table(["Method", "Mean AUC", "Source"], cells, "lrl"))
    return sections


def _complete_table(methods: pd.DataFrame) -> str:
    """Tabulate methods whose papers print every finding."""
    columns = {finding: escape(display_name(finding)) for finding in FINDINGS}
    columns |= {"mean_auc": "Mean", "mean_auc_without_hernia": "Mean without Hernia"}
    cells = [[title, *best_in_bold(methods[column].tolist(), 4)] for column, title in columns.items()]
    return make_table(["Finding", *map(escape, methods["title"])], cells, "l" + "r" * len(methods))
