"""Scores that somebody else computed, read from a file: which image, which finding, and on which scale.

What the file does not say is found from its content where only one reading makes sense, and told; where two do, the
file is refused with the option that decides.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from ...dataset import DataError, Index
from ...utils.errors import first_few
from ...utils.text import plain
from .columns import find_columns
from .table import PredictionTable, read_table

Scale = Literal["auto", "probability", "logit"]
FEW_VALUES = 0.05  # of the values: so few outside 0..1 are mistakes among probabilities rather than log-odds


# Log-odds of probabilities 0 and 1: beyond those of every other float64 (-744.4 and 36.7).
LEAST, MOST = -750.0, 40.0
EXTENSION = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?|bmp|npy|npz)$", re.IGNORECASE)


class Predictions(NamedTuple):
    """What a file of scores says.

    Attributes:
        rows: row numbers of the scored images in the index, int64 (n,), each once, in the order of the file.
        scores: log-odds, float64 (n, C), finite, in the order of the index's findings.
        image_column: the name of the column that names the images.
        columns: what the columns of the findings are called, as in `prob_{finding}`.
        scale: what the scores were in the file.
        why: how the scale is known.
        constant: the findings whose scores are all equal.
    """

    rows: np.ndarray
    scores: np.ndarray
    image_column: str
    columns: str
    scale: Literal["probability", "logit"]
    why: str
    constant: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided on the way, for the user."""
        flat = f"look at {first_few(self.constant)}: all scores are equal, and rank no image above another"
        return (
            f"images: column {self.image_column or '(without a name)'!r}, {len(self.rows):,} images",
            f"scores: columns {self.columns!r}",
            f"scale: {self.scale} ({self.why})",
            *([flat] if self.constant else []),
        )


def read_predictions(path: Path, known: Index, scale: Scale = "auto", columns: str | None = None) -> Predictions:
    """Read a CSV or parquet file of scores.

    Args:
        path: the file: one row an image, one column a finding, one column that names the images.
        known: the images and findings there are.
        scale: what the scores are; `auto` finds it out.
        columns: what the finding columns are called, as in `prob_{finding}`; None finds it out.

    Raises:
        DataError: naming the file, and the rows and columns that are wrong.
    """
    sheet = read_table(path)
    try:
        found = find_columns(sheet.names, known.findings, columns)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    image, rows = _find_images(sheet, known, [k for k in range(len(sheet.names)) if k not in found.numbers])
    values = _numbers(sheet, found.numbers)
    kind, why = _find_scale(sheet, found.numbers, values, scale)
    scores = log_odds(values) if kind == "probability" else values
    constant = tuple(finding for c, finding in enumerate(known.findings) if np.ptp(values[:, c]) == 0)
    return Predictions(rows, scores, sheet.names[image], found.pattern, kind, why, constant)


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) in float64: equal for equal, higher for higher probabilities, finite also for 0 and 1."""
    values, places = np.unique(probabilities, return_inverse=True)
    with np.errstate(divide="ignore"):
        odds = np.clip(np.log(values) - np.log1p(-values), LEAST, MOST)
    # Neighbours among small float64 are nearer to each other than float64 can tell their logarithms apart.
    return _rising(odds)[places].reshape(np.shape(probabilities))


def _rising(values: np.ndarray) -> np.ndarray:
    """Values that never fall (n,), each raised to the next float64 above the one before where it is not above that."""
    bits, lowest = values.view(np.int64), np.iinfo(np.int64).min
    number = np.where(bits < 0, lowest - bits, bits)  # counts the float64 in order, 0 at zero
    steps = np.arange(len(values))
    number = np.maximum.accumulate(number - steps) + steps
    return np.where(number < 0, lowest - number, number).view(np.float64)


def _find_images(sheet: PredictionTable, known: Index, candidates: Sequence[int]) -> tuple[int, np.ndarray]:
    """The column that names the most known images, and each row's image as a row number of the index (n,)."""
    names = _Names(known.images["image_id"])
    found = {k: names.rows(sheet.table[k]) for k in candidates if not pd.api.types.is_float_dtype(sheet.table[k])}
    most = max(((rows >= 0).sum() for rows in found.values()), default=0)
    if not most:
        raise DataError(
            f"{sheet.path} has no column that names a known image ({first_few(sheet.names)}): "
            f"add one with names such as {names.example}"
        )
    image, *others = [k for k, rows in found.items() if (rows >= 0).sum() == most]
    for other in others:
        if (found[other] != found[image]).any():
            raise DataError(
                f"{sheet.path}: columns {sheet.names[image]!r} and {sheet.names[other]!r} name different images: "
                "keep the one whose images were scored"
            )
    _check_known(sheet, image, found[image], names.example)
    _check_repeated(sheet, image, found[image])
    return image, found[image]


class _Names:
    """Image names as others write them: with folders before them, and without or with another extension."""

    def __init__(self, known: pd.Series) -> None:
        self.example = str(known.iloc[0])
        self.row = {str(name): row for row, name in enumerate(known)}
        stems = pd.Series([EXTENSION.sub("", name) for name in self.row])
        self.stem = {} if stems.duplicated().any() else {stem: row for row, stem in enumerate(stems)}

    def rows(self, column: pd.Series) -> np.ndarray:
        """The row number of each name, int64 (n,); -1 where none is known."""
        return np.array([self._row(str(text)) for text in column], np.int64)

    def _row(self, text: str) -> int:
        base = text.replace("\\", "/").rsplit("/", 1)[-1].strip()
        for names, name in ((self.row, text), (self.row, base), (self.stem, EXTENSION.sub("", base))):
            if name in names:
                return names[name]
        return -1


def _check_known(sheet: PredictionTable, image: int, rows: np.ndarray, example: str) -> None:
    unknown = sheet.table.loc[rows < 0, image]
    if len(unknown):
        told = [f"row {row} ({_shown(text)})" for row, text in unknown.head(3).items()]
        raise DataError(
            f"{sheet.path}, {_of_many(told, len(unknown))}: {len(unknown):,} of {len(rows):,} images in column "
            f"{sheet.names[image]!r} are not listed; remove them, or write names such as {example}"
        )


def _check_repeated(sheet: PredictionTable, image: int, rows: np.ndarray) -> None:
    again = pd.Series(rows, sheet.table.index).duplicated()
    if again.any():
        told = [f"row {row} ({_shown(text)})" for row, text in sheet.table.loc[again.to_numpy(), image].head(3).items()]
        raise DataError(
            f"{sheet.path}, {_of_many(told, int(again.sum()))}: the image already has a row; "
            "keep one row an image, for example the mean of its scores"
        )


def _numbers(sheet: PredictionTable, columns: Sequence[int]) -> np.ndarray:
    """The scores as they stand in the file, float64 (n, C). Raises DataError for cells that hold no finite number."""
    values = np.stack([_as_numbers(sheet.table[k]) for k in columns], axis=1)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{sheet.path}, {_cells(sheet, columns, bad)}: {len(bad):,} of {values.size:,} scores are no finite "
            "numbers; give every image a number for every finding"
        )
    return values


def _as_numbers(column: pd.Series) -> np.ndarray:
    texts = column.to_numpy()
    try:
        return texts.astype(np.float64)
    except ValueError:
        return np.array([_number(text) for text in texts])


def _number(text: str) -> float:
    """A text as a number, NaN if it is none. A comma between digits is a decimal comma."""
    try:
        return float(re.sub(r"^([-+]?[0-9]*),([0-9]+)", r"\1.\2", text.strip()))
    except ValueError:
        return np.nan


def _find_scale(sheet: PredictionTable, columns: Sequence[int], values: np.ndarray, asked: Scale) -> tuple[str, str]:
    """`probability` or `logit`, and why. Raises DataError where the values could be either, or are not as asked."""
    outside = np.argwhere((values < 0) | (values > 1))
    if asked == "logit":
        return "logit", "as you say"
    if asked == "probability" and not len(outside):
        return "probability", "as you say"
    where = f"{sheet.path}, {_cells(sheet, columns, outside)}" if len(outside) else str(sheet.path)
    if asked == "probability":
        raise DataError(f"{where}: {len(outside):,} of {values.size:,} scores are no probabilities; correct them")
    if not len(outside):
        if np.isin(values, (0, 1)).all():
            raise DataError(
                f"{where} holds only 0 and 1 in {sheet.names[columns[0]]!r} and the others, like labels: "
                "give scores, or say that these are scores with --scale probability"
            )
        return "probability", "all scores are from 0 to 1"
    if len(outside) < FEW_VALUES * values.size:
        raise DataError(
            f"{where}: only {len(outside):,} of {values.size:,} scores are not from 0 to 1; "
            "correct them, or say that all are log-odds with --scale logit"
        )
    if values.min() >= 0:
        raise DataError(
            f"{where}: scores from {values.min():.4g} to {values.max():.4g} are neither probabilities nor, without a "
            "negative one, likely to be log-odds; divide percentages by 100, or say --scale logit"
        )
    return "logit", "some scores are below 0 or above 1"


def _cells(sheet: PredictionTable, columns: Sequence[int], places: np.ndarray) -> str:
    """The first few cells, as an editor shows them; `places` (m, 2) are places in the matrix of scores."""
    told = []
    for row, c in places[:3].tolist():
        name, cell = sheet.names[columns[c]], sheet.table[columns[c]].iloc[row]
        told.append(f"row {sheet.table.index[row]}, column {name!r} ({_shown(cell)})")
    return _of_many(told, len(places))


def _shown(cell: object) -> str:
    return repr(plain(cell)[:40])


def _of_many(told: Sequence[str], count: int) -> str:
    return "; ".join(told) + (f" and {count - len(told):,} more" if count > len(told) else "")
