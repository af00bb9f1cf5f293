"""The share of other processes in the time of the cores: as counted, and from made-up counters."""

import subprocess
import sys
import time

import pytest

from chxbench.benchmark.utils import cpu_time as module
from chxbench.benchmark.utils.cpu_time import STAT, OtherProcesses

LINE = "{core} {user} 0 20 {idle} 70 10 20 {steal} 5 0\n"


@pytest.fixture
def counters(monkeypatch, tmp_path):
    """Counters of two cores that this process may use and of one that it may not; and the clocks."""
    clock = {"now": 0.0, "own": 0.0}
    monkeypatch.setattr(module, "STAT", tmp_path / "stat")
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(module.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(module.time, "process_time", lambda: clock["own"])

    def write(now, own, users, steal=0):
        clock.update(now=now, own=own)
        lines = [LINE.format(core=f"cpu{n}", user=user, idle=9, steal=steal) for n, user in enumerate(users)]
        (tmp_path / "stat").write_text("cpu  1 2 3 4 5 6 7 8 9 0\n" + "".join(lines) + "intr 5 6\n")

    return write


def test_the_share_is_what_the_cores_did_less_what_this_process_did(counters):
    others = OtherProcesses()
    assert others.share is None
    counters(10.0, 1.0, (100, 200, 0))
    with others:
        counters(12.0, 2.5, (250, 300, 999))  # 2.5 s on both cores, 1.5 s of them its own, of 4 s
    assert others.share == pytest.approx(1 / 4)
    with others:
        counters(14.0, 2.5, (250, 300, 999), steal=50)  # 0.5 s taken from each
    assert others.share == pytest.approx(2 / 8)


def test_a_share_is_never_negative(counters):
    counters(0.0, 0.0, (0, 0))
    with OtherProcesses() as others:
        counters(1.0, 0.5, (0, 0))
    assert others.share == 0


def test_a_system_without_these_counters_reports_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "STAT", tmp_path / "none")
    with OtherProcesses() as others:
        pass
    assert others.share is None


@pytest.mark.skipif(not STAT.exists(), reason="Linux counts CPU time")
def test_a_busy_process_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            time.sleep(0.2)
            with OtherProcesses() as others:
                time.sleep(1)
        finally:
            busy.kill()
    assert others.share > 0.5 / len(module.os.sched_getaffinity(0))
