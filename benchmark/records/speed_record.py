"""Speed records: `results/speed/<device>/<method>-<digest>.json` contains the speed of one method in one setup.

The digest is computed from the method and the setup, so that a repeated measurement replaces the record. Unlike AUC,
speed cannot be recomputed from artifacts: the checksum only detects a changed character.

`python -m chxbench.benchmark.records.speed_record` prints the JSON Schema (docs/speed-record.schema.json).
"""

import re
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from ..utils.files import json_sha256, write_atomic
from .record import RecordError, load_record, parse_record, seal
from .schema import Count, MethodIdentity, Name, Number, Part, Record, RecordHeader, Sha256, Software, json_schema

SPEED_SCHEMA = 2
BUSY = 0.5  # load average per core above which measurements are unreliable


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
    """Milliseconds per image at batch size 1; null if there are too few repetitions for the percentile."""

    p50: Number | None
    p95: Number | None
    p99: Number | None
    repetitions: Count
    peak_memory: Count | None  # bytes


class ThroughputPart(Part):
    """Images per second at one batch size."""

    requested: Count  # requested batch size
    batch_size: Count | None  # measured batch size, smaller if memory was insufficient; null if not measured
    images_per_second: Number | None  # null if not measured, because a batch would have taken too long
    repetitions: Count
    peak_memory: Count | None  # bytes


class FlowPart(Part):
    """Images per second of a pipeline."""

    images_per_second: Number
    images: Count  # number of images measured


class SpeedEnvironment(Software):
    """Software, and how busy the machine was."""

    load_average: Number | None  # average of the minute before: a busy machine appears slower


class SpeedMeasurements(Part):
    """Measurements of one method."""

    network: NetworkPart
    latency: LatencyPart
    inference: list[ThroughputPart]
    training: ThroughputPart  # steps on a batch that is already on the device
    loader: FlowPart  # reading batches without computing
    end_to_end: FlowPart  # reading batches and training on them


class SpeedDescription(SpeedMeasurements, RecordHeader):
    """Setup and measurements: a speed record without schema and checksum."""

    method: MethodIdentity
    setup: SetupPart
    seconds: Number  # approximate duration of each measurement
    memory: str  # definition of peak_memory
    environment: SpeedEnvironment


class SpeedRecord(SpeedDescription):
    """The speed of one method in one setup: the content of a speed record's file."""

    schema_: Literal[2] = Field(alias="schema")
    checksum: Sha256  # hash of all other keys

    @property
    def doubts(self) -> list[str]:
        """Reasons why the measurements should not be compared with others; empty if there are none."""
        steps, load = self.training.images_per_second, self.environment.load_average
        is_busy = load is not None and load > BUSY * (self.setup.cores or 1)
        is_faster = steps is not None and self.end_to_end.images_per_second > steps
        reasons = {
            f"the machine was busy, load {load or 0:.1f}": is_busy,
            "end to end faster than its own steps": is_faster,
        }
        return [reason for reason, holds in reasons.items() if holds]

    @property
    def best(self) -> ThroughputPart | None:
        """Inference at the batch size with the most images per second; None if none was measured."""
        measured = [part for part in self.inference if part.images_per_second is not None]
        return max(measured, key=lambda part: part.images_per_second or 0.0, default=None)


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
