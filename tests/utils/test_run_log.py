"""A run's log: whole lines whatever happens to the disk, and what an epoch says of itself without holding it up."""

import json
import math
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chxbench import METHODS, UserError
from chxbench.benchmark.cli import main
from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.commands.run.tracking import _resume_command
from chxbench.benchmark.data.loader import Batch
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine import trainer
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.engine.step import make_learner, train_step
from chxbench.benchmark.engine.trainer import StepLogger
from chxbench.benchmark.recipe import load_recipe
from chxbench.benchmark.utils.options import build
from chxbench.benchmark.utils.progress import progress, say
from chxbench.benchmark.utils.run_log import LOG_FILE, LogFile, attach_listeners, log_event, read_log


def events(path):
    return [entry["event"] for entry in read_log(path)]


@pytest.fixture(scope="module")
def logged(config_in, tmp_path_factory):
    """The plan, the record and the log of a finished run of ma."""
    config = config_in(tmp_path_factory.mktemp("logged"), method="ma")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "INTERVAL", 3600)  # a line more on a busy machine
        record, _ = run(config)
    experiment = build_experiment(config)
    return experiment, record, read_log(experiment.work / LOG_FILE)


def test_a_run_tells_its_story(logged):
    _, _, entries = logged
    stage = ["stage", "step", "epoch", "step", "epoch"]
    received = [
        entry["event"] for entry in entries if entry.get("step") == entry.get("steps")
    ]  # a slow machine tells more
    assert received == ["started", *stage, *stage, "scoring", "finished"]
    times = [datetime.fromisoformat(entry["time"]) for entry in entries]
    assert times == sorted(times)
    assert timedelta(0) <= datetime.now(UTC) - times[-1] < timedelta(minutes=5)


def test_its_numbers_are_the_records(logged):
    experiment, record, entries = logged
    started, scoring = entries[0], entries[-2]
    assert (started["run"], started["method"], started["seed"]) == (record.run_id, "ma", 0)
    assert started["versions"]["torch"] == torch.__version__.split("+")[0]
    assert scoring["images"] == len(experiment.index.rows("val")) + len(experiment.index.rows("test"))
    for number, stage in enumerate(record.stages, start=1):
        mine = [entry for entry in entries if entry.get("stage") == number]
        assert (mine[0]["name"], mine[0]["images"], mine[0]["epochs"]) == (stage.name, stage.examples, 2)
        ends = [entry for entry in mine if entry["event"] == "epoch"]
        assert [entry["validation_auc"] for entry in ends] == stage.validation_auc
        assert [entry["loss"] for entry in ends] == stage.loss
        steps = [entry for entry in mine if entry["event"] == "step" and entry["step"] == entry["steps"]]
        assert [entry["loss"] for entry in steps] == pytest.approx(stage.loss)
        assert {(entry["step"], entry["steps"]) for entry in steps} == {(math.ceil(stage.examples / 16),) * 2}
        assert all(0 < entry["lr"] < experiment.recipe.train.lr and entry["images_per_second"] > 0 for entry in steps)
        assert all(1e8 < entry["memory"] < 1e12 for entry in steps)


def make_pace(interval, monkeypatch, steps=3, done=0):
    """An epoch's pace, its learner, and a function that does a step on a batch of 4 images."""
    monkeypatch.setattr(trainer, "INTERVAL", interval)
    device, method = Device("float32"), build(METHODS.get("bsl").cls, {"backbone": "resnet18"}, "")
    learner = make_learner(device, method.build(FINDINGS, "none"), load_recipe("quick", {}), 10)
    pace = StepLogger(device, learner, (1, 2), steps, done)
    batch = Batch(torch.zeros(4, 32, 32, dtype=torch.uint8), torch.zeros(4, len(FINDINGS)), slice(0, 4))
    return pace, learner, lambda: pace(batch, train_step(device, method, learner, batch))


@pytest.mark.parametrize(("interval", "lines"), [(0, [2, 3, 4]), (3600, [4])])
def test_an_epoch_is_logged_at_intervals_and_at_its_end(interval, lines, monkeypatch):
    received = []
    with attach_listeners(received.append):
        _, learner, step = make_pace(interval, monkeypatch, steps=4, done=1)
        for _ in range(3):
            step()
    assert [entry["step"] for entry in received] == lines
    assert {(entry["stage"], entry["epoch"], entry["steps"]) for entry in received} == {(2, 3, 4)}
    assert received[-1]["lr"] == learner.optimizer.param_groups[0]["lr"]


def test_the_loss_is_the_mean_of_this_processs_images(monkeypatch):
    received = []
    with attach_listeners(received.append):
        pace, _, _ = make_pace(3600, monkeypatch, steps=2)
        targets = torch.zeros(8, len(FINDINGS))
        pace(Batch(torch.zeros(4, 8, 8), targets, slice(0, 4)), torch.tensor(0.25))  # its half of a batch of eight
        pace(Batch(torch.zeros(1, 8, 8), targets[:4], slice(0, 1), is_padding=True), torch.tensor(0.0))
    assert received[0]["loss"] == pytest.approx(0.5)


@pytest.mark.parametrize("heard", [True, False])
def test_between_two_lines_a_step_never_waits_for_the_device(heard, monkeypatch):
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    received = []
    with attach_listeners(*([received.append] if heard else [])):
        _, _, step = make_pace(3600, monkeypatch, steps=3)
        step()
        for last in (False, True):
            called = []
            with Watch():
                step()
            assert ("_local_scalar_dense" in called) == (last and heard)
    assert len(received) == heard


def test_other_long_work_is_logged_at_intervals(monkeypatch):
    received = []
    monkeypatch.setattr("chxbench.benchmark.utils.progress.INTERVAL", 0)
    with attach_listeners(received.append), progress("decoding", 30) as advance:
        advance(10)
        advance(20)
    assert [(entry["doing"], entry["done"], entry["of"], entry["unit"]) for entry in received] == [
        ("decoding", 10, 30, "images"),
        ("decoding", 30, 30, "images"),
    ]


def test_numbers_that_are_not_finite_are_null(tmp_path):
    with attach_listeners(LogFile(tmp_path / LOG_FILE, say)):
        log_event("step", loss=math.nan, lr=math.inf, memory=None, step=1, nested={"a": [1.5, math.nan]})
    (line,) = (tmp_path / LOG_FILE).read_text().splitlines()
    entry = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (entry["loss"], entry["lr"], entry["memory"], entry["step"]) == (None, None, None, 1)
    assert entry["nested"] == {"a": [1.5, None]}


def test_every_line_is_one_write_and_is_in_the_file_at_once(tmp_path):
    path = tmp_path / LOG_FILE
    with attach_listeners(LogFile(path, say)):
        for count in range(3):
            log_event("step", step=count)
            assert [entry["step"] for entry in read_log(path)] == list(range(count + 1))
            assert path.read_bytes().endswith(b"}\n")


def test_a_log_continues_below_an_incomplete_line(tmp_path):
    path = tmp_path / LOG_FILE
    path.write_bytes(b'{"time": "2026-01-01T00:00:00+00:00", "event": "started"}\n{"time": "2026-01-01T00:0')
    with attach_listeners(LogFile(path, say)):
        log_event("stage")
        log_event("finished")
    assert events(path) == ["started", "stage", "finished"]


@pytest.mark.parametrize(
    "damage",
    [b"", b"\n\n", b"\xff\xfe\x00", b"[1, 2]\n", b'{"event": "step"}', b'{"time": 1, "event": "step"}', b"[" * 100_000],
)
def test_damaged_lines_are_left_out(tmp_path, damage):
    path, good = tmp_path / LOG_FILE, b'{"time": "2026-01-01T00:00:00+00:00", "event": "stage"}\n'
    path.write_bytes(good + damage + b"\n" + good)
    assert events(path) == ["stage", "stage"]


full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")


@full_disk
def test_a_full_disk_is_reported_once_and_stops_nothing(small_config, capsys):
    config = small_config(method="bsl", settings={"train.epochs": 1})
    work = build_experiment(config).work
    work.mkdir(parents=True)
    (work / LOG_FILE).symlink_to("/dev/full")
    record, _ = run(config)
    assert len(record.stages[0].loss) == 1
    received = [line for line in capsys.readouterr().err.splitlines() if "No space left" in line]
    assert received == [
        f"{work / LOG_FILE}: No space left on device: the run continues without its log until this is fixed"
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are a matter of Unix")
def test_a_line_that_fits_the_disk_in_part_is_closed_before_the_next(tmp_path):
    import resource

    received, path = [], tmp_path / LOG_FILE
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with attach_listeners(LogFile(path, received.append)):
        log_event("started")
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
        try:
            log_event("lost")
            log_event("lost")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log_event("finished")
    assert events(path) == ["started", "finished"]
    assert len(path.read_bytes().splitlines()) == 3
    assert len(received) == 1


@pytest.mark.parametrize(
    ("error", "event", "why"),
    [
        pytest.param(KeyboardInterrupt(), "interrupted", "by the user", id="interrupt"),
        pytest.param(UserError("the disk is on fire"), "failed", "the disk is on fire", id="mistake"),
        pytest.param(MemoryError(), "failed", "MemoryError", id="no text"),
    ],
)
def test_the_end_of_a_run_is_logged_and_the_log_continues_when_it_resumes(small_config, monkeypatch, error, event, why):
    config = small_config(method="bsl", settings={"train.epochs": 1}, argv=("run", "--fresh", "--method", "bsl"))

    def stop(*_):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr("chxbench.benchmark.commands.run.train_and_score.score", stop)
        run(config)
    path = build_experiment(config).work / LOG_FILE
    assert read_log(path)[-1].items() >= {"event": event, "why": why}.items()
    assert read_log(path)[0]["command"][-3:] == ["run", "--method", "bsl"]  # --fresh would start over
    run(config)
    assert events(path)[:1] == ["started"]
    assert events(path)[-2:] == ["scoring", "finished"]
    assert events(path).count("started") == 2


def test_a_loss_that_is_not_finite_is_a_failure(small_config):
    config = small_config(method="bsl", settings={"train.lr": 1e30, "train.optimizer": "sgd", "train.schedule": "step"})
    with pytest.raises(UserError, match="the loss is"):
        run(config)
    last = read_log(build_experiment(config).work / LOG_FILE)[-1]
    assert last["event"] == "failed"
    assert "lower the learning rate" in last["why"]


@pytest.mark.parametrize(
    ("program", "processes", "wanted"),
    [
        pytest.param("/usr/bin/chxbench", None, ["chxbench"], id="installed"),
        pytest.param("/here/chxbench/__main__.py", None, ["python3", "-m", "chxbench"], id="module"),
        pytest.param(
            "/here/__main__.py", 4, ["torchrun", "--nproc-per-node", "4", "-m", "chxbench"], id="several processes"
        ),
    ],
)
def test_the_command_is_logged_as_it_was_typed(program, processes, wanted, monkeypatch):
    from click.testing import CliRunner

    monkeypatch.setattr("sys.argv", [program])
    monkeypatch.setattr("sys.orig_argv", ["python3", "-m", "chxbench"])
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    configs, words = [], ["run", "--method", "ma", "--data-dir", "a folder", "--set", "train.epochs=1", "--fresh"]
    monkeypatch.setattr("chxbench.benchmark.commands.run.run.run", lambda config, on_record: configs.append(config))
    ran = CliRunner().invoke(main, words)
    assert ran.exit_code == 0, ran.output
    assert configs[0].argv == tuple(words)
    assert _resume_command(list(configs[0].argv)) == [*wanted, *words[:-1]]
