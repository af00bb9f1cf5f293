"""The numbers of a run's log in an experiment tracker as well: TensorBoard, MLflow, or another one of accelerate's.

Trackers with files of their own write to `runs/<run id>/tracking/`; those of a service follow their own settings
(`MLFLOW_TRACKING_URI`, `WANDB_PROJECT`, ...). Nothing of it is part of a run's id or record.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from accelerate import Accelerator, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from .errors import UserError, did_you_mean
from .log import Entry
from .plan import Plan
from .progress import say
from .recipe import as_table

FOLDER = "tracking"
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
def tracked(plan: Plan) -> Iterator[list["Trackers"]]:
    """What the user wants to hear of the run, begun and ended with it. Raises UserError if a tracker does not begin."""
    if not plan.order.track:
        yield []
        return
    with _local_mlflow(plan):
        trackers = Trackers(plan)
        try:
            yield [trackers]
        finally:
            trackers.finish()


class Trackers:
    """Hands what is measured to accelerate's trackers; where one fails, the user is told once and the run goes on.

    Metrics are named `stage1/step/loss`, `stage1/epoch/validation_auc`, ...; their step is counted within the stage.
    """

    def __init__(self, plan: Plan) -> None:
        place = ProjectConfiguration(str(plan.work), logging_dir=str(plan.work / FOLDER))
        (plan.work / FOLDER).mkdir(exist_ok=True)
        self._accelerator = Accelerator(
            log_with=list(plan.order.track), project_config=place, mixed_precision="no", cpu=PartialState()._cpu
        )
        names = {"mlflow": {"run_name": plan.run_id}, "wandb": {"name": plan.run_id, "dir": str(plan.work / FOLDER)}}
        try:
            self._accelerator.init_trackers(PROJECT, _settings(plan), names)
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


def _settings(plan: Plan) -> dict[str, str | int | float]:
    """What the run was asked to do, flat."""
    flat = {"run": plan.run_id, "method": plan.method.name, "dataset": plan.dataset.name, "seed": plan.order.seed}
    for section, settings in as_table(plan.recipe).items():
        for name, value in settings.items() if isinstance(settings, dict) else ():
            flat[f"{section}.{name}"] = value if isinstance(value, int | float | str) else str(value)
    return flat


@contextmanager
def _local_mlflow(plan: Plan) -> Iterator[None]:
    """MLflow keeps its database in the run's folder, unless the user says where."""
    if "mlflow" not in plan.order.track or "MLFLOW_TRACKING_URI" in os.environ:
        yield
        return
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{plan.work / FOLDER / 'mlflow.db'}"
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
