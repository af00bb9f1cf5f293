"""What a number was measured with: versions, hardware, and the state of the code."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import platformdirs

from ... import ROOT

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "monai",
    "accelerate",
    "numpy",
    "pandas",
    "scikit-learn",
    "pillow",
    "chxbench",
)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where caches lie: `$CHXBENCH_CACHE`, or the user's cache folder of the system."""
    return Path(os.environ.get("CHXBENCH_CACHE") or platformdirs.user_cache_path("chxbench"))


def load_average() -> float | None:
    """How many programs computed at a time in the last minute, on average; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a number depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def processor() -> str:
    """The processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def code_state() -> dict[str, str | bool | None]:
    """The commit of the harness and whether its code was changed since; nulls where it is not a git checkout.

    Records and the leaderboard are not code: publishing one run does not make the next one's code dirty.
    """
    if not (ROOT / ".git").exists():
        return {"commit": None, "dirty": None}
    changes = _git("status", "--porcelain", "--", ".", ":!results", ":!leaderboard.md")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _git(*words: str) -> str | None:
    try:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
