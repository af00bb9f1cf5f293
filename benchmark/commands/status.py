"""`chxbench status`: show the runs of a workspace, their progress, and how to resume them. Does not import torch."""

import os
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from ..utils.errors import UserError
from ..utils.files import CHECKPOINT_FILE, is_intact, is_locked, previous_version
from ..utils.run_log import LOG_FILE, Entry, read_log
from ..utils.text import count, plain, shell_word
from ..utils.workspace import Workspace

State = Literal["running", "finished", "interrupted", "failed", "broken"]
STYLES: dict[State, str] = {
    "running": "green",
    "finished": "",
    "interrupted": "yellow",
    "failed": "red",
    "broken": "bold red",
}
PROGRESS = {  # message for the last event in the log, formatted with the event's values
    "started": "started",
    "stage": "starting stage {stage}",
    "step": "stage {stage}, epoch {epoch}, step {step} of {steps}",
    "epoch": "stage {stage}, epoch {epoch} of {epochs} done",
    "progress": "{doing}, {done} of {of} {unit}",
    "scoring": "scoring",
}
AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


class RunStatus(NamedTuple):
    """State of a run.

    Attributes:
        run_id: name of the run's folder.
        task: method and dataset; empty if the log does not have them.
        state: state of the run; "broken" if its files cannot be read.
        detail: progress of the run; the mean AUC of a finished run; the reason why it failed or is broken.
        written: time of the last write to any of its files, in seconds since 1970.
        size: total size of its files, in bytes.
        command: command that resumes the run from any folder; None if it is unknown or not needed.
    """

    run_id: str
    task: str
    state: State
    detail: str
    written: float
    size: int
    command: str | None


def status(workspace: Workspace) -> None:
    """Print the state of every run in the workspace, and the commands that resume those that can be resumed."""
    show_statuses(*read_statuses(workspace), workspace)


def read_statuses(workspace: Workspace) -> tuple[list[RunStatus], int]:
    """Return the state of every run, the most recently written last, and how many other entries `runs/` has."""
    entries = [path for path in workspace.runs.iterdir() if _is_listed(path)] if workspace.runs.exists() else []
    runs = [path.name for path in entries if _is_run(workspace, path)]
    statuses = [read_status(workspace, run_id) for run_id in runs]
    return sorted(statuses, key=lambda status: status.written), len(entries) - len(runs)


def read_status(workspace: Workspace, run_id: str) -> RunStatus:
    """Return the state of one run; a run with unreadable files is "broken", and no error is raised."""
    folder = workspace.run_folder(run_id)
    entries: list[Entry] = []
    started: Entry = {}
    written, size = _last_write_and_size(folder)
    state: State
    try:
        entries = read_log(folder / LOG_FILE) if (folder / LOG_FILE).exists() else []
        started = next((entry for entry in reversed(entries) if entry["event"] == "started"), {})
        state, detail = _read_state(folder, workspace.run_lock(run_id), entries)
    except UserError as error:
        state, detail = "broken", str(error)
    except OSError as error:
        state, detail = "broken", f"{error.filename or folder} cannot be read ({error.strerror}): remove it"
    task = f"{started['method']} on {started['dataset']}" if {"method", "dataset"} <= started.keys() else ""
    command = _resume_command(started) if state in ("interrupted", "failed") else None
    return RunStatus(run_id, task, state, detail, written, size, command)


def _is_listed(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix != ".lock"


def _is_run(workspace: Workspace, path: Path) -> bool:
    if not path.is_dir():
        return False
    # A run that has just started has only its lock.
    traces = [path / name for name in (LOG_FILE, "run.json", "stage1")] + [workspace.run_lock(path.name)]
    return any(trace.exists() for trace in traces)


def _read_state(folder: Path, lock: Path, entries: Sequence[Entry]) -> tuple[State, str]:
    """Return state and detail. Raises UserError or OSError if the files of the run cannot be read."""
    if is_locked(lock):
        return "running", _progress(entries)
    if (folder / "run.json").exists():
        return "finished", _result(folder)
    if entries and entries[-1]["event"] == "failed":
        return "failed", str(entries[-1].get("why")) + _damage(folder)
    return "interrupted", _progress(entries) + _damage(folder)


def _result(folder: Path) -> str:
    from ..records import record as records  # takes a second that a workspace without finished runs need not wait

    try:
        record = records.read(folder)
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{folder / 'run.json'} cannot be read ({error}): start over with --fresh") from error
    value, problem = record.mean_auc.value, record.localization_problem
    result = "mean AUC undefined" if value is None else f"mean AUC {value:.3f}"
    return f"{result}, no heatmaps: {problem}" if problem else result


def _progress(entries: Sequence[Entry]) -> str:
    last = next((entry for entry in reversed(entries) if entry["event"] in PROGRESS), None)
    return PROGRESS[last["event"]].format_map(_QuestionMarks(last)) if last else "its log is empty"


class _QuestionMarks(dict[str, Any]):
    """Values of a log entry, `?` for those that a damaged one lacks."""

    def __missing__(self, key: str) -> str:
        return "?"


def _damage(folder: Path) -> str:
    """Return which stages have a damaged or missing checkpoint and what resuming does then; empty if none has."""
    last = Path(CHECKPOINT_FILE)
    stages = {path.parent for name in (last, previous_version(last)) for path in folder.glob(f"stage*/{name}")}
    damaged = [stage / last for stage in sorted(stages) if not is_intact(stage / last)]
    fallback = {True: "the previous one is used", False: "that stage starts over"}
    return "".join(
        f"; {path.relative_to(folder)} is {'damaged' if os.path.lexists(path) else 'missing'}: "
        f"{fallback[is_intact(previous_version(path))]}"
        for path in damaged
    )


def _resume_command(started: Entry) -> str | None:
    args, folder = started.get("command"), started.get("folder")
    if not isinstance(args, list) or not args:
        return None
    command = shlex.join(map(str, args))
    in_other_folder = isinstance(folder, str) and folder != str(Path.cwd())
    return f"cd {shlex.quote(str(folder))} && {command}" if in_other_folder else command


def _last_write_and_size(folder: Path) -> tuple[float, int]:
    """Return the time of the last write to any file, in seconds since 1970, and the size of all files in bytes."""
    written, size = 0.0, 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a running process replaces its files
                stat = Path(place, name).lstat()
                written, size = max(written, stat.st_mtime), size + stat.st_size
    return written or folder.stat().st_mtime, size


def show_statuses(statuses: Sequence[RunStatus], others: int, workspace: Workspace) -> None:
    """Print a table of the runs, the commands that resume them, and the number of other entries in `runs/`."""
    console = Console(markup=False, emoji=False, highlight=False)
    if statuses:
        console.print(_table(statuses), crop=False)
    else:
        place = "" if workspace == Workspace() else f" --results {shell_word(workspace.results)}"
        command = f"chxbench run --method ma{place}"
        console.print(f"No runs in {plain(workspace.runs)}; this starts one: {command}", soft_wrap=True)
    for status in statuses:
        if status.state in ("interrupted", "failed"):
            console.print(f"to resume {plain(status.run_id)}:", soft_wrap=True)
            command = status.command or "rerun the command that started it (not in its log)"
            console.print(f"  {plain(command)}", soft_wrap=True)
    if others:
        ignored = f"Ignored {count(others, 'entry', 'entries')} without run files in {workspace.runs}."
        console.print(plain(ignored), soft_wrap=True)


def _table(statuses: Sequence[RunStatus]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("State", no_wrap=True)
    table.add_column("Run and progress", overflow="fold")
    table.add_column("Written", justify="right", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    for status in statuses:
        detail = plain(": ".join(filter(None, (status.task, status.detail))))
        written = age(time.time() - status.written)
        label = f"{plain(status.run_id)}\n{detail}"
        table.add_row(Text(status.state, STYLES[status.state]), label, written, decimal(status.size))
    return table


def age(seconds: float) -> str:
    """Format a time span in its largest complete unit: `3 min ago`."""
    length, unit = next(((length, unit) for length, unit in AGES if seconds >= length), (1, "s"))
    return f"{max(seconds, 0) // length:.0f} {unit} ago"
