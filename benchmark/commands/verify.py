"""`chxbench verify RUN`: recompute everything in a record that can be recomputed, and report what holds."""

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
from ..records.figures.style import drawn_from
from ..records.provenance import origin
from ..records.recompute import check_maps, check_rows, check_scores
from ..records.record import RecordError
from ..records.schema import SCHEMA, Record
from ..registry import load_plugins
from ..utils.errors import UserError
from ..utils.text import plain
from ..utils.workspace import is_run_folder

Outcome = Literal["holds", "fails", "not checked"]
STYLES: dict[Outcome, str] = {"holds": "green", "fails": "bold red", "not checked": "yellow"}


class Check(NamedTuple):
    """Outcome of one check.

    Attributes:
        subject: what was checked.
        outcome: whether it holds.
        detail: what was found, or why it could not be checked.
    """

    subject: str
    outcome: Outcome
    detail: str


class Verdict(NamedTuple):
    """Checks of a record.

    Attributes:
        record: the record; None if it cannot be read.
        checks: one per part of the record.
    """

    record: Record | None
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """The checks that found something wrong."""
        return [check for check in self.checks if check.outcome == "fails"]


def verify(folder: Path, data_dir: Path | None = None, plugins: tuple[Path, ...] = ()) -> None:
    """Check a record as `verify_run` does and print the outcomes. Raises UserError if a check fails."""
    verdict = verify_run(folder, data_dir, plugins)
    report_verdict(verdict)
    if verdict.failed:
        subjects = ", ".join(check.subject for check in verdict.failed)
        raise UserError(f"{folder}: {len(verdict.failed)} of {len(verdict.checks)} checks failed ({subjects})")


def verify_run(folder: Path, data_dir: Path | None = None, plugins: tuple[Path, ...] = ()) -> Verdict:
    """Check a record against its artifacts, its dataset and its figures; a failed check does not end the others.

    Args:
        folder: holds `run.json`, in `results/` or `runs/`.
        data_dir: the files of its dataset, whose labels and split are compared with the record's.
        plugins: files to import first, if one of them defines the dataset.

    Raises:
        UserError: no record in `folder`, or no such dataset in `data_dir`.
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
    yield Check("record", "holds", f"schema {SCHEMA}, every key recognized")
    yield _check("checksum", lambda: _checksum(folder))
    yield _check("location", lambda: _location(folder, record))
    yield _check("scores", lambda: _scores_file(folder, record))
    try:
        table = records.load_scores(folder / record.scores.file)
    except RecordError as error:
        yield Check("numbers", "not checked", f"they need the scores: {error}")
        return
    yield _check("images", lambda: _images(folder, record, table))
    yield _check("AUC, statistics", lambda: _numbers(folder, record, table))
    yield _check("localization", lambda: _localization(folder, record, table))
    hint = "the dataset's files are needed: name their folder with --data-dir, or the dataset's plugin with --plugin"
    yield _check("labels, split", lambda: _origin(folder, record, table, data_dir), hint)
    yield from _figures(folder, record)
    yield _code(record)


def _check(subject: str, check: Callable[[], str | None], hint: str = "") -> Check:
    """Run one check; without a finding it could not be made, for the reason `hint`."""
    try:
        detail = check()
    except RecordError as error:
        return Check(subject, "fails", str(error))
    return Check(subject, "not checked", hint) if detail is None else Check(subject, "holds", detail)


def _checksum(folder: Path) -> str:
    records.read(folder)
    return "unchanged since it was written"


def _scores_file(folder: Path, record: Record) -> str:
    records.read_scores(folder, record)
    return "the file that it names"


def _location(folder: Path, record: Record) -> str:
    if not is_run_folder(folder):
        records.check_place(folder, record)
    elif folder.name != record.run_id:
        raise RecordError(f"{folder} holds the run {record.run_id}: move it to a folder of that name")
    return "the folder that its names give"


def _images(folder: Path, record: Record, table: pd.DataFrame) -> str:
    check_rows(folder, record, table)
    return f"{len(table):,} images, patients and positives as counted, each image once"


def _numbers(folder: Path, record: Record, table: pd.DataFrame) -> str:
    check_scores(folder, record, table)
    return f"equal when recomputed, intervals from {resamples_of(record.recipe):,} bootstrap replicates of patients"


def _localization(folder: Path, record: Record, table: pd.DataFrame) -> str:
    maps = records.read_maps(folder, record)
    if maps is None:
        return "not part of this record"
    check_maps(folder, record, table, maps)
    return f"equal when recomputed from the heatmaps of {len(maps.image_id):,} images"


def _origin(folder: Path, record: Record, table: pd.DataFrame, data_dir: Path | None) -> str | None:
    found = origin(folder, record, table, data_dir)
    if found.checked is None:
        return None
    names = [name for name in (found.labels, found.test) if name]
    return f"compared {found.checked}" + (f"; recognized as {' and '.join(names)}" if names else "")


def _figures(folder: Path, record: Record) -> Iterator[Check]:
    expected = {"roc.png": record.scores.sha256}
    if record.localization:
        expected["heatmaps.png"] = record.localization.sha256
    for name, sha256 in expected.items():
        path = folder / name
        if not path.is_file():
            yield Check(name, "not checked", "missing: `chxbench leaderboard` redraws what it can")
        elif drawn_from(path) == sha256:
            yield Check(name, "holds", "drawn from these numbers, by its embedded hash")
        else:
            yield Check(name, "fails", f"{path} was drawn from other numbers: redraw it with `chxbench leaderboard`")


def _code(record: Record) -> Check:
    code = record.environment.code
    version = f"chxbench {record.environment.versions.get('chxbench', '?')}"
    if code.commit is None:
        return Check("code", "not checked", f"{version}, no commit recorded")
    state = "with uncommitted changes" if code.dirty else "unchanged"
    return Check("code", "not checked", f"{version}, commit {code.commit[:10]}, {state}")


def report_verdict(verdict: Verdict) -> None:
    """Print each check with its outcome, then the command that made the record."""
    console = Console(highlight=False)
    table = Table("Check", "Outcome", "Detail", box=box.SIMPLE_HEAD, pad_edge=False)
    for check in verdict.checks:
        outcome = Text(check.outcome, STYLES[check.outcome])
        table.add_row(check.subject, outcome, Text(plain(check.detail), overflow="fold"))
    console.print(table)
    if verdict.record:
        console.print(f"made by      {plain(verdict.record.command)}", markup=False, soft_wrap=True)
