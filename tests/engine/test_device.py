"""The device: the faster precision is measured once, and compiled training is the same training."""

import json
import platform
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch._inductor.config
from other_user import as_other_user, read_only, shared_folder
from torch import nn

from chxbench import Method, Output, UserError
from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.data.loader import Batch
from chxbench.benchmark.engine import device as module
from chxbench.benchmark.engine.device import MIN_SPEEDUP, Device, check_environment, fastest_precision
from chxbench.benchmark.engine.step import make_learner, train_step
from chxbench.benchmark.recipe import load_recipe


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, images):
        maps = self.layers(images)
        return Output(maps.mean((2, 3)), maps)


def test_the_faster_precision_is_measured_and_really_here(tmp_path):
    chosen, kept = fastest_precision(torch.device("cpu"), tmp_path)
    assert 0.001 < kept < 1000
    assert chosen == ("bfloat16" if kept >= MIN_SPEEDUP else "float32")
    assert Device("auto", "cpu", tmp_path).describe()["bfloat16_speedup"] == pytest.approx(kept, abs=0.01)


@pytest.mark.parametrize(
    ("ratio", "wanted"), [(2.4, "bfloat16"), (1.1, "bfloat16"), (1.05, "float32"), (0.1, "float32")]
)
def test_it_is_measured_once(tmp_path, monkeypatch, ratio, wanted):
    asked = []
    monkeypatch.setattr(module, "bfloat16_speedup", lambda device: asked.append(device) or ratio)
    for _ in range(3):
        assert fastest_precision(torch.device("cpu"), tmp_path / "cache") == (wanted, ratio)
    assert len(asked) == 1
    assert list(json.loads((tmp_path / "cache" / "precision.json").read_text()).values()) == [ratio]


def test_a_requested_precision_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "bfloat16_speedup", lambda device: pytest.fail("measured"))
    device = Device("float32", "cpu", tmp_path)
    assert (device.precision, "bfloat16_speedup" in device.describe()) == ("float32", False)


def test_a_device_that_is_not_available_is_reported():
    with pytest.raises(UserError, match="device 'tpu' is not available on this machine: use cpu"):
        Device("float32", "tpu")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler for a CPU")
def test_compiled_training_is_the_same_training():
    """Compile in this process, without vector instructions: to find those that work here takes a third of the time."""
    with torch._inductor.config.patch({"compile_threads": 1, "cpp.vec_isa_ok": False}):
        weights = [train_steps(compiled) for compiled in (False, True)]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def train_steps(compiled):
    """All values of a small network after three steps of training."""
    generator = torch.Generator().manual_seed(0)
    gray = torch.randint(256, (6, 16, 16), dtype=torch.uint8, generator=generator)
    batch = Batch(gray, torch.tensor([[0.0, 1.0]] * 3 + [[1.0, 0.0]] * 3), slice(0, 6))
    torch.manual_seed(0)
    recipe = load_recipe("quick", {"compute.compile": compiled, "train.optimizer": "sgd", "train.lr": 0.1})
    device, network = Device("float32", "cpu"), Small()
    learner = make_learner(device, network, recipe, 10)
    assert (learner.wrapped is not network) == compiled
    learner.train()
    for _ in range(3):
        train_step(device, Method(), learner, batch)
    return torch.cat([value.flatten().float() for value in network.state_dict().values()])


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="a matter of glibc's malloc")
def test_freed_memory_is_kept_for_the_next_step():
    code = """
import re
from pathlib import Path
import numpy as np
from chxbench.benchmark.engine.memory import keep_freed_memory, release_memory

def held_after_use():
    np.ones(25_000_000).sum()  # 200 MB, freed at once
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

given_back = held_after_use()
keep_freed_memory()
kept = held_after_use()
release_memory()
np.empty(1)
print(given_back, kept, int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, kept, released = map(float, done.stdout.split())
    assert kept - given_back > 150
    assert kept - released > 150


LAUNCHED = {
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "OMP_NUM_THREADS": "4",
}
GROUP = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="none"),
        pytest.param(LAUNCHED, id="accelerate launch"),
        pytest.param({**GROUP, **LAUNCHED, "PMI_SIZE": "2"}, id="torchrun in an allocation"),
        pytest.param(
            {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "job-0", "MASTER_PORT": "29500"}, id="a job of one"
        ),
        pytest.param({"LOCAL_RANK": "-1", "SLURM_PROCID": "0", "CUDA_VISIBLE_DEVICES": "1"}, id="a scheduler"),
        pytest.param({"NVIDIA_TF32_OVERRIDE": "0", "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"}, id="strict precision"),
    ],
)
def test_neutral_environment_variables_pass(variables):
    check_environment(variables)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8", "train.micro_batch"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "", "unset it"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "compute.precision"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "compute.compile=true"),
        ("ACCELERATE_TORCH_DEVICE", "meta", "CUDA_VISIBLE_DEVICES"),
        ("ACCELERATE_USE_CPU", "perhaps", "true or false"),
        ("ACCELERATE_USE_FSDP", "true", "copies of the network"),
        ("ACCELERATE_USE_DEEPSPEED", "True", "copies of the network"),
        ("ACCELERATE_USE_MEGATRON_LM", "1", "copies of the network"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "copies of the network"),
        ("NVIDIA_TF32_OVERRIDE", "1", "compute.precision=bfloat16"),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1", "compute.precision=bfloat16"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "BF16", "compute.precision=bfloat16"),
        ("DNNL_DEFAULT_FPMATH_MODE", "any", "compute.precision=bfloat16"),
        ("TIMM_USE_NAFLEXVIT", "true", "timm's name"),
        ("WORLD_SIZE", "2", "without RANK.*torchrun"),
        ("PMI_SIZE", "4", "torchrun"),
        ("OMPI_COMM_WORLD_SIZE", "2", "torchrun"),
        ("LOCAL_RANK", "0", "unset it for a single process"),
        ("WORLD_SIZE", "two", "torchrun"),
    ],
)
def test_environment_variables_that_change_the_training_are_refused(name, value, advice):
    with pytest.raises(UserError, match=rf"{name}={value}.*{advice}"):
        check_environment({name: value})


def test_a_group_whose_numbers_are_none_is_refused():
    with pytest.raises(UserError, match=r"\(MASTER_PORT=http\) that cannot be joined"):
        check_environment({**GROUP, "MASTER_PORT": "http"})


def test_a_run_and_a_device_check_the_environment_first(small_config, monkeypatch):
    """The same run id, and different weights: accumulation over 8 steps divides each gradient by 8."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    for start in (lambda: Device("float32", "cpu"), lambda: run(small_config(method="no such method"))):
        with pytest.raises(UserError, match="ACCELERATE_GRADIENT_ACCUMULATION_STEPS=8 would change the training"):
            start()


JUNK = [b"", b"[1.5]", b"NaN", b"\xff\xfe", b"{", b"[" * 100_000]
VALUES = ['"2.0"', "NaN", "Infinity", "-1.0", "0.0", "null", "true", "[]"]


@pytest.mark.parametrize("junk", [*JUNK, *VALUES])
def test_a_damaged_measurement_is_made_again_and_others_are_kept(tmp_path, monkeypatch, capsys, junk):
    monkeypatch.setattr(module, "bfloat16_speedup", lambda device: 2.0)
    fastest_precision(torch.device("cpu"), tmp_path)
    file = tmp_path / "precision.json"
    (key,) = json.loads(file.read_bytes())
    whole = isinstance(junk, bytes)
    file.write_bytes(junk if whole else json.dumps({"other": 1.5, key: "?"}).replace('"?"', junk).encode())
    assert fastest_precision(torch.device("cpu"), tmp_path) == ("bfloat16", 2.0)
    assert json.loads(file.read_bytes()) == {**({} if whole else {"other": 1.5}), key: 2.0}
    assert f"{file} is damaged: the precision is measured again" in " ".join(capsys.readouterr().err.split("\n"))


def test_a_measurement_that_cannot_be_saved_is_one_sentence(tmp_path):
    (tmp_path / "precision.json").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"precision\.json is a folder: choose a different path, or remove it"):
        fastest_precision(torch.device("cpu"), tmp_path)
    with pytest.raises(UserError, match=r"file cannot be written \(File exists\)"):
        fastest_precision(torch.device("cpu"), tmp_path / "file")


def test_a_measurement_of_another_user_is_read_and_a_missing_one_saved_in_the_own_folder(monkeypatch):
    monkeypatch.setattr(module, "bfloat16_speedup", lambda device: 3.0)
    with shared_folder() as folder:
        (folder / "theirs").mkdir()
        (folder / "mine").mkdir()
        (folder / "mine").chmod(0o777)
        monkeypatch.setenv("CHXBENCH_CACHE", str(folder / "mine"))
        read_only(folder / "theirs")
        ask = partial(fastest_precision, torch.device("cpu"), folder / "theirs")
        assert as_other_user(ask) == ("bfloat16", 3.0)
        (saved,) = (folder / "mine").glob("*.json")
        shutil.copy(saved, folder / "theirs")
        monkeypatch.setattr(module, "bfloat16_speedup", None)
        saved.unlink()
        assert as_other_user(ask) == ("bfloat16", 3.0)


@pytest.mark.parametrize(("resolved", "allowed"), [("float32", False), ("bfloat16", True)])
def test_tf32_is_off_whenever_the_precision_is_float32_also_when_it_was_chosen(monkeypatch, resolved, allowed):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not allowed)
    monkeypatch.setattr(module, "fastest_precision", lambda *_: (resolved, 1.0))
    assert Device("auto", "cpu").precision == resolved
    assert torch.backends.cudnn.allow_tf32 == allowed
    Device(resolved, "cpu")
    assert torch.backends.cudnn.allow_tf32 == allowed
