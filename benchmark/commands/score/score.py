"""`chxbench score`: evaluate a file of external predictions and publish a record, with a row on the leaderboard.

No network runs and no image is opened, so torch is not imported.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ...evaluation.artifacts import score_table
from ...leaderboard.leaderboard import publish
from ...records import record as records
from ...records.record import RecordError
from ...records.schema import Record
from ...utils.errors import UserError
from ...utils.progress import say
from ...utils.workspace import Workspace
from .submission import ScoreConfig, Submission, read_submission

OnRecord = Callable[[Record, Path], None]


def score(config: ScoreConfig, on_record: OnRecord | None = None) -> tuple[Record, Path]:
    """Evaluate external predictions, publish their record and regenerate the leaderboard.

    Args:
        config: the requested evaluation; predictions that are already published keep their record.
        on_record: called with the record and its published folder before the leaderboard is regenerated.

    Returns:
        The record and the folder it was published to.

    Raises:
        UserError: if the request or a file is invalid. Nothing is published, except if only the leaderboard cannot be
            written because of an invalid record under `results`.
    """
    workspace = Workspace(config.results)
    workspace.check()
    submission = read_submission(config)
    for note in (*submission.predictions.notes, *submission.evaluated.notes):
        say(note)
    _check_name_is_free(submission, workspace)
    published = _record_folder(submission, workspace)
    record = _read_published(submission, published)
    if record is not None:
        return record, publish(workspace, record, published, on_record)
    with TemporaryDirectory() as folder:
        record = _write_record(submission, Path(folder))
        return record, publish(workspace, record, Path(folder), on_record)


def _check_name_is_free(submission: Submission, workspace: Workspace) -> None:
    """Check that neither a trained method nor other predictions on the same board have the name or the title.

    Raises:
        UserError: if one does, with its folder.
    """
    config, index = submission.config, submission.evaluated.index
    board = index.labels.sha256, index.split.sha256
    own_folder = _record_folder(submission, workspace)
    for folder in records.find(workspace.results):
        if folder.parts[-3] != submission.dataset.name or folder == own_folder:
            continue
        other = records.read(folder)
        if other.submission is None and folder.parts[-2] == config.name:
            raise UserError(f"{config.name} is a trained method ({folder}): choose a different --name")
        if other.submission is not None and board == (other.dataset.labels.sha256, other.dataset.split.sha256):
            _check_differs(folder, "name", other.method.name, config.name)
            _check_differs(folder, "title", other.method.title, config.display_title)


def _check_differs(folder: Path, field: str, taken: str, requested: str) -> None:
    if taken == requested:
        raise UserError(
            f"other predictions for these images already have the {field} {requested} ({folder}): "
            f"choose a different --{field} or remove that folder"
        )


def _record_folder(submission: Submission, workspace: Workspace) -> Path:
    return workspace.record_folder(submission.dataset.name, submission.config.name, submission.run_id)


def _read_published(submission: Submission, folder: Path) -> Record | None:
    """Return the published record of the same predictions and title, or None; the leaderboard verifies it."""
    try:
        record = records.read(folder)
        records.read_scores(folder, record)
    except RecordError:
        return None
    return record if record.method.title == submission.config.display_title else None


def _write_record(submission: Submission, folder: Path) -> Record:
    index, scores, _ = submission.evaluated
    table = score_table(index, np.arange(len(scores)), scores)
    return records.write(folder, submission.describe(), table, None)
