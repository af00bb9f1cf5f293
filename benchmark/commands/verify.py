"""`chxbench verify RUN`: verify a record against its artifacts, its dataset and its figures."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..dataset import Dataset
from ..evaluation.scores import resamples_of
from ..records import record as records
from ..records.figures.style import drawn_from
from ..records.provenance import origin
from ..records.recompute import TOLERANCE, check_maps, check_rows, check_scores
from ..records.record import RecordError
from ..records.schema import SCHEMA, Record
from ..registry import DATASETS, load_plugins
from ..utils.errors import UserError, first_few
from ..utils.options import build
from ..utils.text import count, plain
from ..utils.workspace import is_run_folder

Outcome = Literal["pass", "fail", "skipped"]
STYLES: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "skipped": "yellow"}
READ_RECORD = ("checksum", "location", "scores")  # checks that need a readable record
READ_SCORES = (
    "images",
    "AUC, statistics",
    "localization",
    "labels, split",
    "pixels",
)  # checks that also need its scores
FIGURES = ("roc.png", "heatmaps.png")


class Check(NamedTuple):
    """Outcome of one check.

    Attributes:
        subject: part of the record that was checked.
        outcome: "pass", "fail", or "skipped" if the check could not be made.
        detail: what was compared, what is wrong, or why the check was skipped.
    """

    subject: str
    outcome: Outcome
    detail: str


class VerificationReport(NamedTuple):
    """Checks of a record.

    Attributes:
        record: the record; None if it cannot be read.
        checks: one per part of the record, skipped ones included.
    """

    record: Record | None
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """The checks with the outcome "fail"."""
        return [check for check in self.checks if check.outcome == "fail"]


def verify(folder: Path, data_dir: Path | None = None, plugins: tuple[Path, ...] = ()) -> None:
    """Check a record as `verify_run` does and print the outcomes. Raises UserError if a check fails."""
    report = verify_run(folder, data_dir, plugins)
    print_report(report)
    if report.failed:
        subjects = ", ".join(check.subject for check in report.failed)
        raise UserError(f"{folder}: {len(report.failed)} of {len(report.checks)} checks failed ({subjects})")


def verify_run(folder: Path, data_dir: Path | None = None, plugins: tuple[Path, ...] = ()) -> VerificationReport:
    """Check a record against its artifacts, its dataset and its figures.

    A failed check does not stop the others, except that an unreadable record or score file skips the checks that need
    it.

    Args:
        folder: folder of the run, in `results/` or `runs/`.
        data_dir: folder of its dataset, whose labels and split are compared with the record's.
        plugins: files to import first, if one of them defines the dataset.

    Raises:
        UserError: if there is no record in `folder`, or `data_dir` is not a folder of its dataset.
    """
    records.require_record(folder)
    load_plugins(plugins)
    folder = folder.resolve()
    try:
        record = records.read(folder, verify_checksum=False)
    except RecordError as error:
        return VerificationReport(None, [Check("record", "fail", str(error)), *_skip_all("the record cannot be read")])
    return VerificationReport(record, list(_checks(folder, record, data_dir)))


def _skip_all(reason: str) -> Iterator[Check]:
    """Yield every check but that of the record itself as skipped."""
    yield from _skip((*READ_RECORD, *READ_SCORES, *FIGURES, "code"), reason)


def _skip(subjects: Iterable[str], reason: str) -> Iterator[Check]:
    for subject in subjects:
        yield Check(subject, "skipped", reason)


def _checks(folder: Path, record: Record, data_dir: Path | None) -> Iterator[Check]:
    yield Check("record", "pass", f"schema {SCHEMA}, every key recognized")
    yield _check("checksum", lambda: _checksum(folder))
    yield _check("location", lambda: _location(folder, record))
    yield _check("scores", lambda: _scores_file(folder, record))
    try:
        table = records.load_scores(folder / record.scores.file)
    except RecordError:
        yield from _skip(READ_SCORES, "the scores cannot be read")
    else:
        yield from _score_checks(folder, record, table, data_dir)
    yield from _figures(folder, record)
    yield _code(record)


def _score_checks(folder: Path, record: Record, table: pd.DataFrame, data_dir: Path | None) -> Iterator[Check]:
    yield _check("images", lambda: _images(folder, record, table))
    yield _check("AUC, statistics", lambda: _metrics(folder, record, table))
    yield _check("localization", lambda: _localization(folder, record, table))
    reason = "the dataset's files are needed: pass their folder with --data-dir, or the dataset's plugin with --plugin"
    yield _check("labels, split", lambda: _origin(folder, record, table, data_dir), reason)
    yield _check("pixels", lambda: _pixels(folder, record, data_dir), _why_no_pixels(record))


def _check(subject: str, check: Callable[[], str | None], reason: str = "") -> Check:
    """Run one check, which returns what it compared; if that is None, the check was skipped for `reason`."""
    try:
        detail = check()
    except RecordError as error:
        return Check(subject, "fail", str(error))
    return Check(subject, "skipped", reason) if detail is None else Check(subject, "pass", detail)


def _checksum(folder: Path) -> str:
    records.read(folder)
    return "matches the stored checksum"


def _scores_file(folder: Path, record: Record) -> str:
    records.read_scores(folder, record)
    return "matches the hash in the record"


def _location(folder: Path, record: Record) -> str:
    if not is_run_folder(folder):
        records.check_place(folder, record)
    elif folder.name != record.run_id:
        raise RecordError(f"{folder} contains the run {record.run_id}: move it to a folder of that name")
    return "matches dataset, method and run id"


def _images(folder: Path, record: Record, table: pd.DataFrame) -> str:
    check_rows(folder, record, table)
    return f"{len(table):,} images, each listed once; patients and positives match the counts"


def _metrics(folder: Path, record: Record, table: pd.DataFrame) -> str:
    check_scores(folder, record, table)
    replicates = f"{resamples_of(record.recipe):,} bootstrap replicates of patients"
    return f"recomputed, equal within {TOLERANCE:g}; intervals from {replicates}"


def _localization(folder: Path, record: Record, table: pd.DataFrame) -> str:
    maps = records.read_maps(folder, record)
    if maps is None:
        why = record.localization_problem
        return "not part of this record" + (f": {why}" if why else "")
    check_maps(folder, record, table, maps)
    return f"recomputed from the heatmaps of {count(len(maps.image_id), 'image')}, equal within {TOLERANCE:g}"


def _origin(folder: Path, record: Record, table: pd.DataFrame, data_dir: Path | None) -> str | None:
    provenance = origin(folder, record, table, data_dir)
    if provenance.checked is None:
        return None
    names = [name for name in (provenance.labels, provenance.test) if name]
    return f"compared {provenance.checked}" + (f"; recognized as {' and '.join(names)}" if names else "")


def _why_no_pixels(record: Record) -> str:
    if record.dataset.pixels is None:
        return "external predictions: chxbench decoded no image"
    return "the images are needed: pass the folder of a dataset of files with --data-dir"


def _pixels(folder: Path, record: Record, data_dir: Path | None) -> str | None:
    """Decode the images again that the record identifies one by one."""
    if data_dir is None or record.dataset.pixels is None or record.recipe is None:
        return None
    from ..data.pixel_cache import decode_sample  # loads torch, which no other check needs
    from ..data.source import load_index

    sample = record.dataset.pixels.sample
    dataset: Dataset = build(DATASETS.get(record.dataset.name).cls, record.dataset.options, "dataset.")
    decoded = decode_sample(dataset, load_index(dataset, data_dir), record.recipe.pixels.size, sample)
    different = sorted(name for name, digest in decoded.items() if digest != sample[name])
    if different:
        raise RecordError(
            f"{folder} was trained and scored on other pixels than those of {count(len(different), 'image')} in "
            f"{data_dir} ({first_few(different)}): pass the run's data, or run again"
        )
    return f"decoded {len(decoded)} of {count(len(sample), 'sampled image')} again, equal" if decoded else None


def _figures(folder: Path, record: Record) -> Iterator[Check]:
    sources = (record.scores, "scores"), (record.localization, "heatmaps")
    for name, (source, artifact) in zip(FIGURES, sources, strict=True):
        path = folder / name
        if source is None:
            yield Check(name, "skipped", "this record has no heatmaps")
        elif not path.is_file():
            yield Check(name, "skipped", "missing: draw it with `chxbench leaderboard`")
        elif drawn_from(path) == source.sha256:
            yield Check(name, "pass", f"embedded hash matches the {artifact}")
        else:
            message = f"{path}: embedded hash does not match the {artifact}: redraw it with `chxbench leaderboard`"
            yield Check(name, "fail", message)


def _code(record: Record) -> Check:
    code = record.environment.code
    version = f"chxbench {record.environment.versions.get('chxbench', '?')}"
    if code.commit is None:
        return Check("code", "skipped", f"{version}, no commit recorded")
    state = "with uncommitted changes" if code.dirty else "without uncommitted changes"
    return Check("code", "skipped", f"recorded only: {version}, commit {code.commit[:10]}, {state}")


def print_report(report: VerificationReport) -> None:
    """Print each check with its outcome, then the command of the record."""
    console = Console(highlight=False)
    table = Table("Check", "Outcome", "Detail", box=box.SIMPLE_HEAD, pad_edge=False)
    for check in report.checks:
        outcome = Text(check.outcome, STYLES[check.outcome])
        table.add_row(check.subject, outcome, Text(plain(check.detail), overflow="fold"))
    console.print(table)
    if report.record:
        console.print(f"command: {plain(report.record.command)}", markup=False, soft_wrap=True)
