"""Runs that are killed at chosen moments and resumed by killed_runs.py, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

KILLED, TERMINATED = -signal.SIGKILL, 128 + signal.SIGTERM
SCRIPT = Path(__file__).with_name("killed_runs.py")


class ResumedRuns:
    """Starts tasks, see killed_runs.py; `wait` returns their folders, exit statuses and seconds by name.

    Args:
        folder: where the runs work, each in the folder of its task's name.
        words: arguments of `chxbench`, the same for all tasks.
        tasks: by name, what differs from a run that is not interrupted; the first one must be such a run.
    """

    def __init__(self, folder, words, tasks):
        self.tasks = [
            {"every": 0.0, "words": words, "folder": str(folder / name), **task} for name, task in tasks.items()
        ]
        (folder / "tasks.json").write_text(json.dumps(self.tasks))
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder / "tasks.json")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Asking for GPUs must not start CUDA in a process that forks.
            env={**os.environ, "COLUMNS": "1000", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        )

    def wait(self, seconds=None):
        stdout, stderr = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, stderr[-9000:]
        found = [json.loads(line) for line in stdout.splitlines()]
        folders = [Path(task["folder"]) for task in self.tasks]
        return {folder.name: (folder, each) for folder, each in zip(folders, found, strict=True)}


def words_of(settings, method="ma"):
    """Return the arguments of a small run of a method."""
    words = ["run", "--method", method, "--option", "backbone=test_resnet"]
    return words + [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
