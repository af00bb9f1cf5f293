"""The contract of a method plugin: a network, a loss, and the stages it is trained in.

A method is a frozen dataclass; its fields are the options a user sets with `--option KEY=VALUE`::

    @METHODS.register("mine")
    @dataclass(frozen=True)
    class Mine(Method):
        title: ClassVar[str] = "My method"
        width: int = 64
        def build(self, findings, weights): ...

Everything else (pixels, loops, devices, precision, scores, statistics) belongs to the harness and is the same for all
methods.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .utils.errors import UserError


class MethodError(UserError):
    """Invalid option of a method, or weights that cannot be loaded."""


class ContractError(MethodError):
    """Network, loss, heatmap or selection of a method that breaks the contract in this file."""


class Output(NamedTuple):
    """Output of a network for a batch of B images and C findings.

    Attributes:
        logits: (B, C) image-level log-odds.
        maps: (B, C, h, w) log-odds at each location, before the last pooling; None if the method has none.
    """

    logits: Tensor
    maps: Tensor | None = None


class Selection(NamedTuple):
    """Examples of a training stage.

    Attributes:
        rows: row numbers of the training set (n,), repeats allowed.
        hard: bool (N, C), the labels because of which rows are repeated, for the record; None if rows are not repeated
            because of labels.
    """

    rows: np.ndarray
    hard: np.ndarray | None = None


class Stage(NamedTuple):
    """One round of training.

    Attributes:
        name: name of the stage in messages and the record.
        select: function that selects the stage's examples from the previous stage's log-odds of the training set and
            its labels (0/1/NaN), both (N, C); None to train on every image once per epoch.
        start: weights to start from, "initial" (the run's initial weights) or "previous" (those selected in the
            previous stage).
    """

    name: str
    select: Callable[[np.ndarray, np.ndarray], Selection] | None = None
    start: Literal["initial", "previous"] = "initial"


class PartCheck(NamedTuple):
    """How much a part of a trained network does, so that a part that does nothing is neither credited nor blamed.

    Attributes:
        name: what is measured, in words: "spread of the gates over images".
        value: the measured number.
        minimum: below this, the part is inactive: the method's difference to a method without the part is not tested.
    """

    name: str
    value: float
    minimum: float


@dataclass(frozen=True)
class Method:
    """Base class of a method plugin.

    Attributes:
        name: set by the registry.
        title: the row label on the leaderboard.
        paper: the citation.
        reported: key of the paper's published results in literature.csv, or None.
        compared_with: names of the methods that this one claims to improve on: the method that it extends, and its
            controls. The leaderboard shows the paired difference to each.
        control: whether the method only serves for comparison: the leaderboard marks it.
        display_options: names of the options that change no score, and may differ when a trained run is used again.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    reported: ClassVar[str | None] = None
    compared_with: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[bool] = False
    display_options: ClassVar[tuple[str, ...]] = ()

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        """Build the network: images (B, 3, H, W), normalized with ImageNet's mean and deviation, to Output.

        Args:
            findings: names of the C findings, in the order of the scores.
            weights: initial weights: "imagenet", or "none" for random ones from torch's generator. A file is loaded by
                the harness afterwards, into the module whose tensors have the names and shapes of the file's.

        Returns:
            The network. The record names its pretrained weights by the attribute `weights_source` (str) of the module
            that has them, or as timm does.

        Raises:
            MethodError: the weights cannot be loaded.
        """
        raise NotImplementedError

    def label_weights(self, targets: Tensor) -> Tensor:
        """Weight each label of a step's batch in the loss; by default all known labels equally, with sum 1.

        A step may be computed in parts (`train.micro_batch`, several devices). What depends on the full batch must
        therefore be computed here, and `loss` must be a sum over images.

        Args:
            targets: labels of the full batch (B, C): 1, 0, or NaN for unknown.

        Returns:
            Weights (B, C), 0 for unknown labels, on the same device.
        """
        known = ~torch.isnan(targets)
        return known / known.sum().clamp(min=1)

    def loss(self, output: Output, targets: Tensor, weights: Tensor) -> Tensor:
        """Compute the loss of a part of the batch; by default binary cross-entropy, the weighted sum over labels.

        Args:
            output: network output for b images, the full batch or a part of it.
            targets: labels of these images (b, C): 1, 0, or NaN for unknown.
            weights: weights of these labels (b, C), from `label_weights`.

        Returns:
            A float32 scalar. The losses of the parts add up to the batch's.
        """
        # Unknown labels become 0 here; their weight is also 0.
        each = F.binary_cross_entropy_with_logits(output.logits.float(), targets.nan_to_num(), reduction="none")
        return (each * weights).sum()

    def heat(self, maps: Tensor) -> Tensor:
        """Convert maps (B, C, h, w) to the scale of heatmaps: log-odds, or what the method averages over locations.

        Heatmaps are normalized from their lowest to their highest value, so the scale determines how wide a peak is.
        """
        return maps

    def check_parts(self, network: nn.Module, images: Tensor) -> Sequence[PartCheck]:
        """Measure what the parts that this method adds do in its trained network; by default nothing is measured.

        Args:
            network: the trained network, in evaluation mode, without gradients.
            images: validation images, normalized as in training (B, 3, H, W).
        """
        return ()

    def options_without_effect(self, weights: str) -> Mapping[str, str]:
        """Return the options that change nothing beside the others, each with the reason; a user who sets one is told.

        Args:
            weights: initial weights, as for `build`.
        """
        return {}

    def stages(self) -> Sequence[Stage]:
        """List the rounds of training, in order; by default one, on every image."""
        return (Stage("train"),)
