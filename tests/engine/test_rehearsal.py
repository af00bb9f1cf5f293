"""The rehearsal: what would fail after hours is one sentence before anything is decoded, and nothing of it remains."""

import random

import numpy as np
import pytest
import torch
from small_runs import invoke
from torch import nn

from chxbench import Output, PartCheck, Selection, Stage, UserError
from chxbench.benchmark.commands.run import train_and_score as module
from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.engine.rehearsal import _mixed_rows, leave_no_trace, step_sizes
from chxbench.benchmark.recipe import load_recipe
from chxbench.methods.bsl import Baseline

ONE_EPOCH = {"train.epochs": 1}


class Network(nn.Module):
    """One convolution, pooled and classified; `change` alters what it returns."""

    def __init__(self, change=lambda network, logits: Output(logits), norm=False):
        super().__init__()
        self.convolve = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.classify = nn.Linear(8, 14)
        self.change = change

    def forward(self, images):
        return self.change(self, self.classify(self.norm(self.convolve(images).relu().mean((2, 3)))))


class ForOtherCrops(nn.Linear):
    def __init__(self):
        super().__init__(3 * 64 * 64, 14)

    def forward(self, images):
        return Output(super().forward(images.flatten(1)))


class WithExtraState(Network):
    def get_extra_state(self):
        return {"anything": object()}

    def set_extra_state(self, state):
        pass


class WithoutParameters(nn.Module):
    def forward(self, images):
        return Output(images.mean((1, 2, 3))[:, None].expand(-1, 14))


class DroppedInEvaluation(Network):
    """Drops features in evaluation, too, in front of a classifier that starts at zero."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.classify.weight)
        self.norm = AlwaysDropout()


class AlwaysDropout(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.3, training=True)


class CountsCalls(Network):
    """Weights the latest images more than those before, by a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.ones(()))

    def forward(self, images):
        self.calls += 1
        return Output(super().forward(images).logits / self.calls)


class BatchStatistics(Network):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, track_running_stats=False)


class MeanOutside(Network):
    """Its running mean is an attribute, not a buffer."""

    mean = 0.0

    def forward(self, images):
        if self.training:
            self.mean = 0.9 * self.mean + images.mean().item() + 1
        return super().forward(images + self.mean)


class OtherProjection(Network):
    """Random weights that are not saved."""

    def __init__(self):
        super().__init__()
        self.projection = torch.randn(8, 8)
        self.norm = Project(self)


class Project(nn.Module):
    def __init__(self, owner):
        super().__init__()
        self.weight = owner.projection

    def forward(self, x):
        return x @ self.weight


class Halved(Network):
    """Its evaluation mode halves the weights."""

    def train(self, mode=True):
        if not mode and self.training:
            self.classify.weight.data /= 2
        return super().train(mode)


class Swapped(Network):
    """Its evaluation mode replaces the classifier by a copy."""

    def train(self, mode=True):
        if not mode:
            self.classify.weight = nn.Parameter(self.classify.weight.detach().clone())
        return super().train(mode)


class Fused(Network):
    """Its evaluation mode merges two layers into one."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Linear(8, 8, bias=False)

    def train(self, mode=True):
        if not mode and not isinstance(self.norm, nn.Identity):
            self.classify.weight.data = self.classify.weight @ self.norm.weight
            self.norm = nn.Identity()
        return super().train(mode)


class WithMaps(Network):
    """Returns maps, which `change_maps` changes in evaluation mode."""

    def __init__(self, change_maps):
        super().__init__()
        self.change_maps = change_maps

    def forward(self, images):
        features = self.convolve(images).relu()
        maps = nn.functional.conv2d(features, self.classify.weight[:, :, None, None], self.classify.bias)
        logits = maps.mean((2, 3))
        return Output(logits, maps if self.training else self.change_maps(maps))


class Lazy(Network):
    def __init__(self):
        super().__init__()
        self.classify = nn.LazyLinear(14)


class MadeInForward(Network):
    def forward(self, images):
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(()))
        return Output(self.scale * super().forward(images).logits)


def greedy_in_evaluation(network, logits):
    if not network.training:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return Output(logits)


def no_images(self, scores, labels):
    return Selection(np.argpartition(scores[:, 0], -(10**6))[-(10**6) :])


def wrong_hard(scores, labels):
    return Selection(np.arange(len(labels)), labels[:, :3] == 1)


def rows_where(condition):
    return lambda scores, labels: Selection(np.flatnonzero(condition(scores, labels == 1).any(axis=1)))


THRESHOLDS = {  # what each selects is empty for these log-odds alone
    "all wrong": rows_where(lambda scores, positive: (scores > 3) == positive),
    "all equal": rows_where(lambda scores, positive: np.abs(scores) > 1),
}


def second(select, start="initial"):
    return lambda self: (Stage("first"), Stage("second", select, start))


def built(make):
    return {"build": lambda self, findings, weights: make()}


FAILS = r"^method bsl \(.*{file}\.py:\d+\) fails to {what}"
BREAKS = r"^method bsl \(.*bsl\.py:\d+\) breaks its contract: {what}"
STEP = "compute a training step of 16 images: "
FAULTS = [
    pytest.param(built(lambda: Network(norm=True)), {"train.micro_batch": 1}, FAILS, STEP + "ValueError", id="one"),
    pytest.param(built(ForOtherCrops), {}, FAILS, STEP + "RuntimeError: mat1 and mat2 shapes", id="crop"),
    pytest.param(
        built(lambda: Network(lambda network, logits: Output(logits.squeeze()))),
        {"evaluate.batch_size": 1},
        BREAKS,
        r"the network must return Output\(logits \(B, C\), maps\), not \(14,\)",
        id="last scoring batch",
    ),
    pytest.param(
        built(lambda: Network().to(torch.bfloat16)),
        {"compute.precision": "bfloat16"},
        FAILS,
        "have its weights saved and loaded: TypeError: Got unsupported ScalarType BFloat16",
        id="weights",
    ),
    pytest.param(built(WithExtraState), {}, FAILS, "have its weights copied: AttributeError", id="extra state"),
    pytest.param(
        built(WithoutParameters), {}, FAILS, "have its weights trained: ValueError: optimizer got an empty", id="none"
    ),
    pytest.param(
        built(lambda: Network(greedy_in_evaluation)),
        {"evaluate.batch_size": 20},
        "^{what}",
        r"the memory cannot hold scoring of 20 images at a time: try --set evaluate\.batch_size=10$",
        id="memory",
    ),
    pytest.param(
        built(lambda: Network(lambda network, logits: Output(logits.sigmoid()))),
        {},
        BREAKS,
        "the logits always",
        id="p",
    ),
    pytest.param(
        {"loss": lambda self, output, targets, weights: torch.zeros(())},
        {},
        FAILS,
        STEP + "RuntimeError: element 0 of tensors does not require grad",
        id="no gradient",
    ),
    pytest.param(
        {"loss": lambda self, output, targets, weights: output.logits.sum() * torch.nan},
        {},
        BREAKS,
        "the loss of 16 images under the initial weights is nan",
        id="nan",
    ),
    pytest.param({"heat": lambda self, maps: maps.view(-1)[10**9]}, {}, FAILS, "compute the heatmaps of", id="heat"),
    pytest.param({"heat": lambda self, maps: maps * np.nan}, {}, BREAKS, "its heatmaps are not finite", id="nan heat"),
    pytest.param(
        {"stages": second(lambda scores, labels: no_images(None, scores, labels))},
        {},
        FAILS,
        "select the examples of stage 'second': ValueError: kth",
        id="select",
    ),
    pytest.param(
        {"stages": second(lambda scores, labels: Selection(np.flatnonzero((scores > 0).any(1))))},
        {},
        BREAKS,
        "stage 'second' must select .*, also if the log-odds are all negative, as early in training",
        id="nothing scored high",
    ),
    pytest.param(
        {"stages": second(lambda scores, labels: Selection(np.flatnonzero(((scores > 0) != (labels == 1)).any(1))))},
        {},
        BREAKS,
        "stage 'second' must select .*, also if the log-odds are all right",
        id="nothing wrong",
    ),
    *(
        pytest.param(
            {"stages": second(select)},
            {},
            BREAKS,
            rf"stage 'second' must .*, also if the log-odds are {kind}$",
            id=kind,
        )
        for kind, select in THRESHOLDS.items()
    ),
    pytest.param({"stages": second(wrong_hard)}, {}, BREAKS, "stage 'second' must select hard labels", id="hard"),
    pytest.param({"stages": second(None, "best")}, {}, BREAKS, "stage 'second' starts from 'best'", id="start"),
    pytest.param(
        {"check_parts": lambda self, network, images: network.nothing}, {}, FAILS, "check its parts: Attr", id="parts"
    ),
    pytest.param(
        {"check_parts": lambda self, network, images: [PartCheck("x", float("nan"), 0.0)]},
        {},
        BREAKS,
        r"check_parts\(\) must return a sequence of PartCheck with finite",
        id="nan part",
    ),
    pytest.param({"stages": lambda self: ()}, {}, BREAKS, r"stages\(\) must return one Stage or more", id="no stage"),
    pytest.param(built(DroppedInEvaluation), {}, BREAKS, "in evaluation mode the .* from call to call", id="dropout"),
    pytest.param(built(CountsCalls), {}, BREAKS, "in evaluation mode the .* from call to call", id="counts calls"),
    pytest.param(built(BatchStatistics), {}, BREAKS, "in evaluation .* images of its batch", id="batch statistics"),
    pytest.param(built(MeanOutside), {}, BREAKS, "(train|a new network with the saved weights)", id="mean outside"),
    pytest.param(built(OtherProjection), {}, BREAKS, "a new network with the saved weights gives other", id="unsaved"),
    pytest.param(built(Halved), {}, BREAKS, r"train\(\) and eval\(\) change the log-odds", id="halved"),
    pytest.param(built(Swapped), {}, BREAKS, r"the optimizer does not have classify\.weight: ", id="swapped"),
    pytest.param(built(Fused), {}, FAILS, "load its initial weights again: RuntimeError", id="fused"),
    pytest.param(built(MadeInForward), {}, BREAKS, "the optimizer does not have scale: create", id="made in forward"),
    pytest.param(
        built(lambda: WithMaps(lambda maps: maps - maps.mean(0))),
        {},
        BREAKS,
        "in evaluation mode the heatmaps of an image depend on",
        id="batch maps",
    ),
    pytest.param(
        built(lambda: WithMaps(lambda maps: maps.flip(3) if len(maps) == 1 else maps)),
        {},
        BREAKS,
        "in evaluation mode the heatmaps of an image depend on",
        id="maps of a single image",
    ),
    pytest.param(
        {"display_options": ("wdth",)},
        {},
        BREAKS,
        "display_options has 'wdth', which is not an option",
        id="no option",
    ),
    pytest.param(built(Lazy), {}, BREAKS, r"parameters have no shape yet \(classify\.weight", id="lazy"),
    pytest.param({"paper": None}, {}, "^{what}", "this run cannot be recorded: paper: Input should be", id="paper"),
]


@pytest.fixture
def refused(monkeypatch, small_config):
    """Run bsl with settings, which must fail before anything is decoded and leave nothing; returns the sentence."""

    def attempt(settings):
        monkeypatch.setattr(module, "prepare_pixels", lambda *_: pytest.fail("decoded"))
        config = small_config(method="bsl", settings={**ONE_EPOCH, **settings})
        with pytest.raises(UserError) as told:
            run(config)
        assert not build_experiment(config).work.exists()
        return str(told.value)

    return attempt


@pytest.mark.parametrize(("changes", "settings", "form", "what"), FAULTS)
def test_what_would_fail_later_is_one_sentence_before_decoding(refused, monkeypatch, changes, settings, form, what):
    import re

    for name, value in changes.items():
        monkeypatch.setattr(Baseline, name, value)
    told = refused(settings)
    assert re.search(form.replace("{file}", r"\w+").replace("{what}", what), told), told
    assert "\n" not in told


def test_maps_in_another_order_than_the_image_are_refused(refused, monkeypatch):
    import chxbench.methods.blocks as blocks

    forward = blocks.MapClassifier.forward
    monkeypatch.setattr(
        blocks.MapClassifier,
        "forward",
        lambda self, images: Output((output := forward(self, images)).logits, output.maps.flip(2)),
    )
    assert "the maps are not in the order of the image" in refused(
        {"pixels.size": 64, "pixels.crop": 64, "pixels.max_shift": 0}
    )


def test_a_place_that_cannot_be_written_is_told_before_decoding(refused, small_config):
    results = small_config().results
    results.mkdir()
    (results / "phantom").write_text("a file")
    assert "results/phantom" in (told := refused({}))
    assert "cannot be written to" in told


def test_speed_is_told_of_a_crop_before_decoding(monkeypatch, tmp_path):
    monkeypatch.setattr(Baseline, "build", lambda *_: ForOtherCrops())
    words = ["--set", "dataset.images=100", "--results", tmp_path / "results", "--cache", tmp_path / "cache"]
    done = invoke("speed", "--method", "bsl", "--device", "cpu", "--set", "pixels.crop=32", *words)
    assert done.exit_code == 2
    assert "fails to compute a training step of 2 images: RuntimeError: mat1 and mat2" in done.output
    assert not list((tmp_path / "cache").glob("phantom*"))


@pytest.fixture(scope="module")
def random_everywhere():
    """A method whose training and scores would show a random state, or a setting of torch, that is not restored."""
    method = pytest.MonkeyPatch()

    def loss(self, output, targets, weights):
        factor = np.random.rand() + random.random()  # noqa: NPY002
        torch.backends.cudnn.deterministic = True
        return factor * super(Baseline, self).loss(output, targets, weights)

    def change(network, logits):
        return Output(nn.functional.dropout(logits, 0.3, network.training))

    method.setattr(Baseline, "loss", loss)
    method.setattr(Baseline, "build", lambda *_: Network(change, norm=True))
    yield
    method.undo()


def test_a_run_is_the_same_to_the_byte_without_its_rehearsal(small_config, tmp_path, monkeypatch, random_everywhere):
    works, states = [], []
    for name in ("with", "without"):
        np.random.seed(3)  # noqa: NPY002
        random.seed(3)
        torch.manual_seed(3)
        config = small_config(method="bsl", results=tmp_path / name / "results", settings=ONE_EPOCH)
        if name == "without":
            monkeypatch.setattr(module, "rehearse", lambda *_: None)
        run(config)
        works.append(build_experiment(config).work)
        states.append((random.getstate(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    for file in ("weights.safetensors", "scores.parquet"):
        assert works[0].joinpath(file).read_bytes() == works[1].joinpath(file).read_bytes()
    assert states[0] == states[1]
    assert sorted(path.name for path in works[0].iterdir()) == sorted(path.name for path in works[1].iterdir())


def test_settings_of_torch_and_warnings_are_as_before():
    device = Device("float32", "cpu")
    before = torch.backends.cudnn.benchmark, torch.get_num_threads(), torch.get_default_dtype()
    with pytest.raises(UserError), leave_no_trace(device):
        torch.backends.cudnn.benchmark = not before[0]
        torch.set_num_threads(before[1] + 1)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(False)
        torch.rand(3)
        import warnings

        warnings.warn("of a network", stacklevel=1)
        raise UserError("it fails")
    assert (torch.backends.cudnn.benchmark, torch.get_num_threads(), torch.get_default_dtype()) == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("total", "processes", "later", "sizes"),
    [
        pytest.param(100, 1, 0, [(32, 32), (4, 4)], id="full and last"),
        pytest.param(97, 1, 0, [(33, 33), (32, 32)], id="a single one joins the batch before"),
        pytest.param(96, 1, 2, [(32, 32), (2, 2)], id="examples selected later"),
        pytest.param(20, 1, 0, [(20, 20)], id="one batch"),
        pytest.param(99, 2, 0, [(32, 16), (3, 2), (3, 1)], id="two processes"),
        pytest.param(98, 4, 0, [(32, 8), (2, 1)], id="more processes than images"),
    ],
)
def test_the_sizes_are_those_that_an_epoch_has(total, processes, later, sizes):
    device = Device("float32", "cpu")
    device.shard = device.shard._replace(world_size=processes)
    assert step_sizes(total, load_recipe("quick", {}).train, device, later) == sizes


def test_the_first_labels_are_positive_unknown_and_negative():
    targets = np.array([[0, 0], [0, 0], [0, 1], [np.nan, 0]], np.float32)
    assert _mixed_rows(targets).tolist() == [2, 3, 0, 1]
