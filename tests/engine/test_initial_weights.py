"""Initial weights: files are loaded for every method alike, pretrained weights are proved to have arrived."""

import re
import textwrap

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from chxbench import MethodError, UserError
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.engine.initial_weights import build_network, load_tensors
from chxbench.benchmark.engine.weights import load_safetensors, read_weights, save_weights, weights_sha256

FINDINGS = 5


class Network(nn.Module):
    """What the documentation shows: a network of timm as a module, and a classifier."""

    def __init__(self, name="resnet18"):
        super().__init__()
        self.backbone = timm.create_model(name, num_classes=0)
        self.classify = nn.Conv2d(self.backbone.num_features, FINDINGS, 1)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    return timm.create_model("resnet18").state_dict()


@pytest.fixture
def plugin(small_config, tmp_path):
    """Build the network of a plugin, given as the body of its `build`, with the initial weights of the recipe."""

    def make(build, weights="none", seed=0):
        name = f"plugin_{abs(hash((build, str(tmp_path))))}"
        path = tmp_path / f"{name}.py"
        path.write_text(
            "import timm, torch\nfrom torch import nn\nfrom dataclasses import dataclass\n"
            "from chxbench import METHODS, Method, Output\n"
            f"@METHODS.register({name!r})\n@dataclass(frozen=True)\nclass Mine(Method):\n    title = 'Mine'\n"
            "    def build(self, findings, weights):\n" + textwrap.indent(textwrap.dedent(build), 8 * " ")
        )
        config = small_config(
            method=name, plugins=[path], options={}, seed=seed, settings={"model.weights": str(weights)}
        )
        return build_network(build_experiment(config))

    return make


BACKBONE = """
network = nn.Module()
network.backbone = timm.create_model("test_resnet", num_classes=0)
network.head = nn.Conv2d(network.backbone.num_features, len(findings), 1)
"""
# Stands for a download: values that do not depend on the seed.
PRETRAINED = """
for k, value in enumerate(network.backbone.parameters()):
    nn.init.normal_(value, generator=torch.Generator().manual_seed(k))
"""
IF_IMAGENET = "if weights == 'imagenet':" + textwrap.indent(PRETRAINED, "    ")


def test_a_file_is_loaded_into_any_methods_network(plugin, tmp_path):
    """The plugin of the documentation trained from random weights, and its record named the file."""
    file = timm.create_model("test_resnet").state_dict()
    save_file(file, tmp_path / "mine.safetensors")
    network, initial = plugin(BACKBONE + "return network", tmp_path / "mine.safetensors")
    assert (initial.source, initial.not_loaded) == ("mine.safetensors", ["head.weight", "head.bias"])
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, file[name])
    assert torch.equal(initial.tensors["backbone.conv1.0.weight"], file["conv1.0.weight"])


def test_pretrained_weights_are_named_and_what_was_not_loaded_is_listed(plugin):
    _, initial = plugin(BACKBONE + IF_IMAGENET + "return network", "imagenet")
    assert (initial.source, initial.not_loaded) == ("timm/test_resnet.r160_in1k", ["head.weight", "head.bias"])
    named = "network.backbone.weights_source = 'our hospital, 2024'\n"
    assert plugin(BACKBONE + IF_IMAGENET + named + "return network", "imagenet")[1].source == "our hospital, 2024"
    wrapped = BACKBONE + IF_IMAGENET + "del network.backbone.pretrained_cfg\nreturn network"
    assert plugin(wrapped, "imagenet")[1].source == "weights that the method loads"


def test_a_small_pretrained_part_is_found_beside_a_large_random_one(plugin):
    large = "network.large = nn.Linear(2000, 2000)\nnetwork.positions = nn.Parameter(torch.arange(50.0))\n"
    _, initial = plugin(BACKBONE + large + IF_IMAGENET + "return network", "imagenet")
    assert initial.source == "timm/test_resnet.r160_in1k"
    assert initial.not_loaded == ["positions", "head.weight", "head.bias", "large.weight", "large.bias"]


def test_pretrained_weights_that_do_not_arrive_are_refused(plugin):
    """Position codes are the same for every seed, but not loaded."""
    positions = "network.positions = nn.Parameter(torch.arange(50.0))\n"
    with pytest.raises(MethodError, match=r"loads no ImageNet weights.*Use --set model\.weights=none"):
        plugin(BACKBONE + positions + "return network", "imagenet")


def test_weights_that_a_method_loads_unasked_are_in_the_record(plugin):
    _, initial = plugin(BACKBONE + PRETRAINED + "return network", "none")
    assert (initial.source, initial.not_loaded) == ("timm/test_resnet.r160_in1k", ["head.weight", "head.bias"])


def test_random_weights_are_those_of_the_seed_alone(plugin):
    built = [plugin(BACKBONE + "return network", seed=seed)[1] for seed in (3, 3, 4)]
    assert all(initial.source is None for initial in built)
    first, again, other = (weights_sha256(initial.tensors) for initial in built)
    assert first == again != other
    torch.manual_seed(3)
    assert torch.equal(
        timm.create_model("test_resnet", num_classes=0).conv1[0].weight, built[0].tensors["backbone.conv1.0.weight"]
    )


@pytest.mark.parametrize(
    ("build", "weights", "message"),
    [
        pytest.param(
            "raise OSError('no route\\nto host')",
            "imagenet",
            r"OSError: no route: --set model\.weights=none",
            id="offline",
        ),
        pytest.param("raise ValueError", "none", r"ValueError$", id="no message"),
        pytest.param("return timm.create_model('resnet18', bad=1)", "none", "TypeError: .*'bad'", id="in a library"),
        pytest.param("return None", "none", r"must return a torch\.nn\.Module, not NoneType", id="nothing"),
    ],
)
def test_a_build_that_fails_is_told_in_one_sentence(plugin, build, weights, message):
    with pytest.raises(MethodError, match=message) as caught:
        plugin(build, weights)
    assert "\n" not in str(caught.value)
    assert build.startswith("return None") or re.search(
        r"method plugin_\d+ \(\S+plugin_\d+\.py:10\) fails to", str(caught.value)
    )


def test_a_file_beside_the_plugin_is_the_methods_own_code(plugin, tmp_path, monkeypatch):
    (tmp_path / "blocks_of_mine.py").write_text("def make():\n    return [][1]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MethodError, match=r"blocks_of_mine\.py:2\) fails to build its network.*IndexError"):
        plugin("import blocks_of_mine\nreturn blocks_of_mine.make()")


def test_memory_that_is_short_and_mistakes_of_the_user_are_not_blamed_on_the_method(plugin):
    with pytest.raises(RuntimeError, match="not enough memory"):
        plugin("raise RuntimeError('not enough memory')")
    with pytest.raises(UserError, match=r"^choose$"):
        plugin("from chxbench import UserError\nraise UserError('choose')")


def test_batch_norm_cannot_be_frozen_where_there_is_none(small_config):
    config = small_config(
        options={"backbone": "vgg11", "output_stride": 32}, method="bsl", settings={"train.batch_norm": "frozen"}
    )
    with pytest.raises(UserError, match=r"--set train\.batch_norm has no effect: the network has no BatchNorm"):
        build_network(build_experiment(config))


@pytest.mark.parametrize("wrapper", ["", "module.", "model.", "module.model.", "backbone.", "encoder.net.backbone."])
def test_prefixes_of_a_file_are_stripped(resnet, wrapper):
    network = Network()
    loaded = load_tensors(network, {wrapper + name: value for name, value in resnet.items()}, "file", FINDINGS)
    assert torch.equal(network.backbone.layer4[1].conv2.weight, resnet["layer4.1.conv2.weight"])
    assert {name for name, _ in network.named_parameters()} - loaded == {"classify.weight", "classify.bias"}


def test_a_trained_runs_file_is_loaded_as_a_whole_or_without_its_classifier():
    torch.manual_seed(2)
    trained, same, other = Network(), Network(), Network()
    other.classify = nn.Conv2d(other.backbone.num_features, FINDINGS - 1, 1)
    assert load_tensors(same, trained.state_dict(), "file", FINDINGS) == set(same.state_dict())
    assert torch.equal(same.classify.weight, trained.classify.weight)
    assert not [name for name in load_tensors(other, trained.state_dict(), "file", FINDINGS - 1) if "classify" in name]
    assert torch.equal(other.backbone.conv1.weight, trained.backbone.conv1.weight)


def test_a_classifier_of_other_classes_inside_the_network_stays_random(resnet):
    network = timm.create_model("resnet18", num_classes=FINDINGS)
    assert not {"fc.weight", "fc.bias"} & load_tensors(network, resnet, "file", FINDINGS)
    assert torch.equal(network.conv1.weight, resnet["conv1.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(resnet, dtype):
    network = Network()
    load_tensors(network, {name: value.to(dtype) for name, value in resnet.items()}, "file", FINDINGS)
    assert network.backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(network.backbone.conv1.weight, resnet["conv1.weight"].to(dtype).float())


def test_a_network_with_two_names_for_one_module_is_loaded(resnet):
    network = Network()
    network.encoder = network.backbone
    assert "encoder.conv1.weight" in load_tensors(network, resnet, "file", FINDINGS)


def two_branches():
    network = Network()
    network.lateral = timm.create_model("resnet18", num_classes=0)
    return network


@pytest.mark.parametrize(
    ("change", "network", "message"),
    [
        pytest.param(
            lambda r: timm.create_model("resnet34").state_dict(), Network, r"layer1\.2\S+ is not in", id="deeper"
        ),
        pytest.param(lambda r: r, lambda: Network("resnet34"), r"layer1\.2\.conv1\.weight is missing", id="shallower"),
        pytest.param(lambda r: r, lambda: Network("resnet50"), r"different architecture", id="wider"),
        pytest.param(lambda r: timm.create_model("vgg11").state_dict(), Network, "fit nowhere", id="another kind"),
        pytest.param(
            lambda r: {name: value for name, value in r.items() if not name.startswith("layer4")},
            Network,
            r"layer4\.0\.conv1\.weight is missing",
            id="cut short",
        ),
        pytest.param(
            lambda r: {**r, "conv1.weight": torch.ones(64, 1, 7, 7)},
            Network,
            r"shape \[64, 1, 7, 7\], not \[64, 3",
            id="gray",
        ),
        pytest.param(
            lambda r: {**r, "layer1.0.se.fc1.weight": torch.ones(4)},
            Network,
            "fc1.weight is not in the net",
            id="attention",
        ),
        pytest.param(
            lambda r: {
                **r,
                **{f"text.{k}.weight": torch.ones(k) for k in range(199)},
                **{f"t.{k}": torch.ones(2) for k in range(199)},
            },
            Network,
            "fit nowhere",
            id="a part of something else",
        ),
        pytest.param(
            lambda r: {f"layer.{k}": torch.ones(k) for k in (2, 3)}, Network, "fit no part of the network", id="nothing"
        ),
        pytest.param(lambda r: r, two_branches, r"equally well .* backbone\. .*lateral\.", id="two branches"),
        pytest.param(
            lambda r: {**{f"model.{n}": v for n, v in r.items()}, **{f"ema.{n}": v + 1 for n, v in r.items()}},
            Network,
            r"equally well .*model\. of the file.*ema\. of the file",
            id="two sets",
        ),
        pytest.param(
            lambda r: {**r, "bn1.weight": r["bn1.weight"] / 0}, Network, "bn1.weight .* not finite", id="diverged"
        ),
        pytest.param(
            lambda r: {**r, "bn1.weight": r["bn1.weight"].to(torch.int8)}, Network, "torch.int8", id="quantized"
        ),
    ],
)
def test_files_that_do_not_match_are_refused(resnet, change, network, message):
    with pytest.raises(MethodError, match=message):
        load_tensors(network(), change(resnet), "file.safetensors", FINDINGS)


def damaged(path):
    save_file({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        pytest.param("w.safetensors", lambda path: path.touch(), "cannot be read", id="empty"),
        pytest.param("w.pt", lambda path: path.touch(), "cannot be read", id="empty pickle"),
        pytest.param("w.safetensors", damaged, "cannot be read", id="truncated"),
        pytest.param(
            "w.pth", lambda path: path.write_bytes(b"PK\3\4" + bytes(99)), "cannot be read|damaged", id="not a zip"
        ),
        pytest.param("w.safetensors", lambda path: path.mkdir(), "is a folder", id="folder"),
        pytest.param("w.safetensors", lambda path: None, "does not exist", id="missing"),
        pytest.param(
            "weights", lambda path: save_file({"a": torch.ones(2)}, path), "end the file's name in .saf", id="no suffix"
        ),
        pytest.param("w.h5", lambda path: path.touch(), "is neither imagenet, none nor", id="another format"),
        pytest.param("w.safetensors", lambda path: save_file({}, path), "contain no tensors", id="nothing"),
        pytest.param(
            "w.pth", lambda path: torch.save(nn.Linear(1, 1), path), "Python objects, which could run code", id="module"
        ),
        pytest.param("w.ckpt", lambda path: torch.save({"epoch": 3}, path), "contain no tensors", id="no state_dict"),
        pytest.param(
            "w.pth",
            lambda path: torch.save({key: {"a": torch.ones(2)} for key in ("model", "model_ema")}, path),
            r"several sets of tensors \(model, model_ema\)",
            id="two sets",
        ),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(MethodError, match=message) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pth.tar", ".bin", ".ckpt"])
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model", "state_dict")])
def test_torch_files_are_read_however_their_tensors_are_nested(tmp_path, suffix, keys):
    content = {"a.weight": torch.arange(3.0)}
    for key in reversed(keys):
        content = {
            key: content,
            "epoch": 3,
            "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 1}]},
        }
    torch.save(content, tmp_path / f"w{suffix}")
    read = read_weights(tmp_path / f"w{suffix}")
    assert list(read) == ["a.weight"] and torch.equal(read["a.weight"], torch.arange(3.0))


def test_a_misspelled_name_of_initial_weights_is_refused_before_training(small_config):
    with pytest.raises(UserError, match=r"'Imagenet' is neither imagenet, none nor .*did you mean imagenet\?"):
        build_experiment(small_config(settings={"model.weights": "Imagenet"}))


@pytest.mark.parametrize("name", ["r\udcf6/w.safetensors", "a b/w\n.safetensors"])
def test_a_file_of_weights_has_any_name(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir()
    save_weights({"fc.weight": torch.eye(3)}, path)
    assert torch.equal(read_weights(path)["fc.weight"], torch.eye(3))
    assert torch.equal(load_safetensors(path)["fc.weight"], torch.eye(3))
