"""The log's numbers in a tracker: a real TensorBoard, and one of the user's own, passed as accelerate's are."""

import pytest
import torch
from accelerate.tracking import GeneralTracker

from chxbench import UserError
from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.commands.run.tracking import TRACKING_FOLDER, check_trackers
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.utils.run_log import LOG_FILE, read_log


class Own(GeneralTracker):
    """A tracker that keeps what it hears, and fails where it is told to."""

    name = "own"
    requires_logging_directory = False

    def __init__(self, failing=()):
        super().__init__()
        self.failing, self.settings, self.heard, self.finished = failing, None, [], 0

    @property
    def tracker(self):
        return self

    def start(self):
        self._do("start")

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        self._do("log")
        self.heard.append((step, values))

    def finish(self):
        self.finished += 1
        self._do("finish")

    def _do(self, what):
        if what in self.failing:
            raise ConnectionError(f"no {what}")


@pytest.fixture(scope="module")
def tracked(config_in, tmp_path_factory):
    """A run's plan, its record, and the tracker that heard it, beside TensorBoard."""
    own = Own()
    config = config_in(tmp_path_factory.mktemp("tracked"), method="bsl", track=["tensorboard", own])
    record, _ = run(config)
    return build_experiment(config), record, own


def test_a_tracker_hears_what_the_log_holds(tracked):
    experiment, record, own = tracked
    wanted = []
    for entry in read_log(experiment.work / LOG_FILE):
        if entry["event"] == "step":
            names, step = ("loss", "lr", "images_per_second", "memory"), 5 * (entry["epoch"] - 1) + entry["step"]
            wanted.append((step, {f"stage1/step/{name}": entry[name] for name in names}))
        elif entry["event"] == "epoch":
            names = ("loss", "validation_auc")
            wanted.append((5 * entry["epoch"], {f"stage1/epoch/{name}": entry[name] for name in names}))
    assert own.heard == wanted
    assert [step for step, values in wanted if "stage1/epoch/loss" in values] == [5, 10]
    assert own.settings["train.epochs"] == 2
    assert own.settings["run"] == record.run_id
    assert own.finished == 1


def test_tensorboard_shows_the_same_numbers(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    experiment, record, own = tracked
    shown = EventAccumulator(str(experiment.work / TRACKING_FOLDER / "chxbench")).Reload()
    for name in ("stage1/epoch/loss", "stage1/epoch/validation_auc", "stage1/step/lr"):
        heard = [(step, torch.tensor(values[name]).item()) for step, values in own.heard if name in values]
        assert [(event.step, event.value) for event in shown.Scalars(name)] == heard
    assert len(shown.Scalars("stage1/epoch/loss")) == len(record.stages[0].loss)


def test_nothing_of_it_is_part_of_the_run(tracked, config_in, tmp_path):
    experiment, record, _ = tracked
    assert build_experiment(config_in(tmp_path, method="bsl")).run_id == experiment.run_id
    assert "track" not in record.model_dump_json()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "unknown tracker 'tensorbord': did you mean tensorboard?"),
        ("comet_ml", "tracker comet_ml needs the package comet-ml: pip install comet-ml or omit --track"),
    ],
)
def test_a_missing_tracker_is_reported_before_anything_is_written(small_config, name, message):
    config = small_config(method="bsl", track=[name])
    with pytest.raises(UserError) as refusal:
        run(config)
    assert str(refusal.value) == message
    assert not build_experiment(config).work.parent.exists()


def test_a_tracker_that_does_not_start_is_reported(small_config):
    config = small_config(method="bsl", track=[Own(["start"])])
    with pytest.raises(UserError, match=r"a tracker does not start \(no start\): fix it or omit --track"):
        run(config)
    assert not config.results.exists()


def test_a_tracker_that_fails_later_is_reported_once_and_ends_nothing(small_config, capsys):
    own = Own(["log", "finish"])
    record, _ = run(small_config(method="bsl", track=[own]))
    assert len(record.stages[0].loss) == 2
    assert (own.heard, own.finished) == ([], 1)
    told = [line for line in capsys.readouterr().err.splitlines() if "a tracker" in line]
    assert told == ["a tracker failed (ConnectionError: no log): the run continues without it"]


def test_a_tracker_of_the_users_own_needs_no_name():
    check_trackers([Own(), "tensorboard"])
