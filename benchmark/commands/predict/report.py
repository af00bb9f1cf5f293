"""What `chxbench predict` prints."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...utils.text import display_name, plain
from .predict import Prediction


def report_predictions(answers: Sequence[Prediction], out: Path) -> None:
    """The probabilities of the first few images, findings in rows, and where all are."""
    console = Console(highlight=False)
    table = Table("Finding")
    for answer in answers:
        table.add_column(plain(answer.name), justify="right", overflow="fold")
    for finding in answers[0].probabilities if answers else ():
        table.add_row(display_name(finding), *(f"{answer.probabilities[finding]:.3f}" for answer in answers))
    console.print(table)
    console.print(
        f"the first {len(answers)}; all probabilities: {out / 'predictions.csv'}", markup=False, soft_wrap=True
    )
