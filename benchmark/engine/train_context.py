"""Settings and data shared by all stages of a run: device, method, recipe, pixels and labels; and their checks."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from ..dataset import DataError, Index
from ..method import Method
from ..recipe import Recipe, refuse_without_effect, without_effect
from ..utils.errors import UserError, first_few
from ..utils.options import field_names
from ..utils.progress import say
from ..utils.text import count
from .device import Device
from .inference import Predictor
from .weights import check_weights_setting

# Last number of the label permutation's key: keys of the order of the examples begin with the same counts.
PERMUTATION_KEY = 0x5EED


@dataclass(frozen=True, kw_only=True)
class TrainContext:
    """Settings and data for training a stage, except its network and its examples.

    Attributes:
        device: where the network runs.
        method: method that builds the network and computes the loss.
        recipe: settings of training.
        seed: the run's seed.
        pixels: pixel map, uint8 (N, size, size).
        targets: labels to train and validate on, float32 (N, C).
        validation: row numbers of the validation split.
        image_ids: ids of all images (N,), for messages.
        identity: hash of what all stages follow from; a checkpoint of another one is not resumed.
    """

    device: Device
    method: Method
    recipe: Recipe
    seed: int
    pixels: np.ndarray
    targets: np.ndarray
    validation: np.ndarray
    image_ids: np.ndarray
    identity: str

    def predictor(self, network: nn.Module) -> Predictor:
        """Return the predictor that scores the images under `network`, which must return all C findings."""
        return Predictor(self.device, network, self.pixels, self.recipe, self.targets.shape[1])


def build_train_context(
    *,
    device: Device,
    method: Method,
    recipe: Recipe,
    index: Index,
    pixels: np.ndarray,
    seed: int,
    identity: str = "",
) -> TrainContext:
    """Build the context of training on an index, with permuted labels if the recipe sets `shuffle_labels`.

    Args:
        device: where the network runs.
        method: method to train.
        recipe: settings of training.
        index: N images with their labels and splits.
        pixels: pixel map, uint8 (N, size, size).
        seed: the run's seed.
        identity: see `TrainContext`; empty if there are no checkpoints.
    """
    return TrainContext(
        device=device,
        method=method,
        recipe=recipe,
        seed=seed,
        pixels=pixels,
        targets=training_targets(recipe, index, seed),
        validation=index.rows("val"),
        image_ids=index.images["image_id"].to_numpy(),
        identity=identity,
    )


def training_targets(recipe: Recipe, index: Index, seed: int) -> np.ndarray:
    """Return the labels to train, validate and test on (N, C), permuted if the recipe sets `shuffle_labels`."""
    targets = index.targets()
    if recipe.train.shuffle_labels:
        patients = index.images["patient_id"].to_numpy()
        # Not the test split: the control is evaluated on the original labels.
        for number, split in enumerate(("train", "val")):
            rows, key = index.rows(split), (seed, number, PERMUTATION_KEY)
            targets[rows] = permute_labels_by_patient(targets[rows], patients[rows], key)
    return targets


def check_training(recipe: Recipe, method: Method, options: Collection[str], index: Index, seed: int) -> None:
    """Check before training that every rule of the recipe can be applied to this method and these images.

    What the user set without any effect is refused; what a recipe sets without effect is said.

    Args:
        recipe: settings of training.
        method: method to train.
        options: names of the method's options that the user set.
        index: images with their labels and splits.
        seed: the run's seed.

    Raises:
        UserError: initial weights that do not exist, a setting without effect, a training split of one image, a split
            without a defined AUC where one is needed.
    """
    check_weights_setting(recipe.model.weights)
    unused = method.options_without_effect(recipe.model.weights)
    for key in options:
        if key in unused:
            raise UserError(f"--option {key} has no effect: {unused[key]}; leave it out")
    inherited, unused_model = without_effect(recipe), unused_model_settings(type(method), options)
    refuse_without_effect(recipe, {**inherited, **unused_model})
    if recipe.model.backbone and "backbone" not in field_names(type(method), ""):
        inherited["model.backbone"] = unused_model["model.backbone"]
    for key, reason in inherited.items():
        say(f"{key} of recipe {recipe.name} has no effect: {reason}")
    images, batch = len(index.rows("train")), recipe.train.batch_size
    if images < 2:
        raise UserError("the training split has 1 image: training needs at least 2")
    _check_budget(method, recipe.train.images, images)
    if images < batch:
        say(f"the training split has {images} images: each step has these, not train.batch_size={batch}")
    targets = training_targets(recipe, index, seed)
    if recipe.train.select == "best_validation_auc":
        _check_defined(index, targets, "val", "choose the epoch with --set train.select=last")
    _check_defined(index, targets, "test", "choose a test split with positive and negative images of a finding")


def _check_budget(method: Method, budget: int, images: int) -> None:
    """Raise a UserError if `train.images` does not fit the method or the number of training images."""
    stages = len(method.stages()) if budget else 1
    if stages > 1:
        raise UserError(
            f"train.images = {budget}: method {method.name} sets the images of its {stages} stages: omit it"
        )
    if 0 < budget < images:
        raise UserError(f"train.images = {budget}: each epoch has all {images:,} training images: use {images} or more")


def unused_model_settings(cls: type[Method], options: Collection[str]) -> dict[str, str]:
    """Return the recipe's settings of networks that a method with these options does not follow, with the reasons."""
    unused = {}
    for name in ("backbone", "width", "output_stride"):
        # The recipe's width belongs to its backbone.
        replaced = [option for option in (name, *(["backbone"] if name == "width" else [])) if option in options]
        if replaced:
            unused[f"model.{name}"] = f"--option {replaced[0]} replaces it"
        elif name not in field_names(cls, ""):
            unused[f"model.{name}"] = f"method {cls.name} has no option {name}"
    return unused


def _check_defined(index: Index, targets: np.ndarray, split: str, advice: str) -> None:
    """Raise a DataError if no finding has an AUC in a split; say which ones have none if only some do."""
    labels, name = targets[index.rows(split)], {"val": "validation"}.get(split, split)
    lacking: list[str] = []
    for finding, column in zip(index.findings, labels.T, strict=True):
        missing = [kind for kind, value in (("positives", 1), ("negatives", 0)) if not (column == value).any()]
        lacking += [f"{finding} has no {' and no '.join(missing)}"] if missing else []
    if len(lacking) == len(index.findings):
        raise DataError(f"no finding has an AUC on the {name} split ({first_few(lacking)}): {advice}")
    if lacking and split == "val":
        rest = count(len(index.findings) - len(lacking), "finding")
        say(f"the epoch is selected by the mean validation AUC of {rest}: {first_few(lacking)}")


def permute_labels_by_patient(targets: np.ndarray, patients: np.ndarray, key: Sequence[int]) -> np.ndarray:
    """Give each patient the labels of a randomly chosen patient: the label-permutation control.

    A patient's images get the other patient's rows in turn, which preserves the correlation of labels within a
    patient.

    Args:
        targets: labels (n, C).
        patients: patient ids (n,).
        key: seed of the permutation.

    Returns:
        Permuted labels (n, C) in the same order of images.
    """
    _, patient_index, image_counts = np.unique(patients, return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(patient_index, kind="stable"), np.cumsum(image_counts)[:-1])
    permuted = np.empty_like(targets)
    for rows, other in zip(groups, np.random.default_rng(key).permutation(len(groups)), strict=True):
        permuted[rows] = targets[np.resize(groups[other], len(rows))]
    return permuted
