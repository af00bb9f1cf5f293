"""Settings and data shared by all stages of a run: device, method, recipe, pixels and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from ..dataset import Index
from ..method import Method
from ..recipe import Recipe
from .device import Device
from .inference import Predictor

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
    """

    device: Device
    method: Method
    recipe: Recipe
    seed: int
    pixels: np.ndarray
    targets: np.ndarray
    validation: np.ndarray
    image_ids: np.ndarray

    def predictor(self, network: nn.Module) -> Predictor:
        """Return the predictor that scores the images under `network`, which must return all C findings."""
        return Predictor(self.device, network, self.pixels, self.recipe, self.targets.shape[1])


def build_train_context(
    *, device: Device, method: Method, recipe: Recipe, index: Index, pixels: np.ndarray, seed: int
) -> TrainContext:
    """Build the context of training on an index, with permuted labels if the recipe sets `shuffle_labels`.

    Args:
        device: where the network runs.
        method: method to train.
        recipe: settings of training.
        index: N images with their labels and splits.
        pixels: pixel map, uint8 (N, size, size).
        seed: the run's seed.
    """
    targets = index.targets()
    if recipe.train.shuffle_labels:
        patients = index.images["patient_id"].to_numpy()
        # Not the test split: the control is evaluated on the original labels.
        for number, split in enumerate(("train", "val")):
            rows, key = index.rows(split), (seed, number, PERMUTATION_KEY)
            targets[rows] = permute_labels_by_patient(targets[rows], patients[rows], key)
    return TrainContext(
        device=device,
        method=method,
        recipe=recipe,
        seed=seed,
        pixels=pixels,
        targets=targets,
        validation=index.rows("val"),
        image_ids=index.images["image_id"].to_numpy(),
    )


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
