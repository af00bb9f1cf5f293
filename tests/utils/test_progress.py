"""Progress: a bar with rate and time left on a terminal of any width, plain lines elsewhere."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from chxbench.benchmark.utils import progress as module
from chxbench.benchmark.utils.progress import progress, say


@pytest.mark.parametrize("width", [60, 120])
def test_a_terminal_shows_one_bar_with_rate_and_count(width, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(module, "console", lambda: Console(file=screen, force_terminal=True, width=width))
    with progress("stage 1 (all), epoch 1/4", 1200) as advance:
        advance(1200)
    shown = [line.plain for line in Text.from_ansi(screen.getvalue().replace("\r", "\n")).split("\n")]
    full = next(line for line in shown if "1200/1200" in line)
    assert "/s" in full
    assert max(map(len, shown)) <= width


def test_without_a_terminal_plain_lines_come_at_intervals_and_at_the_end(capsys, monkeypatch):
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("decoding", 50) as advance:
        for _ in range(5):
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "decoding: 30/50 images, 2 images/s, 8 s left",
        "decoding: 50/50 images, 2 images/s, took 20.0 s",
    ]


def test_a_slow_rate_is_not_rounded_to_nothing(capsys, monkeypatch):
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("rounds", 10, "measurements") as advance:
        advance(1)
    assert capsys.readouterr().err == "rounds: 1/10 measurements, 0.04 measurements/s, 225 s left\n"


def test_a_line_is_not_wrapped_or_read_as_markup(capsys):
    say("[bold]" + "x" * 300)
    assert capsys.readouterr().err == "[bold]" + "x" * 300 + "\n"
