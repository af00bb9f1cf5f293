"""Print the result of `chxbench speed`."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ...leaderboard.speed import inference_cells, latency_cells, ratio_cells, training_cells
from ...records.speed_record import SpeedRecord, place
from ...utils.text import count, plain
from ...utils.workspace import Workspace


def report_speed(records: Sequence[SpeedRecord], workspace: Workspace) -> None:
    """Print the measurements, what they are worth, and the files of the records."""
    console = Console(highlight=False)
    setup = records[0].setup
    where = f"{setup.device}, {count(setup.cores, 'core')}, {setup.precision}, {setup.crop}x{setup.crop} pixels"
    console.print(plain(where), markup=False, soft_wrap=True)
    tables = {
        _number_table("Latency", "Params", "GFLOPs", "p50", "p95", "p99"): latency_cells,
        _number_table("Inference", "img/s", "batch", "GB"): inference_cells,
        _number_table("Training", "steps alone", "reading", "end to end", "batch", "GB"): training_cells,
        _number_table(f"Ratio to {_baseline(records)}", "latency", "inference", "end to end"): ratio_cells,
    }
    for table, cells in tables.items():
        for record in records:
            table.add_row(_name(record), *cells(record, "\n"))
        console.print(table)
    for sentence in _notes(records):
        console.print(plain(sentence), markup=False, soft_wrap=True)
    for record in records:
        console.print(f"record       {workspace.results / place(record)}", markup=False, soft_wrap=True)
    console.print(f"leaderboard  {workspace.leaderboard}", markup=False, soft_wrap=True)


def _name(record: SpeedRecord) -> str:
    return plain(record.method.name) + (" (compiled)" if record.setup.compiled else "")


def _baseline(records: Sequence[SpeedRecord]) -> str:
    return next((record.baseline.method for record in records if record.baseline), records[0].method.name)


def _notes(records: Sequence[SpeedRecord]) -> list[str]:
    """Explain the units, and name the methods that share a measurement or are not comparable."""
    notes = [
        f"medians of {len(records[0].rounds)} rounds (quartiles); parameters in millions, latency of one image in ms, "
        f"training in images/s, peak memory: {records[0].memory}",
        "ratios: [95 % interval over the rounds]",
    ]
    shared = {tuple(sorted((record.method.name, *record.shared_with))) for record in records if record.shared_with}
    notes += [f"the same network, measured once: {', '.join(names)}" for names in sorted(shared)]
    notes += [f"{_name(record)}: not comparable, {', '.join(record.doubts)}" for record in records if record.doubts]
    return notes


def _number_table(first: str, *headings: str) -> Table:
    """Return a table that never truncates numbers: on a narrow screen, names are folded."""
    table = Table()
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
