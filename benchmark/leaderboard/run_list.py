"""List the runs of a board: their files, training and commands."""

import re
from collections.abc import Sequence

from ..records.schema import Record, StagePart
from ..utils.text import code, count, escape, link, plain
from .rows import Row, Run
from .tables import make_table


def run_list(rows: Sequence[Row]) -> list[str]:
    """Return a table with one line per run, and the commands of the runs."""
    is_trained = rows[0].first.submission is None
    table = [
        [row.label, *_origin(run.record), _code_state(run.record), _links(run)] for row in rows for run in row.runs
    ]
    headers = ["Method", *(["Seed", "Stages", "Hardware"] if is_trained else ["Predictions"]), "Code", "Files"]
    again = "Commands to repeat the runs:" if is_trained else "Commands to repeat the evaluation:"
    return [make_table(headers, table, "lrllll" if is_trained else "llll"), again, _commands(rows)]


def _commands(rows: Sequence[Row]) -> str:
    """Format the commands as a code block, with a fence longer than any run of backticks in them."""
    commands = "\n".join(plain(run.record.command) for row in rows for run in row.runs)
    fence = "`" * (3 + max((len(ticks) for ticks in re.findall("`+", commands)), default=0))
    return f"{fence}console\n{commands}\n{fence}"


def _links(run: Run) -> str:
    files = {"record": "run.json", "ROC": "roc.png"}
    if run.record.localization is not None:
        files["heatmaps"] = "heatmaps.png"
    links = [link(name, f"{run.folder}/{file}") for name, file in files.items()]
    problem = run.record.localization_problem
    return ", ".join([*links, *([f"no heatmaps: {escape(problem)}"] if problem else [])])


def _origin(record: Record) -> list[object]:
    """Return seed, stages and hardware of a run, or the file of external predictions."""
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
        repeated = f" ({hard['images']:,} of {positive:,} with a finding repeated)" if hard else ""
        lines.append(
            f"{escape(stage.name)}: {count(stage.examples, 'image')}{repeated}, "
            f"epoch {stage.best_epoch} of {stage.epochs}{_validated(stage)}, {stage.images_per_second:,.0f} images/s"
        )
    lines += [f"{escape(check.name)}: {check.value:.2g}" for check in record.part_checks]
    return "<br>".join(lines)


def _validated(stage: StagePart) -> str:
    """Return the validation AUC of the last two epochs, which tells whether training converged."""
    values = [value for value in stage.validation_auc[-2:] if value is not None]
    return f", validation AUC {' to '.join(f'{value:.3f}' for value in values)}" if values else ""


def _code_state(record: Record) -> str:
    """Return the identity of the code: the hash of a plugin, the commit, or the version if no commit is known."""
    if not record.method.built_in and record.submission is None:
        return f"plugin {code(record.method.source_sha256[:10])}"
    commit, modified = record.environment.code.commit, record.environment.code.dirty
    if not commit:
        return f"version {escape(record.environment.versions.get('chxbench', '?'))}"
    return code(str(commit)[:10]) + (" + changes" if modified else "")
