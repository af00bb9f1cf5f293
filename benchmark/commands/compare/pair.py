"""Read and verify the records of a comparison; reject them unless all were evaluated on the same test set.

Test images, their patients and their labels must be equal; the names of datasets and label files need not be.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ...evaluation.artifacts import label_column
from ...evaluation.scores import SplitScores, split_scores
from ...metrics.paired import MIN_SEEDS, Comparison, Difference
from ...records import record as records
from ...records.recompute import verify_record
from ...records.schema import Record
from ...utils.errors import UserError, first_few
from ...utils.text import changed_options, count, plain
from .run_differences import ContextFact, Timing

ALPHA = 0.05  # significance level, after the correction for the number of findings


class ComparedRun(NamedTuple):
    """A run of one of the two methods.

    Attributes:
        folder: folder of the run.
        record: record of the run.
        table: score table of the test split.
    """

    folder: Path
    record: Record
    table: pd.DataFrame

    @property
    def findings(self) -> list[str]:
        """Findings, in the order of the record."""
        return list(self.record.auc)

    def test_scores(self, findings: list[str]) -> SplitScores:
        """Return scores and labels of the test split, with the findings in this order."""
        test = split_scores(self.table)
        order = [test.findings.index(finding) for finding in findings]
        return SplitScores(findings, test.scores[:, order], test.labels[:, order], test.patients)


class ComparedMethod(NamedTuple):
    """One of the two methods: a run, or several runs that differ only in their seed.

    Attributes:
        folder: folder of the run or of the runs, as passed by the user.
        runs: the runs, by seed.
    """

    folder: Path
    runs: list[ComparedRun]

    @property
    def first(self) -> ComparedRun:
        """The run with the lowest seed."""
        return self.runs[0]

    @property
    def record(self) -> Record:
        """The record of the first run, whose method, data and recipe all runs share."""
        return self.first.record

    @property
    def seeds(self) -> str:
        """The seeds, such as "0, 1, 2"; empty for external predictions."""
        return ", ".join(str(run.record.seed) for run in self.runs if run.record.seed is not None)

    @property
    def label(self) -> str:
        """Method and run id, or number of seeds, for the name of a folder."""
        seeds = f"{len(self.runs)}-seeds" if len(self.runs) > 1 else self.record.run_id
        return f"{self.record.method.name}-{seeds}"

    @property
    def title(self) -> str:
        """The method's title, its changed options, and the seeds of trained runs."""
        record = self.record
        seeds = f"seed{'s' if len(self.runs) > 1 else ''} {self.seeds}" if self.seeds else ""
        return plain(", ".join(filter(None, (record.method.title, changed_options(record.method.changed), seeds))))


class ComparedPair(NamedTuple):
    """Two methods and how they differ.

    Attributes:
        first, second: the methods, shown as A and B.
        comparison: differences first - second, in the order of the findings of the first one.
        resamples: number of bootstrap replicates of patients, for intervals and p-values.
        facts: other differences between the methods' runs.
        timings: speed records of both methods, for each setup in which both were measured.
    """

    first: ComparedMethod
    second: ComparedMethod
    comparison: Comparison
    resamples: int
    facts: list[ContextFact]
    timings: list[Timing]

    @property
    def differences(self) -> dict[str, Difference]:
        """Differences by finding."""
        return dict(zip(self.first.first.findings, self.comparison.each, strict=True))

    @property
    def is_of_methods(self) -> bool:
        """Whether both methods have enough seeds for a conclusion about methods rather than trained networks."""
        return min(len(self.first.runs), len(self.second.runs)) >= MIN_SEEDS

    @property
    def significant(self) -> list[str]:
        """Findings that differ at `ALPHA` after Holm's correction."""
        p_values = {name: difference.p_corrected for name, difference in self.differences.items()}
        return [name for name, p in p_values.items() if p is not None and p <= ALPHA]


def read_compared_method(folder: Path) -> ComparedMethod:
    """Read a run by its folder in `runs/` or `results/`, or all runs of a method; verify them against their artifacts.

    Raises:
        UserError: if the folder has no record, or runs that differ in more than their seed.
        RecordError: if a record does not match its artifacts.
    """
    folders = sorted(
        path.parent for path in folder.glob(f"*/{records.RECORD_FILE}") if not path.parent.name.startswith(".")
    )
    if (folder / records.RECORD_FILE).exists() or not folders:
        records.require_record(folder)
        folders = [folder]
    runs = sorted(map(_read_run, folders), key=lambda run: run.record.seed or 0)
    variants = {run.record.experiment_sha256: run.folder.name for run in runs}
    if len(variants) > 1 or (len(runs) > 1 and None in variants):
        raise UserError(
            f"{folder} has runs that differ in more than their seed ({first_few(sorted(variants.values()))}): pass the "
            "folder of one run, or one with only the runs of one method, recipe and set of options"
        )
    for run in runs[1:]:
        check_same_test_set(runs[0], run)
    return ComparedMethod(folder, runs)


def _read_run(folder: Path) -> ComparedRun:
    record = records.read(folder)
    table = verify_record(folder, record).table
    return ComparedRun(folder, record, table[table["split"] == "test"])


def check_same_test_set(first: ComparedRun, second: ComparedRun) -> None:
    """Check that both runs were evaluated on the same test images and labels. Raises UserError with the differences."""
    problems = list(_problems(first, second))
    if problems:
        details = "; ".join([*_differing_names(first.record, second.record), *problems])
        raise UserError(
            f"{first.folder} and {second.folder} were not evaluated on the same test images and labels: {details}: "
            "compare runs of the same dataset, label file and split"
        )


def _differing_names(first: Record, second: Record) -> Iterator[str]:
    """Yield differing names of datasets and label files, which may explain differing content."""
    data_a, data_b = first.dataset, second.dataset
    if data_a.name != data_b.name:
        yield f"dataset {data_a.name} vs. {data_b.name}"
    if data_a.labels.sha256 != data_b.labels.sha256:
        files = (f"{labels.file} ({labels.version})" for labels in (data_a.labels, data_b.labels))
        yield plain("label file " + " vs. ".join(files))


def _problems(first: ComparedRun, second: ComparedRun) -> Iterator[str]:
    """Yield the findings and images that only one run has, and the differing patients and labels."""
    for run, other in ((first, second), (second, first)):
        unmatched = sorted(set(run.findings) - set(other.findings))
        if unmatched:
            yield f"only {run.folder} has {_counted(unmatched, 'finding')}"
    for run, other in ((first, second), (second, first)):
        unmatched = sorted(set(run.table["image_id"]) - set(other.table["image_id"]))
        if unmatched:
            yield f"only {run.folder} has {_counted(unmatched, 'test image')}"
    yield from _differing_cells(first, second)


def _differing_cells(first: ComparedRun, second: ComparedRun) -> Iterator[str]:
    """Yield differing patients and labels, on the images and findings that both runs have."""
    table_a, table_b = (run.table.set_index("image_id") for run in (first, second))
    images = table_a.index.intersection(table_b.index).sort_values()
    labels = {label_column(finding): finding for finding in first.findings if finding in second.findings}
    table_a, table_b = table_a.loc[images], table_b.loc[images]
    reassigned = images[(table_a["patient_id"] != table_b["patient_id"]).to_numpy()]
    if len(reassigned):
        yield f"{_counted(list(reassigned), 'image')} assigned to different patients"
    labels_a, labels_b = table_a[list(labels)], table_b[list(labels)]
    differing = (labels_a != labels_b) & ~(labels_a.isna() & labels_b.isna())
    cells = [
        f"{finding} on {image}" for name, finding in labels.items() for image in images[differing[name].to_numpy()]
    ]
    if cells:
        yield f"{_counted(cells, 'label')} different"


def _counted(names: list[str], noun: str) -> str:
    """Return `3 findings (Mass, Nodule and 1 more)`."""
    return plain(f"{count(len(names), noun)} ({first_few(names)})")
