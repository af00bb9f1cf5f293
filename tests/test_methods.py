"""Every registered method, whoever wrote it: shapes, finite outputs, gradients, options; then the building blocks."""

from dataclasses import fields
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from chxbench import METHODS, MethodError
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.errors import UserError
from chxbench.benchmark.options import make
from chxbench.methods import blocks
from chxbench.methods.wang2017 import weighted_cross_entropy

ENTRIES = [pytest.param(entry.cls, id=entry.name) for entry in METHODS]
SMALL = {"backbone": "resnet18"}


def small(cls, **options):
    small_options = {key: value for key, value in SMALL.items() if key in {field.name for field in fields(cls)}}
    return make(cls, {**small_options, **options}, "")


@pytest.mark.parametrize("cls", ENTRIES)
def test_method_keeps_the_contract(cls):
    torch.manual_seed(0)
    method = small(cls)
    network = method.build(FINDINGS, "none")
    images, targets = torch.randn(4, 3, 64, 64), (torch.rand(4, len(FINDINGS)) < 0.3).float()
    targets[0, 0] = torch.nan
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(4):  # zero-initialised branches and gates pass gradients on only after steps of their own
        output = network(images)
        assert output.logits.shape == (4, len(FINDINGS))
        assert output.logits.isfinite().all()
        loss = method.loss(output, targets)
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
        make(cls, {"no_such_option": 1}, "")
    assert cls.title
    assert all(f"{field.name}" in cls.__doc__ for field in fields(cls))


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


def test_log_sum_exp_lies_between_mean_and_maximum():
    maps = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(blocks.log_sum_exp(maps, 1e-3), maps.mean((2, 3)), atol=2e-3, rtol=0)
    torch.testing.assert_close(blocks.log_sum_exp(maps, 1e3), maps.amax((2, 3)), atol=5e-3, rtol=0)


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


def test_weighted_cross_entropy_of_a_batch_computed_by_hand():
    logits, targets = torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, torch.nan]])
    # One positive and two negatives known: weights 3 and 3/2.
    wanted = 3 * np.log(2) + 1.5 * (np.log1p(np.exp(2.0)) + np.log1p(np.exp(-1.0)))
    assert weighted_cross_entropy(logits, targets, "sum").item() == pytest.approx(wanted, rel=1e-6)
    assert weighted_cross_entropy(logits, targets).item() == pytest.approx(wanted / 3, rel=1e-6)


def test_weighted_cross_entropy_without_positives_is_plain():
    logits, targets = torch.tensor([[0.5, -0.5]]), torch.zeros(1, 2)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(weighted_cross_entropy(logits, targets), wanted)


def test_attention_sits_in_every_residual_block_and_opens():
    network = blocks.build_backbone("resnet101", "none", attention=True)
    gates = [module for module in network.modules() if isinstance(module, blocks.SEModule)]
    assert len(gates) == 33
    for gate in gates[:3]:
        features = torch.randn(2, gate.fc1.in_channels, 4, 4)
        torch.testing.assert_close(gate(features), features * torch.sigmoid(torch.tensor(4.0)))
    assert {gate.fc1.in_channels // gate.fc1.out_channels for gate in gates} == {16}


def test_a_plain_networks_weights_fit_the_one_with_attention(tmp_path):
    plain = blocks.build_backbone("resnet18", "none")
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    loaded = blocks.build_backbone("resnet18", str(tmp_path / "plain.safetensors"), attention=True)
    torch.testing.assert_close(loaded.layer4[1].conv2.weight, plain.layer4[1].conv2.weight)


@pytest.mark.parametrize(
    ("name", "weights", "attention", "message"),
    [
        pytest.param("resnet10000", "none", False, "cannot be built", id="unknown backbone"),
        pytest.param("vgg11", "none", True, "takes no squeeze-and-excitation blocks", id="attention elsewhere"),
        pytest.param("resnet18", "weights.pth", False, "neither imagenet, none nor", id="a pickle"),
        pytest.param("resnet18", "gone.safetensors", False, "cannot be read", id="missing file"),
    ],
)
def test_a_backbone_that_cannot_be_had_is_answered(name, weights, attention, message):
    with pytest.raises(MethodError, match=message):
        blocks.build_backbone(name, weights, attention=attention)


def test_weights_of_another_network_are_refused(tmp_path):
    save_file(blocks.build_backbone("resnet34", "none").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(MethodError, match="do not fit the backbone"):
        blocks.build_backbone("resnet50", str(tmp_path / "other.safetensors"))


def test_trained_gates_in_a_file_are_kept(tmp_path):
    trained = blocks.build_backbone("resnet18", "none", attention=True, gates="random")
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    loaded = blocks.build_backbone("resnet18", str(tmp_path / "trained.safetensors"), attention=True)
    torch.testing.assert_close(loaded.layer1[0].se.fc2.weight, trained.layer1[0].se.fc2.weight)


@pytest.mark.parametrize("cls", ENTRIES)
def test_scores_are_not_rounded_by_autocast(cls):
    torch.manual_seed(0)
    network = small(cls).build(FINDINGS, "none").eval()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        logits = network(torch.randn(64, 3, 64, 64)).logits
    assert logits.dtype == torch.float32
    assert len(logits.unique()) > 0.95 * logits.numel()
