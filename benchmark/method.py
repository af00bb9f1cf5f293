"""The contract of a method plugin: a network, a loss, and the stages it is trained in.

A method is a frozen dataclass; its fields are the options a user sets with `--option KEY=VALUE`::

    @METHODS.register("mine")
    @dataclass(frozen=True)
    class Mine(Method):
        title: ClassVar[str] = "My method"
        width: int = 64
        def build(self, findings, weights): ...

Everything else (pixels, loops, devices, precision, scores, statistics) belongs to the harness and is the same for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .utils.errors import UserError


class MethodError(UserError):
    """An option that does not fit, or weights that cannot be had."""


class ContractError(MethodError):
    """A method's network, loss, heat or selection that is not what this file asks for."""


class Output(NamedTuple):
    """What a network returns for a batch of B images and C findings.

    Attributes:
        logits: (B, C) image-level log-odds.
        maps: (B, C, h, w) log-odds at each place, before the last pooling; None if the method has none.
    """

    logits: Tensor
    maps: Tensor | None = None


class LoadedWeights(NamedTuple):
    """What was loaded into a network before training.

    A module that begins with weights from elsewhere keeps this as its attribute `loaded_weights`; the record then tells
    the source and every tensor of the network that stayed as it was drawn.

    Attributes:
        source: the pinned name of pretrained weights ("timm/resnet101.tv_in1k"), or the name of a file.
        tensors: names in the module's own state_dict.
    """

    source: str
    tensors: tuple[str, ...]


class Selection(NamedTuple):
    """What a stage trains on.

    Attributes:
        rows: row numbers of the training set (n,), repeats allowed.
        hard: which labels made the stage repeat a row, bool (N, C), for the record; None if that means nothing here.
    """

    rows: np.ndarray
    hard: np.ndarray | None = None


class Stage(NamedTuple):
    """One round of training.

    Attributes:
        name: for people and for the record.
        select: chooses the stage's examples from the previous stage's scores of the training set and its labels,
            log-odds and 0/1/NaN, both (N, C); None trains on every image once.
        start: "initial" begins at the run's initial weights, "previous" at the previous stage's chosen weights.
    """

    name: str
    select: Callable[[np.ndarray, np.ndarray], Selection] | None = None
    start: Literal["initial", "previous"] = "initial"


@dataclass(frozen=True)
class Method:
    """Base class of a method plugin.

    Attributes:
        title: the row label on the leaderboard.
        paper: the citation.
        reported: the key of the paper's own numbers in literature.csv, or None.
        compared_with: names of the methods that this one claims to better: its last step down, its controls. The
            leaderboard shows the paired difference to each.
        control: whether it is there to be compared with, not to win: the leaderboard marks it and gives it no rank.
        display_options: names of the options that change no score, and may differ when a finished run is asked again.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    reported: ClassVar[str | None] = None
    compared_with: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[bool] = False
    display_options: ClassVar[tuple[str, ...]] = ()

    def build(self, findings: Sequence[str], weights: str) -> nn.Module:
        """A network: images (B, 3, H, W), normalised as ImageNet, to Output.

        Args:
            findings: the C findings in the order of the scores.
            weights: what to start from: "imagenet", "none" (random), or the path of a .safetensors file.

        Raises:
            MethodError: if the weights cannot be had.
        """
        raise NotImplementedError

    def label_weights(self, targets: Tensor) -> Tensor:
        """How much each label of a step's batch counts in the loss; the default: all known ones alike, 1 together.

        A step may be computed in parts (`train.micro_batch`, several devices). What depends on the whole batch
        therefore stands here, and `loss` is a sum over images.

        Args:
            targets: of the whole batch (B, C): 1, 0, or NaN for unknown.

        Returns:
            Weights (B, C), 0 for unknown labels, on the same device.
        """
        known = ~torch.isnan(targets)
        return known / known.sum().clamp(min=1)

    def loss(self, output: Output, targets: Tensor, weights: Tensor) -> Tensor:
        """Binary cross-entropy, the weighted sum over labels: a float32 scalar.

        Args:
            output: of some images of the batch, all or a part.
            targets, weights: their labels and label weights (b, C). The losses of the parts add up to the batch's.
        """
        each = F.binary_cross_entropy_with_logits(output.logits.float(), targets.nan_to_num(), reduction="none")
        return (each * weights).sum()

    def heat(self, maps: Tensor) -> Tensor:
        """What a heatmap shows of the maps (B, C, h, w): log-odds, or what else the method averages over the places.

        Heatmaps are scaled from their lowest to their highest value, so the scale decides how wide a hot place looks.
        """
        return maps

    def stages(self) -> Sequence[Stage]:
        """The rounds of training, in order. Default: one, on every image."""
        return (Stage("train"),)
