"""Reports of `chxbench run` and `chxbench score` on standard output."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...evaluation.localization import MAIN_IOBB
from ...evaluation.results import Hits, IntervalPart
from ...records.schema import LocalizationPart, Record
from ...registry import DATASETS, METHODS, PLUGIN_PREFIX
from ...utils.text import count, display_name, plain, rare_label, shell_word
from ...utils.workspace import Workspace

LOCALIZATION_CAPTION = "Baselines: random maps, one box in the center, the boxes of other patients."


def report_run(record: Record, folder: Path, workspace: Workspace) -> None:
    """Print AUCs per finding and their means, localization, and the files of a published record."""
    console = Console(highlight=False, markup=False, emoji=False)
    split = record.dataset.counts["test"]
    tested = f"{count(split.images, 'test image')} of {count(split.patients, 'patient')}"
    headline = plain(f"{record.method.title} on {record.dataset.title}, {tested}")
    console.print(headline, soft_wrap=True)
    console.print(_auc_table(record))
    files = {"record": folder / "run.json", "scores": folder / "scores.parquet", "ROC curves": folder / "roc.png"}
    if record.localization:
        console.print(_localization_table(record.localization))
        files["heatmaps"] = folder / "heatmaps.png"
    if record.localization_problem:
        console.print(plain(f"no heatmaps: {record.localization_problem}"), markup=False, soft_wrap=True)
    files["leaderboard"] = workspace.leaderboard
    for name, path in files.items():
        console.print(plain(f"{name:<12} {path}"), soft_wrap=True)
    if record.submission is None:  # external predictions have no network here
        console.print(f"inference    {_predict_command(record, workspace)}", soft_wrap=True)


def _predict_command(record: Record, workspace: Workspace) -> str:
    """Return a command that can be pasted, with the plugin files that the run needs."""
    words = ["chxbench", "predict", "IMAGE", "--run", workspace.run_folder(record.run_id)]
    entries = (METHODS.get(record.method.name), DATASETS.get(record.dataset.name))
    for file in dict.fromkeys(entry.file for entry in entries if entry.cls.__module__.startswith(PLUGIN_PREFIX)):
        words += ["--plugin", file]
    return " ".join(map(shell_word, words))


def _auc_table(record: Record) -> Table:
    table = Table("Finding")
    for heading in ("Positives", "AUC", "95 % interval"):
        table.add_column(heading, justify="right")
    for finding, auc in record.auc.items():
        table.add_row(display_name(finding), f"{auc.positives:,}", *_interval_cells(auc))
    table.add_section()
    table.add_row("Mean", f"of {record.mean_auc.findings}", *_interval_cells(record.mean_auc), style="bold")
    if label := rare_label(record.dataset.rare):
        without = record.mean_auc_without_rare
        table.add_row(label, f"of {without.findings}", *_interval_cells(without))
    return table


def _localization_table(part: LocalizationPart) -> Table:
    """Build the table of localization, with its baselines."""
    mean = part.mean
    title = f"Localization of {count(mean.boxes, 'box', 'boxes')} of {count(mean.findings, 'finding')}"
    table = Table("", title=title, title_justify="left", caption=LOCALIZATION_CAPTION, caption_justify="left")
    for heading in ("Heatmaps", "95 % interval", "Random", "Center", "Others"):
        table.add_column(heading, justify="right")
    level = part.t_iobb.index(MAIN_IOBB)
    metrics: dict[str, tuple[IntervalPart, Callable[[Hits], float]]] = {
        "Pointing game": (mean.pointing_game, lambda hits: hits.pointing_game),
        f"Acc, IoBB > {MAIN_IOBB:g}": (mean.accuracy, lambda hits: hits.iobb.accuracy[level]),
    }
    for name, (interval, read) in metrics.items():
        baselines = ("–" if hits is None else f"{read(hits):.3f}" for hits in (mean.random, mean.center, mean.prior))
        table.add_row(name, *_interval_cells(interval), *baselines)
    return table


def _interval_cells(interval: IntervalPart) -> tuple[str, str]:
    if interval.value is None:
        return "undefined", ""
    if interval.low is None:
        return f"{interval.value:.3f}", "–"
    return f"{interval.value:.3f}", f"{interval.low:.3f} to {interval.high:.3f}"
