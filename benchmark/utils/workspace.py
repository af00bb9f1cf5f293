"""The folders beside a results folder: `results/`, `runs/` and `leaderboard.md`."""

from pathlib import Path

from .errors import UserError

LEADERBOARD_MARK = "<!-- Written by `chxbench leaderboard` from the records under results/. Do not edit. -->"


def leaderboard_path(results: Path) -> Path:
    """leaderboard.md lies beside the results folder."""
    return results.resolve().parent / "leaderboard.md"


def check_results_folder(results: Path) -> None:
    """Raises UserError if records could not be published there: found out before anything costs time."""
    there = next(path for path in (results.resolve(), *results.resolve().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--results {results}: {there} is a file, records need a folder: choose another")


def check_not_overwriting(path: Path) -> None:
    """Raises UserError if there is a file at `path` that was not generated: it would be overwritten."""
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(LEADERBOARD_MARK):
        raise UserError(f"{path} was not written by chxbench leaderboard: move it away, or choose another --results")


def runs_folder(results: Path) -> Path:
    """Where the runs lie that publish to `results`."""
    return results.resolve().parent / "runs"
