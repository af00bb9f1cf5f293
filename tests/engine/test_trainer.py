"""Training: random draws by key, resuming, the rule that selects the epoch, and the label-permutation control."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from chxbench import Output, UserError
from chxbench.benchmark.data.pixel_cache import prepare_pixels
from chxbench.benchmark.engine import checkpoint, epoch, trainer
from chxbench.benchmark.engine.device import Device
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.engine.initial_weights import build_network
from chxbench.benchmark.engine.train_context import build_train_context, permute_labels_by_patient
from chxbench.benchmark.engine.trainer import train_stage
from chxbench.benchmark.utils.files import is_intact, previous_version


def context_of(experiment, pixels):
    return build_train_context(
        device=Device("float32"),
        method=experiment.method,
        recipe=experiment.recipe,
        index=experiment.index,
        pixels=pixels,
        seed=experiment.config.seed,
        identity=experiment.run_id,
    )


@pytest.fixture
def stage(small_config, tmp_path):
    """Train a small stage in a folder of its own; settings override the recipe's."""

    def run(name="work", seed=0, rows=None, **settings):
        experiment = build_experiment(small_config(method="bsl", seed=seed, settings={"train.epochs": 3, **settings}))
        pixels, _ = prepare_pixels(
            experiment.dataset, experiment.index, experiment.recipe.pixels.size, experiment.config.cache
        )
        network, (initial, *_) = build_network(experiment)
        context = context_of(experiment, pixels)
        rows = experiment.index.rows("train") if rows is None else rows
        (tmp_path / name).mkdir(exist_ok=True)
        return train_stage(context, initial, network, 0, "stage", rows, tmp_path / name)

    return run


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(stage):
    first = stage("a")
    assert equal(first.weights, stage("b").weights)
    assert not equal(first.weights, stage("c", seed=1).weights)


def test_an_interrupted_stage_ends_as_if_it_had_not_been(stage, monkeypatch):
    whole = stage("whole")
    save, saved = checkpoint.save_checkpoint, []

    def die_after_the_first(path, state):
        save(path, state)
        saved.append(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_checkpoint", die_after_the_first)
        stage("cut")
    resumed = stage("cut")
    assert len(saved) == 1
    assert resumed.validation_auc == whole.validation_auc
    assert resumed.loss == whole.loss
    assert equal(resumed.weights, whole.weights)


class Dropping(nn.Module):
    """A small network that draws its weights and, in every step, random numbers from each global generator."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3 * 32 * 32, 14), nn.BatchNorm1d(14))
        self.offset = nn.Parameter(torch.tensor([np.random.randn() + random.gauss(0, 1)]).float())  # noqa: NPY002

    def forward(self, images):
        if self.training:
            images = images + np.random.randn() + random.gauss(0, 1)  # noqa: NPY002
        return Output(self.layers(images) + self.offset)


def test_results_do_not_depend_on_what_was_drawn_before(stage, monkeypatch):
    from chxbench.methods.bsl import Baseline

    monkeypatch.setattr(Baseline, "build", lambda *_: Dropping())
    first = stage("a")
    for generator in (torch.rand, np.random.randn, lambda count: random.gauss(0, 1)):
        generator(3)
    assert equal(first.weights, stage("b").weights)


@pytest.mark.parametrize("saves", [1, 4, 5, 6, 8])
def test_a_stage_resumes_in_the_middle_of_an_epoch_as_if_it_had_not_stopped(stage, monkeypatch, capsys, saves):
    from chxbench.methods.bsl import Baseline

    monkeypatch.setattr(Baseline, "build", lambda *_: Dropping())
    whole = stage("whole")
    save, saved = checkpoint.save_checkpoint, []

    def die_after(path, state):
        save(path, state)
        saved.append(path)
        if len(saved) == saves:  # of epochs of five steps, saved after each and at the end
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "CHECKPOINT_EVERY", 0.0)
        patch.setattr(checkpoint, "save_checkpoint", die_after)
        stage("cut")
    resumed = stage("cut")
    assert (
        f"resumes after epoch {saves // 6} of 3" + (f", step {saves % 6}" if saves % 6 else "")
        in capsys.readouterr().err
    )
    assert (resumed.loss, resumed.validation_auc, resumed.images) == (whole.loss, whole.validation_auc, whole.images)
    assert equal(resumed.weights, whole.weights)


def test_a_checkpoint_of_another_training_is_refused(stage, tmp_path, monkeypatch):
    from chxbench.methods.bsl import Baseline

    monkeypatch.setattr(Baseline, "build", lambda *_: Dropping())
    stage("one")
    for change in ({"seed": 1}, {"train.lr": 0.5}, {"rows": np.arange(20)}):
        with pytest.raises(
            UserError, match=r"one/checkpoint\.pt is not a checkpoint of this stage .*: remove it, or start"
        ):
            stage("one", **change)
    checkpoint.save_checkpoint(tmp_path / "one" / "checkpoint.pt", {"weights": torch.ones(3)})
    with pytest.raises(UserError, match="is not a checkpoint of this stage"):
        stage("one")


def test_weights_that_are_not_finite_are_never_saved(stage, tmp_path, monkeypatch):
    from chxbench.methods.bsl import Baseline

    monkeypatch.setattr(Baseline, "build", lambda *_: Dropping())
    train_step, steps = trainer.train_step, []

    def spoil(device, method, learner, *rest):
        loss = train_step(device, method, learner, *rest)
        steps.append(loss)
        if len(steps) == 10:  # the last of the second epoch: no loss is computed from these weights
            next(learner.network.parameters()).data.fill_(torch.inf)
        return loss

    monkeypatch.setattr(trainer, "train_step", spoil)
    message = (
        r"the weights are not finite in stage, epoch 2/3, step 5 of 5 .*; the last good checkpoint is .*checkpoint\.pt"
    )
    with pytest.raises(UserError, match=message):
        stage("work")
    state = checkpoint.load_checkpoint(tmp_path / "work" / "checkpoint.pt")
    assert len(state["trained"]["loss"]) == 1
    assert all(value.isfinite().all() for value in state["network"].values())


def test_training_learns_the_images_it_sees(stage):
    settings = {"train.epochs": 24, "train.lr": 3e-3, "pixels.max_shift": 0, "train.batch_size": 8}
    trained = stage(rows=np.arange(16), **settings)
    assert trained.loss[-1] < 0.5 * trained.loss[0]


@pytest.mark.parametrize(("rule", "epoch"), [("last", 3), ("best_validation_auc", 2)])
def test_the_rule_selects_the_epoch_and_its_weights_are_saved(stage, monkeypatch, rule, epoch):
    aucs, weights = iter([0.6, 0.9, 0.7]), []
    monkeypatch.setattr(trainer, "mean_auc", lambda *_: next(aucs))
    save = checkpoint.save_checkpoint

    def remember(path, state):
        weights.append({name: value.clone() for name, value in state["network"].items()})
        save(path, state)

    monkeypatch.setattr(checkpoint, "save_checkpoint", remember)
    trained = stage(**{"train.select": rule})
    assert (trained.best_epoch, trained.validation_auc) == (epoch, [0.6, 0.9, 0.7])
    assert equal(trained.weights, weights[epoch - 1])
    assert not equal(trained.weights, weights[0])


def test_only_the_requested_rows_are_trained_on(stage, monkeypatch):
    seen, read_batches = [], epoch.read_batches

    def spy(pixels, targets, crop, *rest, **options):
        seen.append(crop.rows.tolist())
        return read_batches(pixels, targets, crop, *rest, **options)

    monkeypatch.setattr(epoch, "read_batches", spy)
    rows = np.array([3, 5, 5, 8, 9, 11])
    stage(rows=rows)
    assert len(seen) == 3
    assert all(sorted(epoch) == rows.tolist() for epoch in seen)


def test_a_loss_that_is_not_finite_stops_with_advice(stage):
    message = r"the loss is nan in stage, epoch 1/3, step \d of 5 \(images .* 13 more\): .*train\.lr.*; no checkpoint"
    with pytest.raises(UserError, match=message):
        stage(**{"train.optimizer": "sgd", "train.lr": 1e30, "train.schedule": "step"})


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:99] + b"?" + data[100:]])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(tmp_path, capsys, damage):
    path = tmp_path / "checkpoint.pt"
    for number in (1, 2, 3):
        checkpoint.save_checkpoint(path, {"weights": torch.full((3,), float(number))})
    assert torch.equal(checkpoint.load_checkpoint(path)["weights"], torch.full((3,), 3.0))
    assert capsys.readouterr().err == ""
    path.write_bytes(damage(path.read_bytes()))
    assert not is_intact(path) and is_intact(previous_version(path))
    assert torch.equal(checkpoint.load_checkpoint(path)["weights"], torch.full((3,), 2.0))
    assert "checkpoint.pt is damaged (it" in (message := capsys.readouterr().err)
    assert message.endswith("): the previous one is used\n")
    previous_version(path).write_bytes(b"half of one")
    assert checkpoint.load_checkpoint(path) is None
    assert "checkpoint.previous.pt is damaged (it has no seal): the stage starts over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(Path.unlink, "missing", id="missing"),
        pytest.param(
            lambda path: (path.unlink(), path.symlink_to("nowhere")),
            "damaged (No such file or directory)",
            id="dangling link",
        ),
    ],
)
def test_a_missing_checkpoint_is_reported_and_the_previous_one_is_used(tmp_path, capsys, change, problem):
    path = tmp_path / "checkpoint.pt"
    for number in (1, 2):
        checkpoint.save_checkpoint(path, {"weights": torch.full((3,), float(number))})
    change(path)
    assert torch.equal(checkpoint.load_checkpoint(path)["weights"], torch.full((3,), 1.0))
    assert f"checkpoint.pt is {problem}: the previous one is used" in capsys.readouterr().err


def test_a_checkpoint_runs_no_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (pytest.fail, ("a checkpoint ran code",))

    checkpoint.save_checkpoint(tmp_path / "checkpoint.pt", {"weights": Payload()})
    with pytest.raises(UserError, match=r"is not a checkpoint .*: remove it, or start over with --fresh"):
        checkpoint.load_checkpoint(tmp_path / "checkpoint.pt")


def test_labels_are_permuted_among_patients():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(200), rng.integers(1, 6, 200))
    targets = np.repeat(rng.integers(0, 2, (200, 3)), np.bincount(patients), axis=0).astype(np.float32)
    permuted = permute_labels_by_patient(targets, patients, [0, 0])
    assert (permuted == permute_labels_by_patient(targets, patients, [0, 0])).all()
    assert (permuted != targets).mean() > 0.4
    for patient in range(200):  # a patient's images had one label set, and still have one
        assert len(np.unique(permuted[patients == patient], axis=0)) == 1


def test_permuted_labels_reach_training_and_validation_only(small_config):
    experiment = build_experiment(small_config(settings={"train.shuffle_labels": True}))
    context = context_of(experiment, np.empty(0))
    for split, changed in (("train", True), ("val", True), ("test", False)):
        rows = experiment.index.rows(split)
        assert (context.targets[rows] != experiment.index.targets()[rows]).any() == changed
    assert dataclasses.replace(experiment.recipe.train, shuffle_labels=False) != experiment.recipe.train
