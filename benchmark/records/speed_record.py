"""A speed record: `results/speed/<device>/<method>-<digest>.json`, one method in one setup.

The digest follows from the method and from all else that a speed depends on, so that measuring the same again replaces
the record. Speed cannot be computed again from evidence, as scores can: the checksum finds a changed character, and no
more.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..utils.files import json_sha256, write_atomic
from .record import RecordError, checksum, load_record, parse_record
from .schema import Count, Name, Number, Part, Record, Sha256

SPEED_SCHEMA = 1


class MeasuredPart(Part):
    """The method."""

    name: Name
    built_in: bool  # whether it belongs to chxbench, whose commit or version then tells what ran
    source_sha256: Sha256  # of the file that defines it
    options: dict[str, Any]  # all of them


class SetupPart(Part):
    """What a speed depends on beside the method: speeds compare where all of it is equal."""

    device: str
    kind: str  # cpu, cuda
    cores: Count
    threads: Count  # of torch on the processor
    processes: Count
    precision: Literal["bfloat16", "float32"]
    layout: str
    compiled: bool  # by torch.compile
    torch: str
    recipe: str  # its name, or its file's
    size: Count  # sides in pixels: of the images in the pixel map, and of what the network sees
    crop: Count
    max_shift: Count
    batch_size: Count  # of a training step
    micro_batch: Count
    batch_norm: str
    optimizer: str
    dataset: Name  # what the loader and end-to-end training read
    images: Count  # in its training split
    batch_sizes: tuple[Count, ...]  # of inference, as asked for


class NetworkPart(Part):
    parameters: Count  # that training changes
    operations: Count  # of one image's forward pass: convolutions and matrix products, a multiply-add being two


class LatencyPart(Part):
    """Milliseconds for one image; null where the repetitions are too few for the percentile."""

    p50: Number | None
    p95: Number | None
    p99: Number | None
    repetitions: Count
    peak_memory: Count | None  # bytes


class ThroughputPart(Part):
    asked: Count  # the batch size asked for
    batch_size: Count | None  # smaller where the memory did not hold that; null where it was not measured
    images_per_second: Number | None  # null where a batch would have taken too long
    repetitions: Count
    peak_memory: Count | None  # bytes


class FlowPart(Part):
    images_per_second: Number
    images: Count  # on how many it was measured


class SpeedEnvironmentPart(Part):
    versions: dict[str, str]
    code: dict[str, str | bool | None]  # git commit, and whether the code was changed since
    load: Number | None  # programs that computed at a time in the minute before: a busy machine is slow


class SpeedRecord(Part):
    """The speed of one method in one setup, whole."""

    schema_: Literal[1] = Field(alias="schema")
    created: str
    command: str
    method: MeasuredPart
    setup: SetupPart
    seconds: Number  # about how long each measurement was to take
    network: NetworkPart
    latency: LatencyPart
    inference: list[ThroughputPart]
    training: ThroughputPart  # steps on one batch that lies on the device
    loader: FlowPart  # batches read, nothing computed
    end_to_end: FlowPart  # batches read and learnt from
    memory: str  # what peak_memory counts
    environment: SpeedEnvironmentPart
    checksum: Sha256  # of all of the above

    @property
    def best(self) -> ThroughputPart | None:
        """Inference at the batch size with the most images a second; None if none was measured."""
        measured = [part for part in self.inference if part.images_per_second is not None]
        return max(measured, key=lambda part: part.images_per_second, default=None)


def publish(fields: dict[str, Any], results: Path) -> tuple[SpeedRecord, Path, bool]:
    """Write a record, whole or not at all: the record, its place, and whether it replaced one.

    Args:
        fields: the record but for schema and checksum.
        results: the folder of published records.
    """
    content = {"schema": SPEED_SCHEMA, **fields}
    content["checksum"] = checksum(content)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    record = parse_record(text, results, SpeedRecord, SPEED_SCHEMA)
    path = results / place(record)
    replaced = path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return record, path, replaced


def read(path: Path) -> SpeedRecord:
    """The record at `path`. Raises RecordError: cannot be read, another schema, changed by hand, in a wrong place."""
    record = load_record(path, SpeedRecord, SPEED_SCHEMA)
    if path.parts[-3:] != place(record).parts:
        raise RecordError(f"{path} holds the speed record of {place(record)}: move it there")
    return record


def find(results: Path) -> list[Path]:
    """All speed records under `results`, sorted."""
    return sorted(results.glob("speed/*/*.json"))


def place(record: SpeedRecord) -> Path:
    """Where a record lies, relative to `results`: the same method in the same setup has the same place."""
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
    """Whether the speed is of the run's method with its options and crop; a plugin's source counts too."""
    mine, its = speed.method, run.method
    same = (mine.name, mine.options, mine.built_in) == (its.name, its.options, its.built_in)
    same_source = mine.built_in or mine.source_sha256 == its.source_sha256
    trained = run.recipe is not None
    return trained and same and same_source and speed.setup.crop == run.recipe["pixels"]["crop"]


def setup_label(setup: SetupPart) -> str:
    cores = f" ({setup.cores} cores)" if setup.kind == "cpu" else ""
    compiled = ", compiled" if setup.compiled else ""
    return f"{setup.device}{cores}, {setup.precision}, {setup.layout}{compiled}"
