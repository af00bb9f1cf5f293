"""How fast a GPU machine trains and infers at the size of the paper, beside timm's own network; ratios have targets."""

import json
import re
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import timm
import torch
from child_processes import wait
from own_dataset import GAMMA, NAME
from PIL import Image
from torch.nn import functional as F

from chxbench import METHODS
from chxbench.benchmark.commands.speed import measure
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine.experiment import build_method
from chxbench.benchmark.recipe import load_recipe

pytestmark = pytest.mark.gpu
SECONDS = 1.5  # of each measurement
INFERENCE, IMAGES_ON_DISK, DRAWN = 256, 320, 4000
NEAR_PLAIN, NEAR_STEPS = 0.95, 0.97  # targets


def subject_of(device, name, compiled=False):
    recipe = load_recipe("paper", {"model.weights": "none", "compute.compile": compiled})
    return measure.MeasuredMethod(
        device, build_method(METHODS.get(name).cls, recipe, {}), recipe, list(FINDINGS), SECONDS
    )


def images_per_second(subject):
    """Inference and training of a method, images per second, measured like `chxbench speed`."""
    inference = measure.time_inference(subject, subject.network(), INFERENCE)
    steps = measure.time_steps(subject, measure.build_learner(subject), subject.recipe.train.batch_size)
    return inference.images_per_second, steps.images_per_second


def timm_images_per_second(subject, name, compiled):
    """The same of timm's plain network, as its benchmark.py does: channels last, autocast, images on the device."""
    network = timm.create_model(name, num_classes=len(FINDINGS)).cuda().to(memory_format=torch.channels_last)
    run = torch.compile(network, dynamic=False) if compiled else network

    def images(size):
        side = subject.recipe.pixels.crop
        return torch.randn(size, 3, side, side, device="cuda").contiguous(memory_format=torch.channels_last)

    network.eval()
    batch = images(INFERENCE)
    with torch.inference_mode(), subject.device.autocast():
        inference = measure.repeat(lambda: run(batch), subject)
    network.train()
    batch, size = images(subject.recipe.train.batch_size), subject.recipe.train.batch_size
    targets = (torch.rand(size, len(FINDINGS), device="cuda") < 0.1).float()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4)

    def step():
        optimizer.zero_grad()
        with subject.device.autocast():
            logits = run(batch)
        F.binary_cross_entropy_with_logits(logits.float(), targets).backward()
        optimizer.step()

    steps = measure.repeat(step, subject)
    return INFERENCE / np.median(inference), size / np.median(steps)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])  # compiling takes minutes
def test_the_baseline_beside_the_network_of_timm(compiled, device_of, tell):
    subject = subject_of(device_of("cuda", "bfloat16"), "bsl", compiled)
    torch.compiler.reset()
    ours = images_per_second(subject)
    torch.compiler.reset()
    plain = timm_images_per_second(subject, "resnet101", compiled)
    how = f"bsl, 224 pixels, bfloat16, {'compiled' if compiled else 'eager'}"
    for what, our, their in zip(("inference", "training"), ours, plain, strict=True):
        tell(f"{how}: {what}", f"{our:,.0f} images/s", f"timm's resnet101: {their:,.0f}", our / their, NEAR_PLAIN)


def test_all_methods_by_the_command(start, out, tmp_path, tell):
    """`chxbench speed` of all methods; end to end, data read from the pixel map, against steps alone."""
    log = out / "speed.log"
    words = [word for entry in METHODS for word in ("--method", entry.name)]
    words += ["--recipe", "paper", "--set", f"dataset.images={DRAWN}", "--device", "cuda", "--rounds", 4]
    words += ["--batch-size", 1, "--batch-size", INFERENCE, "--seconds", 0.7, "--results", tmp_path / "results"]
    assert wait(start(["speed", *words], log), 240) == 0, log.read_text()[-3000:]
    found = sorted((tmp_path / "results" / "speed").rglob("*.json"))
    assert len(found) == len(list(METHODS))
    texts = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in found}
    (out / "speed-records.json").write_text(json.dumps(texts))
    for record in map(json.loads, texts.values()):
        steps, whole = (np.median([each[key] for each in record["rounds"]]) for key in ("steps", "end_to_end"))
        name = record["method"]["name"]
        tell(f"{name}: end to end", f"{whole:,.0f} images/s", f"steps {steps:,.0f}", whole / steps, NEAR_STEPS)


def _last_speed(log):
    return re.findall(r"[\d,.]+ images/s", log.read_text())[-1]


def _write(path):
    rng = np.random.default_rng(len(path))
    Image.fromarray(rng.normal(128, 30, (1024, 1024)).clip(0, 255).astype(np.uint8)).save(path)


def test_decoding_on_all_cores(start, out, tmp_path, tell):
    """`chxbench prepare` of drawn images and of PNG files of 1024x1024 pixels, images per second."""
    words = ["prepare", "--dataset", "phantom", "--set", "dataset.seed=7", "--set", f"dataset.images={DRAWN}"]
    assert wait(start([*words, "--cache", tmp_path / "drawn"], out / "prepare.log"), 200) == 0
    tell("drawing and shrinking the phantom", _last_speed(out / "prepare.log"))
    folder = tmp_path / "files"
    folder.mkdir()
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write, [str(folder / f"{number:05d}.png") for number in range(IMAGES_ON_DISK)]))
    plugin = tmp_path / "own.py"
    plugin.write_text(GAMMA.partition("    def read")[0])  # files are then read by the harness
    words = ["prepare", "--plugin", plugin, "--dataset", NAME, "--data-dir", folder, "--recipe", "paper"]
    assert wait(start([*words, "--cache", tmp_path / "read"], out / "prepare.log"), 120) == 0
    tell("PNG files of 1024x1024", _last_speed(out / "prepare.log"))
