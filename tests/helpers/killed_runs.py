"""What test_resume.py starts: the command line, killed at chosen moments, repeatedly, then left to finish.

Importing torch takes seconds, so one process imports everything, computes nothing and forks a child for each start::

    python tests/helpers/killed_runs.py TASKS.json

Tasks, each a list of starts of one run, are done in order. Moments are counted: every file that is written, renamed or
copied, and every training step, is one. When a start is killed is given as a share of the moments of the first task,
which is not interrupted, as a number of moments before the end, or in seconds. A task may be deterministic, so that a
GPU, too, computes the same bits in each process.
"""

import json
import os
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

from coarse_figures import make_coarse
from matplotlib.figure import Figure

from chxbench.benchmark.cli import main
from chxbench.benchmark.engine import checkpoint
from chxbench.benchmark.engine.device import Device


def die(name, arguments):
    """End as a kill or a power cut would: half of a file that was not yet on disk is there."""
    if name == "fsync" and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
        os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def count_moments(last, number):
    """Count the moments of this process, and send it a signal at the `last` one."""
    passed = [0]

    def counted(function):
        def call(*arguments, **options):
            passed[0] += 1
            if passed[0] == last and number == signal.SIGKILL:
                die(function.__name__, arguments)
            elif passed[0] == last:
                os.kill(os.getpid(), number)
            return function(*arguments, **options)

        return call

    os.fsync, shutil.copyfile = counted(os.fsync), counted(shutil.copyfile)
    Path.replace, Path.rename = counted(Path.replace), counted(Path.rename)
    checkpoint.EpochProgress.add = counted(checkpoint.EpochProgress.add)
    return passed


def compute_the_same_bits():
    """Let torch choose kernels without atomic additions, and the same ones in each process: not the fastest."""
    import torch

    init = Device.__init__

    def init_deterministic(device, *arguments, **options):
        init(device, *arguments, **options)
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    Device.__init__ = init_deterministic


def child(task, start, moments):
    """Start the command once: its exit status, negative for the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        folder = Path(task["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        log = os.open(folder / "log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        checkpoint.CHECKPOINT_EVERY = task["every"]
        if task.get("deterministic"):
            compute_the_same_bits()
        last = int(start["share"] * moments) + 1 if "share" in start else moments - start.get("before_end", -1)
        passed = count_moments(last, start.get("signal", signal.SIGKILL))
        status = 1
        try:
            main([*task["words"], "--results", str(folder / "results")])
        except SystemExit as end:
            status = end.code or 0
        finally:
            (folder / "moments").write_text(str(passed[0]))
            os._exit(status)
    if "seconds" in start:
        time.sleep(start["seconds"])
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def do(tasks):
    moments, done = 10**9, []
    for task in tasks:
        begun = time.monotonic()
        done.append([child(task, start, moments) for start in [*task["starts"], {"before_end": -1}]])
        sys.stdout.write(json.dumps({"statuses": done[-1], "seconds": time.monotonic() - begun}) + "\n")
        sys.stdout.flush()
        if moments == 10**9:
            moments = int((Path(task["folder"]) / "moments").read_text())


if __name__ == "__main__":
    Figure.savefig = make_coarse(Figure.savefig)
    do(json.loads(Path(sys.argv[1]).read_text()))
