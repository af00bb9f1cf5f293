"""Read tables of external predictions: CSV or parquet files of bounded size; nothing is unpickled."""

import csv
import gzip
import io
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ...dataset import DataError
from ...utils.text import plain

if TYPE_CHECKING:
    import pyarrow as pa


# All 112,120 images of ChestX-ray14 with 14 scores in full precision are 35 MB of text and 2 million cells.
MAX_BYTES, MAX_CELLS = 512 * 2**20, 100_000_000
DELIMITERS = ",;\t"


class PredictionTable(NamedTuple):
    """A table as it is in a file.

    Attributes:
        path: the file.
        names: column names, without surrounding spaces; not necessarily unique.
        table: columns 0, 1, ...: numbers if the file has types, else strings. The labels of its index are the rows that
            an editor shows: lines of a CSV file, rows of a parquet file, from 1.
    """

    path: Path
    names: list[str]
    table: pd.DataFrame


def read_table(path: Path) -> PredictionTable:
    """Read a table. Raises DataError if the file is missing, too large, or neither CSV nor parquet."""
    if not path.is_file():
        raise DataError(f"{path} is not a file: pass the CSV or parquet file of the scores")
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    sheet = _read_parquet(path) if parquet else _read_csv(path, _text(path))
    if sheet.table.empty:
        raise DataError(f"{path} has no rows of scores: write a header row and one row per image")
    return sheet


def _text(path: Path) -> str:
    """Return the text of a file, decompressed if it is gzipped."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}): compress it again") from error
    if len(data) > MAX_BYTES:
        raise DataError(
            f"{path} has more than {MAX_BYTES >> 20} MiB of text: keep only image names and scores, one row per image"
        )
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path} is neither text in UTF-8 nor parquet: save the scores as CSV or parquet")
    return text


def _read_csv(path: Path, text: str) -> PredictionTable:
    """Parse CSV, separated by whichever of comma, semicolon and tab gives the header the most names."""
    blank_lines, delimiter = _dialect(path, text)
    if text.count(delimiter) > MAX_CELLS:
        raise DataError(f"{path} has more than {MAX_CELLS:,} cells: keep only image names and scores")
    try:
        table = pd.read_csv(
            io.StringIO(text),
            sep=delimiter,
            header=None,
            dtype=str,
            skiprows=blank_lines,
            skipinitialspace=True,
            skip_blank_lines=False,  # so that rows have the numbers that an editor shows
            keep_default_na=False,
        ).fillna("")
    except ValueError as error:
        reason = plain(error).split("C error: ")[-1].strip()
        raise DataError(f"{path} is not a table ({reason}): write the same number of fields in each row") from error
    table.index += blank_lines + 1
    body = table.iloc[1:]
    return PredictionTable(path, [plain(name).strip() for name in table.iloc[0]], body[(body != "").any(axis=1)])


def _dialect(path: Path, text: str) -> tuple[int, str]:
    """Return the number of leading blank lines, and the delimiter."""
    body = re.sub(r"\A(?:[ \t]*\r?\n)*", "", text)
    header = re.split("[\r\n]", body, maxsplit=1)[0]
    if not header.strip():
        raise DataError(f"{path} is empty: write a header row and one row per image")
    try:
        names = {delimiter: next(csv.reader([header], delimiter=delimiter)) for delimiter in DELIMITERS}
    except csv.Error as error:
        raise DataError(f"{path} is not a table ({error}): save the scores as CSV or parquet") from error
    return text[: len(text) - len(body)].count("\n"), max(names, key=lambda delimiter: len(names[delimiter]))


def _read_parquet(path: Path) -> PredictionTable:
    """Read the columns of numbers and strings; nested columns are ignored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = list(dict.fromkeys(field.name for field in file.schema_arrow if _is_plain(field.type)))
            if file.metadata.num_rows * len(names) > MAX_CELLS:
                raise DataError(f"{path} has more than {MAX_CELLS:,} cells: keep only image names and scores")
            if sum(file.metadata.row_group(k).total_byte_size for k in range(file.num_row_groups)) > MAX_BYTES:
                raise DataError(f"{path} has more than {MAX_BYTES >> 20} MiB: keep only image names and scores")
            columns = file.read(columns=names)
        table = pd.DataFrame({number: _as_pandas(column) for number, column in enumerate(columns.itercolumns())})
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable parquet file ({plain(error)}): write it again") from error
    table.index += 1
    return PredictionTable(path, [plain(name).strip() for name in columns.column_names], table)


def _is_plain(kind: "pa.DataType") -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return any(
        test(kind)
        for test in (types.is_integer, types.is_floating, types.is_decimal, types.is_string, types.is_large_string)
    )


def _as_pandas(column: "pa.ChunkedArray") -> pd.Series:
    """Convert floats and decimals to float64, the rest to strings; missing values become NaN or empty strings."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_floating(column.type) or types.is_decimal(column.type):
        return pd.Series(column.cast(pa.float64()).to_numpy(), dtype="float64")
    return pd.Series(column.cast(pa.string()).to_pylist(), dtype=object).fillna("")
