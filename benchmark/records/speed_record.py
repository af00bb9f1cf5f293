"""Speed records: `results/speed/<device>/<method>-<digest>.json` holds the speed of one method in one setup.

The digest follows from the method and from everything else that its speed depends on, so that a repeated measurement
replaces the record. Speed cannot be recomputed from artifacts, as AUC can: the checksum finds a changed character, and
no more. `python -m chxbench.benchmark.records.speed_record` prints the JSON Schema (docs/speed-record.schema.json).
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


class SetupPart(Part):
    """Everything besides the method that speed depends on: speeds compare where all of it is equal."""

    device: str
    kind: str  # cpu, cuda
    cores: Count
    threads: Count  # of torch on the CPU
    processes: Count
    precision: Literal["bfloat16", "float32"]
    layout: str
    compiled: bool  # by torch.compile
    torch: str
    recipe: str  # its name, or the name of its file
    size: Count  # side in pixels of the cached images
    crop: Count  # side in pixels of what the network sees
    max_shift: Count
    batch_size: Count  # of a training step
    micro_batch: Count
    batch_norm: str
    optimizer: str
    dataset: Name  # that the loader and end-to-end training read
    images: Count  # in its training split
    batch_sizes: tuple[Count, ...]  # of inference, as requested


class NetworkPart(Part):
    """Size of the network."""

    parameters: Count  # trainable
    flops: Count  # of one image's forward pass: convolutions and matrix products, a multiply-add counts two


class LatencyPart(Part):
    """Milliseconds per image at batch size 1; null where there are too few repetitions for the percentile."""

    p50: Number | None
    p95: Number | None
    p99: Number | None
    repetitions: Count
    peak_memory: Count | None  # bytes


class ThroughputPart(Part):
    """Images per second at one batch size."""

    requested: Count  # batch size
    batch_size: Count | None  # measured: smaller where memory did not suffice; null where it was not measured
    images_per_second: Number | None  # null where a batch would have taken too long
    repetitions: Count
    peak_memory: Count | None  # bytes


class FlowPart(Part):
    """Images per second of a pipeline."""

    images_per_second: Number
    images: Count  # that it was measured on


class SpeedEnvironment(Software):
    """Software, and how busy the machine was."""

    load_average: Number | None  # of the minute before: a busy machine measures as slow


class SpeedMeasurements(Part):
    """What was measured."""

    network: NetworkPart
    latency: LatencyPart
    inference: list[ThroughputPart]
    training: ThroughputPart  # steps on one batch that is on the device
    loader: FlowPart  # reading batches, nothing computed
    end_to_end: FlowPart  # reading batches and training on them


class SpeedDescription(SpeedMeasurements, RecordHeader):
    """What was requested and measured: a speed record without schema and checksum."""

    method: MethodIdentity
    setup: SetupPart
    seconds: Number  # approximate duration of each measurement
    memory: str  # what peak_memory counts
    environment: SpeedEnvironment


class SpeedRecord(SpeedDescription):
    """The speed of one method in one setup: the content of a speed record's file."""

    schema_: Literal[2] = Field(alias="schema")
    checksum: Sha256  # of all of the above

    @property
    def best(self) -> ThroughputPart | None:
        """Inference at the batch size with the most images per second; None if none was measured."""
        measured = [part for part in self.inference if part.images_per_second is not None]
        return max(measured, key=lambda part: part.images_per_second or 0.0, default=None)


def publish(speed: SpeedDescription, results: Path) -> tuple[SpeedRecord, Path, bool]:
    """Write a speed record below `results`, completely or not at all.

    Returns:
        The record, its path, and whether it replaced one.
    """
    text = seal({"schema": SPEED_SCHEMA, **speed.model_dump(mode="json")})
    record = parse_record(text, results, SpeedRecord, SPEED_SCHEMA)
    path = results / place(record)
    replaced = path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return record, path, replaced


def read(path: Path) -> SpeedRecord:
    """Read a speed record. Raises RecordError: unreadable, another schema, changed, or not where its names say."""
    record = load_record(path, SpeedRecord, SPEED_SCHEMA)
    if path.parts[-3:] != place(record).parts:
        raise RecordError(f"{path} holds the speed record of {place(record)}: move it there")
    return record


def find(results: Path) -> list[Path]:
    """Return the paths of all speed records below `results`, sorted."""
    return sorted(results.glob("speed/*/*.json"))


def place(record: SpeedRecord) -> Path:
    """Return the path of a record, relative to `results`: the same for the same method in the same setup."""
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
    """Tell whether a speed is that of a run's method, with its options and crop; of a plugin, also with its source."""
    one, other = speed.method, run.method
    same_method = (one.name, one.options, one.built_in) == (other.name, other.options, other.built_in)
    same_source = one.built_in or one.source_sha256 == other.source_sha256
    return run.recipe is not None and same_method and same_source and speed.setup.crop == run.recipe.pixels.crop


def setup_label(setup: SetupPart) -> str:
    """Return a setup's label for people: device, precision, layout."""
    cores = f" ({setup.cores} cores)" if setup.kind == "cpu" else ""
    compiled = ", compiled" if setup.compiled else ""
    return f"{setup.device}{cores}, {setup.precision}, {setup.layout}{compiled}"


if __name__ == "__main__":
    sys.stdout.write(json_schema(SpeedRecord))
