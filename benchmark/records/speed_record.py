"""Speed records: `results/speed/<device>/<method>-<digest>.json` contains the speed of one method in one setup.

The digest is computed from the method and the setup, so that a repeated measurement replaces the record. Unlike AUC,
speed cannot be recomputed from artifacts: the checksum only detects a changed character. A record contains what each
round measured, and the rounds of the baseline; medians, quartiles, ratios and doubts are computed from these.

`python -m chxbench.benchmark.records.speed_record` prints the JSON Schema (docs/speed-record.schema.json).
"""

import re
import sys
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ..metrics.intervals import UNDEFINED, Interval
from ..metrics.ratios import Quartiles, paired_ratio, quartiles
from ..utils.files import json_sha256, write_atomic
from .record import RecordError, load_record, parse_record, seal
from .schema import Count, MethodIdentity, Name, Number, Part, Record, RecordHeader, Sha256, Software, json_schema

SPEED_SCHEMA = 3
BUSY = 0.05  # share of the cores' time used by other processes, above which measurements are unreliable
MIN_ROUNDS = 3  # fewer say nothing of the spread


class SetupPart(Part):
    """Everything besides the method that speed depends on: speeds are comparable if all of it is equal."""

    device: str
    kind: str  # cpu or cuda
    cores: Count
    threads: Count  # CPU threads of torch
    processes: Count
    precision: Literal["bfloat16", "float32"]
    layout: str  # memory layout of images
    compiled: bool  # whether torch.compile was used
    torch: str  # version
    recipe: str  # name of the recipe, or of its file
    size: Count  # side of the cached images, in pixels
    crop: Count  # side of the input of the network, in pixels
    max_shift: Count  # pixels
    batch_size: Count  # batch size of a training step
    micro_batch: Count
    batch_norm: str
    optimizer: str
    dataset: Name  # dataset read by the loader and by end-to-end training
    images: Count  # images in its training split
    batch_sizes: tuple[Count, ...]  # requested batch sizes of inference


class NetworkPart(Part):
    """Size of the network."""

    parameters: Count  # trainable parameters
    flops: Count  # forward pass of one image: convolutions and matrix products, a multiply-add counted as two


class LatencyPart(Part):
    """Milliseconds per image at batch size 1, over all rounds; null if there are too few repetitions."""

    p95: Number | None
    p99: Number | None
    repetitions: Count
    peak_memory: Count | None  # bytes


class BatchPart(Part):
    """What was measured at one batch size, in all rounds."""

    requested: Count  # requested batch size
    batch_size: Count | None  # measured batch size, smaller if memory was insufficient; null if it would take too long
    repetitions: Count
    peak_memory: Count | None  # bytes


Rate = Annotated[Number, Field(gt=0)]  # images per second


class RoundPart(Part):
    """One round, in which the method was measured once, in turn with the others."""

    turn: Count  # place in the order of the round, from 1
    others: Number | None  # share of the cores' time that other processes used; null if the system does not report it
    latency: Rate  # median in milliseconds
    inference: tuple[Rate | None, ...]  # images per second at each batch size; null if not measured
    steps: Rate  # images per second of training steps on a batch that is already on the device
    loader: Rate  # of reading batches without computing
    end_to_end: Rate  # of reading batches and training on them


class Rounds(Part):
    """What was measured in each round."""

    rounds: Annotated[list[RoundPart], Field(min_length=MIN_ROUNDS)]

    def values(self, quantity: str) -> np.ndarray:
        """Return a quantity of `RoundPart` in each round (n,); inference is at its fastest batch size, if any."""
        if quantity != "inference":
            return np.array([getattr(part, quantity) for part in self.rounds])
        return np.array([part.inference[self.fastest] for part in self.rounds if self.fastest is not None])

    def quartiles(self, quantity: str) -> Quartiles | None:
        """Return median and quartiles of a quantity over the rounds; None if it was not measured."""
        values = self.values(quantity)
        return quartiles(values) if len(values) else None

    def ratio(self, other: "Rounds", quantity: str) -> Interval:
        """Return the ratio of a quantity to that of another method measured in the same rounds, with its interval."""
        values, others = self.values(quantity), other.values(quantity)
        return paired_ratio(values, others) if len(values) == len(others) else UNDEFINED

    @property
    def fastest(self) -> int | None:
        """Position of the batch size of inference with the highest median, of those measured in all rounds, if any."""
        sizes = zip(*(part.inference for part in self.rounds), strict=True)
        medians = {n: float(np.median(size)) for n, size in enumerate(sizes) if None not in size}
        return max(medians, key=medians.__getitem__, default=None)

    @property
    def others(self) -> float | None:
        """Mean share of the cores' time that other processes used; None if it is not known of all rounds."""
        shares = [part.others for part in self.rounds if part.others is not None]
        return float(np.mean(shares)) if len(shares) == len(self.rounds) else None

    @property
    def doubts(self) -> list[str]:
        """Reasons why the measurements should not be compared with others; empty if there are none."""
        reasons = []
        if self.others is not None and self.others > BUSY:
            reasons.append(f"other processes used {100 * self.others:.0f} % of the cores")
        gain = paired_ratio(self.values("end_to_end"), self.values("steps"))
        if gain.low is not None and gain.low > 1:
            reasons.append(f"end to end {gain.value:.2f} times as fast as its own steps, which is impossible")
        return reasons


class BaselinePart(Rounds):
    """The method to which this one is compared, measured in the same rounds."""

    method: Name


class SpeedMeasurements(Rounds):
    """Measurements of one method."""

    network: NetworkPart
    latency: LatencyPart
    inference: list[BatchPart]
    training: BatchPart
    shared_with: list[Name]  # methods with the same network: it was measured once for all of them
    baseline: BaselinePart | None  # null if it is this method, or has the same network

    @model_validator(mode="after")
    def _check_rounds(self) -> Self:
        compared = self.baseline.rounds if self.baseline else self.rounds
        if {len(part.inference) for part in [*self.rounds, *compared]} != {len(self.inference)}:
            raise ValueError("each round must have one number per batch size of inference")
        if len(compared) != len(self.rounds):
            raise ValueError("the baseline must have as many rounds as the method")
        return self


class SpeedDescription(SpeedMeasurements, RecordHeader):
    """Setup and measurements: a speed record without schema and checksum."""

    method: MethodIdentity
    setup: SetupPart
    seconds: Number  # approximate duration of each measurement in a round
    memory: str  # definition of peak_memory
    environment: Software


class SpeedRecord(SpeedDescription):
    """The speed of one method in one setup: the content of a speed record's file."""

    schema_: Literal[3] = Field(alias="schema")
    checksum: Sha256  # hash of all other keys

    def is_of_session(self, other: "SpeedRecord") -> bool:
        """Return whether both were measured by one command, round by round."""
        return (self.created, len(self.rounds)) == (other.created, len(other.rounds))

    def is_shared_with(self, other: "SpeedRecord") -> bool:
        """Return whether both are one measurement of one network."""
        return self.is_of_session(other) and other.method.name in self.shared_with and self.rounds == other.rounds

    @property
    def doubts(self) -> list[str]:
        """Reasons why the measurements, or those of the baseline, should not be compared with others."""
        of_baseline = self.baseline.doubts if self.baseline else []
        return [*super().doubts, *(f"the baseline: {reason}" for reason in of_baseline)]


def publish(speed: SpeedDescription, results: Path) -> tuple[SpeedRecord, Path, bool]:
    """Write a speed record to `results` atomically.

    Returns:
        The record, its path, and whether it replaced an existing one.
    """
    text = seal({"schema": SPEED_SCHEMA, **speed.model_dump(mode="json")})
    record = parse_record(text, results, SpeedRecord, SPEED_SCHEMA)
    path = results / place(record)
    replaced = path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return record, path, replaced


def read(path: Path) -> SpeedRecord:
    """Read a speed record.

    Raises:
        RecordError: if it cannot be read, has a different schema, was changed after it was written, or its path does
            not match its method and setup.
    """
    record = load_record(path, SpeedRecord, SPEED_SCHEMA)
    if path.parts[-3:] != place(record).parts:
        raise RecordError(f"{path} contains the speed record of {place(record)}: move it there")
    return record


def find(results: Path) -> list[Path]:
    """Return the paths of all speed records in `results`, sorted."""
    return sorted(results.glob("speed/*/*.json"))


def place(record: SpeedRecord) -> Path:
    """Return the path of a record relative to `results`, determined by its method and setup."""
    method = record.method
    identity = {
        "method": [method.name, method.options, "" if method.built_in else method.source_sha256],
        "setup": record.setup.model_dump(mode="json"),
    }
    digest = json_sha256(identity)[:10]
    device, kind = (
        re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") for text in (record.setup.device, record.setup.kind)
    )
    device = device or kind or "device"
    return Path("speed", device[:60], f"{method.name}-{digest}.json")


def matches_run(speed: SpeedRecord, run: Record) -> bool:
    """Return whether a speed record has the method, with its code and options, and the crop of a run."""
    timed, trained = speed.method, run.method
    same_method = (timed.name, timed.options) == (trained.name, trained.options)
    same_source = timed.source_sha256 == trained.source_sha256
    return run.recipe is not None and same_method and same_source and speed.setup.crop == run.recipe.pixels.crop


def setup_label(setup: SetupPart) -> str:
    """Return the display label of a setup: device, precision and layout."""
    cores = f" ({setup.cores} cores)" if setup.kind == "cpu" else ""
    compiled = ", compiled" if setup.compiled else ""
    return f"{setup.device}{cores}, {setup.precision}, {setup.layout}{compiled}"


if __name__ == "__main__":
    sys.stdout.write(json_schema(SpeedRecord))
