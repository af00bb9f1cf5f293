"""What the commands print on standard output: a run's table, and the plugins there are."""

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin, get_type_hints

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .board.tables_speed import inference_cells, training_cells
from .leaderboard import leaderboard_path
from .options import as_typed, describe
from .recipe import SECTIONS, load_recipe, recipe_names
from .registry import DATASETS, METHODS, Registry
from .schema import Interval, LocalizationPart, Record
from .source import SKIP
from .speed_record import SpeedRecord, place
from .text import plain
from .verify import Verdict

if TYPE_CHECKING:
    from .inference import Answer


def report_run(record: Record, place: Path, results: Path) -> None:
    """The per-finding table of a run or of scores from elsewhere, its means, and where everything lies."""
    console = Console(highlight=False)
    split = record.dataset.counts["test"]
    tested = f"{split.images:,} test images of {split.patients:,} patients"
    headline = plain(f"{record.method.title} on {record.dataset.title}, {tested}")
    console.print(headline, markup=False, soft_wrap=True)
    table = Table("Finding")
    for heading in ("Positives", "AUC", "95 % interval"):
        table.add_column(heading, justify="right")
    for finding, auc in record.auc.items():
        table.add_row(finding.replace("_", " "), f"{auc.positives:,}", *_texts(auc))
    table.add_section()
    table.add_row("Mean", f"of {record.mean_auc.findings}", *_texts(record.mean_auc), style="bold")
    without = record.mean_auc_without_hernia
    table.add_row("Mean without Hernia", f"of {without.findings}", *_texts(without))
    console.print(table)
    places = {"record": place / "run.json", "scores": place / "scores.parquet", "ROC curves": place / "roc.png"}
    if record.localization:
        console.print(_localization(record.localization))
        places["heatmaps"] = place / "heatmaps.png"
    places["leaderboard"] = leaderboard_path(results)
    for name, path in places.items():
        console.print(f"{name:<12} {path}", markup=False, soft_wrap=True)
    if record.source is not None:  # whoever computed the scores has the network
        return
    ask = f"chxbench predict IMAGE --run {leaderboard_path(results).with_name('runs') / record.run_id}"
    console.print(f"to ask it    {ask}", markup=False, soft_wrap=True)


def report_verdict(verdict: Verdict) -> None:
    """Each check with its outcome, then the command that makes the record again."""
    console = Console(highlight=False)
    table = Table("Check", "Outcome", "Found", box=box.SIMPLE_HEAD, pad_edge=False)
    styles = {"holds": "green", "fails": "bold red", "not checked": "yellow"}
    for check in verdict.checks:
        outcome = Text(check.outcome, styles[check.outcome])
        table.add_row(check.what, outcome, Text(plain(check.told), overflow="fold"))
    console.print(table)
    if verdict.record:
        console.print(f"made by      {plain(verdict.record.command)}", markup=False, soft_wrap=True)


def _localization(found: LocalizationPart) -> Table:
    """How the boxes were found, beside what noise and a box in the middle of every image would find."""
    mean = found.mean
    table = Table(f"Localisation of {mean.boxes:,} boxes of {mean.findings} findings")
    for heading in ("Heatmaps", "95 % interval", "Random maps", "Middle box"):
        table.add_column(heading, justify="right")
    levels = found.t_iobb.index(0.25), found.t_iou.index(0.3)
    for name, read in (
        ("Pointing game", lambda hits: hits.pointing_game),
        ("Accuracy, IoBB > 0.25", lambda hits: hits.iobb.accuracy[levels[0]]),
        ("Accuracy, IoU > 0.3", lambda hits: hits.iou.accuracy[levels[1]]),
    ):
        value, low, high, *floors = map(read, (mean.method, mean.low, mean.high, mean.random, mean.centre))
        table.add_row(name, f"{value:.3f}", f"{low:.3f} to {high:.3f}", *(f"{floor:.3f}" for floor in floors))
    return table


def report_speed(records: Sequence[SpeedRecord], results: Path) -> None:
    """Two tables of what was measured, inference and training, and where the records lie."""
    console = Console(highlight=False)
    setup = records[0].setup
    where = f"{setup.device}, {setup.cores} cores, {setup.precision}, {setup.crop}x{setup.crop} pixels"
    console.print(plain(where), markup=False, soft_wrap=True)
    inference = _numbers("Inference", "Params", "GFLOPs", "p50", "p95", "p99", "img/s", "batch", "GB")
    training = _numbers("Training", "steps alone", "reading alone", "end to end", "batch", "GB")
    for record in records:
        name = plain(record.method.name) + (" (compiled)" if record.setup.compiled else "")
        inference.add_row(name, *inference_cells(record))
        training.add_row(name, *training_cells(record))
    console.print(inference, training)
    units = (
        f"parameters in millions, latency of one image in ms, training in images/s, peak memory: {records[0].memory}"
    )
    console.print(units, markup=False, soft_wrap=True)
    for record in records:
        console.print(f"record       {results / place(record)}", markup=False, soft_wrap=True)
    console.print(f"leaderboard  {leaderboard_path(results)}", markup=False, soft_wrap=True)


def _numbers(first: str, *headings: str) -> Table:
    """A table of numbers that are never cut: where the screen is narrow, names are folded."""
    table = Table()
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def report_answers(answers: "Sequence[Answer]", out: Path) -> None:
    """The probabilities of the first few images, findings in rows, and where all are."""
    console = Console(highlight=False)
    table = Table("Finding")
    for answer in answers:
        table.add_column(plain(answer.name), justify="right", overflow="fold")
    for finding in answers[0].probabilities if answers else ():
        table.add_row(finding.replace("_", " "), *(f"{answer.probabilities[finding]:.3f}" for answer in answers))
    console.print(table)
    console.print(
        f"the first {len(answers)}; all probabilities: {out / 'predictions.csv'}", markup=False, soft_wrap=True
    )


def report_plugins() -> None:
    """Every method and dataset with its options and defaults, then the recipes."""
    console = Console(highlight=False)
    _report(console, METHODS, "--option ")
    _report(console, DATASETS, "--set dataset.")
    console.print(f"every dataset also takes\n    --set {SKIP}=false\n", markup=False, soft_wrap=True)
    for name in recipe_names():
        console.print(f"recipe [bold]{name}[/]  (--recipe {name}; change a setting with --set SECTION.KEY=VALUE)")
        recipe = load_recipe(name, {})
        for section in SECTIONS:
            for key, value in describe(getattr(recipe, section)).items():
                console.print(f"    --set {section}.{key}={as_typed(value)}", markup=False, soft_wrap=True)


def _report(console: Console, registry: Registry, prefix: str) -> None:
    for entry in registry:
        console.print(f"{registry.kind} [bold]{entry.name}[/]", end=" ")
        console.print(f"{entry.cls.title} ({entry.place})", markup=False, soft_wrap=True)
        hints = get_type_hints(entry.cls)
        for option in fields(entry.cls):
            choices = get_args(hints[option.name]) if get_origin(hints[option.name]) is Literal else ()
            told = f"    {prefix}{option.name}={_default(option)}"
            told += f"  ({' | '.join(map(str, choices))})" if choices else ""
            console.print(told, markup=False, soft_wrap=True)
    console.print()


def _default(option: Field) -> str:
    if option.default is not MISSING:
        return as_typed(option.default)
    return as_typed(option.default_factory()) if option.default_factory is not MISSING else "(required)"


def _texts(interval: Interval) -> tuple[str, str]:
    if interval.value is None:
        return "undefined", ""
    return f"{interval.value:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"
