"""Terminal output of `chxbench predict`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...utils.text import display_name, plain
from .output import TABLE, Prediction


def report_predictions(predictions: Sequence[Prediction], out: Path) -> None:
    """Print the probabilities of the first few images, one row per finding, and the path of the table of all."""
    console = Console(highlight=False, markup=False, emoji=False)
    table = Table("Finding")
    for prediction in predictions:
        table.add_column(plain(prediction.name), justify="right", overflow="fold")
    for finding in predictions[0].probabilities if predictions else ():
        values = (f"{prediction.probabilities[finding]:.3f}" for prediction in predictions)
        table.add_row(display_name(finding), *values)
    console.print(table)
    console.print(plain(f"the first {len(predictions)}; all probabilities: {out / TABLE}"), soft_wrap=True)
