"""Rehearse a run before anything is decoded, so that what would fail after hours fails at its start.

A throwaway network takes steps of training on noise, and is saved, scored and explained. Nothing of it remains: random
states and settings of torch are afterwards what they were before.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..data.loader import SINGLE_PROCESS, Batch, batch_sizes, center_crops, gather_crops
from ..method import ContractError, Method, Stage
from ..recipe import Recipe, Train
from ..utils.errors import UserError
from ..utils.text import count
from .blame import blame
from .checkpoint import save_checkpoint
from .device import Device
from .experiment import Experiment
from .inference import HeatmapReader, Predictor
from .memory import advise_on_memory
from .output_checks import findings_problem, logits_problem, maps_problem
from .random_state import keep_random_state, seed_random
from .repeatability import IMAGES, parameters_problem, repeat_problem
from .stages import list_stages, select_examples
from .step import Learner, make_learner
from .train_context import build_train_context
from .trainer import run_step
from .weights import copy_weights, load_safetensors, save_weights, weights_sha256

NOISE_IMAGES = 32  # different images; larger batches repeat them
SMALLEST_BATCH = (
    2  # images that examples selected later may leave for the last batch: `batch_sizes` leaves no single one
)
SCORE_SPREAD = 4.0  # size of the log-odds that a stage selects by
BACKEND_FLAGS = (
    *((torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
    (torch.backends.mkldnn, "enabled"),
)
NOT_FINITE = "its heatmaps are not finite: check heat() and the network's maps"
T = TypeVar("T")


class _Alone(Device):
    """A device without other processes: only the main one rehearses."""

    def __init__(self, device: Device) -> None:
        vars(self).update(vars(device), shard=SINGLE_PROCESS)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        return value

    def all_gather(self, items: list[T]) -> list[T]:
        return items

    def broadcast(self, value: T) -> T:
        return value


def rehearse(experiment: Experiment, device: Device, initial: Mapping[str, Tensor], boxed: int) -> str | None:
    """Rehearse everything that a run does with its method, in this process only.

    Args:
        experiment: experiment of the run, whose folder exists.
        device: where the network runs.
        initial: state_dict of the network with its initial weights.
        boxed: number of test images of which the run will compute heatmaps.

    Returns:
        Why the network has no heatmaps; None if it has some, or none will be computed.

    Raises:
        UserError: the method fails or breaks its contract, memory is short, or a folder cannot be written to.
    """
    method, recipe, index, seed = experiment.method, experiment.recipe, experiment.index, experiment.config.seed
    _check_folders(experiment)
    with leave_no_trace(device):
        targets = build_train_context(
            device=device, method=method, recipe=recipe, index=index, pixels=np.empty(0, np.uint8), seed=seed
        ).targets[index.rows("train")]
        stages = list_stages(method)
        _rehearse_selection(method, stages, targets, seed)
        seed_random(seed)
        network = _build(method, index.findings)
        with blame(method, "load its initial weights into a new network"):
            network.load_state_dict(initial)
        later = SMALLEST_BATCH if any(stage.select for stage in stages) else 0
        rehearsal = Rehearsal(_Alone(device), method, recipe, network)
        images = max(len(targets), recipe.train.images)
        learner = rehearsal.train(targets, step_sizes(images, recipe.train, device, later))
        if recipe.compute.compile:
            torch.compiler.reset()  # what is compiled again counts against a limit
        rehearsal.save(learner, experiment.work)
        val, test = (len(index.rows(split)) for split in ("val", "test"))
        scored = (val, val + test, *((len(targets),) if later else ()))
        sizes = {size for images in scored for size in batch_sizes(images, recipe.evaluate.batch_size)}
        rehearsal.score(len(index.findings), sizes)
        rehearsal.score_again(learner, index.findings)
        return rehearsal.explain(min(batch_sizes(boxed, recipe.evaluate.batch_size))) if boxed else None


def rehearse_measurement(device: Device, method: Method, recipe: Recipe, findings: Sequence[str]) -> None:
    """Rehearse the smallest batches that `chxbench speed` measures. Raises UserError if the method fails in them."""
    recipe = replace(recipe, compute=replace(recipe.compute, compile=False))
    with leave_no_trace(device):
        rehearsal = Rehearsal(device, method, recipe, _build(method, findings))
        rehearsal.train(np.zeros((SMALLEST_BATCH, len(findings)), np.float32), [(SMALLEST_BATCH, SMALLEST_BATCH)])
        rehearsal.score(len(findings), [1])


@dataclass(frozen=True)
class Rehearsal:
    """A throwaway network on noise.

    Attributes:
        device: where the network runs; it waits for no other process.
        method, recipe: method and recipe of the run.
        network: network as the method built it.
    """

    device: Device
    method: Method
    recipe: Recipe
    network: nn.Module

    @cached_property
    def noise(self) -> np.ndarray:
        """Images of noise: uint8 (NOISE_IMAGES, size, size)."""
        side = self.recipe.pixels.size
        return np.random.default_rng(0).integers(0, 256, (NOISE_IMAGES, side, side), np.uint8)

    def images(self, number: int) -> Tensor:
        """Return center crops of noise: uint8 (number, crop, crop)."""
        pixels = self.recipe.pixels
        return gather_crops(self.noise, center_crops(_rows(number), pixels), pixels.crop)

    def train(self, targets: np.ndarray, sizes: Iterable[tuple[int, int]]) -> Learner:
        """Take one step of training per size, each from the initial weights.

        Args:
            targets: labels of the training images (n, C); each step has known and unknown ones, as far as there are.
            sizes: images of a batch, and how many of them one process computes.

        Returns:
            The learner after the last step.
        """
        train = self.recipe.train
        with blame(self.method, "have its weights trained"):
            initial = copy_weights(self.network)
            learner = make_learner(self.device, self.network, self.recipe, steps_per_epoch=10**6)  # never reached
        labels = torch.from_numpy(targets[_mixed_rows(targets)])
        for size, share in sizes:
            with blame(self.method, "load its initial weights again"):
                self.network.load_state_dict(initial)
            learner.train()
            batch = Batch(self.images(share), labels[_rows(size, len(labels))], slice(0, share))
            loss = float(run_step(self.device, self.method, learner, batch, train.micro_batch))
            if not np.isfinite(loss):
                raise ContractError(
                    f"the loss of {count(share, 'image')} under the initial weights is {loss}: check loss() and "
                    "label_weights(), also with unknown labels (NaN)"
                )
            problem = parameters_problem(learner)
            if problem is not None:
                raise ContractError(problem)
        with blame(self.method, "load its initial weights again"):
            self.network.load_state_dict(initial)
        return learner

    def save(self, learner: Learner, folder: Path) -> None:
        """Save weights and training to the folder and load them again; no file remains."""
        path = folder / "rehearsal.pt"
        optimizer, network = learner.optimizer, learner.network
        try:
            with blame(self.method, "have its weights saved and loaded"):
                weights = copy_weights(network)
                weights_sha256(weights)
                save_weights(weights, path)
                network.load_state_dict(load_safetensors(path))
            with blame(self.method, "have its training saved and resumed"):
                save_checkpoint(path, {"network": network.state_dict(), "optimizer": optimizer.state_dict()})
                with path.open("rb") as file:
                    state = torch.load(file, map_location="cpu", weights_only=True)
                network.load_state_dict(state["network"])
                optimizer.load_state_dict(state["optimizer"])
        finally:
            for left in folder.glob("rehearsal*.pt"):
                left.unlink()

    def score(self, num_findings: int, sizes: Iterable[int]) -> None:
        """Score the largest and the smallest of these batches."""
        predictor = Predictor(self.device, self.network, self.noise, self.recipe, num_findings)
        for images in sorted({max(sizes), min(sizes)}, reverse=True):
            with (
                advise_on_memory("scoring", images, "evaluate.batch_size"),
                blame(self.method, f"score {count(images, 'image')}"),
            ):
                predictor.scores(_rows(images), "")
        with blame(self.method, "check its parts"):
            predictor.check_parts(self.method, _rows(2))
        with blame(self.method, "score images"):
            problem = logits_problem(self.device, self.network, self.recipe.pixels.crop)
        if problem is not None:
            raise ContractError(problem)

    def score_again(self, learner: Learner, findings: Sequence[str]) -> None:
        """Score images again, as later parts of a run and other commands will; the weights are afterwards initial."""
        initial = copy_weights(self.network)
        with advise_on_memory("scoring", 2 * IMAGES, "evaluate.batch_size"):
            with blame(self.method, "score images again, with its saved weights in a new network"):
                problem = repeat_problem(
                    self.device, self.method, learner, lambda method: _build(method, findings), self.images(2 * IMAGES)
                )
            with blame(self.method, "load its initial weights again"):
                self.network.load_state_dict(initial)
        if problem is not None:
            raise ContractError(problem)

    def explain(self, images: int) -> str | None:
        """Compute the heatmaps of a batch; return why the network has none, or None."""
        side = self.recipe.pixels.crop
        with (
            advise_on_memory("heatmaps", images, "evaluate.batch_size"),
            blame(self.method, f"compute the heatmaps of {count(images, 'image')}"),
        ):
            reader = HeatmapReader(self.device, self.method, self.network, side)
            _, heat = reader.read(self.images(images))
            problem = maps_problem(self.device, self.method, self.network, side) or findings_problem(
                self.device, self.method, self.network, side
            )
        if heat is not None and not heat.isfinite().all():
            raise ContractError(NOT_FINITE)
        if problem is not None:
            raise ContractError(problem)
        return reader.reason


def _build(method: Method, findings: Sequence[str]) -> nn.Module:
    with blame(method, "build its network"):
        return method.build(findings, "none")


def step_sizes(total: int, train: Train, device: Device, later: int = 0) -> list[tuple[int, int]]:
    """Return the sizes of the batches of an epoch, each with how many of its images one process computes, falling.

    Args:
        total: images per epoch.
        train: settings of training.
        device: device of the run, with all of its processes.
        later: images of a batch that a later stage may have as well; 0 for none.
    """
    processes = device.shard.world_size
    least = 2 if device.batch_norm(train.batch_norm) == "synchronized" else 1  # no process has its images alone
    sizes = {*batch_sizes(total, train.batch_size), *([later] if later else [])}
    shares = ((size, size * k // processes - size * (k - 1) // processes) for size in sizes for k in (1, processes))
    return sorted({(size, min(size, max(share, least))) for size, share in shares}, reverse=True)


@contextmanager
def leave_no_trace(device: Device) -> Iterator[None]:
    """Restore random states and settings of torch after the block, and do not count its warnings as shown."""
    settings = _settings()
    with keep_random_state(device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are shown in training
        try:
            yield
        finally:
            _restore(settings)


def _settings() -> tuple[list[object], str, torch.dtype, int, bool, bool]:
    """Return the settings of torch that a method may change: flags of its backends, precision, threads and others."""
    return (
        [getattr(backend, name) for backend, name in BACKEND_FLAGS],
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
    )


def _restore(settings: tuple[list[object], str, torch.dtype, int, bool, bool]) -> None:
    """Set what `_settings` returned."""
    flags, precision, dtype, threads, deterministic, grad = settings
    for (backend, name), value in zip(BACKEND_FLAGS, flags, strict=True):
        setattr(backend, name, value)
    torch.set_float32_matmul_precision(precision)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic, warn_only=torch.is_deterministic_algorithms_warn_only_enabled())
    torch.set_grad_enabled(grad)


def _check_folders(experiment: Experiment) -> None:
    """Write to each folder of the run, or the folder that it will be made in; raise UserError if one refuses."""
    workspace = experiment.workspace
    place = workspace.record_folder(experiment.dataset.name, experiment.method.name, experiment.run_id)
    for folder in (experiment.work, place.resolve(), workspace.root):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with TemporaryFile(dir=existing) as file:
                file.write(bytes(1))
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written to ({existing}: {error.strerror}): mend it or choose a different --results"
            ) from error


def _rehearse_selection(method: Method, stages: Sequence[Stage], targets: np.ndarray, seed: int) -> None:
    """Let each stage that selects do so, for labels (n, C), by log-odds such as networks give early and late."""
    random = np.random.default_rng(seed).normal(0, SCORE_SPREAD, targets.shape).astype(np.float32)
    late = np.where(targets == 1, SCORE_SPREAD, -SCORE_SPREAD).astype(np.float32)
    kinds = {
        "random": random,
        "all negative, as early in training": np.full_like(late, -SCORE_SPREAD),
        "all right": late,
        "all wrong": -late,
        "all equal": np.zeros_like(late),
    }
    for stage in stages:
        for kind, scores in kinds.items() if stage.select is not None else ():
            try:
                select_examples(method, stage, scores.copy(), targets.copy())
            except ContractError as error:
                raise ContractError(f"{error}, also if the log-odds are {kind}") from error


def _rows(number: int, of: int = NOISE_IMAGES) -> np.ndarray:
    """Return row numbers from 0 to `of` - 1, repeated or cut: (number,)."""
    return np.resize(np.arange(of), number)


def _mixed_rows(targets: np.ndarray) -> np.ndarray:
    """Order the rows of labels (n, C) so that the first ones have a positive, an unknown and a negative label."""
    kinds = (targets == 1, np.isnan(targets), targets == 0)
    first = [np.flatnonzero(kind.any(axis=1))[:1] for kind in kinds]
    return np.array(list(dict.fromkeys(np.concatenate([*first, np.arange(len(targets))]).tolist())))
