"""Environment of a measurement: versions, hardware, and the state of the code."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

import platformdirs

from .errors import UserError
from .package import ROOT, __version__
from .paths import LOOP, is_loop

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
)


def cores() -> int:
    """Count the cores that this process may use, which a scheduler or container may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Locate the caches: `$CHXBENCH_CACHE`, else the user's cache folder of the operating system.

    Raises:
        UserError: the user has no home folder, as in a container that runs with an unknown user id.
    """
    try:
        folder = Path(os.environ.get("CHXBENCH_CACHE") or platformdirs.user_cache_path("chxbench")).expanduser()
    except RuntimeError:
        folder = Path("~")
    if str(folder).startswith("~"):
        raise UserError("there is no home folder for the cache: set CHXBENCH_CACHE to a folder")
    if is_loop(folder):
        raise UserError(f"the cache folder {folder} {LOOP}, or set CHXBENCH_CACHE to a different folder")
    return folder


def load_average() -> float | None:
    """Read the mean number of running processes in the last minute; None if the system does not report it."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # AttributeError: Windows
        return None


def versions() -> dict[str, str]:
    """Collect the versions of Python and of the packages that results depend on; this one need not be installed."""
    packages = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages, "chxbench": __version__}


def processor() -> str:
    """Name the processor model; its architecture if the system does not report the model."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def code_state() -> dict[str, str | bool | None]:
    """Describe the harness's git checkout: `commit`, and whether it is `dirty`; both None outside of a checkout.

    Records and the leaderboard are ignored, so that publishing a run does not make the checkout dirty for the next one.
    """
    if not (ROOT / ".git").exists():
        return {"commit": None, "dirty": None}
    changes = _git("status", "--porcelain", "--", ".", ":!results", ":!leaderboard.md")
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    """Run git in the checkout; None if git is missing or fails."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def _cpuinfo(key: str) -> str:
    """Read a field of Linux's /proc/cpuinfo; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
