"""Measure networks in turn: each round measures every network once, in another order."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ...engine.train_context import TrainContext
from ...method import Method
from ...registry import Entry
from ...utils.errors import UserError
from ...utils.progress import progress
from .measure import Done, MeasuredMethod, Plan, Turn, measure_turn


class MeasuredNetwork(NamedTuple):
    """A network to measure, compiled or not, and the methods that have it.

    Attributes:
        methods: registry entry of each method, and the method with its options.
        subject: the first method, as it is measured for all.
        plan: what to measure.
        context: context of training.
    """

    methods: list[tuple[Entry[Method], Method]]
    subject: MeasuredMethod
    plan: Plan
    context: TrainContext

    @property
    def names(self) -> list[str]:
        """Names of the methods."""
        return [entry.name for entry, _ in self.methods]

    @property
    def is_compiled(self) -> bool:
        """Whether it is compiled."""
        return self.subject.recipe.compute.compile


def measure_rounds(networks: Sequence[MeasuredNetwork], rows: np.ndarray, rounds: int) -> list[list[Turn]]:
    """Measure every network once in each round.

    Args:
        networks: the networks.
        rows: row numbers of the training images.
        rounds: number of rounds.

    Returns:
        The turns of each network, one per round.

    Raises:
        UserError: if memory or a compiler is missing.
    """
    turns: list[list[Turn]] = [[] for _ in networks]
    total = rounds * sum(network.plan.measurements for network in networks)
    with progress(f"{rounds} rounds", total, "measurements") as done:
        for number in range(rounds):
            for place, index in enumerate(order_of_round(len(networks), number), start=1):
                turns[index].append(_measure(networks[index], rows, place, done))
    return turns


def order_of_round(size: int, number: int) -> list[int]:
    """Return the order of a round, from 0: an odd round reverses the order of the one before.

    Over two rounds all networks are measured at the same time on average, so that a steady drift cancels.
    """
    first = number // 2 % size
    order = [*range(first, size), *range(first)]
    return order[::-1] if number % 2 else order


def _measure(network: MeasuredNetwork, rows: np.ndarray, place: int, done: Done) -> Turn:
    try:
        return measure_turn(network.subject, network.plan, network.context, rows, place, done)
    except torch._dynamo.exc.TorchDynamoException as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"method {network.names[0]} cannot be compiled ({cause}): omit --compile") from error
