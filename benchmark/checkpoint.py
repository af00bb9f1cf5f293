"""Where a stage stands, on disk: written whole or not at all, so that the same command continues an interrupted run."""

import os
from pathlib import Path
from typing import Any

import torch

from .errors import UserError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state and move it into place: a reader sees the old one or the new one, never half of one."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """The state at `path`, or None if there is none. Nothing but tensors and plain values is ever unpickled."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"checkpoint {path} cannot be read ({error}): start over with --fresh") from error
