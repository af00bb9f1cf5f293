"""What each of two processes does in test_processes.py: a whole run, then the scores of a network that never changes.

torchrun --nproc-per-node 2 tests/two_processes.py ORDER.json FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
from coarse_figures import make_coarse
from matplotlib.figure import Figure

from chxbench.benchmark import predict as module
from chxbench.benchmark.device import Device, leave_processes
from chxbench.benchmark.pixels import prepare
from chxbench.benchmark.plan import Order, make_plan
from chxbench.benchmark.run import build_network, run


def score_untrained(order: Order) -> tuple[np.ndarray, int]:
    """Scores of the whole dataset by the initial network, and how many images this process put through it."""
    plan, device, mine = make_plan(order), Device("float32"), []
    pixels, _ = prepare(plan.dataset, plan.index, plan.recipe.pixels.size, order.cache)
    network = device.place(build_network(plan)[0])
    forward = device.forward
    device.forward = lambda network, gray: mine.append(len(gray)) or forward(network, gray)
    rows = np.arange(len(plan.index.images))
    return module.predict(device, network, pixels, rows, plan.recipe, "scoring"), sum(mine)


if __name__ == "__main__":
    Figure.savefig = make_coarse(Figure.savefig)
    fields, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    order = Order(**{**fields, "results": folder / "results", "cache": Path(fields["cache"])})
    published = run(order)
    scores, count = score_untrained(order)
    np.savez(folder / f"process{Device('float32').share.index}.npz", scores=scores, count=count, wrote=bool(published))
    leave_processes()
