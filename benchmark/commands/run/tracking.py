"""Attach a run's log file and experiment trackers, which receive the same events while it trains and scores."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from ...utils.environment import versions
from ...utils.errors import UserError, did_you_mean
from ...utils.progress import say
from ...utils.run_log import LOG_FILE, Entry, LogFile, attach_listeners, log_event

TRACKING_FOLDER = "tracking"
PROJECT = "chxbench"
METRICS = ("loss", "lr", "images_per_second", "memory", "validation_auc")  # keys of log entries that trackers plot


@dataclass(frozen=True)
class LoggedRun:
    """Ids and settings of a run for its log and its trackers.

    Attributes:
        run_id, method, dataset, seed: identity of the run.
        folder: folder of the run.
        recipe: table of the recipe, by section.
        hardware: description of the device.
        argv: arguments of `chxbench`; empty for a run started from Python.
        trackers: names of accelerate's trackers, or tracker objects.
    """

    run_id: str
    method: str
    dataset: str
    seed: int
    folder: Path
    recipe: Mapping[str, Any]
    hardware: Mapping[str, Any]
    argv: Sequence[str] = ()
    trackers: Sequence[str | GeneralTracker] = ()

    @property
    def tracking(self) -> Path:
        """The folder of local trackers' files."""
        return self.folder / TRACKING_FOLDER

    def ids(self) -> dict[str, str | int]:
        """Return the ids with which both log and trackers start."""
        return {"run": self.run_id, "method": self.method, "dataset": self.dataset, "seed": self.seed}


@contextmanager
def log_run(run: LoggedRun) -> Iterator[None]:
    """Log start, end and all events of a run to its log file and its trackers."""
    with track_run(run) as trackers, attach_listeners(LogFile(run.folder / LOG_FILE, say), *trackers):
        log_event("started", **_log_header(run))
        try:
            yield
        except KeyboardInterrupt:
            log_event("interrupted", why="by the user")
            raise
        except BaseException as error:
            log_event("failed", why=str(error) or type(error).__name__)
            raise
        log_event("finished")


def _log_header(run: LoggedRun) -> dict[str, object]:
    """Return the values of the log's `started` entry."""
    return {
        "command": _resume_command(run.argv) if run.argv else [],
        "folder": str(Path.cwd()),
        **run.ids(),
        "host": platform.node(),
        "process": os.getpid(),
        **{name: run.hardware[name] for name in ("device", "kind", "cores", "processes", "precision")},
        "versions": {name: number for name, number in versions().items() if name in ("python", "torch", "chxbench")},
    }


def _resume_command(argv: Sequence[str]) -> list[str]:
    """Return the command that resumes this run: the launcher if any, then the arguments as typed, without --fresh."""
    arguments = [argument for argument in argv if argument != "--fresh"]
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if local_processes > 1:  # on several machines, the command is that of this machine
        return ["torchrun", "--nproc-per-node", str(local_processes), "-m", "chxbench", *arguments]
    as_module = Path(sys.argv[0]).name == "__main__.py"
    return [*([sys.orig_argv[0], "-m"] if as_module else []), "chxbench", *arguments]


def check_trackers(trackers: Sequence[str | GeneralTracker]) -> None:
    """Check the names of trackers. Raises UserError if one is unknown or its package is not installed."""
    available = {str(name) for name in get_available_trackers()}
    for name in trackers:
        if isinstance(name, GeneralTracker):
            continue
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f"unknown tracker {name!r}: {did_you_mean(name, LOGGER_TYPE_TO_CLASS)}")
        if name in LoggerType.list() and name not in available:
            package = name.replace("_", "-")
            raise UserError(f"tracker {name} needs the package {package}: pip install {package} or omit --track")


@contextmanager
def track_run(run: LoggedRun) -> Iterator[list["Trackers"]]:
    """Start the run's trackers, and finish them after the block. Raises UserError if one does not start."""
    if not run.trackers:
        yield []
        return
    with _local_mlflow(run):
        trackers = Trackers(run)
        try:
            yield [trackers]
        finally:
            trackers.finish()


class Trackers:
    """Log listener that passes metrics to accelerate's trackers; a failing tracker is reported once and skipped.

    Metrics are named `stage1/step/loss`, `stage1/epoch/validation_auc`, ...; steps are counted within the stage.
    """

    def __init__(self, run: LoggedRun) -> None:
        project = ProjectConfiguration(str(run.folder), logging_dir=str(run.tracking))
        run.tracking.mkdir(exist_ok=True)
        self._accelerator = Accelerator(
            log_with=list(run.trackers), project_config=project, mixed_precision="no", cpu=PartialState()._cpu
        )
        names = {
            "mlflow": {"run_name": run.run_id},
            "wandb": {"name": run.run_id, "dir": str(run.tracking)},
        }
        try:
            self._accelerator.init_trackers(PROJECT, _flat_settings(run), names)
        except Exception as error:  # trackers raise the exceptions of their services
            raise UserError(f"a tracker does not start ({error}): fix it or omit --track") from error
        self._step = 0
        self._failed = False

    def __call__(self, entry: Entry) -> None:
        values = {name: entry[name] for name in METRICS if isinstance(entry.get(name), int | float)}
        if self._failed or not values:
            return
        if entry["event"] == "step":
            self._step = (entry["epoch"] - 1) * entry["steps"] + entry["step"]
        kind = f"stage{entry['stage']}/{entry['event']}"
        with self._report_once():
            self._accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=self._step)

    def finish(self) -> None:
        """Finish the trackers, but keep the process group, which accelerate's `end_training` would destroy."""
        for tracker in self._accelerator.trackers:
            with self._report_once():
                tracker.finish()

    @contextmanager
    def _report_once(self) -> Iterator[None]:
        # A run of days must not end because a tracking server is down.
        try:
            yield
        except Exception as error:
            if not self._failed:
                say(f"a tracker failed ({type(error).__name__}: {error}): the run continues without it")
            self._failed = True


def _flat_settings(run: LoggedRun) -> dict[str, str | int | float]:
    """Return ids and recipe settings as `section.name` to a value that every tracker accepts."""
    flat: dict[str, str | int | float] = {**run.ids()}
    for section, settings in run.recipe.items():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            flat[f"{section}.{name}"] = value if isinstance(value, int | float | str) else str(value)
    return flat


@contextmanager
def _local_mlflow(run: LoggedRun) -> Iterator[None]:
    """Keep MLflow's database in the run's folder, unless the user has set a different URI."""
    if "mlflow" not in run.trackers or "MLFLOW_TRACKING_URI" in os.environ:
        yield
        return
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{run.tracking / 'mlflow.db'}"
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
