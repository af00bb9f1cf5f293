"""Every registered method, whoever wrote it: shapes, finite outputs, gradients, options; then the building blocks."""

from dataclasses import fields
from itertools import pairwise
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from chxbench import METHODS, MethodError, Output
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine import locality
from chxbench.benchmark.engine.initial_weights import load_tensors
from chxbench.benchmark.utils.errors import UserError
from chxbench.benchmark.utils.options import build, field_help
from chxbench.methods import backbones, blocks
from chxbench.methods.ma import worst_half
from chxbench.methods.wang2017 import Wang2017

ENTRIES = [pytest.param(entry.cls, id=entry.name) for entry in METHODS]
SMALL = {"backbone": "resnet18"}


def small(cls, **options):
    small_options = {key: value for key, value in SMALL.items() if key in {field.name for field in fields(cls)}}
    return build(cls, {**small_options, **options}, "")


@pytest.mark.parametrize("cls", ENTRIES)
def test_method_keeps_the_contract(cls):
    torch.manual_seed(0)
    method = small(cls)
    network = method.build(FINDINGS, "none")
    images, targets = torch.randn(4, 3, 64, 64), (torch.rand(4, len(FINDINGS)) < 0.3).float()
    targets[0, 0] = torch.nan
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(4):  # zero-initialized branches and gates pass gradients on only after steps of their own
        output = network(images)
        assert output.logits.shape == (4, len(FINDINGS))
        assert output.logits.isfinite().all()
        loss = method.loss(output, targets, method.label_weights(targets))
        assert loss.shape == ()
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unmoved = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unmoved == []


@pytest.mark.parametrize("cls", ENTRIES)
def test_maps_fit_the_findings(cls):
    output = small(cls).build(FINDINGS, "none").eval()(torch.randn(2, 3, 96, 64))
    if output.maps is not None:
        assert output.maps.shape == (2, len(FINDINGS), 3, 2)
        assert output.maps.isfinite().all()


@pytest.mark.parametrize("output_stride", [8, 16])
def test_the_maps_of_a_dilated_resnet_d_are_in_place(output_stride):
    """timm's pooled shortcuts would move them by 0.36 (stride 16) and 0.75 (stride 8) of a place."""
    torch.manual_seed(0)
    backbone = backbones.build_backbone("resnet18d", "none", output_stride=output_stride, width=0.25).eval()
    changes = []
    with torch.no_grad():
        for group in locality.probe_images(128):
            changes.append(
                locality.change_energy(backbone.forward_features(group[:, None].expand(-1, 3, -1, -1) / 255))
            )
    offset = locality.motion(torch.stack(changes)).offset * changes[0].shape[-1]
    assert offset.abs().max() < 0.25


@pytest.mark.parametrize("cls", ENTRIES)
def test_every_choice_of_every_option_builds(cls):
    hints = get_type_hints(cls)
    for field in fields(cls):
        for choice in get_args(hints[field.name]) if get_origin(hints[field.name]) is not None else ():
            method = small(cls, **{field.name: choice})
            assert getattr(method, field.name) == choice
            assert method.build(FINDINGS[:2], "none").eval()(torch.randn(1, 3, 64, 64)).logits.shape == (1, 2)


@pytest.mark.parametrize("cls", ENTRIES)
def test_options_are_checked_and_the_class_is_documented(cls):
    with pytest.raises(UserError, match="unknown setting 'no_such_option'"):
        build(cls, {"no_such_option": 1}, "")
    assert cls.title
    assert set(field_help(cls)) == {field.name for field in fields(cls)}


@pytest.mark.parametrize("cls", ENTRIES)
def test_stages_select_rows_that_exist(cls):
    rng = np.random.default_rng(0)
    labels = (rng.random((50, 14)) < 0.2).astype(np.float32)
    for stage in small(cls).stages():
        if stage.select is not None:
            rows = stage.select(rng.standard_normal((50, 14)), labels).rows
            assert set(rows) <= set(range(50))


def hard_positives(labels, probabilities, **options):
    method = small(METHODS.get("ma").cls, **options)
    scores = np.log(np.array(probabilities) / (1 - np.array(probabilities)))
    return method.stages()[1].select(scores, np.array(labels, float))


def test_set_b_is_exactly_the_missed_positives():
    labels = [[1, 0], [1, 1], [0, 0], [0, 1], [np.nan, 1]]
    probabilities = [[0.9, 0.1], [0.2, 0.3], [0.1, 0.1], [0.1, 0.6], [0.1, 0.4]]
    selection = hard_positives(labels, probabilities)
    assert selection.rows.tolist() == [0, 1, 2, 3, 4, 1, 4]  # C = A + B, an image once
    assert selection.hard.tolist() == [[False, False], [True, True], [False, False], [False, False], [False, True]]
    assert hard_positives(labels, probabilities, count="finding").rows.tolist() == [0, 1, 2, 3, 4, 1, 1, 4]
    assert hard_positives(labels, probabilities, threshold=0.15).rows.tolist() == [0, 1, 2, 3, 4]


LABELS = np.array([[1, 0], [1, 1], [0, 0], [0, 1], [np.nan, 1], [0, 0], [0, 1]], float)
SCORES = np.array([[2, 0], [-1, -1], [0, 0], [1, 1], [0, -1], [0, 0], [0, 3]], np.float32)  # misses rows 1 and 4


@pytest.mark.parametrize("count", ["image", "finding"])
def test_the_controls_have_mas_budget(count):
    """`ma_random` adds as many positives as MA, `ma_again` as many images; each a function of the scores."""
    wanted = len(small(METHODS.get("ma").cls, count=count).stages()[1].select(SCORES, LABELS).rows)
    for name in ("ma_random", "ma_again"):
        method = small(METHODS.get(name).cls, count=count)
        select = method.stages()[1].select
        selection = select(SCORES, LABELS)
        assert selection.rows[: len(LABELS)].tolist() == list(range(len(LABELS)))
        assert len(selection.rows) == wanted
        assert select(SCORES, LABELS).rows.tolist() == selection.rows.tolist()
        others = {tuple(select(SCORES + np.float32(1e-3 * k), LABELS).rows) for k in range(10)}
        assert len(others) > 1
    plain = small(METHODS.get("ma_again").cls, budget="plain").stages()[1].select(SCORES, LABELS)
    assert plain.rows.tolist() == list(range(len(LABELS)))


@pytest.mark.parametrize("count", ["image", "finding"])
def test_random_positives_are_positives_drawn_once(count):
    method = small(METHODS.get("ma_random").cls, count=count)
    drawn = [method.stages()[1].select(SCORES + np.float32(1e-3 * k), LABELS) for k in range(20)]
    for selection in drawn:
        added = selection.rows[len(LABELS) :]
        assert len(added) == (2 if count == "image" else 3)  # as many as MA's B, always
        assert not selection.hard[LABELS != 1].any()
        if count == "image":
            assert len(set(added)) == len(added)
            assert selection.hard.any(axis=1).nonzero()[0].tolist() == sorted(added)
        else:
            assert selection.hard.sum() == len(added)
    assert set(np.concatenate([selection.rows[len(LABELS) :] for selection in drawn])) == {0, 1, 3, 4, 6}


def test_the_worst_half_is_the_half_of_each_findings_positives_with_the_lowest_scores():
    labels = np.array([[1, 1], [1, 0], [1, np.nan], [1, 1], [0, 1], [1, 0]], float)
    scores = np.array([[3, 0], [1, -9], [2, -9], [2, 0], [-9, -1], [5, -9]], np.float32)
    found = worst_half(scores, labels)
    assert found[:, 0].tolist() == [False, True, True, False, False, False]  # 2 of 5, the first of two equal ones
    assert found[:, 1].tolist() == [False, False, False, False, True, False]  # 1 of 3
    assert not worst_half(scores, np.zeros((6, 2))).any()
    added = {}
    for name in ("ma", "ma_random"):
        select = small(METHODS.get(name).cls, hard="worst_half").stages()[1].select
        added[name] = select(scores, labels).rows[len(labels) :]
    assert added["ma"].tolist() == [1, 2, 4] and len(added["ma_random"]) == 3


@pytest.mark.parametrize("threshold", [0, 1, -0.5])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(UserError, match="threshold"):
        small(METHODS.get("ma").cls, threshold=threshold)


def test_mean_of_probabilities_matches_float64_and_survives_extremes():
    maps = torch.randn(3, 2, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    mean = maps.sigmoid().mean((2, 3))
    torch.testing.assert_close(blocks.mean_probability(maps).double(), (mean / (1 - mean)).log(), atol=1e-4, rtol=1e-5)
    extreme = torch.full((1, 1, 7, 7), 100.0, requires_grad=True)
    for sign in (1, -1):
        pooled = blocks.mean_probability(sign * extreme)
        torch.testing.assert_close(pooled.detach(), torch.tensor([[100.0 * sign]]))
        (gradient,) = torch.autograd.grad(pooled.sum(), extreme)
        assert gradient.isfinite().all()


def test_log_sum_exp_is_between_mean_and_maximum():
    maps = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(blocks.log_sum_exp(maps, 1e-3), maps.mean((2, 3)), atol=2e-3, rtol=0)
    torch.testing.assert_close(blocks.log_sum_exp(maps, 1e3), maps.amax((2, 3)), atol=5e-3, rtol=0)


def test_mean_of_probabilities_stays_finite_in_autocast():
    """Log-odds of 100 either way, under bfloat16 autocast, in value and in gradient."""
    features = torch.zeros(1, 3, 7, 7)
    for bias in (100.0, -100.0):
        network = blocks.MapClassifier(Passed(), torch.nn.Conv2d(3, 2, 1), blocks.mean_probability)
        torch.nn.init.constant_(network.head.bias, bias)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(features).logits
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.zeros(1, 2))
        loss.backward()
        torch.testing.assert_close(logits, torch.full((1, 2), bias))
        assert loss.isfinite()
        assert network.head.bias.grad.isfinite().all()


class Passed(torch.nn.Module):
    def forward_features(self, images):
        return images


def test_averaging_log_odds_makes_space_attention_the_baseline():
    """The reading that the default avoids: W_local f + W_global gap(f), averaged, is (W_local + W_global) gap(f)."""
    torch.manual_seed(0)
    sam = small(METHODS.get("sam").cls, pool="mean_logit").build(FINDINGS, "none").eval()
    images = torch.randn(2, 3, 96, 96)
    features = sam.backbone.forward_features(images)
    local, everywhere = sam.head.classifier.weight.flatten(1).chunk(2, dim=1)
    baseline = features.mean((2, 3)) @ (local + everywhere).T + sam.head.classifier.bias
    torch.testing.assert_close(sam(images).logits, baseline, atol=1e-5, rtol=1e-5)

    sam.head.classifier.weight.data *= 30  # far from zero, where the sigmoid is no longer a line
    default = small(METHODS.get("sam").cls).build(FINDINGS, "none").eval()
    default.load_state_dict(sam.state_dict())
    assert (default(images).logits - sam(images).logits).abs().max() > 1e-2


def test_the_class_activation_map_averages_to_the_degenerate_readings_logits():
    """Fig. 4's other side: average pooling between the last stage and the classifier."""
    torch.manual_seed(0)
    sam = METHODS.get("sam").cls
    network = small(sam, pool="mean_logit", heatmap="cam").build(FINDINGS, "none").eval()
    scores = small(sam, pool="mean_logit").build(FINDINGS, "none").eval()
    scores.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 96, 96)
    shown, pooled = network(images), scores(images)
    torch.testing.assert_close(shown.logits, pooled.logits)
    torch.testing.assert_close(shown.maps.mean((2, 3)), shown.logits, atol=1e-5, rtol=1e-5)
    assert (shown.maps - pooled.maps).abs().max() > 1e-3


def test_parsenet_normalises_each_half_and_scales_each_channel():
    torch.manual_seed(0)
    head = blocks.GlobalLocalHead(8, 3, normalize=True)
    features = torch.rand(2, 8, 5, 4)
    with torch.no_grad():
        head.scale.uniform_(1, 2)
    everywhere = features.mean((2, 3))
    local = features / features.norm(dim=1, keepdim=True)
    both = torch.cat([local, (everywhere / everywhere.norm(dim=1, keepdim=True))[:, :, None, None].expand_as(local)], 1)
    torch.testing.assert_close(head(features), head.classifier(both * head.scale))
    torch.testing.assert_close(head(features), head(10 * features))  # the brightness of the features is gone
    assert not torch.allclose(blocks.GlobalLocalHead(8, 3)(features), blocks.GlobalLocalHead(8, 3)(10 * features))


def test_the_sharpness_of_lse_reaches_the_pooling():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 96, 96)
    networks = [
        small(METHODS.get("sam").cls, pool="lse", sharpness=r).build(FINDINGS, "none").eval() for r in (1e-3, 1e3)
    ]
    networks[1].load_state_dict(networks[0].state_dict())
    nearly_mean, nearly_maximum = (network(images) for network in networks)
    torch.testing.assert_close(nearly_mean.logits, nearly_mean.maps.mean((2, 3)), atol=2e-3, rtol=0)
    torch.testing.assert_close(nearly_maximum.logits, nearly_mean.maps.amax((2, 3)), atol=5e-3, rtol=0)


def test_weighted_cross_entropy_of_a_batch_computed_by_hand():
    logits, targets = torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    # One positive and two negatives known: weights 3 and 3/2.
    wanted = 3 * np.log(2) + 1.5 * (np.log1p(np.exp(2.0)) + np.log1p(np.exp(-1.0)))
    for reduction, factor in (("sum", 1), ("mean", 1 / 3)):
        method = Wang2017(reduction=reduction)
        loss = method.loss(Output(logits), targets, method.label_weights(targets))
        assert loss.item() == pytest.approx(wanted * factor, rel=1e-6)


def test_weighted_cross_entropy_without_positives_is_plain():
    logits, targets = torch.tensor([[0.5, -0.5]]), torch.zeros(1, 2)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    method = Wang2017()
    torch.testing.assert_close(method.loss(Output(logits), targets, method.label_weights(targets)), wanted)


def test_attention_sits_in_every_residual_block_and_opens():
    network = backbones.build_backbone("resnet101", "none", attention=True)
    gates = [module for module in network.modules() if isinstance(module, backbones.SEModule)]
    assert len(gates) == 33
    for gate in gates[:3]:
        features = torch.randn(2, gate.fc1.in_channels, 4, 4)
        torch.testing.assert_close(gate(features), features * torch.sigmoid(torch.tensor(4.0)))
    assert {gate.fc1.in_channels // gate.fc1.out_channels for gate in gates} == {16}


def test_an_attention_block_is_the_papers_two_equations():
    """z_c is the mean of u_c over its places; channel c is multiplied by sigmoid(W2 relu(W1 z))_c."""
    network = backbones.build_backbone("resnet50", "none", attention=True, gates="random")
    gate = network.layer1[0].se
    u = torch.randn(2, gate.fc1.in_channels, 5, 3)
    z = u.mean((2, 3))
    squeezed = torch.relu(z @ gate.fc1.weight.flatten(1).T + gate.fc1.bias)
    s = torch.sigmoid(squeezed @ gate.fc2.weight.flatten(1).T + gate.fc2.bias)
    torch.testing.assert_close(gate(u), u * s[:, :, None, None])


def test_attention_stands_after_the_last_normalisation_and_before_the_addition():
    block = backbones.build_backbone("resnet50", "none", attention=True, gates="random").layer1[1].eval()
    torch.nn.init.ones_(block.bn3.weight)  # begins at zero, which would hide the branch
    features = torch.rand(1, 256, 4, 4)
    branch = features
    for convolution, normalise in ((block.conv1, block.bn1), (block.conv2, block.bn2)):
        branch = torch.relu(normalise(convolution(branch)))
    branch = block.bn3(block.conv3(branch))
    torch.testing.assert_close(block(features), torch.relu(block.se(branch) + features))


def gated(gates):
    """A network with gates after branches that are not zero, and its gates."""
    torch.manual_seed(0)
    network = backbones.build_backbone("resnet18", "none", attention=True, gates=gates).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # the last one of a branch begins at zero
            torch.nn.init.ones_(module.weight)
    return network, [module for module in network.modules() if isinstance(module, backbones.SEModule)]


@torch.no_grad()
def test_the_spread_of_gates_is_0_where_they_are_constant():
    network, _ = gated("open")
    assert backbones.gate_spread(network, torch.randn(4, 3, 64, 64)) == 0
    assert not any(module._forward_hooks for module in network.modules())


@torch.no_grad()
def test_the_spread_of_gates_is_that_of_what_they_multiply_by():
    network, gates = gated("random")
    factors = []
    for gate in gates:
        gate.register_forward_hook(lambda _, given, out: factors.append((out / given[0]).nanmean((2, 3))))
    found = backbones.gate_spread(network, torch.randn(4, 3, 64, 64))
    assert len(factors) == 8 and found > 1e-3
    assert found == pytest.approx(np.mean([float(factor.std(dim=0).mean()) for factor in factors]), rel=1e-3)


def test_the_halves_of_space_attention_share_the_variance_of_the_log_odds():
    torch.manual_seed(0)
    features = torch.randn(8, 16, 3, 3) + 3 * torch.randn(8, 16, 1, 1)
    for normalize in (False, True):
        head = blocks.GlobalLocalHead(16, 5, normalize)
        with torch.no_grad():
            share = head.global_share(features)
            assert 0.1 < share < 0.9
            kept = head.classifier.weight[:, 16:].clone()
            head.classifier.weight[:, 16:] = 0
            assert head.global_share(features) == 0
            head.classifier.weight[:, 16:] = kept
            head.classifier.weight[:, :16] = 0
            assert head.global_share(features) == 1
            head.classifier.weight.zero_()
            assert head.global_share(features) == 0  # nothing has no variance to share


@pytest.mark.parametrize("name", ["fam", "sam", "ma"])
def test_attention_methods_measure_their_parts(name):
    method = small(METHODS.get(name).cls)
    network = method.build(FINDINGS, "none").eval()
    with torch.no_grad():
        found = {check.name: check for check in method.check_parts(network, torch.randn(4, 3, 64, 64))}
    gates = found.pop("spread of the gates over images")
    assert gates.value < gates.minimum  # open and not trained: inactive
    assert len(found) == (0 if name == "fam" else 2)
    assert sum(check.value for check in found.values()) == pytest.approx(len(found) // 2)


def test_open_gates_change_a_plain_network_by_a_few_percent_and_random_ones_destroy_it():
    torch.manual_seed(0)
    plain = backbones.build_backbone("resnet101", "none").eval()
    for name, module in plain.named_modules():
        if name.endswith("bn3"):  # as in a trained network, every branch counts
            torch.nn.init.constant_(module.weight, 0.3)
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        wanted = plain.forward_features(images)
        change = {}
        for gates in ("open", "random"):
            network = backbones.build_backbone("resnet101", "none", attention=True, gates=gates).eval()
            network.load_state_dict(plain.state_dict(), strict=False)
            change[gates] = float((network.forward_features(images) - wanted).norm() / wanted.norm())
    assert 0.002 < change["open"] < 0.1
    assert change["random"] > 0.25


def test_a_plain_networks_weights_fit_the_one_with_attention():
    plain = backbones.build_backbone("resnet18", "none")
    loaded = backbones.build_backbone("resnet18", "none", attention=True)
    names = load_tensors(loaded, plain.state_dict(), "plain.safetensors", len(FINDINGS))
    torch.testing.assert_close(loaded.layer4[1].conv2.weight, plain.layer4[1].conv2.weight)
    untouched = [name for name, _ in loaded.named_parameters() if name not in names]
    assert len(untouched) == 8 * 4  # two layers' weights and biases in each of the 8 blocks
    assert all(".se.fc" in name for name in untouched)


@pytest.mark.parametrize(
    ("options", "gate"),
    [
        pytest.param({"backbone": "resnet18"}, "layer1.0.se.fc2", id="inserted"),
        pytest.param({"backbone": "legacy_seresnet18", "output_stride": 32}, "layer1.0.se_module.fc2", id="its own"),
    ],
)
def test_gates_come_from_a_file_that_has_them_and_are_open_otherwise(options, gate):
    trained = backbones.build_backbone(options["backbone"], "none", attention=True, gates="random")
    network = build(METHODS.get("fam").cls, options, "").build(FINDINGS, "none")
    assert network.backbone.get_submodule(gate).bias.unique().tolist() == [backbones.GATE_BIAS]
    load_tensors(network, trained.state_dict(), "trained.safetensors", len(FINDINGS))
    assert torch.equal(network.backbone.get_submodule(gate).weight, trained.get_submodule(gate).weight)


@pytest.mark.parametrize("name", ["vgg16", "resnet50", "torchvision/alexnet", "torchvision/googlenet", "densenet121"])
def test_any_backbone_gives_maps_and_leaves_nothing_untrained(name):
    """The four of Wang et al., and one of another kind."""
    network = small(METHODS.get("wang2017").cls, backbone=name).build(FINDINGS, "none").eval()
    output = network(torch.randn(2, 3, 96, 128))
    assert output.maps.shape[:2] == (2, 14)
    assert output.maps.shape[2] < output.maps.shape[3]
    output.logits.sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_googlenet_is_the_same_network_wherever_its_weights_came_from(monkeypatch):
    name = "torchvision/googlenet"
    first = backbones.build_backbone(name, "none").eval()
    monkeypatch.setattr(backbones, "imagenet_weights", lambda _: (first.state_dict(), "torchvision/GoogLeNet"))
    loaded = backbones.build_backbone(name, "imagenet").eval()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(loaded.forward_features(images), first.forward_features(images))
    assert loaded.weights_source == "torchvision/GoogLeNet"


@pytest.mark.parametrize(("stride", "places"), [(32, 2), (16, 4), (8, 8)])
def test_the_output_stride_is_the_grid_of_the_maps(stride, places):
    method = small(METHODS.get("ma").cls, output_stride=stride)
    assert method.build(FINDINGS, "none").eval()(torch.randn(1, 3, 64, 64)).maps.shape[2:] == (places, places)


@pytest.mark.parametrize(("name", "attention"), [("resnet18", True), ("resnet50", False), ("resnext50_32x4d", True)])
def test_the_width_is_that_of_the_stages(name, attention):
    sizes = [
        backbones.build_backbone(name, "none", attention, output_stride=16, width=width) for width in (0.25, 0.5, 1.0)
    ]
    features = [network.num_features for network in sizes]
    assert features == [features[2] // 4, features[2] // 2, features[2]]
    shapes = [tuple(network.forward_features(torch.zeros(1, 3, 64, 64)).shape) for network in sizes]
    assert shapes == [(1, channels, 4, 4) for channels in features]
    parameters = [sum(weight.numel() for weight in network.parameters()) for network in sizes]
    assert all(fewer < more for fewer, more in pairwise(parameters))


def test_a_deep_stem_is_as_narrow_as_the_stages():
    stems = [backbones.build_backbone(name, "none", width=0.25).conv1 for name in ("resnet18d", "resnet18")]
    assert stems[0][-1].out_channels == 16
    assert stems[1].out_channels == 64


@pytest.mark.parametrize("name", ["densenet121", "vgg16", "torchvision/alexnet"])
def test_other_networks_have_one_width(name):
    with pytest.raises(MethodError, match=r"does not support width=0\.25 .*--option width=1"):
        backbones.build_backbone(name, "none", width=0.25)


def test_a_narrow_network_has_no_imagenet_weights():
    with pytest.raises(MethodError, match=r"width=0\.25 has no ImageNet weights: use width=1"):
        backbones.build_backbone("resnet18", "imagenet", width=0.25)


def test_unreachable_imagenet_weights_are_reported_at_once(monkeypatch, tmp_path):
    """Neither in the cache nor online: one query, no retries, and what to do."""

    def unreachable(url, timeout):
        assert timeout <= 10
        raise OSError("no route to host")

    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(backbones, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(backbones.timm, "create_model", lambda *_, **__: pytest.fail("tried to download"))
    with pytest.raises(
        MethodError, match=r"no route to host.*HF_HOME.*model\.weights=FILE\.safetensors.*model\.weights=none"
    ):
        backbones.build_backbone("resnet101.tv_in1k", "imagenet")


def test_the_full_name_of_imagenet_weights_is_pinned(monkeypatch):
    plain = backbones.build_backbone("resnet18", "none")
    create = backbones.timm.create_model
    monkeypatch.setattr(backbones, "_check_host", lambda repository: None)
    monkeypatch.setattr(
        backbones.timm, "create_model", lambda name, pretrained, **more: plain if pretrained else create(name, **more)
    )
    assert backbones.build_backbone("resnet18", "imagenet").weights_source == "timm/resnet18.a1_in1k"


@pytest.mark.parametrize(
    ("name", "attention", "message"),
    [
        pytest.param("resnet10000", False, "cannot be built .*Unknown model", id="unknown backbone"),
        pytest.param("resnet18.nowhere_in1k", False, "cannot be built .*Invalid pretrained tag", id="unknown tag"),
        pytest.param("hf_hub:timm/resnet18.a1_in1k", False, "cannot be built .*choose a name of timm", id="hf_hub"),
        pytest.param("hf-hub:timm/resnet18.a1_in1k", False, "cannot be built .*choose a name of timm", id="hf-hub"),
        pytest.param("local-dir:/nowhere", False, "cannot be built .*choose a name of timm", id="local-dir"),
        pytest.param("vgg11", True, "does not support squeeze-and-excitation blocks", id="attention in another"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_reported(name, attention, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MethodError, match=message):
        backbones.build_backbone(name, "none", attention=attention)


@pytest.mark.parametrize("name", ["resnet18.nowhere_in1k", "hf_hub:timm/resnet18.a1_in1k", "local-dir:/nowhere"])
def test_imagenet_weights_that_timm_does_not_name_are_reported(name, monkeypatch):
    monkeypatch.setattr(backbones, "_check_host", lambda repository: pytest.fail("asked a host"))
    with pytest.raises(MethodError, match="timm has no ImageNet weights"):
        backbones.build_backbone(name, "imagenet")


@pytest.mark.parametrize("cls", ENTRIES)
def test_scores_are_not_rounded_by_autocast(cls):
    torch.manual_seed(0)
    network = small(cls).build(FINDINGS, "none").eval()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        logits = network(torch.randn(64, 3, 64, 64)).logits
    assert logits.dtype == torch.float32
    assert len(logits.unique()) > 0.95 * logits.numel()


def test_weights_of_torchvision_are_not_unpickled_without_restrictions(monkeypatch):
    from chxbench.methods import torchvision_trunks

    arguments = {}
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda url, **given: arguments.update(given)
    )
    assert torchvision_trunks.imagenet_weights("torchvision/alexnet")[1].startswith("torchvision/AlexNet_Weights")
    assert arguments["weights_only"] is True and arguments["check_hash"] is True
