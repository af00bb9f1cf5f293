"""Scores from elsewhere, judged as a run is: from somebody's file to a record and a row on the leaderboard.

`score` is the whole story. Nothing is trained, no image is opened, and torch is not needed.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from filelock import FileLock

from ...evaluation.artifacts import score_table
from ...leaderboard.figures import draw_run
from ...leaderboard.leaderboard import write_leaderboard
from ...records import record as records
from ...records.record import RecordError
from ...records.schema import Record
from ...utils.errors import UserError
from ...utils.progress import say
from ...utils.workspace import check_not_overwriting, check_results_folder, leaderboard_path
from .submission import ScoreConfig, Submission, read_submission


def score(config: ScoreConfig, tell: Callable[[Record, Path], None] | None = None) -> tuple[Record, Path]:
    """Judge a file of scores, publish the record, regenerate the leaderboard.

    Args:
        order: what is asked for.
        tell: called with the record and its place as soon as it is published.

    Returns:
        The record, and the folder it was published to.

    Raises:
        UserError: whatever the user can mend. Nothing is published then, unless only the leaderboard could not be
            written because another record under `results` is refused.
    """
    board = leaderboard_path(config.results)
    check_results_folder(config.results)
    check_not_overwriting(board)
    submission = read_submission(config)
    for note in (*submission.read.notes, *submission.scored.notes):
        say(note)
    _check_name_is_free(submission)
    lock = board.with_name("runs") / "publish.lock"  # shared with runs, one of which may finish at the same time
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        record, done = _published_before(submission) or _publish(submission)
        say(f"{done} {submission.place}")
        if tell:
            tell(record, submission.place)
        write_leaderboard(config.results, board)
    return record, submission.place


def _check_name_is_free(submission: Submission) -> None:
    """The name is no trained method's; on their board, no other scores have the name or the title. Raises UserError."""
    config, index = submission.config, submission.scored.index
    board = index.labels.sha256, index.split.sha256
    for folder in records.find(config.results):
        if folder.parts[-3] != submission.dataset.name or folder == submission.place:
            continue
        other = records.read(folder)
        if other.submission is None and folder.parts[-2] == config.name:
            raise UserError(f"{config.name} is a method that was trained here ({folder}): choose another --name")
        if other.submission is not None and board == (other.dataset.labels.sha256, other.dataset.split.sha256):
            _check_not_taken(folder, "name", other.method.name, config.name)
            _check_not_taken(folder, "title", other.method.title, config.label)


def _check_not_taken(folder: Path, what: str, taken: str, wanted: str) -> None:
    if taken == wanted:
        raise UserError(
            f"other scores of these images already have the {what} {wanted} ({folder}): "
            f"choose another --{what}, or remove that folder"
        )


def _published_before(submission: Submission) -> tuple[Record, str] | None:
    """The record of these scores under this title, if it is there; regenerating the leaderboard verifies it."""
    place = submission.place
    try:
        record = records.read(place)
        records.read_scores(place, record)
    except RecordError:
        return None
    return (record, "already published in") if record.method.title == submission.config.label else None


def _publish(submission: Submission) -> tuple[Record, str]:
    index, scores, _ = submission.scored
    table = score_table(index, np.arange(len(scores)), scores)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        record = records.write(work, submission.describe(), table, None)
        draw_run(record, table, work)
        return record, records.publish(work, record, submission.config.results)[1]
