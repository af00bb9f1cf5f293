"""Read external predictions from a file: images, findings and scale of the scores.

Score columns are detected from the header, image column and scale from the values, and all are reported; if a file is
ambiguous, the error says how to resolve it.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from ...dataset import DataError, Index
from ...utils.errors import first_few
from ...utils.text import count, plain
from .columns import find_columns
from .table import PredictionTable, read_table

FileScale = Literal["probability", "logit"]
Scale = Literal["auto"] | FileScale
LABELS = (-1, 0, 1)  # values of label columns; -1 is uncertain or negative
MISTAKES = 0.05  # fraction of values outside 0..1 below which they are errors in probabilities, not log-odds
# Log-odds of probabilities 0 and 1: beyond those of every other float64 (-744.4 and 36.7).
LOWEST, HIGHEST = -750.0, 40.0
EXTENSION = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?|bmp|npy|npz)$", re.IGNORECASE)


class Predictions(NamedTuple):
    """Content of a file of external predictions.

    Attributes:
        rows: row numbers of the images in the index, int64 (n,), each once, in the order of the file.
        scores: log-odds, float64 (n, C), finite, in the order of the index's findings.
        image_column: name of the column of image names.
        columns: pattern of the score columns, as in `prob_{finding}`.
        scale: scale of the scores in the file.
        reason: how the scale was determined.
        constant: findings whose scores are all equal.
    """

    rows: np.ndarray
    scores: np.ndarray
    image_column: str
    columns: str
    scale: FileScale
    reason: str
    constant: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Detected columns and scale, one line each, for the user."""
        warning = f"check {first_few(self.constant)}: all scores are equal, so no image is ranked above another"
        return (
            f"images: column {self.image_column or '(unnamed)'!r}, {count(len(self.rows), 'image')}",
            f"scores: columns {self.columns!r}",
            f"scale: {self.scale} ({self.reason})",
            *([warning] if self.constant else []),
        )


def read_predictions(path: Path, index: Index, scale: Scale = "auto", columns: str | None = None) -> Predictions:
    """Read a CSV or parquet file of scores.

    Args:
        path: a file with one row per image, one column per finding and one column of image names.
        index: the dataset's images and findings.
        scale: scale of the scores; "auto" to detect it.
        columns: pattern of the score columns, as in `prob_{finding}`; None to detect it.

    Raises:
        DataError: if the file cannot be read or is ambiguous; the message names the rows or columns where it can.
    """
    sheet = read_table(path)
    try:
        score_columns = find_columns(sheet.names, index.findings, columns)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    others = [k for k in range(len(sheet.names)) if k not in score_columns.numbers]
    image, rows = _find_images(sheet, index, others)
    values = _numbers(sheet, score_columns.numbers)
    kind, reason = _find_scale(sheet, score_columns.numbers, values, scale)
    scores = log_odds(values) if kind == "probability" else values
    constant = tuple(finding for c, finding in enumerate(index.findings) if np.ptp(values[:, c]) == 0)
    return Predictions(rows, scores, sheet.names[image], score_columns.pattern, kind, reason, constant)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) in float64: strictly increasing in p within the array, finite also for 0 and 1."""
    values, places = np.unique(probabilities, return_inverse=True)
    with np.errstate(divide="ignore"):
        logits = np.clip(np.log(values) - np.log1p(-values), LOWEST, HIGHEST)
    # Logarithms of neighboring small float64 may be equal; the smallest increase that separates them keeps the ranking.
    return _strictly_increasing(logits)[places].reshape(np.shape(probabilities))


def _strictly_increasing(values: np.ndarray) -> np.ndarray:
    """Increase non-decreasing values (n,) by the fewest float64 steps that make them strictly increasing."""
    bits, lowest = values.view(np.int64), np.iinfo(np.int64).min
    number = np.where(bits < 0, lowest - bits, bits)  # position among all float64, 0 at zero
    steps = np.arange(len(values))
    number = np.maximum.accumulate(number - steps) + steps
    return np.where(number < 0, lowest - number, number).view(np.float64)


def _find_images(sheet: PredictionTable, index: Index, candidates: Sequence[int]) -> tuple[int, np.ndarray]:
    """Return the column with the most images of the index, and each row's row number in the index (n,)."""
    names = _ImageNames(index.images["image_id"])
    matches = {k: names.rows(sheet.table[k]) for k in candidates if not pd.api.types.is_float_dtype(sheet.table[k])}
    most = max(((rows >= 0).sum() for rows in matches.values()), default=0)
    if not most:
        raise DataError(
            f"{sheet.path} has no column with images of the dataset ({first_few(sheet.names)}): "
            f"add a column with names such as {names.example}"
        )
    image, *others = [k for k, rows in matches.items() if (rows >= 0).sum() == most]
    for other in others:
        if (matches[other] != matches[image]).any():
            raise DataError(
                f"{sheet.path}: columns {sheet.names[image]!r} and {sheet.names[other]!r} refer to different images: "
                "keep the column of the scored images"
            )
    _check_listed(sheet, image, matches[image], names.example)
    _check_repeated(sheet, image, matches[image])
    return image, matches[image]


class _ImageNames:
    """Lookup of images by name, ignoring folders and, if no two images differ in it alone, the extension."""

    def __init__(self, image_ids: pd.Series) -> None:
        self.example = str(image_ids.iloc[0])
        self.row = {str(name): row for row, name in enumerate(image_ids)}
        stems = pd.Series([EXTENSION.sub("", name) for name in self.row])
        self.stem = {} if stems.duplicated().any() else {stem: row for row, stem in enumerate(stems)}

    def rows(self, column: pd.Series) -> np.ndarray:
        """Return the row number of each name, int64 (n,); -1 for names that are not in the index."""
        return np.array([self._row(str(text)) for text in column], np.int64)

    def _row(self, text: str) -> int:
        base = text.replace("\\", "/").rsplit("/", 1)[-1].strip()
        for names, name in ((self.row, text), (self.row, base), (self.stem, EXTENSION.sub("", base))):
            if name in names:
                return names[name]
        return -1


def _check_listed(sheet: PredictionTable, image: int, rows: np.ndarray, example: str) -> None:
    unknown = sheet.table.loc[rows < 0, image]
    if len(unknown):
        examples = [f"row {row} ({_shown(text)})" for row, text in unknown.head(3).items()]
        raise DataError(
            f"{sheet.path}, {_of_many(examples, len(unknown))}: {len(unknown):,} of {len(rows):,} images in column "
            f"{sheet.names[image]!r} are not in the dataset; remove them or write names such as {example}"
        )


def _check_repeated(sheet: PredictionTable, image: int, rows: np.ndarray) -> None:
    is_repeated = pd.Series(rows, sheet.table.index).duplicated()
    if is_repeated.any():
        repeated = sheet.table.loc[is_repeated.to_numpy(), image]
        examples = [f"row {row} ({_shown(text)})" for row, text in repeated.head(3).items()]
        raise DataError(
            f"{sheet.path}, {_of_many(examples, len(repeated))}: image listed more than once; "
            "keep one row per image, for example with the mean of its scores"
        )


def _numbers(sheet: PredictionTable, columns: Sequence[int]) -> np.ndarray:
    """Return the scores as in the file, float64 (n, C). Raises DataError for cells that are not finite numbers."""
    values = np.stack([_as_numbers(sheet.table[k]) for k in columns], axis=1)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{sheet.path}, {_cells(sheet, columns, bad)}: {len(bad):,} of {values.size:,} scores are not finite "
            "numbers; provide a score for every image and finding"
        )
    return values


def _as_numbers(column: pd.Series) -> np.ndarray:
    cells = column.to_numpy()
    try:
        return cells.astype(np.float64)
    except ValueError:
        return np.array([_number(cell) for cell in cells])


def _number(text: str) -> float:
    """Convert a string to a number, NaN if it is not one. A comma before the decimals is a decimal comma."""
    try:
        return float(re.sub(r"^([-+]?[0-9]*),([0-9]+)", r"\1.\2", text.strip()))
    except ValueError:
        return np.nan


def _find_scale(
    sheet: PredictionTable, columns: Sequence[int], values: np.ndarray, scale: Scale
) -> tuple[FileScale, str]:
    """Return the scale and the reason for it. Raises DataError if it is ambiguous or contradicts `scale`."""
    outside = np.argwhere((values < 0) | (values > 1))
    if scale == "auto" and np.isin(values, LABELS).all():
        raise DataError(
            f"{sheet.path} has only {' and '.join(f'{value:g}' for value in np.unique(values))} in "
            f"{sheet.names[columns[0]]!r} and the other columns, like labels: provide scores, or declare these as "
            "scores with --scale probability or logit"
        )
    if scale == "logit":
        return "logit", "by --scale"
    if scale == "probability" and not len(outside):
        return "probability", "by --scale"
    where = f"{sheet.path}, {_cells(sheet, columns, outside)}" if len(outside) else str(sheet.path)
    if scale == "probability":
        raise DataError(f"{where}: {len(outside):,} of {values.size:,} scores are not probabilities; correct them")
    if not len(outside):
        return "probability", "all scores are from 0 to 1"
    if len(outside) < MISTAKES * values.size:
        raise DataError(
            f"{where}: only {len(outside):,} of {values.size:,} scores are not from 0 to 1; "
            "correct them, or declare all as log-odds with --scale logit"
        )
    if values.min() >= 0:
        raise DataError(
            f"{where}: scores from {values.min():.4g} to {values.max():.4g} are neither probabilities nor, since "
            "none is negative, likely to be log-odds; divide percentages by 100, or pass --scale logit"
        )
    return "logit", "some scores are below 0 or above 1"


def _cells(sheet: PredictionTable, columns: Sequence[int], places: np.ndarray) -> str:
    """Format the first few cells; rows are those that an editor shows, `places` (m, 2) index the score matrix."""
    examples = []
    for row, c in places[:3].tolist():
        name, cell = sheet.names[columns[c]], sheet.table[columns[c]].iloc[row]
        examples.append(f"row {sheet.table.index[row]}, column {name!r} ({_shown(cell)})")
    return _of_many(examples, len(places))


def _shown(cell: object) -> str:
    return repr(plain(cell)[:40])


def _of_many(examples: Sequence[str], total: int) -> str:
    return "; ".join(examples) + (f" and {total - len(examples):,} more" if total > len(examples) else "")
