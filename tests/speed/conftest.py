"""Comparisons of speed: the fixture that measures and records one, and the table of all at the end."""

import statistics
import time

import pytest
from tabulate import tabulate

ROWS = pytest.StashKey[list[dict]]()
HEADERS = ["what", "against", "ratio", "target", ""]
WIDTHS = [25, 26, None, None, None]  # 80 columns in all


@pytest.fixture
def versus(benchmark, request):
    """Measure two ways of doing the same in turns, and put their ratio into the table at the end.

    `versus(what, against, fast, slow, target)` returns the last results of both, so that the test can compare them
    (with `--benchmark-disable` that is all it does).

    Args:
        what, against: names of the two sides.
        fast, slow: functions without arguments.
        target: what the ratio is to reach; a missed one is shown, and nothing fails.
        rounds: how often each side runs, slow first. The ratio is median of slow / median of fast.
        scale: multiplies the time of `slow`, where it does only a part of the work.
    """

    def compare(what, against, fast, slow, target, rounds=3, scale=1.0):
        seconds, results = [], []

        def time_slow():
            start = time.perf_counter()
            results.append(slow())
            seconds.append(time.perf_counter() - start)

        ours = benchmark.pedantic(fast, setup=time_slow, rounds=rounds)
        if not benchmark.disabled:
            ratio = scale * statistics.median(seconds) / benchmark.stats["median"]
            benchmark.extra_info.update(what=what, against=against, ratio=ratio, target=target)
            request.config.stash.setdefault(ROWS, []).append(dict(benchmark.extra_info))
        return ours, results[-1]

    return compare


def pytest_terminal_summary(terminalreporter, config):
    """Print every comparison of this session."""
    rows = [
        [row["what"], row["against"], f"{row['ratio']:.3g}", f">= {row['target']:g}", verdict(row)]
        for row in config.stash.get(ROWS, [])
    ]
    if rows:
        terminalreporter.section("times as fast")
        terminalreporter.write_line(tabulate(rows, HEADERS, maxcolwidths=WIDTHS, disable_numparse=True))


def verdict(row):
    return "met" if row["ratio"] >= row["target"] else "missed"
