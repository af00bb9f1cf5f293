"""Write the leaderboard page in Markdown: contents, boards, and values reported by papers.

For each board, the page shows the ranking, a figure, the paired differences, the AUC per finding and the localization
means. Everything else is folded into `<details>` to keep a page of a hundred records readable.
"""

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from ..dataset import FINDINGS
from ..evaluation.localization import MAIN_IOBB
from ..metrics.intervals import MIN_PATIENTS, MIN_PATIENTS_IN_MEAN, Statistic
from ..recipe import SECTIONS
from ..records.schema import Counts
from ..records.speed_record import SpeedRecord, setup_label
from ..utils.errors import first_few
from ..utils.options import format_value
from ..utils.text import code, count, display_name, escape, link, plain
from .ablation import (
    ablation_table,
    floor_sentences,
    null_sentence,
    paired_differences,
    ranked_rows,
    summary_list,
)
from .boards import Board, heading, higher_floor, ranked_by, shared_settings
from .figure_files import auc_figure
from .literature import literature
from .localization import (
    localization_by_finding,
    localization_table,
    other_levels_table,
    summarize_localization,
)
from .rows import SAME_BUDGET, Row
from .run_list import run_list
from .secondary_metrics import secondary_metrics, secondary_metrics_notes, subgroup_table
from .speed import speed_markdown, speed_sections
from .tables import (
    EMPTY,
    MAX_METHOD_COLUMNS,
    by_finding,
    by_finding_of_all,
    decimals,
    make_table,
    ranking,
    with_interval,
)

READING_NOTES = """\
- **Boards.** A board ranks only runs on the same images, labels, split and recipe.
- **AUC.** Area under the ROC curve on the test split. A finding without positives or without negatives there has no \
AUC and is excluded from the mean.
- **Brackets.** 95 % intervals of the expected value over test patients and training seeds; the value of another test \
split or seed may be outside. The variance between seeds is estimated from all rows of a board together. Where no \
method has two seeds, intervals are over test patients alone, and nothing follows about methods. Those of floors and \
external predictions, which have no seeds, are over test patients alone as well. A number of a method or floor in a \
column with brackets has none if it is 0, 1 or constant, or depends on too few patients: fewer than {min_patients} \
with or without a finding, or fewer than {min_in_mean} for a finding of a mean; for the Brier score, fewer than \
{min_patients} with any finding. Sensitivity, calibration error, AFP and the baselines of localization have none.
- **Rank.** 95 % interval of the rank among the methods of equal training budget, whose number follows. Methods that \
are not significantly different share ranks: all pairs among them are tested but those that are listed as not tested, \
and p are corrected for the number of these tests (Holm 1979), within each budget. Without two seeds, a method has no \
rank. Rows are sorted by mean AUC.
- **Seeds (range).** The number of seeds, and the lowest and highest mean AUC among them.
- **Images trained on.** The training budget: images that the scored network was trained on, over all epochs, with \
repeated ones, since it last started from the initial weights. Budgets within {same_budget:.0f} % are equal. \
**Of all stages** counts those of earlier stages too, whose networks only selected examples: the cost.
- **Comparing methods.** Overlapping intervals say little about a difference. Use the paired differences, on this page \
or from `chxbench compare`.
- **Floors** are scores that need no network: logistic regressions on thumbnails of 8x8 cells (gray value and local \
contrast) and on age, sex and view position, and the prevalence (`chxbench baselines`).
- **Controls** are trained like a method without the part that they control for, and are ranked like methods.\
"""
ABLATION_NOTES = (
    "Differences of the mean AUC on the same test patients. Intervals and p are over test patients and training seeds, "
    "and are not corrected for the number of comparisons."
)
SUMMARY = "**Summary:**"
TESTED = (
    "Tests are over test patients and, with two seeds, training seeds, and are corrected for the number of methods "
    "(Holm 1979), separately for each metric and baseline"
)
LOCALIZATION_LEGEND = (
    "Means over the findings with boxes. Pointing game: fraction of image-finding pairs with the heatmap maximum "
    "inside a ground-truth box. Acc: fraction of ground-truth boxes that a predicted box overlaps by more than the "
    "threshold. IoBB: intersection over the area of the predicted box. AFP (average false positives): predicted boxes "
    "that overlap no ground-truth box by more than the threshold, per ground-truth box; lower is better. The baselines "
    "do not see the image: a heatmap shows what its method adds only where it is above the boxes of other patients."
)
LOCALIZATION_NOTES = (
    "Protocol of Wang et al. 2017: heatmaps are normalized per image and thresholded at 60 and at 180 of 255; the "
    "bounding box of each connected region is a predicted box. IoU: intersection over union of predicted and "
    "ground-truth box. The random baseline is the mean over several seeds. The boxes of other patients: a map of where "
    "the finding is on the images of all other patients, which does not see the image. The records contain all overlap "
    "thresholds."
)


def introduction(boards: Sequence[Board]) -> str:
    """Return the introduction of the page: the numbers of records and how to read the tables."""
    notes = READING_NOTES.format(
        min_patients=MIN_PATIENTS, min_in_mean=MIN_PATIENTS_IN_MEAN, same_budget=100 * SAME_BUDGET
    )
    return "\n\n".join(
        [
            f"{_record_counts(boards)}. All AUCs, secondary metrics and localization scores are recomputed from "
            "the published scores (`scores.parquet`) and heatmaps (`maps.npz`).",
            *_details("How to read the tables", notes),
        ]
    )


def _record_counts(boards: Sequence[Board]) -> str:
    """Count runs, external predictions and floors; a floor may be on several boards."""
    rows = [(board, row) for board in boards for row in board.rows]
    floors = {run.folder for board in boards for row in board.floors for run in row.runs}
    counts = {
        ("run", "runs"): sum(len(row.runs) for board, row in rows if board.is_trained),
        ("set of external predictions", "sets of external predictions"): sum(not board.is_trained for board, _ in rows),
        ("floor", "floors"): len(floors),
    }
    return " and ".join(count(number, *noun) for noun, number in counts.items() if number) or count(0, "run")


def contents(boards: Sequence[Board]) -> list[str]:
    """Return a table of contents with the highest mean AUC of each board; empty for fewer than two boards."""
    if len(boards) < 2:
        return []
    table = [
        [f"[{escape(heading(board))}](#{anchor})", *_highest(board)]
        for board, anchor in zip(boards, _anchors([heading(board) for board in boards]), strict=True)
    ]
    headers = ["Board", "Methods", "Highest mean AUC of a method [95 % CI]", "Method", "Highest floor"]
    return [make_table(headers, table, "lrlll")]


def _highest(board: Board) -> list[str]:
    """Return the number of methods and of controls, the highest mean AUC of a method, and the highest floor."""
    methods = [row for row in board.rows if not row.is_control]
    controls = len(board.rows) - len(methods)
    size = f"{len(methods)} + {count(controls, 'control')}" if controls else str(len(methods))
    best = [with_interval(methods[0].interval("mean_auc")), methods[0].label] if methods else [EMPTY] * 2
    floor = f"{decimals(board.floors[0].mean_auc)}, {board.floors[0].label}" if board.floors else EMPTY
    return [size, *best, floor]


def _anchors(headings: Sequence[str]) -> list[str]:
    """Return the anchors that GitHub generates for headings; repeated headings are numbered."""
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
        board: board to format.
        speeds: all speed records.
    """
    rows = board.rows
    return [
        f"## {escape(heading(board))}",
        " ".join(filter(None, (_test_images(board), escape(higher_floor(board)), escape(ranked_by(board))))),
        _ranking(board),
        *_floors(board),
        *_reported_notes(rows),
        "!" + link("Mean AUC of each method with its 95 % interval", auc_figure(board)),
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


def _ranking(board: Board) -> str:
    """Tabulate the methods with their ranks, and the floors among them by mean AUC."""
    ranked = ranked_rows(board.rows, board.floors)
    return ranking([row for row, _ in ranked], [rank for _, rank in ranked])


def _floors(board: Board) -> list[str]:
    """Return sentences on how the methods compare with the floors; empty without floors."""
    items: list[str] = []
    for floor in board.floors:
        (found,) = floor.statistics("mean_auc")
        items += floor_sentences(board.rows, "mean_auc", partial(_first, found), ("Mean AUC", floor.label))
    return [f"Floors need no network. {TESTED}:", "\n".join(items)] if items else []


def _first(statistic: Statistic, _: Row) -> Statistic:
    return statistic


def facts(board: Board) -> str:
    """List what all rows of a board share: images, labels, split and recipe, and how labels and split were verified."""
    record, origin = board.first, board.rows[0].runs[0].verified.origin
    counts = "; ".join(
        f"{split} {_image_count(part)}" + (f" ({count(part.absent, 'listed image')} missing)" if part.absent else "")
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
        f"- labels and split: compared {origin.checked}"
        if origin.checked
        else "- labels of these images: not compared with the label file, which is not part of the records; "
        "`chxbench verify RUN --data-dir DIR` compares them",
    ]
    if record.dataset.skipped:
        lines.append(f"- unreadable images, excluded: {code(first_few(record.dataset.skipped))}")
    if record.recipe is not None:
        lines.append(f"- recipe: {code(_settings(shared_settings(record.recipe)))}")
    return "\n".join(lines)


def _test_images(board: Board) -> str:
    return f"{_image_count(board.first.dataset.counts['test'], 'test image')}."


def _image_count(counts: Counts, noun: str = "image") -> str:
    return f"{count(counts.images, noun)} of {count(counts.patients, 'patient')}"


def _reported_notes(rows: Sequence[Row]) -> list[str]:
    """Explain why some reported values have no difference; empty if all have one."""
    if all(row.same_protocol(row.reported) for row in rows if row.reported):
        return []
    return [
        "A difference from a reported value is given only for the same test images and label version. Papers do not "
        "always state other differences, such as training, seeds and epoch selection."
    ]


def _ablation(board: Board) -> list[str]:
    pairs = paired_differences(board.rows)
    if not pairs:
        return []
    summary = summary_list(pairs, escape(board.first.dataset.caveat))
    check = null_sentence(board.rows)
    notes = f"{ABLATION_NOTES} {check}".strip()
    return ["### Paired differences (ablation)", notes, ablation_table(pairs), SUMMARY, summary]


def _by_finding(rows: Sequence[Row]) -> list[str]:
    note = [text] if (text := _first_rows(rows).strip()) else []
    complete = by_finding_of_all(rows)
    return [
        "### AUC per finding",
        *note,
        by_finding(rows),
        *(_details(f"AUC per finding, all {len(rows)} rows", complete) if complete else []),
    ]


def _localization(rows: Sequence[Row]) -> list[str]:
    localized = [row for row in rows if row.localizations]
    if not localized:
        return []
    part, shown = localized[0].localizations[0], localized[:MAX_METHOD_COLUMNS]
    return [
        "### Localization",
        f"{count(part.mean.boxes, 'box', 'boxes')} of {count(part.mean.findings, 'finding')} on "
        f"{count(part.images, 'test image')}. {LOCALIZATION_LEGEND}{_first_rows(localized)}",
        localization_table(shown),
        f"**Summary.** {TESTED}:",
        summarize_localization(localized),
        *_details(
            "Localization protocol, other overlap thresholds, and accuracy per finding",
            LOCALIZATION_NOTES,
            *([localization_table(localized)] if len(shown) < len(localized) else []),
            other_levels_table(localized),
            f"Acc at IoBB > {MAIN_IOBB:g} per finding:",
            localization_by_finding(localized),
        ),
    ]


def _first_rows(rows: Sequence[Row]) -> str:
    """State that a table shows only the first rows; empty if it shows all."""
    total = len(rows)
    return f" The first {MAX_METHOD_COLUMNS} of {total} rows of the ranking." if total > MAX_METHOD_COLUMNS else ""


def _secondary(rows: Sequence[Row]) -> list[str]:
    parts = [secondary_metrics_notes(rows), secondary_metrics(rows)]
    if groups := subgroup_table(rows):
        parts += [
            "Mean AUC in subgroups of the test images, over the findings with a defined AUC in the subgroup:",
            groups,
        ]
    return _details(
        "Secondary metrics: average precision, calibration, sensitivity" + (", subgroups" if groups else ""), *parts
    )


def _details(summary: str, *parts: str) -> list[str]:
    """Fold paragraphs of Markdown under a summary of plain text.

    The summary is in an HTML block, where Markdown is not parsed; only HTML has to be escaped. GitHub parses the
    paragraphs as Markdown only after a blank line, so callers must join all paragraphs with one.
    """
    return [f"<details><summary>{html.escape(plain(summary), quote=False)}</summary>", *parts, "</details>"]


def _settings(recipe: Mapping[str, Any]) -> str:
    """List all settings of a recipe, because recipe files of the same name may differ."""
    sections = ((section, recipe[section]) for section in SECTIONS)
    return "; ".join(
        f"{name} " + " ".join(f"{k}={format_value(v)}" for k, v in part.items()) for name, part in sections
    )


def literature_sections() -> list[str]:
    """Return the paragraphs of reported values: Table 1 of Ma et al. 2019, then means per split."""
    table = literature()
    complete = table[table[list(FINDINGS)].notna().all(axis=1)]
    sections = [
        "## Reported by the papers",
        "Not measured here, and not comparable with boards of a different dataset, split or recipe.",
        *_details(
            "ChestX-ray14, official split: Table 1 of Ma et al. 2019, per finding",
            "Values as printed. The means are computed from the rows.",
            _complete_table(complete),
        ),
    ]
    means = table.drop(complete.index).sort_values("mean_auc", ascending=False)
    for split, group in means.groupby("split"):
        sections += _details(f"Mean AUC, {split}", _means_table(group))
    return sections


def _means_table(means: pd.DataFrame) -> str:
    cells = [[escape(row.title), f"{row.mean_auc:.3f}", escape(row.source)] for row in means.itertuples()]
    return make_table(["Method", "Mean AUC", "Source"], cells, "lrl")


def _complete_table(methods: pd.DataFrame) -> str:
    """Tabulate methods with a reported AUC for every finding."""
    columns = {finding: escape(display_name(finding)) for finding in FINDINGS}
    columns |= {"mean_auc": "Mean", "mean_auc_without_hernia": "Mean without Hernia"}
    cells = [[title, *(decimals(value, 4) for value in methods[column])] for column, title in columns.items()]
    return make_table(["Finding", *map(escape, methods["title"])], cells, "l" + "r" * len(methods))
