"""What a method computes on a device, from weights and images that are the same on every device."""

import copy
import re

import torch
from accelerate.state import AcceleratorState

from chxbench import METHODS, UserError
from chxbench.benchmark.data.loader import Batch
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.experiment import build_method
from chxbench.benchmark.engine.inference import HeatmapReader
from chxbench.benchmark.engine.locality import shaken
from chxbench.benchmark.engine.step import accumulate_gradients, make_learner, train_step
from chxbench.benchmark.engine.trainer import run_step
from chxbench.benchmark.recipe import load_recipe

IMAGES, SIDE = 8, 64
NOISE = 0.1  # on the weights: residual branches and attention gates start at zero, and would compute nothing


def forget_device():
    """Let the next `Device` of this process be of another kind; accelerate keeps the first one otherwise."""
    AcceleratorState._reset_state(reset_partial_state=True)


def device_of(kind, precision="float32"):
    """Make a device of this process, which may be of another kind than the one before."""
    forget_device()
    return Device(precision, kind)


def build_on_cpu(name, **settings):
    """Build a registered method and its network, in float32 on the CPU: its weights are the same in every process."""
    recipe = load_recipe("quick", settings)
    method = build_method(METHODS.get(name).cls, recipe, {})
    torch.manual_seed(0)
    network = method.build(FINDINGS, "none")
    with shaken(network, NOISE):
        return recipe, method, copy.deepcopy(network)


def images(number=IMAGES, side=SIDE):
    """Draw smooth gray images: uint8 (number, side, side)."""
    noise = torch.rand(number, 1, side // 8, side // 8, generator=torch.Generator().manual_seed(1))
    return (255 * torch.nn.functional.interpolate(noise, scale_factor=8, mode="bilinear"))[:, 0].byte()


def batch_of(number=IMAGES, side=SIDE):
    """Draw a batch with labels, a seventh of them positive."""
    targets = (torch.arange(number * len(FINDINGS)).reshape(number, -1) % 7 == 0).float()
    return Batch(images(number, side), targets, slice(0, number))


def outputs(device, name, **settings):
    """Compute log-odds and heatmaps of images in evaluation mode, as float32 on the CPU."""
    _, method, network = build_on_cpu(name, **settings)
    logits, heat = HeatmapReader(device, method, device.place(network), SIDE).read(images())
    return {"log-odds": logits.float()} | ({} if heat is None else {"heatmaps": heat.float()})


def step(device, name, **settings):
    """Take a step of training: the gradient before it, and the loss before and after it, on the CPU."""
    recipe, method, network = build_on_cpu(name, **settings)
    learner = make_learner(device, network, recipe, 100)
    learner.train()
    first = accumulate_gradients(device, method, learner.wrapped, batch_of())
    gradient = torch.cat([weight.grad.flatten().float().cpu() for weight in network.parameters()])
    losses = [first, *(train_step(device, method, learner, batch_of()) for _ in range(2))]
    return {"gradient": gradient, "loss": torch.stack(losses).cpu()}


def largest_difference(found, expected):
    """Return the largest difference of two tensors, as a fraction of the spread of the expected one."""
    return ((found - expected).abs().max() / expected.std()).item()


def relative_difference(found, expected):
    """Return the length of the difference of two tensors, as a fraction of the expected one's."""
    return ((found - expected).norm() / expected.norm()).item()


def follow_advice(device, method, learner, batch):
    """Take a step with the setting that each error for lack of memory advises: the micro-batches that were tried."""
    tried = [0]
    while True:
        try:
            run_step(device, method, learner, batch, tried[-1])
            return tried
        except UserError as error:
            advised = int(re.search(r"try --set train\.micro_batch=(\d+)$", str(error))[1])
        assert advised < (tried[-1] or len(batch.images))
        tried.append(advised)
