"""The two records of a comparison: read, verified, and rejected unless both were evaluated on the same test set.

The content decides, not the names: test images, their patients and their labels must be equal.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ...evaluation.artifacts import label_column
from ...evaluation.scores import SplitScores, split_scores
from ...metrics.paired import Comparison, Difference
from ...records import record as records
from ...records.recompute import verify_record
from ...records.schema import Record
from ...utils.errors import UserError, first_few
from ...utils.text import changed_options, plain
from .run_differences import ContextFact, Timing

LEVEL = 0.05  # of significance, after the correction for the number of findings


class Side(NamedTuple):
    """One of the two runs.

    Attributes:
        folder: as the user gave it.
        record: its record.
        table: the rows of its score table that are of the test split.
    """

    folder: Path
    record: Record
    table: pd.DataFrame

    @property
    def findings(self) -> list[str]:
        """The findings, in the order of the record."""
        return list(self.record.auc)

    @property
    def run(self) -> str:
        """Method and run id, for a folder's name."""
        return f"{self.record.method.name}-{self.record.run_id}"

    @property
    def title(self) -> str:
        """The method's title, its changed options, and the seed of a trained run."""
        record = self.record
        seed = "" if record.seed is None else f"seed {record.seed}"
        return plain(", ".join(filter(None, (record.method.title, changed_options(record.method.changed), seed))))

    def scored(self, findings: list[str]) -> SplitScores:
        """Return scores and labels with the findings in this order."""
        test = split_scores(self.table)
        order = [test.findings.index(finding) for finding in findings]
        return SplitScores(findings, test.scores[:, order], test.labels[:, order], test.patients)


class ComparedPair(NamedTuple):
    """Two runs and how they differ.

    Attributes:
        first, second: the runs; A and B where they are shown.
        found: differences first - second, in the order of the first run's findings.
        resamples: bootstrap replicates of patients behind intervals and p-values.
        facts: what else differs.
        timings: speeds of both, in each setup in which both were measured.
    """

    first: Side
    second: Side
    found: Comparison
    resamples: int
    facts: list[ContextFact]
    timings: list[Timing]

    @property
    def each(self) -> dict[str, Difference]:
        """The differences by finding."""
        return dict(zip(self.first.findings, self.found.each, strict=True))

    @property
    def significant(self) -> list[str]:
        """The findings that differ at `LEVEL` after Holm's correction."""
        return [name for name, one in self.each.items() if one.p_corrected is not None and one.p_corrected <= LEVEL]


def read_side(folder: Path) -> Side:
    """Read a run by its folder in `runs/` or `results/`, and verify it against its artifacts.

    Raises:
        UserError: no record in the folder.
        RecordError: one that does not follow from its artifacts.
    """
    records.require_record(folder)
    record = records.read(folder)
    table = verify_record(folder, record).table
    return Side(folder, record, table[table["split"] == "test"])


def check_same_test_set(first: Side, second: Side) -> None:
    """Check that both runs were evaluated on the same test images and labels. Raises UserError with what differs."""
    problems = list(_problems(first, second))
    if problems:
        details = "; ".join([*_differing_names(first.record, second.record), *problems])
        raise UserError(
            f"{first.folder} and {second.folder} were not evaluated on the same test images and labels: {details}: "
            "compare runs of one dataset, label file and split"
        )


def _differing_names(first: Record, second: Record) -> Iterator[str]:
    """Yield the names that differ, which may explain why the content does."""
    one, other = first.dataset, second.dataset
    if one.name != other.name:
        yield f"dataset {one.name} against {other.name}"
    if one.labels.sha256 != other.labels.sha256:
        files = (f"{part.file} ({part.version})" for part in (one.labels, other.labels))
        yield plain("label file " + " against ".join(files))


def _problems(first: Side, second: Side) -> Iterator[str]:
    for one, other in ((first, second), (second, first)):
        alone = sorted(set(one.findings) - set(other.findings))
        if alone:
            yield f"only {one.folder} has {_counted(alone, 'finding')}"
    for one, other in ((first, second), (second, first)):
        alone = sorted(set(one.table["image_id"]) - set(other.table["image_id"]))
        if alone:
            yield f"only {one.folder} has {_counted(alone, 'test image')}"
    yield from _differing_cells(first, second)


def _differing_cells(first: Side, second: Side) -> Iterator[str]:
    """Yield the patients and labels that differ, on the images and findings that both runs have."""
    one, other = (side.table.set_index("image_id") for side in (first, second))
    images = one.index.intersection(other.index).sort_values()
    labels = {label_column(finding): finding for finding in first.findings if finding in second.findings}
    one, other = one.loc[images], other.loc[images]
    moved = images[(one["patient_id"] != other["patient_id"]).to_numpy()]
    if len(moved):
        yield f"{_counted(list(moved), 'image')} assigned to different patients"
    mine, others = one[list(labels)], other[list(labels)]
    differ = (mine != others) & ~(mine.isna() & others.isna())
    cells = [f"{finding} on {image}" for name, finding in labels.items() for image in images[differ[name].to_numpy()]]
    if cells:
        yield f"{_counted(cells, 'label')} different"


def _counted(names: list[str], what: str) -> str:
    """Return `3 findings (Mass, Nodule and 1 more)`."""
    return plain(f"{len(names):,} {what}{'s' * (len(names) != 1)} ({first_few(names)})")
