"""The number of CPU threads of a run: the faster one at its start, and the same after it."""

import pytest
import torch

from chxbench.benchmark.engine import threads as module
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.threads import THREADS_FILE, fastest_threads, run_threads


@pytest.fixture
def device():
    return Device("float32", "cpu")


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def timed(monkeypatch, seconds):
    """Let a step take so many seconds by its number of threads."""
    monkeypatch.setattr(module, "time_layers", lambda device: lambda bfloat16: seconds[torch.get_num_threads()])


@pytest.mark.parametrize(("seconds", "fastest"), [({1: 3.0, 2: 2.0}, 2), ({1: 2.0, 2: 9.0}, 1)])
def test_the_faster_number_of_threads_is_used(device, tmp_path, monkeypatch, capsys, seconds, fastest):
    timed(monkeypatch, seconds)
    with run_threads(device, 0, tmp_path):
        assert torch.get_num_threads() == fastest == device.describe()["threads"]
    assert torch.get_num_threads() == 2  # another run of the process may have all of them
    assert ("training with 1 of 2 threads" in capsys.readouterr().err) == (fastest == 1)


def test_a_run_that_resumes_keeps_its_threads(device, tmp_path, monkeypatch):
    timed(monkeypatch, {1: 2.0, 2: 9.0})
    with run_threads(device, 0, tmp_path):
        pass
    timed(monkeypatch, {1: 3.0, 2: 2.0})
    with run_threads(device, 0, tmp_path):
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize("damage", ["", "{}", "0", "two"])
def test_a_damaged_number_is_measured_again(device, tmp_path, monkeypatch, damage):
    (tmp_path / THREADS_FILE).write_text(damage)
    timed(monkeypatch, {1: 2.0, 2: 9.0})
    with run_threads(device, 0, tmp_path):
        assert torch.get_num_threads() == 1
    assert (tmp_path / THREADS_FILE).read_text() == "1"


def test_a_number_that_the_user_sets_is_not_measured(device, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "time_layers", lambda device: pytest.fail("measured"))
    with run_threads(device, 1, tmp_path):
        assert torch.get_num_threads() == 1


def test_the_measurement_leaves_the_threads_as_they_are(device):
    assert fastest_threads(device) in (1, 2)
    assert torch.get_num_threads() == 2
