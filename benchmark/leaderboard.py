"""Records to tables to leaderboard.md: recomputed from the scores, never trusted, never edited by hand.

A board holds the runs that may be compared: same dataset, labels, split and recipe. Rows are methods with their
options; seeds of a row are averaged. What papers report stands in tables of its own.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from . import record as records
from .dataset import FINDINGS
from .errors import UserError
from .figures import draw_roc, drawn_from
from .options import as_typed
from .recipe import SECTIONS, identity
from .record import Record, RecordError
from .text import code, escape, plain

LITERATURE = Path(__file__).parent / "literature.csv"
MARK = "<!-- Written by `chxbench leaderboard` from the records under results/. Do not edit. -->"
NOTHING = "–"


class Run(NamedTuple):
    """A verified record, the folder it lies in, relative to the leaderboard, and the digest of what it was asked."""

    record: Record
    place: str
    members: str


class Row(NamedTuple):
    """A method with its options, and its runs with different seeds."""

    label: str
    runs: list[Run]

    def values(self, name: str) -> np.ndarray:
        """One number a seed: a finding's AUC, or "mean_auc", "mean_auc_without_hernia"; NaN where undefined."""
        found = [_interval(run.record, name).value for run in self.runs]
        return np.array([np.nan if value is None else value for value in found])

    def mean(self, name: str) -> float:
        """Mean over the seeds; NaN where any is undefined."""
        return float(self.values(name).mean())


def leaderboard_path(results: Path) -> Path:
    """leaderboard.md lies beside the results folder."""
    return results.resolve().parent / "leaderboard.md"


def write_leaderboard(results: Path, path: Path) -> None:
    """Regenerate the leaderboard from all records, and figures that do not show theirs.

    Raises:
        UserError: a record that lies, or a file that is not ours.
    """
    refuse_foreign(path)
    runs = read_runs(results, path.parent)
    text = render(runs)
    for record, place, _ in runs:
        folder = path.parent / place
        if drawn_from(folder / "roc.png") != record.scores.sha256:
            draw_roc(record, records.read_scores(folder, record), folder / "roc.png")
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
    runs = read_runs(results, path.parent)
    for record, place, _ in runs:
        if drawn_from(path.parent / place / "roc.png") != record.scores.sha256:
            raise RecordError(f"{place}/roc.png does not show this record's scores: run `chxbench leaderboard` again")
    there = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, (is_there, wanted) in enumerate(_side_by_side(there, render(runs).splitlines()), start=1):
        if is_there != wanted:
            raise RecordError(
                f"{path}, line {number} is {is_there!r}, the records give {wanted!r}: run `chxbench leaderboard` again"
            )
    return len(runs)


def read_runs(results: Path, base: Path) -> list[Run]:
    """All records under `results`, each verified against its scores; places are relative to `base`."""
    if not results.is_dir():
        raise UserError(f"there is no results folder {results}: say where the records lie with --results DIR")
    runs = []
    for folder in records.find(results.resolve()):
        record = records.read(folder)
        named = (record.dataset.name, record.method.name, record.run_id)
        if folder.parts[-3:] != named:
            raise RecordError(f"{folder} holds the record of {'/'.join(named)}: move it to that folder")
        members = records.members_sha256(records.verify(folder, record))
        runs.append(Run(record, folder.relative_to(base.resolve()).as_posix(), members))
    return runs


def render(runs: Sequence[Run]) -> str:
    """The whole leaderboard as Markdown."""
    boards = defaultdict(list)
    for run in runs:
        boards[_board_key(run.record)].append(run)
    for board in boards.values():
        _refuse_strangers(board)
    sections = [MARK, "# Leaderboard", _introduction(len(runs))]
    for key in sorted(boards):
        sections += _board(_rows(boards[key]))
    return "\n\n".join([*sections, *_literature()]) + "\n"


def _refuse_strangers(board: list[Run]) -> None:
    """Runs of a board were scored on the same images with the same labels, and no seed counts twice."""
    first, *rest = board
    for run in rest:
        if run.members != first.members:
            raise RecordError(
                f"{run.place} and {first.place} claim one split, but were scored on other images or labels"
            )
    for row in _rows(board):
        seeds = [run.record.seed for run in row.runs]
        if len(set(seeds)) < len(seeds):
            places = ", ".join(run.place for run in row.runs)
            raise RecordError(
                f"a seed of {row.runs[0].record.method.name} stands twice on a board ({places}): remove one"
            )


def _introduction(count: int) -> str:
    return (
        f"{count} run{'s' if count != 1 else ''}, every number computed again from its `scores.parquet`. "
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


def _rows(runs: Iterable[Run]) -> list[Row]:
    rows = defaultdict(list)
    for run in runs:
        method = run.record.method
        source = "" if method.built_in else method.source_sha256
        rows[method.name, json.dumps(method.options, sort_keys=True), source].append(run)
    made = [Row(_label(group[0].record), sorted(group, key=lambda run: run.record.seed)) for group in rows.values()]
    return sorted(made, key=lambda row: (-np.nan_to_num(row.mean("mean_auc"), nan=-1), row.label))


def _label(record: Record) -> str:
    changed = ", ".join(f"{key}={value}" for key, value in record.method.changed.items())
    plugin = "" if record.method.built_in else f"plugin {record.method.source_sha256[:7]}"
    told = ", ".join(part for part in (changed, plugin) if part)
    return escape(record.method.title) + (f" ({code(told)})" if told else "")


def _board(rows: list[Row]) -> list[str]:
    first = rows[0].runs[0].record
    changed = ", ".join(f"{key} = {value}" for key, value in first.recipe["changed"].items())
    recipe = Path(first.recipe["name"]).name + (f" with {changed}" if changed else "")
    return [
        f"## {escape(first.dataset.title)}, recipe {escape(recipe)}",
        _board_facts(first),
        _ranking(rows),
        "### AUC by finding",
        _by_finding(rows, first),
        "### Runs",
        _run_table(rows),
    ]


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


def _ranking(rows: list[Row]) -> str:
    table = []
    for number, row in enumerate(rows, start=1):
        values = row.values("mean_auc")
        seeds = f"{len(values)}" + (f" ({values.min():.3f} to {values.max():.3f})" if len(values) > 1 else "")
        means = [_with_interval(row, "mean_auc"), _with_interval(row, "mean_auc_without_hernia")]
        over = row.runs[0].record.mean_auc.findings
        seen = sum(stage.examples * stage.epochs for stage in row.runs[0].record.stages)
        table.append([number, row.label, *means, over, seeds, f"{seen:,}"])
    headers = ["#", "Method", "Mean AUC", "without Hernia", "Findings", "Seeds", "Images trained on"]
    return _table(headers, table, "rlllrlr")


def _by_finding(rows: list[Row], first: Record) -> str:
    table = []
    for finding, auc in first.auc.items():
        means = [row.mean(finding) for row in rows]
        table.append([escape(finding.replace("_", " ")), auc.positives, *_best_in_bold(means)])
    for name, title in (("mean_auc", "Mean"), ("mean_auc_without_hernia", "Mean without Hernia")):
        table.append([title, "", *_best_in_bold([row.mean(name) for row in rows])])
    headers = ["Finding", "Test positives", *(row.label for row in rows)]
    return _table(headers, table, "lr" + "r" * len(rows))


def _run_table(rows: list[Row]) -> str:
    table = []
    for row in rows:
        for record, place, _ in row.runs:
            hardware = record.environment.hardware
            where = f"{hardware.get('device')} ({hardware.get('cores')} cores), {record.environment.precision}"
            links = f"[record]({place}/run.json), [ROC]({place}/roc.png)"
            table.append([row.label, record.seed, _stages(record), escape(where), _code_state(record), links])
    made = _table(["Method", "Seed", "Stages", "Trained on", "Code", "Files"], table, "lrllll")
    commands = "\n".join(plain(run.record.command) for row in rows for run in row.runs)
    fence = "`" * (3 + max((len(ticks) for ticks in re.findall("`+", commands)), default=0))
    return f"{made}\n\nTo run them again:\n\n{fence}console\n{commands}\n{fence}"


def _stages(record: Record) -> str:
    told = []
    for stage in record.stages:
        hard = stage.hard_positives
        extra = f" ({hard['images']:,} images have missed positives)" if hard else ""
        told.append(
            f"{escape(stage.name)}: {stage.examples:,} images{extra}, epoch {stage.best_epoch} of {stage.epochs}, "
            f"{stage.images_per_second:,.0f} images/s"
        )
    return "<br>".join(told)


def _code_state(record: Record) -> str:
    if not record.method.built_in:
        return f"plugin {code(record.method.source_sha256[:10])}"
    commit, dirty = record.environment.code.get("commit"), record.environment.code.get("dirty")
    if not commit:
        return f"version {escape(record.environment.versions.get('chxbench', '?'))}"
    return code(str(commit)[:10]) + (" + changes" if dirty else "")


def _literature() -> list[str]:
    reported = pd.read_csv(LITERATURE)
    whole = reported[reported[list(FINDINGS)].notna().all(axis=1)]
    rest = reported.drop(whole.index)
    by_finding = [[escape(f.replace("_", " ")), *_best_in_bold(whole[f].tolist(), 4)] for f in FINDINGS]
    for column, title in (("mean_auc", "Mean"), ("mean_auc_without_hernia", "Mean without Hernia")):
        by_finding.append([title, *_best_in_bold(whole[column].tolist(), 4)])
    sections = [
        "## Reported by the papers",
        "Not measured here. ChestX-ray14, as printed in Table 1 of Ma et al. 2019 (official split; means computed from "
        "the rows). These numbers are no yardstick for boards of another dataset, split or recipe.",
        _table(["Finding", *map(escape, whole["title"])], by_finding, "l" + "r" * len(whole)),
    ]
    for split, group in rest.sort_values("mean_auc", ascending=False).groupby("split"):
        table = [[escape(row.title), f"{row.mean_auc:.3f}", escape(row.source)] for row in group.itertuples()]
        sections += [
            f"Means reported, {escape(split)}:",
            _table(["Method", "Mean AUC", "Source"], table, "lrl"),
        ]
    return sections


def _interval(record: Record, name: str) -> records.Interval:
    return record.auc[name] if name in record.auc else getattr(record, name)


def _with_interval(row: Row, name: str) -> str:
    if np.isnan(row.mean(name)):
        return NOTHING
    bounds = np.array([[interval.low, interval.high] for interval in (_interval(run.record, name) for run in row.runs)])
    low, high = bounds.mean(axis=0)
    return f"{row.mean(name):.3f} [{low:.3f}, {high:.3f}]"


def _best_in_bold(values: Sequence[float], digits: int = 3) -> list[str]:
    texts = [NOTHING if np.isnan(value) else f"{value:.{digits}f}" for value in values]
    best = max((text for text in texts if text != NOTHING), default=None)
    return [f"**{text}**" if text == best and len(texts) > 1 else text for text in texts]


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]], align: str) -> str:
    sides = [{"l": "left", "r": "right"}[side] for side in align]
    return tabulate(rows, headers, tablefmt="pipe", colalign=sides if rows else None, disable_numparse=True)


def _side_by_side(there: list[str], wanted: list[str]) -> Iterable[tuple[str | None, str | None]]:
    for k in range(max(len(there), len(wanted))):
        yield there[k] if k < len(there) else None, wanted[k] if k < len(wanted) else None
