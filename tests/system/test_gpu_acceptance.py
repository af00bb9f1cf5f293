"""What the acceptance of a GPU machine (tests/gpu) calls, on the CPU and with small sizes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from on_device import IMAGES, batch_of, device_of, follow_advice, largest_difference, outputs, relative_difference, step
from own_dataset import FILES, draw
from paper_speed import INFERENCE, TRAINING, Rates, beside_plain, end_to_end, methods_by_network, subject_of
from run_phases import phases_of
from small_runs import invoke
from torch import nn

from chxbench import FINDINGS, Method, Output
from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.engine.step import make_learner
from chxbench.benchmark.recipe import load_recipe
from chxbench.benchmark.utils.run_log import read_log
from chxbench.datasets.phantom import Phantom

SMALL = {"pixels.size": 36, "pixels.crop": 32, "pixels.max_shift": 2, "train.batch_size": 4}
SMALL |= {"model.backbone": "test_resnet"}
BACKBONE = {"model.backbone": "resnet18"}
GPU = Path(__file__).parents[1] / "gpu"


@pytest.mark.parametrize("name", ["wang2017", "sam"])
def test_outputs_and_steps_in_two_precisions(name):
    """The weights and images are the same each time, and the bounds on a GPU hold for a CPU as well."""
    precisions = ("float32", "float32", "bfloat16")
    first, again, rounded = (outputs(device_of("cpu", each), name, **BACKBONE) for each in precisions)
    assert first["heatmaps"].shape == (IMAGES, len(FINDINGS), 4, 4)
    for what, values in first.items():
        assert torch.equal(again[what], values)
        assert 0 < largest_difference(rounded[what], values) < 0.1
    one, other = (step(device_of("cpu", each), name, **BACKBONE) for each in ("float32", "bfloat16"))
    assert one["loss"][0] == one["loss"][1] > one["loss"][2]
    assert 0 < relative_difference(other["gradient"], one["gradient"]) < 0.3
    assert largest_difference(first["log-odds"] + 1, first["log-odds"]) > 1


class Limited(nn.Module):
    """Runs out of memory above 5 images, as a GPU would say it."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(3, len(FINDINGS))

    def forward(self, images):
        if len(images) > 5:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {len(images)} images")
        return Output(self.classify(images.mean((2, 3))))


def test_the_advice_of_an_error_leads_to_a_batch_that_fits():
    device = device_of("cpu")
    learner = make_learner(device, Limited(), load_recipe("quick", {}), 100)
    assert follow_advice(device, Method(), learner, batch_of(24, 32)) == [0, 12, 6, 3]


def test_speeds_beside_a_plain_network():
    subject = subject_of("sam", "cpu", "float32", seconds=0.01, **SMALL)
    found = beside_plain(subject, "test_resnet", 2, rounds=2)
    assert [*found] == [INFERENCE, TRAINING]
    for rates in found.values():
        assert rates.ours.shape == rates.theirs.shape == (2,)
        assert min(*rates.ours, *rates.theirs) > 0
    assert Rates(np.array([2.0, 1.0, 9.0]), np.array([1.0, 1.0, 3.0])).ratio == 2


def test_speed_end_to_end(cache):
    subject = subject_of("bsl", "cpu", "float32", seconds=0.01, **SMALL)
    rates = end_to_end(subject, Phantom(images=60, size=36), cache, rounds=1)
    assert 0 < rates.ratio < 10


def test_methods_with_the_same_network_are_measured_once():
    groups = methods_by_network("cpu", **SMALL)
    assert sorted(map(len, groups)) == [1, 1, 1, 4]
    assert {"sam", "ma", "ma_random", "ma_again"} in map(set, groups)


def test_phases_of_a_run(small_config):
    config = small_config(method="ma", settings={"compute.precision": "float32", "train.epochs": 1})
    run(config)
    (log,) = config.results.parent.glob("runs/*/log.jsonl")
    phases = phases_of(read_log(log))
    names = [name.partition(" (")[0] for name in phases]
    assert names == ["rehearsal, decoding", "stage 1", "stage 2", "scores, intervals, heatmaps, figures"]
    assert all(seconds > 0 for seconds in phases.values())


def test_files_are_decoded_by_the_command(tmp_path):
    """The rate is read from what `prepare` prints."""
    (tmp_path / "data").mkdir()
    for number in range(12):
        draw(tmp_path / "data" / f"{number}.png", number)
    (tmp_path / "files.py").write_text(FILES)
    words = ["--plugin", tmp_path / "files.py", "--dataset", "files_of_test", "--data-dir", tmp_path / "data"]
    done = invoke("prepare", *words, "--recipe", "quick", "--cache", tmp_path / "cache")
    assert done.exit_code == 0, done.output
    assert "decoding: 12/12 images" in done.output


def test_without_a_gpu_everything_is_collected_and_skipped_with_the_reason(tmp_path):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-q", str(GPU)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **hidden}, cwd=GPU.parents[1])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert "needs a CUDA GPU" in done.stdout
    assert "passed" not in done.stdout and "failed" not in done.stdout
