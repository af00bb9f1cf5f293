"""One optimisation step: a batch, whole or in parts, in one process or several, to one update of the weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.loader import Batch, batch_sizes
from ..method import ContractError, Method
from ..recipe import Recipe, Train
from .device import Device

Optimizer, Scheduler = torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler


@dataclass
class Learner:
    """A network being trained.

    Attributes:
        network: on the device; what is scored and saved.
        wrapped: the same weights as training calls them: over several processes, or compiled.
        optimizer, scheduler: the recipe's; the scheduler counts steps.
        frozen: whether BatchNorm keeps its statistics, and normalises by them.
    """

    network: nn.Module
    wrapped: nn.Module
    optimizer: Optimizer
    scheduler: Scheduler
    frozen: bool

    def train(self) -> None:
        """Training mode, BatchNorm excepted if it is frozen."""
        self.wrapped.train()
        for module in self.wrapped.modules() if self.frozen else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def make_learner(device: Device, network: nn.Module, recipe: Recipe, steps_per_epoch: int) -> Learner:
    """The network placed on the device, with the recipe's optimiser and schedule."""
    train = recipe.train
    network = device.place(network)
    wrapped = device.wrap_for_training(network, train.batch_norm, recipe.compute.compile)
    frozen = device.batch_norm(train.batch_norm) == "frozen"
    return Learner(network, wrapped, *make_optimizer(network, train, steps_per_epoch), frozen)


def make_optimizer(network: nn.Module, train: Train, steps_per_epoch: int) -> tuple[Optimizer, Scheduler]:
    """The recipe's optimiser, and its schedule in steps."""
    if train.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            network.parameters(), train.lr, train.momentum, weight_decay=train.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.AdamW(network.parameters(), train.lr, weight_decay=train.weight_decay, fused=True)
    if train.schedule == "one_cycle":
        cycle = torch.optim.lr_scheduler.OneCycleLR
        return optimizer, cycle(optimizer, train.lr, total_steps=train.epochs * steps_per_epoch, cycle_momentum=False)
    drops = [epoch * steps_per_epoch for epoch in train.drop_after]
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, train.drop_factor)


def train_step(device: Device, method: Method, learner: Learner, batch: Batch, micro_batch: int = 0) -> Tensor:
    """Update the weights by one batch; this process's part of the batch's loss, a scalar that stays on the device."""
    learner.optimizer.zero_grad()
    loss = accumulate_gradients(device, method, learner.wrapped, batch, micro_batch)
    learner.optimizer.step()
    learner.scheduler.step()
    return loss


def accumulate_gradients(
    device: Device, method: Method, network: nn.Module, batch: Batch, micro_batch: int = 0
) -> Tensor:
    """Add the gradient of a batch's loss to the parameters, at most `micro_batch` images at a time (0: all at once).

    Labels are weighted over the whole batch, so the parts add up to the same gradient, unless BatchNorm takes its
    statistics from them: then each part is normalised by its own.

    Returns:
        The loss of this process's part of the batch: summed over the processes it is the batch's.
    """
    targets = batch.targets.to(device.torch_device, non_blocking=True)
    weights = method.label_weights(targets)
    if not isinstance(weights, Tensor) or weights.shape != targets.shape:
        raise ContractError(f"label_weights() must return a tensor {tuple(targets.shape)}, as its targets are")
    weights = weights[batch.local] * (0 if batch.is_padding else 1)
    parts = batch_sizes(len(batch.images), micro_batch or len(batch.images))
    total = torch.zeros((), device=device.torch_device)
    each = zip(*(whole.split(parts) for whole in (batch.images, targets[batch.local], weights)), strict=True)
    for number, (images, labels, weight) in enumerate(each, start=1):
        output = device.forward(network, images)
        if output.logits.shape != labels.shape:
            raise ContractError(
                f"the network gives logits {tuple(output.logits.shape)} for {tuple(labels.shape)} labels"
            )
        loss = method.loss(output, labels, weight)
        if not isinstance(loss, Tensor) or loss.ndim:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ContractError(f"loss() must return a scalar tensor, not {shape}")
        device.backward(loss, network, last=number == len(parts))
        total += loss.detach()
    return total
