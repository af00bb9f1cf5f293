"""Optimization steps, with gradients accumulated over micro-batches and summed over processes."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..data.loader import Batch, batch_sizes
from ..method import ContractError, Method
from ..recipe import Recipe, Train
from .device import Device

Optimizer: TypeAlias = torch.optim.Optimizer
Scheduler: TypeAlias = torch.optim.lr_scheduler.LRScheduler


@dataclass
class Learner:
    """A network in training.

    Attributes:
        network: network on the device, which is scored and saved.
        wrapped: the same weights, wrapped for training: distributed over processes, or compiled.
        optimizer, scheduler: optimizer and schedule of the recipe; the scheduler counts steps.
        frozen: whether BatchNorm keeps its statistics and normalizes by them.
    """

    network: nn.Module
    wrapped: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    frozen: bool

    def train(self) -> None:
        """Switch to training mode, except for BatchNorm if it is frozen."""
        self.wrapped.train()
        for module in self.wrapped.modules() if self.frozen else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def make_learner(device: Device, network: nn.Module, recipe: Recipe, steps_per_epoch: int) -> Learner:
    """Place a network on the device, with the recipe's optimizer and schedule."""
    train = recipe.train
    network = device.place(network)
    wrapped = device.wrap_for_training(network, train.batch_norm, recipe.compute.compile)
    optimizer, scheduler = make_optimizer(network, train, steps_per_epoch)
    return Learner(network, wrapped, optimizer, scheduler, frozen=device.batch_norm(train.batch_norm) == "frozen")


def make_optimizer(network: nn.Module, train: Train, steps_per_epoch: int) -> tuple[Optimizer, Scheduler]:
    """Build the recipe's optimizer, and its schedule in steps."""
    optimizer: Optimizer
    if train.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            network.parameters(), train.lr, train.momentum, weight_decay=train.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.AdamW(network.parameters(), train.lr, weight_decay=train.weight_decay, fused=True)
    if train.schedule == "one_cycle":
        one_cycle = torch.optim.lr_scheduler.OneCycleLR
        total_steps = train.epochs * steps_per_epoch
        return optimizer, one_cycle(optimizer, train.lr, total_steps=total_steps, cycle_momentum=False)
    drops = [epoch * steps_per_epoch for epoch in train.drop_after]
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, train.drop_factor)


def train_step(device: Device, method: Method, learner: Learner, batch: Batch, micro_batch: int = 0) -> Tensor:
    """Run one optimization step on a batch.

    Args:
        device: where the network runs.
        method: method that computes the loss.
        learner: network in training.
        batch: this rank's part of the batch, with the labels of the complete batch.
        micro_batch: images per forward and backward pass; 0 for all at once.

    Returns:
        This rank's part of the batch's loss: a scalar on the device, so that the step does not wait for it.
    """
    learner.optimizer.zero_grad()
    loss = accumulate_gradients(device, method, learner.wrapped, batch, micro_batch)
    learner.optimizer.step()
    learner.scheduler.step()
    return loss


def accumulate_gradients(
    device: Device, method: Method, network: nn.Module, batch: Batch, micro_batch: int = 0
) -> Tensor:
    """Add the gradient of a batch's loss to the parameters, at most `micro_batch` images at a time (0: all at once).

    Labels are weighted over the complete batch, so that the gradients of the parts add up to that of the batch. This
    requires a loss that is a weighted sum over labels, and no layer that depends on the composition of the batch, such
    as BatchNorm unless it is frozen: it normalizes each part by the part's statistics.

    Returns:
        The loss of this rank's part of the batch; the sum over the processes is the batch's loss.

    Raises:
        ContractError: the method's weights or loss, or the network's logits, have an unexpected shape.
    """
    targets = batch.targets.to(device.torch_device, non_blocking=True)
    weights = method.label_weights(targets)
    if not isinstance(weights, Tensor) or weights.shape != targets.shape:
        raise ContractError(
            f"label_weights() must return a tensor {tuple(targets.shape)} like its targets, not {_shape(weights)}"
        )
    # A padding image only joins the reduction over processes: its weight is 0.
    weights = weights[batch.local] * (0 if batch.is_padding else 1)
    sizes = batch_sizes(len(batch.images), micro_batch or len(batch.images))
    total = torch.zeros((), device=device.torch_device)
    parts = zip(*(tensor.split(sizes) for tensor in (batch.images, targets[batch.local], weights)), strict=True)
    for number, (images, labels, weight) in enumerate(parts, start=1):
        loss = _part_loss(device, method, network, images, labels, weight)
        device.backward(loss, network, last=number == len(sizes))
        total += loss.detach()
    return total


def _part_loss(
    device: Device, method: Method, network: nn.Module, images: Tensor, labels: Tensor, weights: Tensor
) -> Tensor:
    """Compute the loss of b images with labels and weights (b, C), and check its shape."""
    output = device.forward(network, images)
    if output.logits.shape != labels.shape:
        raise ContractError(f"the network returns logits {tuple(output.logits.shape)} for labels {tuple(labels.shape)}")
    loss = method.loss(output, labels, weights)
    if not isinstance(loss, Tensor) or loss.ndim:
        raise ContractError(f"loss() must return a scalar tensor, not {_shape(loss)}")
    return loss


def _shape(value: object) -> str:
    """Describe a value for messages: the shape of a tensor, otherwise the type."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
