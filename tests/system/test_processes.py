"""Two processes, started as a user starts them, equal one: the same scores, the same training, one record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from two_processes import score_untrained

from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.records import record as records

# Twenty steps of the paper's optimizer in stage 1; BatchNorm frozen, because its statistics are each process's own.
SETTINGS = {
    "train.optimizer": "sgd",
    "train.schedule": "step",
    "train.lr": 0.01,
    "train.momentum": 0.9,
    "train.epochs": 4,
    "train.batch_norm": "frozen",
    "evaluate.batch_size": 32,
    "compute.precision": "float32",
}


@pytest.fixture(scope="module")
def configs(config_in, tmp_path_factory):
    """The same configuration for one process and for two."""
    return [config_in(tmp_path_factory.mktemp(name), settings=dict(SETTINGS)) for name in ("one", "two")]


@pytest.fixture(scope="module")
def both(configs):
    """Record and folder of a run of one process, and the folder of a run of two."""
    one, two = configs
    folder = two.results.parent
    fields = {"settings": two.settings, "options": two.options, "cache": str(two.cache)}
    (folder / "config.json").write_text(json.dumps(fields))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).parents[1] / "helpers" / "two_processes.py"
    command = [*launch, str(script), str(folder / "config.json"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-9000:]
    return run(one), folder


def test_a_fixed_network_scores_the_same_and_each_image_once(configs, both):
    alone, count = score_untrained(configs[0])
    processes = [np.load(both[1] / f"process{k}.npz") for k in (0, 1)]
    for process in processes:
        np.testing.assert_array_equal(process["scores"], alone)
    assert count == sum(int(process["count"]) for process in processes) == len(alone)
    assert all(process["count"] > 0 for process in processes)


def test_training_agrees_with_one_process(both):
    (one, place), folder = both
    (found,) = records.find(folder / "results")
    two = records.read(found)
    assert (two.stages[0].examples, two.stages[0].epochs) == (71, 4)  # in batches of 16: 20 steps
    tables = [pd.read_parquet(where / "scores.parquet").filter(regex="^score ") for where in (place, found)]
    np.testing.assert_allclose(*tables, rtol=0, atol=1e-4)
    np.testing.assert_allclose(two.stages[0].loss, one.stages[0].loss, rtol=1e-4)
    assert two.environment.hardware["processes"] == 2
    assert two.environment.hardware["batch_norm"] == "frozen"
    assert two.run_id == one.run_id


def test_every_process_takes_the_same_hard_examples_and_one_writes(both):
    (one, _), folder = both
    (found,) = records.find(folder / "results")
    assert records.read(found).stages[1].hard_positives == one.stages[1].hard_positives
    assert [bool(np.load(folder / f"process{k}.npz")["wrote"]) for k in (0, 1)] == [True, False]
    assert len(list((folder / "runs").glob("*/run.json"))) == 1
