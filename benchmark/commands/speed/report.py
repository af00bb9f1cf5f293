"""Print the result of `chxbench speed`."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ...leaderboard.speed import inference_cells, training_cells
from ...records.speed_record import SpeedRecord, place
from ...utils.text import count, plain
from ...utils.workspace import Workspace


def report_speed(records: Sequence[SpeedRecord], workspace: Workspace) -> None:
    """Print the measurements of inference and of training, and the files of the records."""
    console = Console(highlight=False)
    setup = records[0].setup
    where = f"{setup.device}, {count(setup.cores, 'core')}, {setup.precision}, {setup.crop}x{setup.crop} pixels"
    console.print(plain(where), markup=False, soft_wrap=True)
    inference = _number_table("Inference", "Params", "GFLOPs", "p50", "p95", "p99", "img/s", "batch", "GB")
    training = _number_table("Training", "steps alone", "reading alone", "end to end", "batch", "GB")
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
        console.print(f"record       {workspace.results / place(record)}", markup=False, soft_wrap=True)
    console.print(f"leaderboard  {workspace.leaderboard}", markup=False, soft_wrap=True)


def _number_table(first: str, *headings: str) -> Table:
    """Return a table that never truncates numbers: on a narrow screen, names are folded."""
    table = Table()
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
