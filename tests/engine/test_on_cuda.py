"""Networks and the forward pass of a step on the device `cuda`, in fake tensors: shapes and devices without a GPU.

A tensor that is created on another device than the images fails here as it would on a GPU. Nothing is computed, and
there is no backward pass, which needs CUDA.
"""

import pytest
import torch
from on_device import batch_of
from torch._subclasses.fake_tensor import FakeTensorMode

from chxbench import METHODS
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.experiment import build_method
from chxbench.benchmark.engine.step import accumulate_gradients
from chxbench.benchmark.recipe import load_recipe
from chxbench.methods.blocks import MapClassifier

CUDA = torch.device("cuda", 0)
pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available")


class FakeCuda(Device):
    """A device whose tensors are on `cuda`; made inside the mode of fake tensors."""

    def __init__(self):
        super().__init__("float32", "cpu")
        self.torch_device = CUDA
        self._scale = self._shift = torch.empty(1, 3, 1, 1, device=CUDA)

    def place(self, network):
        """Move parameters and buffers, as `Module.to` does, which cannot exchange fake ones."""
        for module in network.modules():
            for name, weight in module.named_parameters(recurse=False):
                module.register_parameter(name, torch.nn.Parameter(weight.to(CUDA)))
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(CUDA))
        return network

    def backward(self, loss, network, last):
        assert loss.device == CUDA


@pytest.fixture
def device():
    with FakeTensorMode():
        yield FakeCuda()


def fake_images():
    return torch.empty(4, 64, 64, dtype=torch.uint8)


@pytest.mark.parametrize("name", [entry.name for entry in METHODS])
def test_methods_stay_on_the_device(name, device):
    method = build_method(METHODS.get(name).cls, load_recipe("quick", {}), {})
    network = device.place(method.build(FINDINGS, "none"))
    loss = accumulate_gradients(device, method, network, batch_of(4), micro_batch=2)
    output = device.forward(network.eval(), fake_images())
    assert {loss.device, output.logits.device, method.heat(output.maps).device} == {CUDA}
    assert output.logits.shape == (4, len(FINDINGS))


@pytest.mark.parametrize("pool", ["mean_probability", "mean_logit", "lse", "max"])
@pytest.mark.parametrize("option", [{}, {"fuse": "parsenet"}, {"heatmap": "cam"}])
def test_every_pooling_and_fusion_stays_on_the_device(pool, option, device):
    options = {"pool": pool, "backbone": "test_resnet", "output_stride": 32, **option}
    method = build_method(METHODS.get("sam").cls, load_recipe("quick", {}), options)
    output = device.forward(device.place(method.build(FINDINGS, "none")), fake_images())
    assert {output.logits.device, output.maps.device} == {CUDA}


def test_a_tensor_on_another_device_is_found(device):
    network = device.place(build_method(METHODS.get("bsl").cls, load_recipe("quick", {}), {}).build(FINDINGS, "none"))
    assert isinstance(network, MapClassifier)
    network.pool = lambda maps: maps.mean((2, 3)) + torch.zeros(maps.shape[:2])
    with pytest.raises(RuntimeError, match=r"same device, but found .*two"):
        device.forward(network, fake_images())
