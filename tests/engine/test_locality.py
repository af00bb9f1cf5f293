"""What counts as a map of the image: outputs in which changes of parts of the image move as in the image."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from chxbench import Method, Output
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.inference import CROPPED, HeatmapReader
from chxbench.benchmark.engine.output_checks import findings_problem, logits_problem, maps_problem
from chxbench.benchmark.engine.weights import copy_weights

SIDE, STRIDE, WIDTH, FINDINGS = 64, 16, 8, 3
PLACES = SIDE // STRIDE


@dataclass(frozen=True)
class Plain(Method):
    title: ClassVar[str] = "Plain"


class Network(nn.Module):
    """A convolution in patches, `between`, and a classifier of what `pool` returns."""

    def __init__(self, pool=lambda self, x: x.mean((2, 3)), between=None, head=None, width=WIDTH):
        super().__init__()
        torch.manual_seed(0)
        self.pool = pool
        self.patches = nn.Conv2d(3, width, STRIDE, STRIDE)
        self.between = between or nn.Identity()
        self.head = head or nn.Linear(width, FINDINGS)

    def forward(self, images):
        return Output(self.head(self.pool(self, self.between(self.patches(images)))))


class Tokens(nn.Module):
    """Tokens of patches, with others before or after them, in an order of axes, through a block and pooled."""

    def __init__(self, before=0, after=0, order=(0, 1, 2), pool=lambda x: x.mean(1)):
        super().__init__()
        torch.manual_seed(0)
        self.order, self.pool = order, pool
        self.patches = nn.Conv2d(3, WIDTH, STRIDE, STRIDE)
        self.before, self.after = (nn.Parameter(torch.randn(1, count, WIDTH)) for count in (before, after))
        self.block = nn.Identity()
        self.head = nn.Linear(WIDTH, FINDINGS)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        count = len(tokens)
        tokens = torch.cat([self.before.expand(count, -1, -1), tokens, self.after.expand(count, -1, -1)], 1)
        back = [self.order.index(axis) for axis in range(3)]
        return Output(self.head(self.pool(self.block(tokens.permute(self.order)).permute(back))))


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class Attention(nn.Module):
    """Attention of tokens to tokens by a module, whose output is as large as the tokens: (B, N, N)."""

    def __init__(self):
        super().__init__()
        self.softmax = nn.Softmax(-1)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        weights = self.softmax(tokens @ tokens.transpose(1, 2))
        return (tokens + weights @ tokens).transpose(1, 2).unflatten(2, (PLACES, PLACES))


def transformer(**options):
    sizes = {"img_size": SIDE, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": FINDINGS}
    return Wrapped(timm.create_model("vit_tiny_patch16_224", qk_norm=True, **{**sizes, **options}))


class Wrapped(nn.Module):
    def __init__(self, network, change=lambda logits: logits):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, images):
        return Output(self.change(self.network(images)))


class Frozen(Network):
    def forward(self, images):
        with torch.no_grad():
            features = self.between(self.patches(images))
        return Output(self.head(features.mean((2, 3))))


class Inference(Network):
    def forward(self, images):
        with torch.inference_mode():
            features = self.patches(images)
        return Output(self.head(self.between(features.clone()).mean((2, 3))))


class SharedActivation(Network):
    """Its activation is called a second time for the pooled features."""

    def __init__(self):
        super().__init__(lambda self, x: self.between(x.mean((2, 3))), nn.ReLU(inplace=True))


class FlippedToo(Network):
    """Averages the image and its mirror image: of the second call, the map is mirrored."""

    def forward(self, images):
        return Output(sum(super(FlippedToo, self).forward(x).logits for x in (images, images.flip(3))))


def reader_of(network, side=SIDE):
    torch.manual_seed(0)
    device = Device("float32", "cpu")
    return HeatmapReader(device, Plain(), device.place(network), side)


FOUND = [
    pytest.param(Network, "between", (0, PLACES), id="channels first"),
    pytest.param(lambda: Network(between=nn.ReLU(inplace=True)), "between", (0, PLACES), id="in place"),
    pytest.param(lambda: Network(lambda s, x: x.mean((1, 2)), ChannelsLast()), "between", (0, PLACES), id="NHWC"),
    pytest.param(lambda: Network(lambda s, x: x.amax((2, 3))), "between", (0, PLACES), id="maximum pooling"),
    pytest.param(
        lambda: Network(lambda s, x: x.flatten(1), head=nn.Linear(WIDTH * PLACES**2, FINDINGS)),
        "between",
        (0, PLACES),
        id="flattened",
    ),
    pytest.param(lambda: Network(width=PLACES), "between", (0, PLACES), id="as many channels as rows"),
    pytest.param(
        lambda: Network(lambda s, x: F.dropout(x, 0.5, training=True).mean((2, 3))),
        "between",
        (0, PLACES),
        id="dropout in evaluation",
    ),
    pytest.param(lambda: Network(between=Attention()), "between", (0, PLACES), id="attention maps"),
    pytest.param(
        lambda: Network(between=nn.Sequential(nn.BatchNorm2d(WIDTH, momentum=0.5), nn.Conv2d(WIDTH, WIDTH, PLACES))),
        "between.0",
        (0, PLACES),
        id="ends at 1 x 1",
    ),
    pytest.param(lambda: Network().requires_grad_(False), "between", (0, PLACES), id="frozen parameters"),
    pytest.param(Frozen, "between", (0, PLACES), id="backbone without gradient"),
    pytest.param(Inference, "between", (0, PLACES), id="cloned from inference mode"),
    pytest.param(SharedActivation, "between", (0, PLACES), id="shared activation"),
    pytest.param(FlippedToo, "between", (0, PLACES), id="mirrored second call"),
    pytest.param(
        lambda: Wrapped(
            nn.Sequential(nn.Conv2d(3, FINDINGS, STRIDE, STRIDE), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            lambda logits: logits - logits.mean(1, keepdim=True),
        ),
        "network.0",
        (0, PLACES),
        id="centered logits",
    ),
    pytest.param(Tokens, "block", (0, PLACES), id="tokens"),
    pytest.param(lambda: Tokens(before=1), "block", (1, PLACES), id="class token first"),
    pytest.param(lambda: Tokens(before=5), "block", (5, PLACES), id="registers first"),
    pytest.param(lambda: Tokens(after=1), "block", (0, PLACES), id="class token last"),
    pytest.param(lambda: Tokens(before=9), "block", (9, PLACES), id="25 tokens, of which 16 are places"),
    pytest.param(lambda: Tokens(before=1, order=(1, 0, 2)), "block", (1, PLACES), id="tokens, images, channels"),
    pytest.param(lambda: Tokens(order=(0, 2, 1)), "block", (0, PLACES), id="channels before tokens"),
    pytest.param(transformer, None, (1, PLACES), id="ViT"),
    pytest.param(lambda: transformer(global_pool="avg"), None, (1, PLACES), id="ViT, average"),
    pytest.param(lambda: transformer(global_pool="map", class_token=False), None, (0, PLACES), id="ViT, pool"),
    pytest.param(lambda: transformer(reg_tokens=4), None, (5, PLACES), id="ViT with registers"),
]


@pytest.mark.parametrize(("make", "name", "grid"), FOUND)
def test_a_layer_is_explained_that_follows_the_image(make, name, grid):
    reader = reader_of(make())
    layer = reader.layer
    assert layer is not None
    _, heat = reader.read(torch.randint(0, 256, (2, SIDE, SIDE), dtype=torch.uint8))
    assert (heat.amax((2, 3)) > heat.amin((2, 3))).all()  # the log-odds depend on it
    assert name is None or layer.name == name
    assert layer.call == 0
    assert (layer.reading.start, layer.reading.side) == grid
    assert not layer.name.endswith(("k_norm", "q_norm", "softmax"))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Wrapped(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, FINDINGS))), id="flat"),
        pytest.param(lambda: Wrapped(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))), id="mean"),
        pytest.param(
            lambda: Network(between=nn.Identity(), pool=lambda s, x: x.detach().mean((2, 3)) * 0), id="image unused"
        ),
    ],
)
def test_without_such_a_layer_there_is_a_reason(make):
    reader = reader_of(make())
    assert (reader.layer, reader.kind) == (None, None)
    assert "no layer of the network is a map of the image" in reader.reason


class Cut(nn.Module):
    """A quarter of the image's middle, or all of it in the middle or a corner of a black one."""

    def __init__(self, pad):
        super().__init__()
        self.pad = pad

    def forward(self, x):
        return F.pad(x, [round(side * x.shape[-1]) for side in self.pad])


@pytest.mark.parametrize("share", [-1 / 4, -1 / 8, -1 / 16])
def test_a_network_that_cuts_off_the_border_has_no_heatmaps(share):
    for network in (Network(), with_maps(Network(), lambda maps: maps)):
        network.patches = nn.Sequential(Cut([share] * 4), network.patches)
        reader = reader_of(network)
        assert (reader.kind, reader.reason) == (None, CROPPED)
        assert reader.read(torch.zeros(2, SIDE, SIDE, dtype=torch.uint8))[1] is None


def test_a_border_that_is_hardly_seen_is_seen():
    network = Network()
    network.patches = nn.Sequential(Cut([-1 / 32] * 4), nn.Conv2d(3, WIDTH, STRIDE - 1, STRIDE - 1))
    assert reader_of(network).layer


@pytest.mark.parametrize("pad", [(0, 1, 0, 1), (1, 0, 0, 0), (0.5, 0, 0.5, 0)])
def test_maps_beside_the_image_are_no_maps_of_it(pad):
    network = Network(between=nn.ReLU())
    network.patches = nn.Sequential(network.patches, Cut(pad))
    assert reader_of(network).layer.name == "patches.0"  # in front of the margin
    assert "the maps do not cover the image" in told_of(lambda maps: F.pad(maps, [round(4 * side) for side in pad]))


def test_maps_with_a_margin_are_no_maps_of_the_image():
    network = Network(between=nn.ReLU())
    network.patches = nn.Sequential(network.patches, Cut([0.5] * 4))
    assert reader_of(network).layer.name == "patches.0"
    assert "the outermost places change 0% as much" in told_of(lambda maps: F.pad(maps, [2] * 4))


def test_a_fine_map_may_be_beside_the_image_by_a_pixel():
    assert told_of(lambda maps: F.interpolate(maps, (SIDE, SIDE), mode="bilinear").roll((1, 1), (2, 3))) is None


def test_maps_of_a_part_of_the_image_are_told():
    assert "distances are 2.0 times" in told_of(
        lambda maps: F.interpolate(maps[:, :, 1:-1, 1:-1], scale_factor=2, mode="nearest")
    )


def test_sides_that_the_stride_does_not_divide(side=50):
    assert reader_of(Network(), side).layer.reading.side == side // STRIDE


def test_measuring_leaves_the_network_as_it_was():
    class Counting(Network):
        """Its BatchNorm learns in evaluation mode, too, and it counts its calls."""

        def __init__(self):
            super().__init__(between=nn.BatchNorm2d(WIDTH))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images):
            self.calls += 1
            self.between.train()
            return super().forward(images)

    network = Counting().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    with_maps(network, lambda maps: maps)
    device = Device("float32", "cpu")
    maps_problem(device, Plain(), network, SIDE)
    logits_problem(device, network, SIDE)
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(module._forward_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name])


def with_maps(network, change):
    """Let a network return the logits of its places as maps, changed."""
    forward = network.forward

    def with_own_maps(images):
        features = network.between(network.patches(images))
        maps = network.head(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return Output(forward(images).logits, change(maps))

    network.forward = with_own_maps
    return network


def told_of(change):
    device = Device("float32", "cpu")
    return maps_problem(device, Plain(), device.place(with_maps(Network(), change)), SIDE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda maps: maps.flip(2), "further down in the image is further up", id="upside down"),
        pytest.param(lambda maps: maps.flip(3), "further right further left", id="mirrored"),
        pytest.param(
            lambda maps: maps.flip(2, 3), "further up in the maps, and one further right further left", id="180"
        ),
        pytest.param(lambda maps: maps.transpose(2, 3), "further to the side in the maps", id="transposed"),
        pytest.param(lambda maps: maps.rot90(1, (2, 3)), "not in the order of the image", id="rotated by 90"),
        pytest.param(
            lambda maps: maps.flatten(2)[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(1))].view_as(
                maps
            ),
            "not in the order of the image",
            id="scrambled",
        ),
    ],
)
def test_own_maps_in_another_order_are_told(change, told):
    assert told in told_of(change)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda maps: maps, id="right"),
        pytest.param(lambda maps: 1e-4 * maps, id="weak"),
        pytest.param(lambda maps: maps - maps.mean((2, 3), keepdim=True), id="normalized over the image"),
        pytest.param(lambda maps: F.interpolate(maps, scale_factor=4, mode="bilinear"), id="enlarged"),
        pytest.param(lambda maps: maps.mean((2, 3), keepdim=True) + 0.03 * maps.flip(2), id="hardly moves"),
        pytest.param(lambda maps: maps.mean((2, 3), keepdim=True), id="1 x 1"),
        pytest.param(lambda maps: 0 * maps, id="constant"),
    ],
)
def test_own_maps_that_follow_or_hardly_move_are_no_problem(change):
    assert told_of(change) is None


def findings_told_of(change, pool=lambda self, x: x.mean((2, 3)), findings=FINDINGS):
    device = Device("float32", "cpu")
    network = Network(pool, head=nn.Linear(WIDTH, findings))
    return findings_problem(device, Plain(), device.place(with_maps(network, change)), SIDE)


@pytest.mark.parametrize("start", ["random", "zero"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda maps: maps.flip(1), "log-odds of finding 0 (from 0) change with map 13", id="reversed"),
        pytest.param(
            lambda maps: maps.roll(-1, 1), "log-odds of finding 0 (from 0) change with map 13", id="one too far"
        ),
        pytest.param(
            lambda maps: maps[:, [0, 2, 1, *range(3, 14)]],
            "log-odds of finding 1 (from 0) change with map 2",
            id="two swapped",
        ),
        pytest.param(
            lambda maps: maps * torch.tensor([1.0] * 5 + [-1] + [1] * 8).view(1, -1, 1, 1),
            "maps of finding 5 (from 0) are low where its log-odds are high",
            id="sign of one",
        ),
        pytest.param(
            lambda maps: maps.sigmoid().flip(1), "log-odds of finding 0 (from 0) change with map 13", id="sigmoid"
        ),
        pytest.param(lambda maps: -maps, "low where its log-odds are high", id="sign"),
        pytest.param(lambda maps: 1 - maps.sigmoid(), "low where its log-odds are high", id="probability of health"),
    ],
)
def test_own_maps_of_other_findings_or_sign_are_told(change, told, start, monkeypatch):
    if start == "zero":
        monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: [nn.init.zeros_(w) for w in self.parameters()])
    assert told in findings_told_of(change, findings=14)


class MaximumOfMaps(Network):
    """Its log-odds are the maxima of its maps, which it returns changed."""

    def __init__(self, change):
        super().__init__(head=nn.Conv2d(WIDTH, 14, 1))
        self.change = change

    def forward(self, images):
        maps = self.head(self.patches(images))
        return Output(maps.amax((2, 3)), self.change(maps))


def test_own_maps_of_which_the_maximum_counts_are_told_as_well():
    device = Device("float32", "cpu")
    for change, is_told in ((lambda maps: maps.flip(1), True), (lambda maps: maps, False)):
        problem = findings_problem(device, Plain(), device.place(MaximumOfMaps(change)), SIDE)
        assert is_told == ("the maps are not in the order of the findings" in str(problem))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda maps: maps, id="right"),
        pytest.param(lambda maps: maps.sigmoid(), id="probabilities"),
        pytest.param(lambda maps: maps[:, :1].expand_as(maps), id="one attention for all"),
        pytest.param(lambda maps: -maps[:, :1].abs().expand_as(maps), id="another attention for all"),
        pytest.param(lambda maps: maps - maps.mean((2, 3), keepdim=True), id="normalized over the image"),
        pytest.param(lambda maps: torch.zeros_like(maps), id="empty"),
    ],
)
@pytest.mark.parametrize("pool", [lambda self, x: x.mean((2, 3)), lambda self, x: x.amax((2, 3))])
def test_own_maps_of_their_findings_are_no_problem(change, pool):
    for findings in (14, 2):
        assert findings_told_of(change, pool, findings) is None


class Twice(Network):
    """Has one module under two names."""

    def __init__(self):
        super().__init__()
        self.again = self.patches

    def forward(self, images):
        return Output(super().forward(images).logits + self.head(self.again(images).mean((2, 3))))


@pytest.mark.parametrize("make", [Twice, Network, lambda: with_maps(Network(), lambda maps: maps)])
def test_checks_leave_the_weights_as_they_were(make):
    device = Device("float32", "cpu")
    network = device.place(make())
    before = copy_weights(network)
    images = device.images(torch.zeros(2, SIDE, SIDE, dtype=torch.uint8))
    logits = network(images).logits
    HeatmapReader(device, Plain(), network, SIDE)
    logits_problem(device, network, SIDE)
    findings_problem(device, Plain(), network, SIDE)
    torch.testing.assert_close(network(images).logits, logits, rtol=0, atol=0)
    for name, weight in copy_weights(network).items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0)


class Noisy(Network):
    """Noisy-or of the places' probabilities."""

    def __init__(self):
        super().__init__(lambda self, x: x.permute(0, 2, 3, 1))

    def forward(self, images):
        return Output(1 - (1 - super().forward(images).logits.sigmoid()).flatten(1, 2).prod(1))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        pytest.param(lambda: Wrapped(Logits(), torch.sigmoid), "between 0 and 1", id="sigmoid"),
        pytest.param(lambda: Wrapped(nn.Sequential(Logits(), nn.Sigmoid())), "between 0 and 1", id="a module"),
        pytest.param(lambda: Wrapped(Logits(), lambda x: x.softmax(1)), "add up to 1 over the findings", id="softmax"),
        pytest.param(lambda: Wrapped(Logits(), lambda x: x.clamp(0, 1)), "between 0 and 1", id="clamped"),
        pytest.param(Noisy, "between 0 and 1", id="noisy-or"),
    ],
)
def test_probabilities_in_place_of_log_odds_are_told(make, told):
    device = Device("float32", "cpu")
    assert told in logits_problem(device, device.place(make()), SIDE)


class Logits(Network):
    def forward(self, images):
        return super().forward(images).logits


def small_head(bias):
    network = Network()
    nn.init.constant_(network.head.weight, 1e-3)
    nn.init.constant_(network.head.bias, bias)
    return network


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Network, id="plain"),
        pytest.param(lambda: small_head(0), id="small head"),
        pytest.param(lambda: small_head(0.5), id="at first between 0 and 1"),
        pytest.param(lambda: Network(head=nn.Linear(WIDTH, 1)), id="one finding"),
        pytest.param(transformer, id="ViT"),
        pytest.param(
            lambda: Wrapped(Logits(lambda s, x: x.permute(0, 2, 3, 1)), lambda x: x.flatten(1, 2).logsumexp(1)),
            id="log-sum-exp",
        ),
        pytest.param(
            lambda: Wrapped(
                Logits(lambda s, x: x.permute(0, 2, 3, 1)), lambda x: x.sigmoid().flatten(1, 2).mean(1).logit(1e-6)
            ),
            id="log-odds of the mean probability",
        ),
    ],
)
def test_log_odds_are_no_problem(make):
    device = Device("float32", "cpu")
    assert logits_problem(device, device.place(make()), SIDE) is None
