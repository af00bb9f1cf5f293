"""Turns of networks as parts of a speed record, and the method that the others are compared to."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...method import Method
from ...records.speed_record import BaselinePart, BatchPart, LatencyPart, NetworkPart, RoundPart
from ...registry import METHODS, Entry
from .measure import Timed, Turn, percentiles
from .rounds import MeasuredNetwork


def find_baseline(entries: Sequence[Entry[Method]]) -> str:
    """Return the method that most of the others extend, by their `compared_with`, directly or not; else the first."""
    extended = [name for entry in entries for name in _extended_by(entry.name)]
    return max((entry.name for entry in entries), key=extended.count)


def _extended_by(name: str) -> set[str]:
    """Return the names of all methods that a method claims to improve on, directly or through another one."""
    found: set[str] = set()
    pending = [name]
    while pending:
        current = pending.pop()
        new = set(METHODS.get(current).cls.compared_with) - found if current in METHODS else set()
        found |= new
        pending += new
    return found


def describe_baseline(
    name: str, network: MeasuredNetwork, networks: Sequence[MeasuredNetwork], turns: Sequence[Sequence[Turn]]
) -> BaselinePart | None:
    """Return the rounds of a method, compiled as a network is; None if it is of this network.

    Args:
        name: the method that all are compared to.
        network: the network that is compared.
        networks: all networks.
        turns: the turns of each of them.
    """
    for other, rounds in zip(networks, turns, strict=True):
        if name in other.names and other.is_compiled == network.is_compiled:
            return None if other is network else BaselinePart(method=name, rounds=[*map(_round, rounds)])
    raise AssertionError(f"{name} was not measured")


def describe_measurements(
    network: MeasuredNetwork, turns: Sequence[Turn], baseline: BaselinePart | None
) -> dict[str, Any]:
    """Return the fields of a record that tell what was measured, `shared_with` excepted."""
    plan, train = network.plan, network.subject.recipe.train
    columns = zip(*(turn.inference for turn in turns), strict=True)
    return {
        "network": NetworkPart(parameters=plan.parameters, flops=plan.flops),
        "latency": _latency([turn.latency for turn in turns]),
        "inference": [_batch(size, column) for size, column in zip(plan.inference, columns, strict=True)],
        "training": _batch(train.batch_size, [turn.steps for turn in turns]),
        "rounds": [*map(_round, turns)],
        "baseline": baseline,
    }


def _round(turn: Turn) -> RoundPart:
    return RoundPart(
        turn=turn.place,
        others=turn.others,
        latency=1e3 * float(np.median(turn.latency.seconds)),
        inference=tuple(timed and timed.images_per_second for timed in turn.inference),
        steps=turn.steps.images_per_second,
        loader=turn.loader,
        end_to_end=turn.end_to_end,
    )


def _latency(timed: Sequence[Timed]) -> LatencyPart:
    seconds = np.concatenate([part.seconds for part in timed])
    return LatencyPart(**percentiles(seconds), repetitions=len(seconds), peak_memory=_peak(timed))


def _batch(requested: int, timed: Sequence[Timed | None]) -> BatchPart:
    """Describe the measurements at one batch size, which are in all rounds or in none."""
    measured = [part for part in timed if part is not None]
    return BatchPart(
        requested=requested,
        batch_size=measured[0].size if measured else None,
        repetitions=sum(len(part.seconds) for part in measured),
        peak_memory=_peak(measured),
    )


def _peak(timed: Sequence[Timed]) -> int | None:
    return max((part.peak_memory for part in timed if part.peak_memory is not None), default=None)
