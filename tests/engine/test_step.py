"""One step: parts of a batch add up to its gradient, no waiting for the device, the rate as the recipe sets it."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chxbench import METHODS
from chxbench.benchmark.data.loader import Batch
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.engine.step import accumulate_gradients, make_learner, make_optimizer, train_step
from chxbench.benchmark.recipe import load_recipe
from chxbench.benchmark.utils.options import build

# Operations whose result the program has to wait for on a GPU.
SYNCHRONIZING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")


def small(cls):
    return build(cls, {"backbone": "resnet18"}, "")


def make_batch(images=7, side=32):
    generator = torch.Generator().manual_seed(0)
    gray = torch.randint(256, (images, side, side), dtype=torch.uint8, generator=generator)
    targets = (torch.rand(images, len(FINDINGS), generator=generator) < 0.3).float()
    targets[0, :5] = targets[3, 2] = torch.nan  # so that parts of the batch have different numbers of known labels
    return Batch(gray, targets, slice(0, images))


def gradients(method, network, batch, micro_batch):
    network.zero_grad()
    loss = accumulate_gradients(Device("float32"), method, network, batch, micro_batch)
    return loss.item(), [parameter.grad.clone() for parameter in network.parameters()]


def distance(actual, expected):
    """Norm of the difference of two lists of tensors, relative to the norm of the second."""
    one, other = (torch.cat([part.double().flatten() for part in parts]) for parts in (actual, expected))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("cls", [pytest.param(entry.cls, id=entry.name) for entry in METHODS])
@pytest.mark.parametrize("micro_batch", [2, 3])
def test_parts_of_a_batch_add_up_to_its_gradient_where_batch_norm_is_frozen(cls, micro_batch):
    torch.manual_seed(0)
    method = small(cls)
    network = method.build(FINDINGS, "none").eval()
    batch = make_batch()
    whole_loss, whole = gradients(method, network, batch, 0)
    loss, parts = gradients(method, network, batch, micro_batch)
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    assert distance(parts, whole) < 1e-5


def test_processes_weight_labels_over_the_whole_batch():
    method = small(METHODS.get("wang2017").cls)
    torch.manual_seed(0)
    network, batch = method.build(FINDINGS, "none").eval(), make_batch()
    whole_loss, whole = gradients(method, network, batch, 0)
    padding = gradients(method, network, Batch(batch.images[:1], batch.targets, slice(0, 1), is_padding=True), 0)
    assert padding[0] == 0
    assert not any(gradient.any() for gradient in padding[1])
    halves = [Batch(batch.images[part], batch.targets, part) for part in (slice(0, 3), slice(3, 7))]
    losses, (first, second) = zip(*(gradients(method, network, half, 0) for half in halves), strict=True)
    assert sum(losses) == pytest.approx(whole_loss, rel=1e-5)
    assert distance([one + other for one, other in zip(first, second, strict=True)], whole) < 1e-5


@pytest.mark.parametrize("cls", [pytest.param(entry.cls, id=entry.name) for entry in METHODS])
def test_a_step_never_waits_for_the_device(cls):
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.add(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    called = set()
    device, method = Device("float32"), small(cls)
    learner = make_learner(device, method.build(FINDINGS, "none"), load_recipe("quick", {}), 10)
    batch = make_batch()
    train_step(device, method, learner, batch)  # the optimizer's state is made in the first step
    with Watch():
        train_step(device, method, learner, batch, micro_batch=4)
    assert "convolution_backward" in called
    assert not {name for name in called if name in SYNCHRONIZING}


@pytest.mark.parametrize(("batch_norm", "moves"), [("auto", True), ("own", True), ("frozen", False)])
def test_frozen_batch_norm_keeps_its_statistics(batch_norm, moves):
    device, method = Device("float32"), small(METHODS.get("bsl").cls)
    recipe = load_recipe("quick", {"train.batch_norm": batch_norm})
    learner = make_learner(device, method.build(FINDINGS, "none"), recipe, 10)
    mean = learner.network.get_buffer("backbone.bn1.running_mean")
    before, weight = mean.clone(), learner.network.get_parameter("backbone.conv1.weight").clone()
    learner.train()
    train_step(device, method, learner, make_batch())
    assert (mean != before).any() == moves
    assert (learner.network.get_parameter("backbone.conv1.weight") != weight).any()


def test_rate_drops_after_the_epochs_that_the_recipe_names(small_config):
    settings = {"train.optimizer": "sgd", "train.schedule": "step", "train.epochs": 3}
    settings |= {"train.drop_after": [2], "train.drop_factor": 0.1}
    recipe = build_experiment(small_config(method="bsl", settings=settings)).recipe
    optimizer, scheduler = make_optimizer(torch.nn.Linear(1, 1), recipe.train, 3)
    rates = []
    for _ in range(9):  # three epochs of three steps
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert np.round(np.array(rates) / recipe.train.lr, 6).tolist() == [1] * 6 + [0.1] * 3
