"""A GPU computes what a CPU computes: scores, heatmaps and gradients; then runs: killed, compiled, out of memory."""

import re
import signal
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from on_device import (
    batch_of,
    build_on_cpu,
    device_of,
    follow_advice,
    largest_difference,
    outputs,
    relative_difference,
    step,
)
from resumed_runs import KILLED, TERMINATED, ResumedRuns, words_of
from small_runs import SMALL_DATA, SMALL_RECIPE

from chxbench import METHODS
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.step import make_learner
from chxbench.benchmark.records import record as records

TABLE = "right.txt"
pytestmark = pytest.mark.gpu
NAMES = [entry.name for entry in METHODS]
# Differences from float32 on the CPU. There, other kernels differ by 3e-6 in the outputs and another number of threads
# by 7e-4 in the gradient; bfloat16 by 0.03 and 0.11. TensorFloat-32 would exceed what float32 may.
OUTPUTS = {"float32": 1e-4, "bfloat16": 0.1}  # the largest, of the spread of the outputs
GRADIENTS = {"float32": 1e-2, "bfloat16": 0.3}  # its length, of the gradient's
LOSS = {"float32": 1e-4, "bfloat16": 1e-2}
SCORES = 2e-3  # between two trainings that differ in the order of summation: log-odds of a steady training
# Of a training that stays near others: no statistics of batches, no division by small gradients.
STEADY = {"train.optimizer": "sgd", "train.schedule": "step", "train.lr": 0.01, "train.momentum": 0.9}
STEADY |= {"train.batch_norm": "frozen"}
SMALL = {**SMALL_DATA, **SMALL_RECIPE, "compute.precision": "float32"}
GIBIBYTE = 2**30


@pytest.mark.parametrize("precision", OUTPUTS)
@pytest.mark.parametrize("name", NAMES)
def test_scores_and_heatmaps_are_those_of_the_cpu(name, precision, tell):
    expected = outputs(device_of("cpu"), name)
    found = outputs(device_of("cuda", precision), name)
    assert found.keys() == expected.keys()
    errors = {what: largest_difference(found[what], expected[what]) for what in expected}
    text = ", ".join(f"{what} differ by {error:.1e}" for what, error in errors.items())
    tell(f"{name} in {precision}", text, f"float32 on the CPU, at most {OUTPUTS[precision]:g} of the spread")
    assert max(errors.values()) <= OUTPUTS[precision]


@pytest.mark.parametrize("precision", GRADIENTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_is_that_of_the_cpu(name, precision, tell):
    expected = step(device_of("cpu"), name)
    found = step(device_of("cuda", precision), name)
    error = relative_difference(found["gradient"], expected["gradient"])
    losses = f"losses {', '.join(f'{loss:.4f}' for loss in found['loss'])}"
    theirs = ", ".join(f"{loss:.4f}" for loss in expected["loss"])
    tell(
        f"{name}, a step in {precision}", f"gradient differs by {error:.1e}, {losses}", f"float32 on the CPU: {theirs}"
    )
    assert found["loss"].isfinite().all()
    assert found["loss"][0].item() == pytest.approx(expected["loss"][0].item(), rel=LOSS[precision])
    assert error <= GRADIENTS[precision]


def test_the_faster_precision_is_measured(tell, tmp_path):
    hardware = Device("auto", "cuda", tmp_path).describe()
    assert hardware["kind"] == "cuda"
    tell(f"precision of {hardware['device']}", str(hardware["precision"]), f"{hardware['bfloat16_speedup']} x float32")


def test_the_advice_after_lack_of_memory_is_followed_to_a_batch_that_fits(tell):
    device = device_of("cuda")
    recipe, method, network = build_on_cpu("bsl", **{"train.batch_norm": "frozen"})
    learner = make_learner(device, network, recipe, 100)
    learner.train()
    with limited_memory(2 * GIBIBYTE):
        tried = follow_advice(device, method, learner, batch_of(1024))
    tell("a step of 1,024 images in 2 GiB", f"fits with train.micro_batch={tried[-1]}", f"advised: {tried[1:]}")
    assert len(tried) > 1


@contextmanager
def limited_memory(size):
    """Let torch allocate so many bytes of the GPU in the block."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# Whole runs, all started together, each in a process of its own


@pytest.fixture(scope="module")
def begun(start, cache, tmp_path_factory, note):
    """Start every run of this module at once: they are small, and share the GPU; by name, with their folders."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("steady", "exact", "eager", "compiled", "large")}
    cut = [{"share": 0.25}, {"share": 0.22, "signal": signal.SIGTERM}]
    found = {}
    for name, settings in (("steady", {**SMALL, **STEADY}), ("exact", SMALL)):
        tasks = {"one": [], "other": [], "cut": cut}
        tasks = {task: {"starts": starts, "deterministic": name == "exact"} for task, starts in tasks.items()}
        words = [*words_of(settings), "--cache", str(cache)]
        found[name] = ResumedRuns(folders[name], words, tasks), folders[name]
    for name in ("eager", "compiled"):
        words = words_of({**SMALL, **STEADY, "compute.compile": name == "compiled"}, "bsl")
        words += ["--results", folders[name] / "results"]
        found[name] = start(words, folders[name] / "log"), folders[name]
    words = ["run", "--method", "bsl", "--recipe", "paper", "--results", folders["large"] / "results"]
    settings = {"dataset.images": 600, "model.weights": "none", "train.batch_size": 256}
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    found["large"] = start(words, folders["large"] / "log", ("-c", IN_TWO_GIBIBYTES)), folders["large"]
    note("started: two series of killed runs, a run and its compiled twin, and one that cannot fit")
    yield found
    for name in ("steady", "exact"):
        found[name][0].process.kill()


IN_TWO_GIBIBYTES = """
import sys, torch
torch.cuda.set_per_process_memory_fraction(2**31 / torch.cuda.get_device_properties(0).total_memory)
from chxbench.benchmark.cli import main
main(sys.argv[1:])
"""


def scores_of(folder):
    """Log-odds of a published run (n, C)."""
    (path,) = folder.glob("results/*/*/*/scores.parquet")
    return pd.read_parquet(path).filter(regex="^score ").to_numpy()


@pytest.mark.gpu(seconds=120)
def test_a_batch_that_does_not_fit_is_told_with_advice(begun, finish, tell):
    process, folder = begun["large"]
    text = " ".join(finish(process, folder / "log", 110, status=2).split())
    (sentence,) = re.findall(r"the memory cannot hold a training step of 256 images at a time: try --set \S+", text)
    tell("a run that needs more than 2 GiB", sentence)
    assert sentence.endswith("train.micro_batch=128")
    assert not list(folder.glob("results/*/*/*/run.json"))


def tell_differences(tell, series, begun):
    """Wait for a series of runs and tell how far apart their scores are: of two whole ones, and of the cut one."""
    found = begun[series][0].wait(150)
    assert found["one"][1]["statuses"] == found["other"][1]["statuses"] == [0]
    log = (found["cut"][0] / "log").read_text()
    assert found["cut"][1]["statuses"] == [KILLED, TERMINATED, 0], log[-4000:]
    assert "resumes after epoch" in log
    one, other, cut = (scores_of(found[name][0]) for name in ("one", "other", "cut"))
    between, after = np.abs(other - one).max(), np.abs(cut - one).max()
    tell(f"{series}: killed, terminated, resumed", f"scores differ by {after:.1e}", f"two whole runs: {between:.1e}")
    return between, after


@pytest.mark.gpu(seconds=160)
def test_killed_runs_resume_to_the_same_scores(begun, tell):
    """Kernels are the fastest ones, whose order of summation differs from process to process: promised is no more."""
    between, after = tell_differences(tell, "steady", begun)
    assert after <= max(SCORES, 3 * between)


@pytest.mark.gpu(seconds=160)
def test_killed_runs_resume_to_the_same_bits_with_deterministic_kernels(begun, tell):
    """If two runs that nothing interrupts are the same to the bit, so is one that is killed: nothing is forgotten."""
    between, after = tell_differences(tell, "exact", begun)
    if between:
        pytest.skip(f"two whole runs differ by {between:.1e} on this machine: nothing to compare bits with")
    assert after == 0


@pytest.mark.gpu(seconds=200)
def test_a_compiled_run_has_the_same_scores(begun, finish, tell):
    scores = []
    for name in ("eager", "compiled"):
        process, folder = begun[name]
        finish(process, folder / "log", 190)
        scores.append(scores_of(folder))
    difference = np.abs(scores[1] - scores[0]).max()
    tell("a run with compute.compile=true", f"scores differ by {difference:.1e}", f"eager, at most {SCORES:g}")
    assert difference <= SCORES


@pytest.mark.gpu(seconds=200)
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_two_gpus_with_synchronized_batch_norm_are_one(start, finish, tmp_path, tell):
    settings = {**SMALL, **STEADY, "train.batch_norm": "auto"}
    stages = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "chxbench")
        words = [*words_of(settings), "--results", folder / "results"]
        finish(start(words, folder / "log", launch), folder / "log", 95)
        record = records.read(records.find(folder / "results")[0])
        stages.append(record.stages)
    assert record.environment.hardware["batch_norm"] == "synchronized"
    differences = np.abs(scores_of(tmp_path / "2") - scores_of(tmp_path / "1")).max()
    tell("two GPUs, synchronized BatchNorm", f"scores differ by {differences:.1e}", "one GPU with the whole batch")
    np.testing.assert_allclose(stages[1][0].loss, stages[0][0].loss, rtol=1e-3)
    assert differences <= 10 * SCORES
