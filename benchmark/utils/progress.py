"""What long work shows, on standard error: a bar with rate and time left on a terminal, plain lines elsewhere."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .run_log import INTERVAL, has_listeners, log_event
from .text import plain

PLAIN_INTERVAL = 10.0  # seconds between two plain lines
Advance = Callable[[int], None]


def speaks() -> bool:
    """Whether this process is the one, of several on the same work, that tells the user anything."""
    return os.environ.get("RANK", "0") == "0"


def console() -> Console:
    """Standard error as it is now (tests and notebooks replace it)."""
    return Console(stderr=True, highlight=False, quiet=not speaks())


def say(text: str) -> None:
    """One line for the user, never wrapped or marked up: paths stay whole, without control characters."""
    console().print(plain(text), markup=False, soft_wrap=True)


@contextmanager
def progress(title: str, total: int, unit: str = "images", noted: bool = True) -> Iterator[Advance]:
    """Show how far `total` units of work have come, and note it in the run's log; yields `advance(count)`.

    Args:
        title: what is being done.
        total: units of work in all.
        unit: what is counted, in the plural.
        noted: whether the log hears of it.
    """
    with _shown(title, total, unit) as show:
        yield _noting(show, title, total, unit) if noted and has_listeners() else show


@contextmanager
def _shown(title: str, total: int, unit: str) -> Iterator[Advance]:
    screen = console()
    if screen.is_terminal:
        with _bar(screen) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.update(task, advance=count)
    else:
        yield _plain(title, total, unit)


def _bar(screen: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=screen,
        expand=True,
    )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        if not task.completed or not task.elapsed:
            return Text("-/s")
        rate = task.completed / task.elapsed
        return Text(f"{rate:.0f}/s" if rate < 10_000 else f"{rate / 1000:.0f}k/s")


def _plain(title: str, total: int, unit: str) -> Advance:
    begun = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if done < total and now - last < PLAIN_INTERVAL:
            return
        last = now
        rate = done / max(now - begun, 1e-9)
        left = f"{(total - done) / rate:,.0f} s left" if done < total else f"took {now - begun:,.1f} s"
        say(f"{title}: {done:,}/{total:,} {unit}, {rate:,.0f} {unit}/s, {left}")

    return advance


def _noting(show: Advance, title: str, total: int, unit: str) -> Advance:
    last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        show(count)
        done += count
        if time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            log_event("progress", doing=title, done=done, of=total, unit=unit)

    return advance
