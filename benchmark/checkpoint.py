"""Where a stage stands, on disk: the last state and the one before it, each sealed, whole or not there."""

from pathlib import Path
from typing import Any

import torch

from .errors import UserError
from .files import Damaged, check_seal, write_whole
from .progress import say


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state; the one that was there stays beside it as `previous(path)`. Raises UserError: no room."""
    write_whole(path, lambda sink: torch.save(state, sink), kept=previous(path), sealed=True)


def load(path: Path) -> dict[str, Any] | None:
    """The last state that is whole, or None where there is none; what is damaged is told in a line.

    Nothing but tensors and plain values is ever unpickled.

    Raises:
        UserError: a whole file that holds something else.
    """
    there = [place for place in (path, previous(path)) if place.exists()]
    for place in there:
        try:
            check_seal(place)
        except (Damaged, OSError) as error:
            then = "the one before it is used" if place != there[-1] else "the stage starts over"
            say(f"checkpoint {place} is damaged ({error}): {then}")
        else:
            return _read(place)
    return None


def previous(path: Path) -> Path:
    """Where the state before the last one lies."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is no checkpoint ({why}): remove it, or start over with --fresh") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is no checkpoint: remove it, or start over with --fresh")
    return state
