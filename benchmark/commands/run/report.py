"""What the commands print on standard output: a run's table, and the plugins there are."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from ...evaluation.results import IntervalPart
from ...records.schema import LocalizationPart, Record
from ...utils.text import display_name, plain
from ...utils.workspace import leaderboard_path

if TYPE_CHECKING:
    pass


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
        table.add_row(display_name(finding), f"{auc.positives:,}", *_interval_cells(auc))
    table.add_section()
    table.add_row("Mean", f"of {record.mean_auc.findings}", *_interval_cells(record.mean_auc), style="bold")
    without = record.mean_auc_without_rare
    table.add_row("Mean without Hernia", f"of {without.findings}", *_interval_cells(without))
    console.print(table)
    places = {"record": place / "run.json", "scores": place / "scores.parquet", "ROC curves": place / "roc.png"}
    if record.localization:
        console.print(_localization(record.localization))
        places["heatmaps"] = place / "heatmaps.png"
    places["leaderboard"] = leaderboard_path(results)
    for name, path in places.items():
        console.print(f"{name:<12} {path}", markup=False, soft_wrap=True)
    if record.submission is not None:  # whoever computed the scores has the network
        return
    ask = f"chxbench predict IMAGE --run {leaderboard_path(results).with_name('runs') / record.run_id}"
    console.print(f"to ask it    {ask}", markup=False, soft_wrap=True)


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
        value, low, high, *floors = map(read, (mean.method, mean.low, mean.high, mean.random, mean.center))
        table.add_row(name, f"{value:.3f}", f"{low:.3f} to {high:.3f}", *(f"{floor:.3f}" for floor in floors))
    return table


def _interval_cells(interval: IntervalPart) -> tuple[str, str]:
    if interval.value is None:
        return "undefined", ""
    return f"{interval.value:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"
