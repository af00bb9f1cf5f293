"""Records to tables to leaderboard.md: recomputed from the scores, never trusted, never edited by hand.

A board holds the runs that may be compared: same dataset, labels, split and recipe. Rows are methods with their
options; seeds of a row are averaged. What papers report stands in tables of its own.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from . import evidence, speed_record, tables, tables_localization
from . import record as records
from .environment import cores
from .errors import UserError
from .figures import draw_roc, draw_speed, drawn_from
from .literature import literature_sections
from .options import as_typed
from .recipe import SECTIONS, identity
from .record import RecordError
from .schema import Record
from .speed_board import SpeedSection, speed_markdown, speed_sections
from .speed_record import SpeedRecord
from .tables import Row, Run, make_rows
from .text import code, escape

MARK = "<!-- Written by `chxbench leaderboard` from the records under results/. Do not edit. -->"

STEPS = (
    "Paired differences of the mean AUC, on the same draws of patients; brackets hold their 95 % intervals, over the "
    "test set and not over seeds. A gain that comes with more training images is no evidence for a method."
)


class Board(NamedTuple):
    """Rows that may be compared, and what is the same for all of them."""

    key: tuple[str, ...]
    rows: list[Row]


def leaderboard_path(results: Path) -> Path:
    """leaderboard.md lies beside the results folder."""
    return results.resolve().parent / "leaderboard.md"


def write_leaderboard(results: Path, path: Path) -> None:
    """Regenerate the leaderboard from all records, and figures that do not show theirs.

    Raises:
        UserError: a record that lies, or a file that is not ours.
    """
    refuse_foreign(path)
    runs, speeds = read_runs(results, path.parent), read_speeds(results)
    text = render(runs, speeds)
    for run in runs:
        folder = path.parent / run.place
        if drawn_from(folder / "roc.png") != run.record.scores.sha256:
            draw_roc(run.record, run.table, folder / "roc.png")
        _check_heatmaps(run, folder)
    for figure, section in _speed_figures(results, path.parent, runs, speeds).items():
        if section is None:
            figure.unlink()
        elif drawn_from(figure) != section.sha256:
            draw_speed(section.dots, section.title, figure)
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def refuse_foreign(path: Path) -> None:
    """Raises UserError if there is a file at `path` that was not generated: it would be overwritten."""
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MARK):
        raise UserError(f"{path} was not written by chxbench leaderboard: move it away, or choose another --results")


def check_leaderboard(results: Path, path: Path) -> int:
    """Verify every record and figure and compare the leaderboard with what they give; the number of records.

    Raises:
        RecordError: for the first record, figure or line that does not follow from the scores.
    """
    runs, speeds = read_runs(results, path.parent), read_speeds(results)
    for run in runs:
        folder = path.parent / run.place
        if drawn_from(folder / "roc.png") != run.record.scores.sha256:
            raise RecordError(
                f"{run.place}/roc.png does not show this record's scores: run `chxbench leaderboard` again"
            )
        _check_heatmaps(run, folder)
    for figure, section in _speed_figures(results, path.parent, runs, speeds).items():
        if section is None:
            raise RecordError(f"{figure} shows a board that is gone: run `chxbench leaderboard` again")
        if drawn_from(figure) != section.sha256:
            raise RecordError(f"{figure} does not show its board's speeds: run `chxbench leaderboard` again")
    there = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, (is_there, wanted) in enumerate(_side_by_side(there, render(runs, speeds).splitlines()), start=1):
        if is_there != wanted:
            raise RecordError(
                f"{path}, line {number} is {is_there!r}, the records give {wanted!r}: run `chxbench leaderboard` again"
            )
    return len(runs)


def read_runs(results: Path, base: Path) -> list[Run]:
    """All records under `results`, each verified against its scores; places are relative to `base`."""
    if not results.is_dir():
        raise UserError(f"there is no results folder {results}: say where the records lie with --results DIR")
    with ThreadPoolExecutor(cores()) as pool:  # in order, so that the first record that lies is the one that is named
        return list(pool.map(lambda folder: _read_run(folder, base), records.find(results.resolve())))


def read_speeds(results: Path) -> list[SpeedRecord]:
    """All speed records under `results`. Raises RecordError for one that was changed or lies in a wrong place."""
    return [speed_record.read(path) for path in speed_record.find(results.resolve())]


def _read_run(folder: Path, base: Path) -> Run:
    record = records.read(folder)
    named = (record.dataset.name, record.method.name, record.run_id)
    if folder.parts[-3:] != named:
        raise RecordError(f"{folder} holds the record of {'/'.join(named)}: move it to that folder")
    table, maps = records.verify(folder, record)
    boxes = None if maps is None else evidence.boxes_sha256(maps)
    return Run(record, folder.relative_to(base.resolve()).as_posix(), evidence.members_sha256(table), boxes, table)


def _check_heatmaps(run: Run, folder: Path) -> None:
    """The one figure that cannot be drawn again here, because it needs the images."""
    localization = run.record.localization
    if localization is not None and drawn_from(folder / "heatmaps.png") != localization.sha256:
        raise RecordError(f"{run.place}/heatmaps.png does not show this record's heatmaps: restore it, or run again")


def render(runs: Sequence[Run], speeds: Sequence[SpeedRecord] = ()) -> str:
    """The whole leaderboard as Markdown."""
    sections = [MARK, "# Leaderboard", _introduction(len(runs))]
    for board in make_boards(runs):
        sections += _board(board, speeds)
    return "\n\n".join([*sections, *literature_sections()]) + "\n"


def make_boards(runs: Iterable[Run]) -> list[Board]:
    """The boards, trials last. Raises RecordError where runs claim to be comparable and are not."""
    boards = defaultdict(list)
    for run in runs:
        boards[_board_key(run.record)].append(run)
    for board in boards.values():
        _refuse_strangers(board)
    order = sorted(boards, key=lambda key: (_is_trial(boards[key][0].record), key))
    return [Board(key, make_rows(boards[key])) for key in order]


def _speed_figures(
    results: Path, base: Path, runs: Iterable[Run], speeds: Sequence[SpeedRecord]
) -> dict[Path, SpeedSection | None]:
    """Every figure of speeds that is there or should be, and what it has to show; None for one that nothing shows."""
    there = dict.fromkeys(sorted(results.resolve().glob("*/speed-*.png")))
    sections = (section for board in make_boards(runs) for section in speed_sections(board.rows, board.key, speeds))
    return {**there, **{base.resolve() / section.figure: section for section in sections if section.dots}}


def _refuse_strangers(board: list[Run]) -> None:
    """Runs of a board were scored on the same images with the same labels, and no seed counts twice."""
    first, *rest = board
    for run in rest:
        if run.members != first.members:
            raise RecordError(
                f"{run.place} and {first.place} claim one split, but were scored on other images or labels"
            )
    boxed = {run.boxes: run for run in board if run.boxes}
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


def _introduction(count: int) -> str:
    return (
        f"{count} run{'s' if count != 1 else ''}, every number computed again from its `scores.parquet` and "
        "`maps.npz`. "
        "A board ranks only runs on the same images, labels, split and recipe. AUC is the area under the ROC curve on "
        "the test split; brackets hold 95 % intervals from resampled patients (with several seeds: the mean of their "
        "bounds). A finding without positives or without negatives in the test split has no AUC and is left out of "
        "the mean. Single seeds with overlapping intervals are not different. In the table by finding, the highest "
        "value of a row is bold."
    )


def _board_key(record: Record) -> tuple[str, ...]:
    dataset = record.dataset
    options = json.dumps(dataset.options, sort_keys=True)
    return dataset.name, identity(record.recipe), dataset.split.sha256, dataset.labels.sha256, options


def _board(board: Board, speeds: Sequence[SpeedRecord]) -> list[str]:
    rows = board.rows
    first = rows[0].first
    changed = ", ".join(f"{key} = {value}" for key, value in first.recipe["changed"].items())
    recipe = Path(first.recipe["name"]).name + (f" with {changed}" if changed else "")
    trial = "Trial, not a benchmark result: " if _is_trial(first) else ""
    sections = [
        f"## {trial}{escape(first.dataset.title)}, recipe {escape(recipe)}",
        _board_facts(first),
        tables.ranking(rows),
    ]
    if steps := tables.make_steps(rows):
        sections += [
            "### What each step adds",
            STEPS,
            tables.ladder(steps),
            tables.in_words(steps, first.dataset.caveat),
        ]
    sections += ["### AUC by finding", tables.by_finding(rows, first)]
    if localized := [row for row in rows if all(run.record.localization for run in row.runs)]:
        sections += [
            "### Localisation",
            _localization_facts(localized[0].first),
            tables_localization.localization(localized),
        ]
        sections += [tables_localization.localization_in_words(localized)]
        sections += ["Acc at IoBB > 0.25 by finding:", tables_localization.localization_by_finding(localized)]
    for speed in speed_sections(rows, board.key, speeds):
        sections += speed_markdown(speed)
    return [*sections, "### Runs", tables.run_table(rows)]


def _is_trial(record: Record) -> bool:
    """Whether the user let listed images be missing: such a run tries the harness, it measures no method."""
    return any(counts.absent for counts in record.dataset.counts.values())


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


def _board_facts(record: Record) -> str:
    counts = "; ".join(
        f"{split} {part.images:,} images of {part.patients:,} patients"
        + (f" ({part.absent:,} listed images absent)" if part.absent else "")
        for split, part in record.dataset.counts.items()
    )
    labels, split = record.dataset.labels, record.dataset.split
    return "\n".join(
        [
            "Ranked by the mean test AUC over the findings. "
            f"Weights are those of {escape(record.selection)}; nothing is chosen on the test split. "
            "Rows whose training saw more images (all epochs of all stages) had more of everything: a gain that comes "
            "with them is not yet the method's.\n",
            f"- images: {counts}",
            f"- labels: {escape(labels.version)}, {code(labels.file)}, SHA-256 {code(labels.sha256[:12])}",
            f"- split: {escape(split.name)}, SHA-256 {code(split.sha256[:12])}",
            f"- recipe: {code(_settings(record))}",
        ]
    )


def _settings(record: Record) -> str:
    """All settings of the recipe as run: two files of one name may differ."""
    sections = ((section, record.recipe[section]) for section in SECTIONS)
    return "; ".join(f"{name} " + " ".join(f"{k}={as_typed(v)}" for k, v in part.items()) for name, part in sections)


def _side_by_side(there: list[str], wanted: list[str]) -> Iterable[tuple[str | None, str | None]]:
    for k in range(max(len(there), len(wanted))):
        yield there[k] if k < len(there) else None, wanted[k] if k < len(wanted) else None
