"""One stage of training: the loop over epochs, and the rule that picks one (step.py is what happens to a batch).

Randomness is counted, not consumed: the order of the examples, the shift of each crop and the seed of dropout are
functions of (seed, stage, epoch), so a stage that was interrupted goes on as if it had not been; to the bit on a CPU,
up to the order in which sums are taken on a GPU.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import checkpoint
from .batches import Batch, batch_sizes, read_batches, shifted_crops, split_batches
from .device import Device
from .errors import UserError
from .log import note
from .method import Method
from .predict import predict
from .progress import progress, say
from .recipe import Recipe
from .statistics.metrics import mean_auc
from .step import Learner, learn, make_learner
from .watch import Pace


@dataclass(frozen=True)
class Material:
    """What every stage of a run shares.

    Attributes:
        device: where the arithmetic happens.
        method: builds networks and computes the loss.
        recipe: how to train.
        seed: the run's seed.
        pixels: the map, uint8 (N, size, size).
        targets: labels to train and validate on, float32 (N, C).
        validation: row numbers of the validation split.
    """

    device: Device
    method: Method
    recipe: Recipe
    seed: int
    pixels: np.ndarray
    targets: np.ndarray
    validation: np.ndarray


@dataclass
class Trained:
    """A stage's outcome.

    Attributes:
        weights: of the chosen epoch, on the CPU.
        best_epoch: the chosen epoch, counted from 1.
        validation_auc: mean AUC of the validation split after each epoch; None where undefined.
        loss: mean training loss of each epoch.
        seconds: of training alone, without validation.
        images: how many images were trained on, over all epochs.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    validation_auc: list[float | None] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0


def train_stage(
    material: Material,
    start: dict[str, Tensor],
    network: nn.Module,
    stage: int,
    title: str,
    rows: np.ndarray,
    work: Path,
) -> Trained:
    """Train `network` from the weights `start` on the images `rows`, or go on where `work/checkpoint.pt` stands.

    Args:
        material: what the stages share.
        start: the weights to begin with.
        network: as the method built it; holds the last epoch's weights afterwards.
        stage: the stage's number, from 0; part of every count of randomness.
        title: the stage's name, for the progress bar.
        rows: row numbers to train on, repeats allowed.
        work: the stage's own folder.

    Raises:
        UserError: if the loss is no longer a number.
    """
    recipe, device = material.recipe, material.device
    network.load_state_dict(start)
    learner = make_learner(device, network, recipe, len(batch_sizes(len(rows), recipe.train.batch_size)))
    trained = _resume(device, work / "checkpoint.pt", learner)
    epochs = recipe.train.epochs
    if trained.loss:
        say(f"{title}: goes on after epoch {len(trained.loss)} of {epochs}")
    for epoch in range(len(trained.loss), epochs):
        begun = time.perf_counter()
        name = f"{title}, epoch {epoch + 1}/{epochs}"
        trained.loss.append(train_epoch(material, learner, (stage, epoch), rows, name))
        trained.seconds += time.perf_counter() - begun
        trained.images += len(rows)
        auc = _validate(material, network, trained)
        say(f"{name}: loss {trained.loss[-1]:.4f}, validation AUC {'undefined' if auc is None else f'{auc:.3f}'}")
        note("epoch", stage=stage + 1, epoch=epoch + 1, epochs=epochs, loss=trained.loss[-1], validation_auc=auc)
        if device.main:
            _save(work / "checkpoint.pt", learner, trained)
    return trained


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """The network's weights as tensors on the CPU that later training cannot change."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()}


def deal_labels_anew(targets: np.ndarray, patients: np.ndarray, key: Sequence[int]) -> np.ndarray:
    """A control: every patient gets the labels of another one drawn at random; float32 (n, C) in the order given.

    Images of a patient take the other's rows in turn, so that labels stay as alike within a patient as they were.
    """
    _, owner, images = np.unique(patients, return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(owner, kind="stable"), np.cumsum(images)[:-1])
    dealt = np.empty_like(targets)
    for mine, other in zip(groups, np.random.default_rng(key).permutation(len(groups)), strict=True):
        dealt[mine] = targets[np.resize(groups[other], len(mine))]
    return dealt


def train_epoch(material: Material, learner: Learner, count: tuple[int, int], rows: np.ndarray, title: str) -> float:
    """One pass over the rows in an order drawn for it; the mean loss over its images.

    Args:
        material: what the stages share.
        learner: what is trained.
        count: the stage's and the epoch's number, from 0; with the seed they decide the order and the shifts.
        rows: row numbers to train on, repeats allowed.
        title: what the progress bar says.

    Raises:
        UserError: if the loss is no longer a number.
    """
    recipe, device = material.recipe, material.device
    torch.manual_seed(_torch_seed(material.seed, *count))
    total = torch.zeros((), device=device.torch_device)
    learner.train()
    pace = Pace(device, learner, count, len(batch_sizes(len(rows), recipe.train.batch_size)))
    with progress(title, len(rows), noted=False) as advance:
        for batch in epoch_batches(material, count, rows):
            loss = learn(device, material.method, learner, batch, recipe.train.micro_batch)
            total += loss * len(batch.targets)
            advance(len(batch.targets))
            pace(batch, loss)
    mean = float(device.total(total)) / len(rows)
    if not np.isfinite(mean):
        raise UserError(f"the loss is {mean} in {title}: lower the rate with --set train.lr={recipe.train.lr / 10:g}")
    return mean


def epoch_batches(material: Material, count: tuple[int, int], rows: np.ndarray) -> Iterator[Batch]:
    """The batches of one pass over the rows, on the CPU; arguments as those of `train_epoch`."""
    recipe, device = material.recipe, material.device
    order = np.random.default_rng([material.seed, *count, 0]).permutation(rows)
    crop = shifted_crops(order, recipe.pixels, material.seed, *count, 1)
    spans = split_batches(len(rows), recipe.train.batch_size, device.share)
    on_gpu = device.torch_device.type == "cuda"
    return read_batches(material.pixels, material.targets, crop, recipe.pixels.crop, spans, pin=on_gpu)


def _validate(material: Material, network: nn.Module, trained: Trained) -> float | None:
    """Score the validation split and keep the weights if the recipe's rule picks this epoch; the mean AUC."""
    rows = material.validation
    scores = predict(material.device, network, material.pixels, rows, material.recipe, "validation")
    value = mean_auc(scores, material.targets[rows])
    best = max((auc for auc in trained.validation_auc if auc is not None), default=-1.0)
    trained.validation_auc.append(value)
    last = material.recipe.train.select == "last"
    if last or not trained.weights or (value is not None and value > best):
        trained.weights = copy_weights(network)
        trained.best_epoch = len(trained.loss)
    return value


def _resume(device: Device, path: Path, learner: Learner) -> Trained:
    """What is trained already, and the learner as it was then. Raises UserError where processes see other files."""
    if device.agree(path.exists()) and not path.exists():
        raise UserError(f"{path} is not to be seen from every machine: put --results where all of them see it")
    state = checkpoint.load(path)
    if state is None:
        return Trained()
    learner.network.load_state_dict(state["network"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.scheduler.load_state_dict(state["scheduler"])
    return Trained(**state["trained"])


def _save(path: Path, learner: Learner, trained: Trained) -> None:
    state = {
        "network": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict(),
        "trained": vars(trained),
    }
    checkpoint.save(path, state)


def _torch_seed(*count: int) -> int:
    return int(np.random.SeedSequence(count).generate_state(1, np.uint64)[0] >> np.uint64(1))
