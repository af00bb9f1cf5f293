"""Describe time, software and dataset for the records of several commands."""

from collections.abc import Sequence
from datetime import UTC, datetime

from ..dataset import Dataset, Index
from ..utils.environment import code_state, versions
from ..utils.options import to_dict
from ..utils.source_code import source_sha256
from .schema import CodePart, Counts, DatasetPart, LabelsPart, PixelsPart, Software, SplitPart


def now() -> str:
    """Return the current time in the format of records: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_software() -> Software:
    """Describe the installed versions and the state of the code."""
    state = code_state()
    commit, dirty = state["commit"], state["dirty"]
    code = CodePart(commit=None if commit is None else str(commit), dirty=None if dirty is None else bool(dirty))
    return Software(versions=versions(), code=code)


def describe_dataset(dataset: Dataset, index: Index, splits: Sequence[str], pixels: PixelsPart | None) -> DatasetPart:
    """Describe the dataset of a run or of external predictions.

    Args:
        dataset: dataset plugin with its options.
        index: images that were scored or trained on.
        splits: splits of the index to count.
        pixels: the decoded images; None if no image was decoded.
    """
    return DatasetPart(
        name=dataset.name,
        title=dataset.title,
        caveat=dataset.caveat,
        options=to_dict(dataset),
        source_sha256=source_sha256(type(dataset)),
        findings=list(index.findings),
        rare=[finding for finding in index.findings if finding in dataset.rare],
        labels=LabelsPart(**index.labels._asdict()),
        split=SplitPart(**index.split._asdict()),
        pixels=pixels,
        counts={split: _count(index, split) for split in splits},
        skipped=list(index.skipped),
    )


def _count(index: Index, split: str) -> Counts:
    images = index.images.iloc[index.rows(split)]
    positive = images[list(index.findings)] == 1
    return Counts(
        images=len(images),
        patients=int(images["patient_id"].nunique()),
        positives={finding: int(positive[finding].sum()) for finding in index.findings},
        with_finding=int(positive.any(axis=1).sum()),
        absent=index.absent.get(split, 0),
    )
