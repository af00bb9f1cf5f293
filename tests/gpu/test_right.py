"""A GPU computes what a CPU computes: scores, heatmaps and steps; runs resume, and too large a batch is advised on."""

import signal

import numpy as np
import pandas as pd
import pytest
import torch
from child_processes import wait, wait_for
from small_runs import SMALL_DATA, invoke

from chxbench import METHODS
from chxbench.benchmark.data.loader import Batch
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine.experiment import build_method
from chxbench.benchmark.engine.inference import HeatmapReader
from chxbench.benchmark.engine.locality import shaken
from chxbench.benchmark.engine.step import make_learner, train_step
from chxbench.benchmark.recipe import load_recipe

pytestmark = pytest.mark.gpu
NAMES = [entry.name for entry in METHODS]
IMAGES, SIDE = 8, 128
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.15}  # of the spread of the outputs, for their largest difference


def network_of(name):
    method = build_method(METHODS.get(name).cls, load_recipe("quick", {}), {})
    torch.manual_seed(0)
    return method, method.build(FINDINGS, "none")


def gray_images():
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(IMAGES, 1, SIDE // 8, SIDE // 8, generator=generator)
    return (255 * torch.nn.functional.interpolate(small, scale_factor=8)).byte()[:, 0]


def outputs(name, device):
    method, network = network_of(name)
    with shaken(network, 0.1):
        network = device.place(network)
        logits, heat = HeatmapReader(device, method, network, SIDE).read(gray_images())
    return {"logits": logits.float(), **({} if heat is None else {"heat": heat.float()})}


def relative(found, expected):
    return ((found - expected).abs().max() / expected.std().clamp(min=1e-12)).item()


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", NAMES)
def test_scores_and_heatmaps_are_those_of_the_cpu(name, precision, device_of, tell):
    expected = outputs(name, device_of("cpu"))
    found = outputs(name, device_of("cuda", precision))
    assert found.keys() == expected.keys()
    errors = {what: relative(found[what], expected[what]) for what in expected}
    tell(
        f"{name}, {precision}", ", ".join(f"{what} {error:.1e}" for what, error in errors.items()), "spread on the CPU"
    )
    assert max(errors.values()) < TOLERANCE[precision]


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_that_of_the_cpu(name, device_of):
    losses = {}
    for kind in ("cpu", "cuda"):
        device = device_of(kind)
        method, network = network_of(name)
        learner = make_learner(device, device.place(network), load_recipe("quick", {}), 100)
        learner.train()
        targets = (torch.arange(IMAGES * len(FINDINGS)).reshape(IMAGES, -1) % 5 == 0).float()
        batch = Batch(gray_images().to(device.torch_device), targets.to(device.torch_device), slice(0, IMAGES))
        losses[kind] = [float(train_step(device, method, learner, batch)) for _ in range(3)]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=2e-2)
    assert losses["cuda"][0] == pytest.approx(losses["cpu"][0], rel=1e-3)


def test_a_compiled_network_computes_the_same(device_of, tell):
    device = device_of("cuda")
    _, network = network_of("sam")
    network = device.place(network).eval()
    compiled = device.wrap_for_training(network, compiled=True)
    with torch.inference_mode():
        eager, fused = (device.forward(each, gray_images()).logits for each in (network, compiled))
    error = relative(fused, eager)
    tell("sam, compiled", f"logits {error:.1e}", "spread of eager")
    assert error < TOLERANCE["float32"]


# Runs

SETTINGS = {**SMALL_DATA, "dataset.images": 600, "pixels.size": 72, "pixels.crop": 64, "pixels.max_shift": 4}
SETTINGS |= {"evaluate.resamples": 100, "train.epochs": 20, "compute.precision": "float32"}


def settings_of(sections):
    chosen = {key: value for key, value in SETTINGS.items() if key.startswith(sections)}
    return [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]


def words_of(folder):
    return ["run", "--method", "ma", "--results", folder / "results", *settings_of("")]


def scores_of(folder):
    (path,) = folder.glob("results/*/*/*/scores.parquet")
    table = pd.read_parquet(path)
    return table[[name for name in table.columns if name.startswith("score ")]].to_numpy()


def test_killed_runs_resume_to_the_same_scores(start, tmp_path, tell):
    """Sums on a GPU have no fixed order: the difference between two runs that nothing interrupts is the yardstick."""
    folders = {name: tmp_path / name for name in ("one", "other", "terminated", "killed")}
    for folder in folders.values():
        folder.mkdir()
    prepared = start(["prepare", "--dataset", "phantom", *settings_of(("dataset.", "pixels."))], tmp_path / "log")
    assert wait(prepared, 60) == 0
    running = {name: start(words_of(folder), folder / "log") for name, folder in folders.items()}
    for name, number in (("terminated", signal.SIGTERM), ("killed", signal.SIGKILL)):
        assert wait_for(folders[name] / "log", "epoch 6/20", 90), (folders[name] / "log").read_text()[-3000:]
        running[name].send_signal(number)
        assert wait(running[name], 60) == (143 if name == "terminated" else -signal.SIGKILL)
        running[name] = start(words_of(folders[name]), folders[name] / "log")
    for name, process in running.items():
        assert wait(process, 150) == 0, (folders[name] / "log").read_text()[-3000:]
    scores = {name: scores_of(folder) for name, folder in folders.items()}
    between = np.abs(scores["one"] - scores["other"]).max()
    tell("ma, two runs", f"scores differ by {between:.1e}")
    for name in ("terminated", "killed"):
        assert "resumes after epoch" in (folders[name] / "log").read_text()
        difference = np.abs(scores[name] - scores["one"]).max()
        tell(f"ma, {name} and resumed", f"scores differ by {difference:.1e}")
        assert difference <= max(3 * between, 1e-3)


def test_a_batch_that_does_not_fit_is_advised_on(tmp_path):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**31 / torch.cuda.get_device_properties(0).total_memory)
    try:
        settings = {"dataset.images": 120, "model.weights": "none", "train.batch_size": 256}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        done = invoke("run", "--method", "bsl", "--recipe", "paper", "--results", tmp_path / "results", *words)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert done.exit_code == 2
    assert "the memory cannot hold" in done.stderr
    assert "try --set train." in done.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_batch_norm_is_synchronized_between_gpus(tmp_path, start):
    """Two processes with half of each batch train as one with all of it."""
    import os
    import subprocess
    import sys

    scores = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "chxbench"]
        words = [*words_of(folder), "--set", "train.epochs=1"]
        subprocess.run([sys.executable, *launch, *map(str, words)], check=True, env=os.environ, timeout=300)
        scores.append(scores_of(folder))
    assert np.abs(scores[0] - scores[1]).max() < 0.05
