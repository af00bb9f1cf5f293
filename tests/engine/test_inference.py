"""Heatmaps from any network: its own maps, Grad-CAM where it has none, and none where neither is possible."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from chxbench import METHODS, Method, Output
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.inference import GRAD_CAM, OWN_MAPS, HeatmapReader, Predictor
from chxbench.benchmark.method import ContractError
from chxbench.benchmark.metrics.localization import Frame, highest
from chxbench.benchmark.recipe import load_recipe
from chxbench.benchmark.utils.options import build


class Bright(nn.Module):
    """Finding 0 grows with the brightest spot, finding 1 with the darkest; no maps."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True))
        self.features[1].weight.data = torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 3, 1, 1).clone()
        self.features[1].bias.data.zero_()
        self.classify = nn.Linear(2, 2)
        self.classify.weight.data = torch.eye(2)

    def forward(self, images):
        return Output(self.classify(self.features(images).mean((2, 3))))


class Blind(nn.Module):
    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(3, 2)

    def forward(self, images):
        return Output(self.classify(images.mean((2, 3))))


@dataclass(frozen=True)
class Plain(Method):
    title: ClassVar[str] = "Plain"


def spots(count=5, side=64):
    """A bright and a dark square on gray, at positions of their own: images, and the centers x, y of both."""
    images = np.full((count, side, side), 120, np.uint8)
    centers = np.zeros((2, count, 2))
    for k in range(count):
        for finding, (top, left) in enumerate(((8 * k, 16), (8 * (count - k), 40))):
            images[k, top : top + 8, left : left + 8] = (250, 0)[finding]
            centers[finding, k] = ((left + 4) / side, (top + 4) / side)
    return images, centers


def test_grad_cam_is_highest_where_the_decision_was_made():
    images, centers = spots()
    network = Device("float32").place(Bright())
    logits, heat = HeatmapReader(Device("float32"), Plain(), network, 64).read(torch.from_numpy(images))
    assert heat.shape == (5, 2, 8, 8)
    assert not heat.requires_grad
    torch.testing.assert_close(logits, Device("float32").forward(network, torch.from_numpy(images)).logits.detach())
    for finding in (0, 1):
        np.testing.assert_allclose(highest(heat[:, finding].numpy(), Frame(64, 64)), centers[finding], atol=1e-6)


def test_grad_cam_leaves_the_network_as_it_was():
    network = Device("float32").place(Bright().requires_grad_(False))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    reader = HeatmapReader(Device("float32"), Plain(), network, 64)
    reader.read(torch.zeros(1, 64, 64, dtype=torch.uint8))
    assert reader.kind == GRAD_CAM
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert network.features[2].inplace
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_grad_cam_is_the_formula_of_selvaraju_et_al():
    """Activations weighted by the mean gradient of the score; here the gradient is known."""
    images, _ = spots()
    network = Device("float32").place(Bright())
    device = Device("float32")
    _, heat = HeatmapReader(device, Plain(), network, 64).read(torch.from_numpy(images))
    with torch.no_grad():
        activations = network.features(device.images(torch.from_numpy(images)))
    # d logit_c / d activation_d is 1/64 for c = d, else 0.
    torch.testing.assert_close(heat, activations / 64)


def test_grad_cam_of_a_finding_without_evidence_still_has_contrast():
    """All log-odds negative, as those of rare findings are: without their sign all maps would be zero."""

    class Against(Bright):
        def forward(self, images):
            return Output(-super().forward(images).logits)

    images, centers = spots()
    _, heat = HeatmapReader(Device("float32"), Plain(), Device("float32").place(Against()), 64).read(
        torch.from_numpy(images)
    )
    assert (heat <= 0).all()
    np.testing.assert_allclose(highest(-heat[:, 0].numpy(), Frame(64, 64)), centers[0], atol=1e-6)


def test_grad_cam_explains_a_network_that_works_in_place():
    """torchvision's DenseNet applies ReLU in place to the very features that are explained."""
    from torchvision.models import densenet121

    class CheXNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = densenet121(num_classes=2)

        def forward(self, images):
            return Output(self.network(images))

    torch.manual_seed(0)
    device = Device("float32")
    reader = HeatmapReader(device, Plain(), device.place(CheXNet()), 64)
    assert reader.layer.name == "network.features"
    _, heat = reader.read(torch.randint(255, (20, 64, 64)).byte())  # more than are explained at once
    assert heat.shape == (20, 2, 2, 2)
    assert heat.isfinite().all()
    assert heat.abs().sum() > 0


def test_grad_cam_works_on_a_real_backbone_in_bfloat16():
    method = build(METHODS.get("bsl").cls, {"backbone": "resnet18"}, "")
    network = method.build(("a", "b", "c"), "none")

    class Mapless(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return Output(self.network(images).logits)

    device = Device("bfloat16")
    logits, heat = HeatmapReader(device, Plain(), device.place(Mapless()), 96).read(
        torch.randint(255, (3, 96, 96)).byte()
    )
    assert logits.shape == (3, 3)
    assert heat.shape == (3, 3, 3, 3)
    assert heat.isfinite().all()


def test_a_network_without_spatial_features_has_no_heatmap():
    reader = HeatmapReader(Device("float32"), Plain(), Blind(), 32)
    assert reader.kind is None
    assert reader.read(torch.zeros(2, 32, 32, dtype=torch.uint8))[1] is None
    recipe = load_recipe("quick", {"pixels.size": 32, "pixels.crop": 32, "pixels.max_shift": 0})
    pixels = np.zeros((2, 32, 32), np.uint8)
    with pytest.raises(ContractError, match="no layer of the network is a map of the image"):
        Predictor(Device("float32"), Blind(), pixels, recipe).heatmaps(Plain(), np.arange(2), "heatmaps")


class Cut(nn.Module):
    """Sees the middle of the image only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 3, 8, 8)

    def forward(self, images):
        maps = self.head(images[:, :, 8:24, 8:24])
        return Output(maps.mean((2, 3)), maps)


def test_heatmaps_of_a_part_of_the_image_are_refused_with_their_own_reason():
    recipe = load_recipe("quick", {"pixels.size": 32, "pixels.crop": 32, "pixels.max_shift": 0})
    device = Device("float32", "cpu")
    predictor = Predictor(device, device.place(Cut()), np.zeros((2, 32, 32), np.uint8), recipe)
    with pytest.raises(ContractError, match="does not see the border of the image"):
        predictor.heatmaps(Plain(), np.arange(2), "heatmaps")


@pytest.mark.parametrize("name", ["bsl", "sam"])
def test_a_methods_own_maps_are_shown_as_its_heat(name):
    torch.manual_seed(0)
    method = build(METHODS.get(name).cls, {"backbone": "resnet18"}, "")
    device = Device("float32")
    network = device.place(method.build(("a", "b"), "none"))
    pixels = np.random.default_rng(0).integers(0, 255, (7, 72, 72), np.uint8)
    sizes = {"pixels.size": 72, "pixels.crop": 64, "pixels.max_shift": 4}
    recipe = load_recipe("quick", {"evaluate.batch_size": 3, **sizes})
    shown = Predictor(device, network, pixels, recipe).heatmaps(method, np.array([4, 0, 2, 6]), "heatmaps")
    assert shown.kind == OWN_MAPS
    with torch.inference_mode():
        output = device.forward(network, torch.from_numpy(pixels[[4, 0, 2, 6], 4:68, 4:68].copy()))
    np.testing.assert_allclose(shown.maps, method.heat(output.maps), atol=1e-5)
    np.testing.assert_allclose(shown.logits, output.logits, atol=1e-5)


def test_a_network_of_another_number_of_findings_is_refused():
    recipe = load_recipe("quick", {"pixels.size": 32, "pixels.crop": 32, "pixels.max_shift": 0})
    predictor = Predictor(Device("float32"), Blind(), np.zeros((3, 32, 32), np.uint8), recipe, num_findings=3)
    with pytest.raises(ContractError, match="returns 2 findings, not 3"):
        predictor.scores(np.arange(3), "scoring")


def test_scores_that_are_not_finite_are_refused():
    recipe = load_recipe("quick", {"pixels.size": 32, "pixels.crop": 32, "pixels.max_shift": 0})
    network = Blind()
    network.classify.bias.data[0] = torch.nan
    predictor = Predictor(Device("float32"), network, np.zeros((3, 32, 32), np.uint8), recipe)
    with pytest.raises(ContractError, match="scoring: 3 of 3 images have scores that are not finite"):
        predictor.scores(np.arange(3), "scoring")
