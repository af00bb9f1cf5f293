"""Progress of long work on standard error: a bar with rate and time left on a terminal, plain lines otherwise."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .errors import UserError
from .run_log import INTERVAL, has_listeners, log_event
from .text import plain

PLAIN_INTERVAL = 10.0  # seconds between two plain lines
Advance = Callable[[int], None]


def is_reporting() -> bool:
    """Return whether this process prints messages: of several that share the work only the first one (rank 0) does."""
    return os.environ.get("RANK", "0") == "0"


def console() -> Console:
    """Open a console on the current standard error, which tests and notebooks replace."""
    return Console(stderr=True, highlight=False, emoji=False, quiet=not is_reporting())


def say(text: str) -> None:
    """Print one line for the user, without control characters, markup or wrapping, so that paths can be copied."""
    console().print(plain(text), markup=False, soft_wrap=True)


@contextmanager
def survive(what: str) -> Iterator[None]:
    """Report an error inside the block in one sentence and go on: an extra must not take the main result with it."""
    try:
        yield
    except Exception as error:  # whatever a library raises
        say(f"{what}: {error if isinstance(error, UserError) else f'{type(error).__name__}: {error}'}")


@contextmanager
def progress(title: str, total: int, unit: str = "images", logged: bool = True) -> Iterator[Advance]:
    """Show how much of `total` units of work is done; yields `advance(count)`.

    Args:
        title: what is being done; empty to show nothing.
        total: units of work.
        unit: what is counted, in the plural.
        logged: whether to add "progress" events to the run's log as well.
    """
    if not title:
        yield lambda count: None
        return
    with _shown(title, total, unit) as show:
        yield _logging(show, title, total, unit) if logged and has_listeners() else show


@contextmanager
def _shown(title: str, total: int, unit: str) -> Iterator[Advance]:
    screen = console()
    if screen.is_terminal:
        with _bar(screen) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.update(task, advance=count)
    else:
        yield _plain_lines(title, total, unit)


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
    """Column with the mean rate in units per second."""

    def render(self, task: Task) -> Text:
        if not task.completed or not task.elapsed:
            return Text("-/s")
        rate = task.completed / task.elapsed
        return Text(f"{_digits(rate)}/s" if rate < 10_000 else f"{rate / 1000:.0f}k/s")


def _digits(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1 else f"{rate:.2g}"


def _plain_lines(title: str, total: int, unit: str) -> Advance:
    started = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if done < total and now - last < PLAIN_INTERVAL:
            return
        last = now
        rate = done / max(now - started, 1e-9)
        left = f"{(total - done) / rate:,.0f} s left" if done < total else f"took {now - started:,.1f} s"
        say(f"{title}: {done:,}/{total:,} {unit}, {_digits(rate)} {unit}/s, {left}")

    return advance


def _logging(show: Advance, title: str, total: int, unit: str) -> Advance:
    """Wrap `advance` so that the run's log also gets an event every INTERVAL seconds."""
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
