"""`chxbench verify RUN`: everything in a record that can be computed again, and whether it holds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..evaluation.scores import resamples_of
from ..records import record as records
from ..records.checks import check_maps, check_rows, check_scores
from ..records.figures.style import drawn_from
from ..records.provenance import origin
from ..records.record import RecordError
from ..records.schema import SCHEMA, Record
from ..registry import load_plugins
from ..utils.text import plain


class Check(NamedTuple):
    """Attributes: what was looked at; whether it holds; why, in words."""

    what: str
    outcome: Literal["holds", "fails", "not checked"]
    told: str


class Verdict(NamedTuple):
    """The checks of a record; the record itself is None where it cannot be read."""

    record: Record | None
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.outcome == "fails"]


def verify_run(folder: Path, data_dir: Path | None = None, plugins: tuple[Path, ...] = ()) -> Verdict:
    """Check a record against its evidence, its dataset and its figures, each check by itself.

    Args:
        folder: holds `run.json`, under `results/` or `runs/`.
        data_dir: the files of its dataset: its labels and split are compared with them.
        plugins: files to import first, where the dataset is one.

    Raises:
        UserError: there is no record, or no such dataset in `data_dir`.
    """
    records.require_record(folder)
    load_plugins(plugins)
    folder = folder.resolve()
    try:
        record = records.read(folder, verify_checksum=False)
    except RecordError as error:
        return Verdict(None, [Check("record", "fails", str(error))])
    return Verdict(record, list(_checks(folder, record, data_dir)))


def _checks(folder: Path, record: Record, data_dir: Path | None) -> Iterator[Check]:
    yield Check("record", "holds", f"schema {SCHEMA}, every key known")
    yield _check("checksum", lambda: records.read(folder) and "unchanged since it was written")
    yield _check("place", lambda: _place(folder, record))
    yield _check("scores", lambda: "the file that it names" if len(records.read_scores(folder, record)) else None)
    try:
        table = records.load_scores(folder / record.scores.file)
    except RecordError as error:
        yield Check("numbers", "not checked", f"nothing can be computed: {error}")
        return
    yield _check("images", lambda: _images(folder, record, table))
    yield _check("AUC, statistics", lambda: _numbers(folder, record, table))
    yield _check("localisation", lambda: _localization(folder, record, table))
    unknown = "their source is not at hand: name the folder with --data-dir, or the dataset's file with --plugin"
    yield _check("labels, split", lambda: _origin(folder, record, table, data_dir), unknown)
    yield from _figures(folder, record)
    yield _code(record)


def _check(what: str, look: Callable[[], str | None], unknown: str = "") -> Check:
    """What `look` says holds; None from it means that it could not be checked, for the reason `unknown`."""
    try:
        told = look()
    except RecordError as error:
        return Check(what, "fails", str(error))
    return Check(what, "not checked", unknown) if told is None else Check(what, "holds", told)


def _place(folder: Path, record: Record) -> str:
    if folder.parent.name == "runs":
        if folder.name != record.run_id:
            raise RecordError(f"{folder} holds the run {record.run_id}: move it to a folder of that name")
    else:
        records.check_place(folder, record)
    return "lies where its names say"


def _images(folder: Path, record: Record, table: pd.DataFrame) -> str:
    check_rows(folder, record, table)
    return f"{len(table):,} images, patients and positives as counted, each image once"


def _numbers(folder: Path, record: Record, table: pd.DataFrame) -> str:
    check_scores(folder, record, table)
    return f"computed again, intervals from {resamples_of(record.recipe):,} resamples of patients: the same"


def _localization(folder: Path, record: Record, table: pd.DataFrame) -> str:
    maps = records.read_maps(folder, record)
    if maps is None:
        return "none is claimed"
    check_maps(folder, record, table, maps)
    return f"computed again from {len(maps.image_id):,} images' heatmaps: the same"


def _origin(folder: Path, record: Record, table: pd.DataFrame, data_dir: Path | None) -> str | None:
    found = origin(folder, record, table, data_dir)
    if found.checked is None:
        return None
    names = [name for name in (found.labels, found.test) if name]
    return f"compared {found.checked}" + (f"; known as {' and '.join(names)}" if names else "")


def _figures(folder: Path, record: Record) -> Iterator[Check]:
    wanted = {"roc.png": record.scores.sha256}
    if record.localization:
        wanted["heatmaps.png"] = record.localization.sha256
    for name, sha256 in wanted.items():
        if not (folder / name).is_file():
            yield Check(name, "not checked", "is not there: `chxbench leaderboard` draws what it can")
        elif drawn_from(folder / name) == sha256:
            yield Check(name, "holds", "carries the hash of these numbers")
        else:
            yield Check(
                name,
                "fails",
                f"{folder / name} carries the hash of other numbers: draw it again with chxbench leaderboard",
            )


def _code(record: Record) -> Check:
    code = record.environment.code
    version = f"chxbench {record.environment.versions.get('chxbench', '?')}"
    if code.commit is None:
        return Check("code", "not checked", f"{version}, no commit is recorded")
    state = "with changes that are not in it" if code.dirty else "unchanged"
    return Check("code", "not checked", f"{version}, commit {code.commit[:10]}, {state}")


def report_verdict(verdict: Verdict) -> None:
    """Each check with its outcome, then the command that makes the record again."""
    console = Console(highlight=False)
    table = Table("Check", "Outcome", "Found", box=box.SIMPLE_HEAD, pad_edge=False)
    styles = {"holds": "green", "fails": "bold red", "not checked": "yellow"}
    for check in verdict.checks:
        outcome = Text(check.outcome, styles[check.outcome])
        table.add_row(check.what, outcome, Text(plain(check.told), overflow="fold"))
    console.print(table)
    if verdict.record:
        console.print(f"made by      {plain(verdict.record.command)}", markup=False, soft_wrap=True)
