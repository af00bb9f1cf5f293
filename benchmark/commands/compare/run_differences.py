"""List other differences between two records, which may cause a difference in AUC."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...leaderboard.rows import all_images, trained_on
from ...metrics.intervals import UNDEFINED, Interval
from ...recipe import SECTIONS, recipe_table
from ...records.schema import CodePart, Record
from ...records.speed_record import SpeedRecord, matches_run
from ...utils.options import format_value
from ...utils.text import recipe_label


class ContextFact(NamedTuple):
    """One fact in which two records differ.

    Attributes:
        name: name of the fact.
        first, second: value in each record; None if a record does not have it.
    """

    name: str
    first: str | None
    second: str | None


class Timing(NamedTuple):
    """Speed records of both methods, measured in the same setup."""

    first: SpeedRecord
    second: SpeedRecord

    @property
    def doubts(self) -> dict[str, list[str]]:
        """Reasons why a speed should not be compared, by the letter of the method; only those that have any."""
        return {letter: speed.doubts for letter, speed in zip("AB", self, strict=True) if speed.doubts}

    def ratio(self, quantity: str) -> Interval:
        """Return the ratio A / B of a quantity over the rounds; undefined if they were not measured together."""
        return self.first.ratio(self.second, quantity) if self.first.is_of_session(self.second) else UNDEFINED


def differing_context(first: Record, second: Record) -> list[ContextFact]:
    """Return the differences in method, data, recipe and machine of two records."""
    facts_a, facts_b = _facts(first), _facts(second)
    facts = (ContextFact(name, facts_a.get(name), facts_b.get(name)) for name in dict.fromkeys([*facts_a, *facts_b]))
    return [fact for fact in facts if fact.first != fact.second]


def paired_timings(first: Record, second: Record, speeds: Sequence[SpeedRecord]) -> list[Timing]:
    """Return the speeds of both methods, with these options and crops, for each setup in which both were measured."""
    speeds_a, speeds_b = (
        {speed.setup: speed for speed in speeds if matches_run(speed, run)} for run in (first, second)
    )
    return [Timing(speeds_a[setup], speeds_b[setup]) for setup in speeds_a if setup in speeds_b]


def _facts(record: Record) -> dict[str, str]:
    method, data = record.method, record.dataset
    facts: dict[str, Any] = {
        "method": method.name,
        "code of the method": None if record.submission else method.source_sha256[:10],
        **{f"option {key}": format_value(value) for key, value in method.options.items()},
        "dataset": data.name,
        "code of the dataset": data.source_sha256[:10],
        "pixels": data.pixels.sha256[:10] if data.pixels else None,
        **{f"dataset.{key}": format_value(value) for key, value in data.options.items()},
        "labels": f"{data.labels.file}, {data.labels.version} ({data.labels.sha256[:10]})",
        "split": f"{data.split.name} ({data.split.sha256[:10]})",
        "scores": f"from {record.submission.file}" if record.submission else None,
        **_training(record),
        **_machine(record),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _training(record: Record) -> dict[str, Any]:
    """Return how a run was trained; empty for external predictions."""
    if record.recipe is None or record.weights is None:
        return {}
    table = recipe_table(record.recipe)
    settings = {f"{name}.{key}": format_value(value) for name in SECTIONS for key, value in table[name].items()}
    return {
        "recipe": recipe_label(record.recipe.name),
        **settings,
        "selected epoch": record.selection,
        "initial weights": record.weights.source or record.weights.init,
        "images trained on": f"{trained_on(record.stages):,}",
        "images of all stages": f"{all_images(record.stages):,}",
    }


def _machine(record: Record) -> dict[str, Any]:
    environment = record.environment
    return {
        "precision": environment.precision,
        "layout": environment.layout,
        "device": environment.hardware.get("device"),
        "processes": environment.hardware.get("processes", 1 if record.submission is None else None),
        "torch": environment.versions.get("torch"),
        "code": _code(environment.code),
    }


def _code(state: CodePart) -> str | None:
    if not state.commit:
        return None
    return f"{state.commit[:10]}{' + changes' if state.dirty else ''}"
