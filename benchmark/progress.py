"""What long work shows, on standard error: a bar with rate and time left on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_INTERVAL = 10.0  # seconds between two plain lines
Advance = Callable[..., None]


def console() -> Console:
    """Standard error as it is now (tests and notebooks replace it)."""
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for the user, never wrapped or marked up: paths stay whole."""
    console().print(text, markup=False, soft_wrap=True)


@contextmanager
def progress(title: str, total: int, unit: str = "images") -> Iterator[Advance]:
    """Show how far `total` units of work have come; yields `advance(count=1, note="")`.

    Args:
        title: what is being done.
        total: units of work in all.
        unit: what is counted, in the plural.
    """
    screen = console()
    if screen.is_terminal:
        with _bar(screen, unit) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda count=1, note="": bar.update(task, advance=count, note=note)
    else:
        yield _plain(title, total, unit)


def _bar(screen: Console, unit: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
        console=screen,
        expand=True,
    )


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {self.unit}/s" if speed else f"- {self.unit}/s")


def _plain(title: str, total: int, unit: str) -> Advance:
    begun = last = time.monotonic()
    done = 0

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if done < total and now - last < PLAIN_INTERVAL:
            return
        last = now
        rate = done / max(now - begun, 1e-9)
        left = f"{(total - done) / rate:,.0f} s left" if done < total else f"took {now - begun:,.1f} s"
        say(f"{title}: {done:,}/{total:,} {unit}, {rate:,.0f} {unit}/s, {left}{', ' + note if note else ''}")

    return advance
