"""`chxbench run`: from names on the command line to a published record and a row on the leaderboard."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from ...data.pixel_cache import cached_sha256, decode_sample
from ...engine.blame import name_method
from ...engine.device import Device, destroy_process_group, init_distributed
from ...engine.experiment import Experiment, RunConfig, build_experiment
from ...engine.stages import remove_training_state
from ...engine.threads import THREADS_FILE, run_threads
from ...leaderboard.leaderboard import publish, unreadable_record
from ...leaderboard.literature import literature
from ...recipe import recipe_table
from ...records import record as records
from ...records.recompute import verify_record
from ...records.schema import Record
from ...utils.errors import UserError, did_you_mean
from ...utils.files import hold_lock
from ...utils.progress import say
from ...utils.run_log import LOG_FILE, read_log
from ...utils.signals import handle_signals
from .localize import localize_again
from .tracking import LoggedRun, check_trackers, log_run
from .train_and_score import train_and_score

WRITTEN = (".json", ".jsonl", ".npz", ".parquet", ".png", ".pt", ".safetensors")  # endings of a run's files
OnRecord = Callable[[Record, Path], None]


def run(config: RunConfig, on_record: OnRecord | None = None) -> tuple[Record, Path] | None:
    """Train and evaluate a method, publish its record and regenerate the leaderboard.

    Args:
        config: configuration of the run. An interrupted run is resumed, a completed one is published again.
        on_record: called with the record and its published folder before the leaderboard is regenerated.

    Returns:
        The record and the folder it was published to; None in a process other than the main one.

    Raises:
        UserError: the user can fix the problem; nothing is published.
    """

    def on_published(record: Record, place: Path) -> None:
        remove_training_state(experiment.work)
        if on_record:
            on_record(record, place)

    with init_distributed().main_process_first():  # so that only the main process reports a mistake
        check_trackers(config.track)
        experiment = build_experiment(config)
        experiment.workspace.check()
        _check_reported(experiment)
        _mention_unreadable(experiment)
    device = Device(experiment.recipe.compute.precision, cache=config.cache)
    with handle_signals(), _lock_run(experiment) if device.is_main else nullcontext():
        record = train_or_read(experiment, device)
        if record is None:
            return None
        # Still locked: a second process with --fresh would remove the folder that is being copied.
        return record, publish(experiment.workspace, record, experiment.work, on_published)


def _check_reported(experiment: Experiment) -> None:
    """Raise UserError if the method names results of a paper that the table does not have."""
    key, known = experiment.method.reported, set(literature()["key"])
    if key is not None and key not in known:
        place = experiment.entry.place
        raise UserError(f"method {experiment.method.name} ({place}) has reported = {key!r}: {did_you_mean(key, known)}")


def _mention_unreadable(experiment: Experiment) -> None:
    """Say before the training that the leaderboard cannot be written after it."""
    workspace = experiment.workspace
    place = workspace.record_folder(experiment.dataset.name, experiment.method.name, experiment.run_id)
    if problem := unreadable_record(workspace, place):
        say(f"until this is corrected, the run will be published without a leaderboard: {problem}")


def run_and_destroy_group(configs: Sequence[RunConfig], on_record: OnRecord | None = None) -> None:
    """Run one after the other, then destroy the process group; for a process that ends afterwards."""
    for number, config in enumerate(configs, 1):
        if len(configs) > 1:
            say(f"seed {config.seed}, run {number} of {len(configs)}")
        run(config, on_record)
    destroy_process_group()


def train_or_read(experiment: Experiment, device: Device) -> Record | None:
    """Return the run's verified record, after training if it is missing; None in all but the main process."""
    is_complete = device.broadcast((experiment.work / "run.json").exists())
    if is_complete:
        say(f"this run is already complete: {experiment.work} (pass --fresh to train again)")
    else:
        with (
            run_threads(device, experiment.recipe.compute.threads, experiment.work),
            _log(experiment, device),
            name_method(experiment.method, experiment.entry.place),
        ):
            train_and_score(experiment, device)
    if not device.is_main:
        return None
    record = records.read(experiment.work)
    verify_record(experiment.work, record)  # a completed run may have been edited since
    if is_complete:
        _check_pixels(experiment, record)
    if is_complete and record.localization_problem is not None:
        with _log(experiment, device):
            record = localize_again(experiment, device, record)
    return record


def _check_pixels(experiment: Experiment, record: Record) -> None:
    """Check that the images are still those of a completed run: all if they are cached, else a sample.

    Raises:
        UserError: they are not.
    """
    dataset, index, pixels = experiment.dataset, experiment.index, record.dataset.pixels
    size = experiment.recipe.pixels.size
    if pixels is None:
        return
    sha256 = cached_sha256(dataset, index, size, experiment.config.cache)
    is_same = sha256 == pixels.sha256 if sha256 else decode_sample(dataset, index, size, pixels.sample) == pixels.sample
    if not is_same:
        raise UserError(
            f"the images of {experiment.dataset.title} have changed since the run in {experiment.work} was completed: "
            "pass --fresh to train again"
        )


def _log(experiment: Experiment, device: Device) -> AbstractContextManager[None]:
    """Return the context that writes the run's log; only the main process has one."""
    if not device.is_main:
        return nullcontext()
    logged = LoggedRun(
        run_id=experiment.run_id,
        method=experiment.method.name,
        dataset=experiment.dataset.name,
        seed=experiment.config.seed,
        folder=experiment.work,
        recipe=recipe_table(experiment.recipe),
        hardware=device.describe(),
        argv=experiment.config.argv,
        trackers=experiment.config.track,
    )
    return log_run(logged)


@contextmanager
def _lock_run(experiment: Experiment) -> Iterator[None]:
    """Lock the run's folder, emptied first with `--fresh`; remove the folder if nothing was saved.

    The system releases the lock if the process is killed.
    """
    work, lock = experiment.work, experiment.workspace.run_lock(experiment.run_id)
    try:
        with hold_lock(lock, f"this run in {work}", wait=False):
            try:
                if experiment.config.fresh and work.exists():
                    (work / "run.json").unlink(missing_ok=True)  # first: a half-removed run must not count as complete
                    shutil.rmtree(work)
                work.mkdir(exist_ok=True)
                _check_names(work)
                yield
            finally:
                if _remove_if_empty(work):
                    lock.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # not empty: other runs are there
            work.parent.rmdir()


def _check_names(work: Path) -> None:
    """Raise UserError if a folder ends as a file that the run writes; folders with other endings are left alone."""
    for path in (*work.glob("*.*"), *work.glob("stage*/*.*")):
        if path.suffix in WRITTEN and path.is_dir():
            raise UserError(f"{path} is a folder, but the run writes a file of that name: remove it")


def _remove_if_empty(work: Path) -> bool:
    """Remove empty folders, and the log of a run that failed before training; return whether nothing is left."""
    log = work / LOG_FILE
    if log.is_file() and {entry["event"] for entry in read_log(log)} <= {"started", "failed"}:
        log.unlink()
        (work / THREADS_FILE).unlink(missing_ok=True)
    for folder in (*work.glob("stage*"), work):
        with suppress(OSError):
            folder.rmdir()
    return not work.exists()
