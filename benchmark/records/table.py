"""Table of all records in a folder, for analysis in pandas."""

from pathlib import Path
from typing import Any

import pandas as pd

from ..utils.errors import UserError
from ..utils.text import recipe_label
from .record import find, read
from .schema import Record

COLUMNS = (
    "run_id",
    "method",
    "title",
    "dataset",
    "recipe",
    "seed",
    "mean_auc",
    "mean_auc_low",
    "mean_auc_high",
    "folder",
)


def load_results(folder: str | Path = "results") -> pd.DataFrame:
    """Read all published records of a folder into a table.

    Checksums are verified. Metrics are not recomputed from the artifacts; `chxbench leaderboard` does that.

    Args:
        folder: results folder.

    Returns:
        One row per record, sorted by dataset, method and run id: `run_id`, `method`, `title`, `dataset`, `recipe` and
        `seed` (missing for external predictions), `mean_auc` with its 95 % interval `mean_auc_low` to `mean_auc_high`,
        one column `auc <finding>` per finding (NaN where undefined), and `folder`.

    Raises:
        UserError: if the folder does not exist.
        RecordError: if a record cannot be read or was changed after it was written.
    """
    results = Path(folder)
    if not results.is_dir():
        raise UserError(f"results folder {results} does not exist: pass the folder of the records")
    rows = [_row(read(path), path) for path in find(results)]
    findings = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *findings])
    return table.astype({"seed": "Int64"})  # nullable integers: external predictions have no seed


def _row(record: Record, folder: Path) -> dict[str, Any]:
    mean = record.mean_auc
    values = (
        record.run_id,
        record.method.name,
        record.method.title,
        record.dataset.name,
        None if record.recipe is None else recipe_label(record.recipe.name),
        record.seed,
        mean.value,
        mean.low,
        mean.high,
        str(folder),
    )
    aucs = {f"auc {finding}": auc.value for finding, auc in record.auc.items()}
    return {**dict(zip(COLUMNS, values, strict=True)), **aucs}
