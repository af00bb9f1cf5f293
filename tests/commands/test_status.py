"""`chxbench status`: the state of every run as it is, whatever else is in the folder."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from chxbench.benchmark.cli import main
from chxbench.benchmark.commands.status import age, read_status, read_statuses
from chxbench.benchmark.engine import checkpoint
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.utils.files import CHECKPOINT_FILE
from chxbench.benchmark.utils.run_log import LOG_FILE, LogFile, attach_listeners, log_event
from chxbench.benchmark.utils.workspace import Workspace

STARTED = {"method": "ma", "dataset": "phantom", "command": ["chxbench", "run", "--method", "ma"]}


def status_of(work):
    """The state of the run in this folder."""
    return read_status(Workspace(work.parents[1] / "results"), work.name)


def shown(results, width=80):
    """What the command prints on a terminal of this width: one text in one line, and its lines."""
    done = CliRunner().invoke(main, ["status", "--results", str(results)], env={"COLUMNS": str(width)})
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    return " ".join(done.output.split()), lines


@pytest.fixture
def make_run(tmp_path):
    """Make the folder of a run that noted these (event, values), below `tmp_path`."""

    def make(name, *events, folder=None):
        work = tmp_path / "runs" / name
        work.mkdir(parents=True)
        with attach_listeners(LogFile(work / LOG_FILE, pytest.fail)):
            log_event("started", **STARTED, folder=folder or str(tmp_path))
            for event, values in events:
                log_event(event, **values)
        return work

    return make


STEP = ("step", {"stage": 2, "epoch": 3, "step": 40, "steps": 71, "loss": 0.1})
EPOCH = ("epoch", {"stage": 2, "epoch": 3, "epochs": 4, "loss": 0.1, "validation_auc": 0.7})


@pytest.mark.parametrize(
    ("events", "state", "detail"),
    [
        pytest.param([], "interrupted", "started", id="started"),
        pytest.param([STEP], "interrupted", "stage 2, epoch 3, step 40 of 71", id="killed in a step"),
        pytest.param(
            [STEP, EPOCH, ("interrupted", {"why": "by the user"})],
            "interrupted",
            "stage 2, epoch 3 of 4 done",
            id="interrupted",
        ),
        pytest.param([STEP, ("failed", {"why": "disk is full"})], "failed", "disk is full", id="failed"),
        pytest.param(
            [("progress", {"doing": "decoding", "done": 5, "of": 9, "unit": "images"})],
            "interrupted",
            "decoding, 5 of 9 images",
            id="decoding",
        ),
        pytest.param([("step", {})], "interrupted", "stage ?, epoch ?, step ? of ?", id="values are missing"),
    ],
)
def test_the_state_of_a_run_that_ended_is_that_of_its_log(make_run, events, state, detail):
    status = status_of(make_run("quick-seed0-1", *events))
    assert (status.state, status.detail, status.task) == (state, detail, "ma on phantom")
    assert status.command.endswith("chxbench run --method ma")


def test_a_run_is_running_while_a_process_holds_its_lock(make_run, tmp_path):
    work = make_run("quick-seed0-1", STEP)
    code = (
        f"import time; from filelock import FileLock\n"
        f"with FileLock({str(work) + '.lock'!r}): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            status = status_of(work)
        finally:
            process.kill()
    assert (status.state, status.command) == ("running", None)
    assert status.detail == "stage 2, epoch 3, step 40 of 71"
    assert status_of(work).state == "interrupted"


def test_the_command_shown_resumes_the_run(small_config, tmp_path, monkeypatch):
    settings = {"train.epochs": 2}
    config = small_config(method="bsl", settings=settings)
    words = ["run", "--method", "bsl", *config.changes(config.options), "--cache", str(config.cache), "--results"]
    words += [str(config.results), "--fresh"]
    saves, save = [], checkpoint.save_checkpoint

    def die(path, state):
        save(path, state)
        saves.append(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", die)
        patch.setattr("sys.argv", ["/usr/bin/chxbench"])
        assert CliRunner().invoke(main, words).exit_code == 130
    text, lines = shown(config.results)
    assert "interrupted quick-seed0-" in text
    assert "bsl on phantom: stage 1, epoch 1" in text
    command = shlex.split(next(line for line in lines if "chxbench run" in line))
    assert command == ["chxbench", *words[:-1]]
    again = CliRunner().invoke(main, command[1:])
    assert again.exit_code == 0, again.output
    assert "resumes after epoch 1 of 2" in again.output
    text, lines = shown(config.results)
    mean = json.loads((build_experiment(config).work / "run.json").read_text())["mean_auc"]["value"]
    assert f"bsl on phantom: mean AUC {mean:.3f}" in text
    assert "to resume" not in text


def test_a_command_typed_in_another_folder_is_shown_with_it(make_run):
    status = status_of(make_run("quick-seed0-1", folder="/data/my trials"))
    assert status.command == "cd '/data/my trials' && chxbench run --method ma"


def test_a_command_typed_in_this_folder_is_shown_as_it_was(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert status_of(make_run("quick-seed0-1")).command == "chxbench run --method ma"


def test_the_last_command_counts(make_run, tmp_path):
    moved = ("started", {**STARTED, "command": ["chxbench", "run", "--data-dir", "b"], "folder": str(tmp_path)})
    assert status_of(make_run("quick-seed0-1", STEP, moved)).command.endswith("chxbench run --data-dir b")


def test_a_run_started_from_python_has_no_command(make_run, tmp_path):
    make_run("quick-seed0-1", ("started", {**STARTED, "command": []}))
    assert "rerun the command that started it (not in its log)" in shown(tmp_path / "results")[0]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        pytest.param("run.json", b"{", "is not readable JSON", id="record cut"),
        pytest.param("run.json", b"{}", "is not a record, it has no schema: restore it", id="no record"),
        pytest.param("run.json", b"\xff", "cannot be read", id="record of bytes"),
        pytest.param("run.json", b"[" * 100_000, "is not readable JSON", id="record nested"),
        pytest.param("log.jsonl/x", b"", "log.jsonl cannot be read (Is a directory)", id="log is a folder"),
    ],
)
def test_damage_is_reported(tmp_path, name, content, told):
    path = tmp_path / "runs" / "quick-seed0-1" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (status,), _ = read_statuses(Workspace(tmp_path / "results"))
    assert status.state == "broken"
    assert told in status.detail
    assert "broken" in shown(tmp_path / "results")[0]


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\x00\n{", id="bytes"),
        pytest.param(b'{"time": "x", "event": "started", "command": 5, "folder": []}', id="types"),
        pytest.param(b'{"time": "x", "event": "started", "command": ["a", 1], "folder": 5}', id="types within"),
        pytest.param(b'{"time": "x", "event": "failed"}', id="no reason"),
        pytest.param(b'{"time": "x", "event": "failed", "why": "\\ud800 \\u001b[2J [red]"}', id="what a screen obeys"),
    ],
)
def test_a_damaged_log_does_no_harm(tmp_path, log):
    work = tmp_path / "runs" / "quick-seed0-1"
    work.mkdir(parents=True)
    (work / LOG_FILE).write_bytes(log)
    text, _ = shown(tmp_path / "results")
    assert "quick-seed0-1" in text
    assert "\x1b" not in text


def test_other_entries_are_counted_and_left_alone(make_run, tmp_path):
    work = make_run("quick-seed0-1", STEP)
    (work.parent / "notes.txt").write_text("mine")
    (work.parent / "pictures").mkdir()
    (work.parent / "publish.lock").touch()
    (work.parent / ".hidden").touch()
    before = sorted(tmp_path.rglob("*"))
    text, _ = shown(tmp_path / "results")
    assert "Ignored 2 entries without run files" in text
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("width", [60, 80, 200])
def test_names_fold_and_nothing_is_cut(make_run, tmp_path, width):
    name = "a-recipe-of-a-very-long-name-that-fills-forty-seed0-0123456789"
    make_run(name, ("failed", {"why": "the loss is nan in stage 1: lower the rate with --set train.lr=0.001"}))
    text, lines = shown(tmp_path / "results", width)
    assert "…" not in text
    table = lines[: lines.index(next(line for line in lines if line.startswith("to resume")))]
    assert max(map(len, table)) <= width
    assert name in "".join(re.sub(r"failed|\s\d+ s ago\s+\d+ bytes|\s", "", line) for line in table)
    assert f"to resume {name}:" in lines


def test_the_most_recently_written_run_is_last_and_its_size_is_that_of_its_files(make_run, tmp_path):
    first, second = make_run("b"), make_run("a")
    (first / "stage1").mkdir()
    (first / "stage1" / "weights.bin").write_bytes(bytes(5_000_000))
    now = time.time()
    for path, ago in ((first / LOG_FILE, 7200), (first / "stage1" / "weights.bin", 9000), (second / LOG_FILE, 300)):
        os.utime(path, (now - ago, now - ago))
    statuses, _ = read_statuses(Workspace(tmp_path / "results"))
    assert [status.run_id for status in statuses] == ["b", "a"]
    assert statuses[0].size == 5_000_000 + (first / LOG_FILE).stat().st_size
    text, _ = shown(tmp_path / "results")
    assert "2 h ago 5.0 MB" in text
    assert "5 min ago" in text


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-5, "0 s ago"), (0.4, "0 s ago"), (59.9, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (200_000, "2 d ago")],
)
def test_ages(seconds, told):
    assert age(seconds) == told


@pytest.mark.parametrize("name", ["results", "a b", "r\udcf6\n"])
def test_without_runs_a_command_that_starts_one_is_shown(tmp_path, name, monkeypatch):
    text, lines = shown(tmp_path / name / "results")
    assert "No runs in" in text and len(lines) == 1
    assert shlex.split(text.partition("this starts one: ")[2])[-2:-1] == ["--results"]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert shown(Path("results"))[0].endswith("chxbench run --method ma")


def test_runs_that_are_a_file_are_refused_in_one_line(tmp_path):
    (tmp_path / "runs").write_text("mine")
    done = CliRunner().invoke(main, ["status", "--results", str(tmp_path / "results")])
    assert done.exit_code == 2
    assert done.output == f"Error: {tmp_path / 'runs'}: Not a directory: fix it or choose another location\n"


def test_the_folder_is_the_one_that_runs_work_in(small_config):
    config = small_config(method="bsl")
    assert build_experiment(config).work.parent == Workspace(config.results).runs


def test_it_needs_no_torch(make_run, tmp_path):
    make_run("quick-seed0-1", STEP)
    (tmp_path / "runs" / "quick-seed0-2").mkdir()
    (tmp_path / "runs" / "quick-seed0-2" / "run.json").write_text("{}")
    code = (
        "import sys; from chxbench.benchmark.cli import main\n"
        f"try: main(['status', '--results', {str(tmp_path / 'results')!r}])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'timm', 'accelerate', 'matplotlib', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("previous", "fallback"), [(True, "the previous one is used"), (False, "that stage starts over")]
)
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:], id="flipped bit"),
    ],
)
def test_a_damaged_checkpoint_is_reported_as_training_would_see_it(tmp_path, capsys, previous, fallback, damage):
    import torch

    path = tmp_path / "runs" / "quick-seed0-1" / "stage1" / CHECKPOINT_FILE
    path.parent.mkdir(parents=True)
    for number in range(2 if previous else 1):
        checkpoint.save_checkpoint(path, {"weights": torch.full((3,), float(number))})
    assert "damaged" not in status_of(path.parents[1]).detail
    path.write_bytes(damage(path.read_bytes()))
    status = status_of(path.parents[1])
    assert status.state == "interrupted"
    assert f"stage1/checkpoint.pt is damaged: {fallback}" in status.detail
    assert (checkpoint.load_checkpoint(path) is not None) == previous
    assert "is damaged" in capsys.readouterr().err
