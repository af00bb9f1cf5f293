"""The runs of a board: where their files are, how they were trained, and the commands that repeat them."""

import re
from collections.abc import Sequence

from ..records.schema import Record
from ..utils.text import code, escape, plain
from .rows import Row, Run
from .tables import make_table


def run_list(rows: Sequence[Row]) -> list[str]:
    """Return paragraphs: a table with one line per run, and the commands that repeat the runs."""
    is_trained = rows[0].first.submission is None
    table = [
        [row.label, *_origin(run.record), _code_state(run.record), _links(run)] for row in rows for run in row.runs
    ]
    headers = ["Method", *(["Seed", "Stages", "Hardware"] if is_trained else ["Predictions"]), "Code", "Files"]
    again = "To run them again:" if is_trained else "To evaluate them again:"
    return [make_table(headers, table, "lrllll" if is_trained else "llll"), again, _commands(rows)]


def _commands(rows: Sequence[Row]) -> str:
    """Fence the commands with more backticks than any of them has, so that none ends the block."""
    commands = "\n".join(plain(run.record.command) for row in rows for run in row.runs)
    fence = "`" * (3 + max((len(ticks) for ticks in re.findall("`+", commands)), default=0))
    return f"{fence}console\n{commands}\n{fence}"


def _links(run: Run) -> str:
    files = {"record": "run.json", "ROC": "roc.png"}
    if run.record.localization is not None:
        files["heatmaps"] = "heatmaps.png"
    return ", ".join(f"[{name}]({run.folder}/{file})" for name, file in files.items())


def _origin(record: Record) -> list[object]:
    """Return seed, stages and hardware of a run, or the file that external predictions were read from."""
    if record.submission is not None:
        file = record.submission
        return [f"{code(file.file)}, SHA-256 {code(file.sha256[:12])}, as {file.scale}"]
    hardware = record.environment.hardware
    where = f"{hardware.get('device')} ({hardware.get('cores')} cores), {record.environment.precision}"
    if hardware.get("processes", 1) != 1:
        where += f", {hardware['processes']} processes, BatchNorm {hardware.get('batch_norm')}"
    return [record.seed, _stages(record), escape(where)]


def _stages(record: Record) -> str:
    lines = []
    for stage in record.stages:
        hard = stage.hard_positives
        positive = record.dataset.counts["train"].with_finding
        repeated = f" (repeats {hard['images']:,} of {positive:,} with a finding)" if hard else ""
        lines.append(
            f"{escape(stage.name)}: {stage.examples:,} images{repeated}, epoch {stage.best_epoch} of {stage.epochs}, "
            f"{stage.images_per_second:,.0f} images/s"
        )
    return "<br>".join(lines)


def _code_state(record: Record) -> str:
    """Name the code that ran: a plugin's hash, a commit, or a version where no commit is known."""
    if not record.method.built_in and record.submission is None:
        return f"plugin {code(record.method.source_sha256[:10])}"
    commit, modified = record.environment.code.commit, record.environment.code.dirty
    if not commit:
        return f"version {escape(record.environment.versions.get('chxbench', '?'))}"
    return code(str(commit)[:10]) + (" + changes" if modified else "")
