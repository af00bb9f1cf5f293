"""A run, watched: its beginning and its end go into its log, and how an epoch comes on while it is trained."""

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from ...engine.device import Device
from ...engine.experiment import Experiment
from ...recipe import recipe_table
from ...utils.environment import versions
from ...utils.errors import UserError, did_you_mean
from ...utils.progress import say
from ...utils.run_log import LOG_FILE, Entry, LogFile, attach_listeners, log_event


@contextmanager
def log_run(experiment: Experiment, device: Device) -> Iterator[None]:
    """Keep the run's log while it is trained and scored; in a process that only helps the main one, do nothing."""
    if not device.is_main:
        yield
        return
    with track_run(experiment) as trackers, attach_listeners(LogFile(experiment.work / LOG_FILE, say), *trackers):
        log_event("started", **_run_header(experiment, device))
        try:
            yield
        except KeyboardInterrupt:
            log_event("interrupted", why="by the user")
            raise
        except BaseException as error:
            log_event("failed", why=str(error) or type(error).__name__)
            raise
        log_event("finished")


def _run_header(experiment: Experiment, device: Device) -> dict[str, object]:
    """What the log says when a run begins or goes on."""
    config, where = experiment.config, device.describe()
    return {
        "command": _resume_command(list(config.typed)) if config.typed else [],
        "folder": str(Path.cwd()),
        "run": experiment.run_id,
        "method": experiment.method.name,
        "dataset": experiment.dataset.name,
        "seed": config.seed,
        "host": platform.node(),
        "process": os.getpid(),
        **{name: where[name] for name in ("device", "kind", "cores", "processes", "precision")},
        "versions": {name: number for name, number in versions().items() if name in ("python", "torch", "chxbench")},
    }


def _resume_command(typed: list[str]) -> list[str]:
    """The words that go on with this run: as typed, behind what started the processes, and without --fresh."""
    words = [word for word in typed if word != "--fresh"]
    own = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if own > 1:  # several machines are started by one such command on each: it is left to the user to say which
        return ["torchrun", "--nproc-per-node", str(own), "-m", "chxbench", *words]
    as_module = Path(sys.argv[0]).name == "__main__.py"
    return [*([sys.orig_argv[0], "-m"] if as_module else []), "chxbench", *words]


TRACKING_FOLDER = "tracking"
PROJECT = "chxbench"
MEASURED = ("loss", "lr", "images_per_second", "memory", "validation_auc")


def check_trackers(trackers: Sequence[str | GeneralTracker]) -> None:
    """Raises UserError where a name is none of accelerate's, or its package is not installed."""
    available = {str(name) for name in get_available_trackers()}
    for name in trackers:
        if isinstance(name, GeneralTracker):
            continue
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UserError(f"unknown tracker {name!r}: {did_you_mean(name, LOGGER_TYPE_TO_CLASS)}")
        if name in LoggerType.list() and name not in available:
            package = name.replace("_", "-")
            raise UserError(f"tracker {name} needs the package {package}: pip install {package}, or leave --track away")


@contextmanager
def track_run(experiment: Experiment) -> Iterator[list["Trackers"]]:
    """What the user wants to hear of the run, begun and ended with it. Raises UserError if a tracker does not begin."""
    if not experiment.config.track:
        yield []
        return
    with _local_mlflow(experiment):
        trackers = Trackers(experiment)
        try:
            yield [trackers]
        finally:
            trackers.finish()


class Trackers:
    """Hands what is measured to accelerate's trackers; where one fails, the user is told once and the run goes on.

    Metrics are named `stage1/step/loss`, `stage1/epoch/validation_auc`, ...; their step is counted within the stage.
    """

    def __init__(self, experiment: Experiment) -> None:
        place = ProjectConfiguration(str(experiment.work), logging_dir=str(experiment.work / TRACKING_FOLDER))
        (experiment.work / TRACKING_FOLDER).mkdir(exist_ok=True)
        self._accelerator = Accelerator(
            log_with=list(experiment.config.track), project_config=place, mixed_precision="no", cpu=PartialState()._cpu
        )
        names = {
            "mlflow": {"run_name": experiment.run_id},
            "wandb": {"name": experiment.run_id, "dir": str(experiment.work / TRACKING_FOLDER)},
        }
        try:
            self._accelerator.init_trackers(PROJECT, _flat_settings(experiment), names)
        except Exception as error:
            raise UserError(f"a tracker does not begin ({error}): mend that, or leave --track away") from error
        self._step = 0
        self._failed = False

    def __call__(self, entry: Entry) -> None:
        values = {name: entry[name] for name in MEASURED if isinstance(entry.get(name), int | float)}
        if self._failed or not values:
            return
        if entry["event"] == "step":
            self._step = (entry["epoch"] - 1) * entry["steps"] + entry["step"]
        kind = f"stage{entry['stage']}/{entry['event']}"
        with self._told():
            self._accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step=self._step)

    def finish(self) -> None:
        """End the trackers, but not the processes, as `end_training` would: they still have work to do."""
        for tracker in self._accelerator.trackers:
            with self._told():
                tracker.finish()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._failed:
                say(f"a tracker fails ({type(error).__name__}: {error}): the run goes on without it")
            self._failed = True


def _flat_settings(experiment: Experiment) -> dict[str, str | int | float]:
    """What the run was asked to do, flat."""
    flat = {
        "run": experiment.run_id,
        "method": experiment.method.name,
        "dataset": experiment.dataset.name,
        "seed": experiment.config.seed,
    }
    for section, settings in recipe_table(experiment.recipe).items():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            flat[f"{section}.{name}"] = value if isinstance(value, int | float | str) else str(value)
    return flat


@contextmanager
def _local_mlflow(experiment: Experiment) -> Iterator[None]:
    """MLflow keeps its database in the run's folder, unless the user says where."""
    if "mlflow" not in experiment.config.track or "MLFLOW_TRACKING_URI" in os.environ:
        yield
        return
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{experiment.work / TRACKING_FOLDER / 'mlflow.db'}"
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
