"""What each of two processes does in test_processes.py: a complete run, then the scores of an untrained network.

torchrun --nproc-per-node 2 tests/helpers/two_processes.py CONFIG.json FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
from coarse_figures import make_coarse
from matplotlib.figure import Figure

from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.data.pixel_cache import prepare_pixels
from chxbench.benchmark.engine.device import Device, destroy_process_group
from chxbench.benchmark.engine.experiment import RunConfig, build_experiment
from chxbench.benchmark.engine.inference import Predictor
from chxbench.benchmark.engine.initial_weights import build_network


def score_untrained(config: RunConfig) -> tuple[np.ndarray, int]:
    """Scores of the complete dataset by the initial network, and how many images this process scored."""
    experiment, device, mine = build_experiment(config), Device("float32"), []
    pixels, _ = prepare_pixels(experiment.dataset, experiment.index, experiment.recipe.pixels.size, config.cache)
    network = device.place(build_network(experiment)[0])
    forward = device.forward
    device.forward = lambda network, gray: mine.append(len(gray)) or forward(network, gray)
    rows = np.arange(len(experiment.index.images))
    return Predictor(device, network, pixels, experiment.recipe).scores(rows, "scoring"), sum(mine)


if __name__ == "__main__":
    Figure.savefig = make_coarse(Figure.savefig)
    fields, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    config = RunConfig(**{**fields, "results": folder / "results", "cache": Path(fields["cache"])})
    published = run(config)
    scores, count = score_untrained(config)
    np.savez(folder / f"process{Device('float32').shard.rank}.npz", scores=scores, count=count, wrote=bool(published))
    destroy_process_group()
