"""A named pipe in place of an own file: opening it would wait for ever, so each command says so, or makes it anew."""

import faulthandler
import os

import pytest
from record_factory import heatmaps, publish, score_table
from small_runs import invoke

from chxbench.benchmark.leaderboard.leaderboard import write_leaderboard
from chxbench.benchmark.utils.paths import regular
from chxbench.benchmark.utils.workspace import Workspace

SECONDS = 60


@pytest.fixture(autouse=True)
def patience():
    """End the process of a test that waits: nothing in it can, while a thread opens a pipe."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipes")
    publish(folder / "results", score_table(1.5), "a0", "MA", name="ma", maps=heatmaps(score_table(1), 1.0))
    publish(folder / "results", score_table(0.5), "b0", "BSL")
    write_leaderboard(Workspace(folder / "results"))
    return folder


FILES = [
    "results/made/ma/a0/run.json",
    "results/made/ma/a0/scores.parquet",
    "results/made/ma/a0/maps.npz",
    "results/made/ma/a0/roc.png",
    "results/made/ma/a0/heatmaps.png",
    "leaderboard.md",
]


@pytest.mark.parametrize("name", FILES)
def test_no_command_waits_for_a_pipe(base, name, monkeypatch):
    path = base / name
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    try:
        monkeypatch.chdir(base)
        for words in (["leaderboard", "--check"], ["verify", "results/made/ma/a0"]):
            ran = invoke(*words)
            assert ran.exit_code in (0, 2) and (ran.exception is None or isinstance(ran.exception, SystemExit)), words
    finally:
        path.unlink()
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["run.json", "log.jsonl", "stage1/checkpoint.pt"])
def test_the_status_of_a_run_does_not_wait(tmp_path, monkeypatch, name):
    path = tmp_path / "runs" / "r0" / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    monkeypatch.chdir(tmp_path)
    assert invoke("status").exit_code in (0, 2)


def test_what_is_opened_is_a_file_or_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        regular(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing"):  # opening these raises errors of their own
        assert regular(path) == path
