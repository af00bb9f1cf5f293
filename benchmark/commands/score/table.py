"""A file of scores from elsewhere as a table of texts and numbers: CSV or parquet, and nothing is unpickled."""

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
    """A table as it stands in a file.

    Attributes:
        path: the file.
        names: what its columns are called, without spaces around; two may have one name.
        table: its columns under the numbers 0, 1, ...: numbers where the file has types, else texts. Label i of the
            table's index is the row that an editor shows: of a CSV file the line, of a parquet file the row, from 1.
    """

    path: Path
    names: list[str]
    table: pd.DataFrame


def read_table(path: Path) -> PredictionTable:
    """Read the whole file. Raises DataError: not there, too large, neither CSV nor parquet, rows that do not fit."""
    if not path.is_file():
        raise DataError(f"{path} is no file: name the CSV or parquet file that holds the scores")
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    sheet = _read_parquet(path) if parquet else _read_csv(path, _text(path))
    if sheet.table.empty:
        raise DataError(f"{path} has no row of scores: write one row an image under a line of column names")
    return sheet


def _text(path: Path) -> str:
    """The file's text, unpacked if it is gzipped."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a broken gzip file ({error}): pack it again") from error
    if len(data) > MAX_BYTES:
        raise DataError(
            f"{path} holds more than {MAX_BYTES >> 20} MiB of text: keep the images and the scores, one row an image"
        )
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path} is neither text in UTF-8 nor parquet: save the scores as CSV or parquet")
    return text


def _read_csv(path: Path, text: str) -> PredictionTable:
    """Commas, semicolons or tabs, whichever gives the first line that is not blank the most names."""
    before, delimiter = _dialect(path, text)
    if text.count(delimiter) > MAX_CELLS:
        raise DataError(f"{path} holds more than {MAX_CELLS:,} cells: keep the images and the scores")
    options = {"header": None, "dtype": str, "keep_default_na": False, "skip_blank_lines": False, "skiprows": before}
    try:
        table = pd.read_csv(io.StringIO(text), sep=delimiter, skipinitialspace=True, **options).fillna("")
    except ValueError as error:
        reason = plain(error).split("C error: ")[-1].strip()
        raise DataError(f"{path} is no table ({reason}): write it again, with as many fields in each row") from error
    table.index += before + 1
    body = table.iloc[1:]
    return PredictionTable(path, [plain(name).strip() for name in table.iloc[0]], body[(body != "").any(axis=1)])


def _dialect(path: Path, text: str) -> tuple[int, str]:
    """How many blank lines come first, and the delimiter."""
    blank = re.match(r"(?:[ \t]*\r?\n)*", text)[0]
    header = re.split("[\r\n]", text[len(blank) :], maxsplit=1)[0]
    if not header.strip():
        raise DataError(f"{path} is empty: write one row an image under a line of column names")
    try:
        names = {delimiter: next(csv.reader([header], delimiter=delimiter)) for delimiter in DELIMITERS}
    except csv.Error as error:
        raise DataError(f"{path} is no table ({error}): save the scores as CSV or parquet") from error
    return blank.count("\n"), max(names, key=lambda delimiter: len(names[delimiter]))


def _read_parquet(path: Path) -> PredictionTable:
    """The columns that hold numbers or texts; lists, images and the like are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = list(dict.fromkeys(field.name for field in file.schema_arrow if _is_plain(field.type)))
            if file.metadata.num_rows * len(names) > MAX_CELLS:
                raise DataError(f"{path} holds more than {MAX_CELLS:,} cells: keep the images and the scores")
            if sum(file.metadata.row_group(k).total_byte_size for k in range(file.num_row_groups)) > MAX_BYTES:
                raise DataError(f"{path} holds more than {MAX_BYTES >> 20} MiB: keep the images and the scores")
            columns = file.read(columns=names)
        table = pd.DataFrame({number: _as_pandas(column) for number, column in enumerate(columns.itercolumns())})
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no parquet file that can be read ({plain(error)}): write it again") from error
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
    """Floats for floats and decimals, text for the rest: a missing text is empty, a missing number NaN."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_floating(column.type) or types.is_decimal(column.type):
        return pd.Series(column.cast(pa.float64()).to_numpy(), dtype="float64")
    return pd.Series(column.cast(pa.string()).to_pylist(), dtype=object).fillna("")
