"""Wait for the command line in processes of its own."""

import subprocess
import time
from pathlib import Path


def wait(process, seconds):
    """Return the exit status of a process, which is killed if it takes longer."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "timeout"


def wait_for(log, text, seconds):
    """Wait until a log contains a text; return whether it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if Path(log).exists() and text in Path(log).read_text():
            return True
        time.sleep(0.05)
    return False
