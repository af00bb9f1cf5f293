"""A record from the text of `run.json` or of a speed record: its form is checked, and that nobody changed it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from .errors import UserError, first_few
from .schema import Part

Kind = TypeVar("Kind", bound=Part)
MOST_BYTES = 16 * 2**20  # of a record's text; those of 14 findings have 40 KiB


class RecordError(UserError):
    """A record that cannot be read, or whose numbers do not follow from its scores."""


def load(path: Path, model: type[Kind], schema: int, unchanged: bool = True) -> Kind:
    """The record in a file. Raises RecordError: not there, too large, or what `parse` refuses."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"record {path} cannot be read: {error}") from error
    if len(data) > MOST_BYTES:
        raise RecordError(f"record {path} has more than {MOST_BYTES >> 20} MiB: restore it")
    return parse(text, path, model, schema, unchanged)


def parse(text: str, path: Path, model: type[Kind], schema: int, unchanged: bool = True) -> Kind:
    """A record from its text.

    Args:
        text: of the file.
        path: of the file, for messages.
        model: what it holds.
        schema: the version that is read.
        unchanged: whether to refuse a record that was changed after it was written.

    Raises:
        RecordError: no JSON, another schema, wrong keys or values, changed by hand.
    """
    try:
        content = json.loads(text)
        found = content.get("schema") if isinstance(content, dict) else None
        if found != schema:
            raise RecordError(
                f"{path} has schema {repr(found)[:40]}, this version reads {schema}: use the version it came from"
            )
        record = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        raise RecordError(f"{path} is not a record: {first_few(problems)}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON that can be read ({error}): restore it") from error
    if unchanged and content["checksum"] != checksum(content):
        raise RecordError(f"{path} was changed after it was written (its checksum does not fit): restore it")
    return record


def _problem(item: Mapping[str, Any]) -> str:
    """Where in the record, and what, of one of pydantic's errors."""
    where = ".".join(str(part) for part in item["loc"])
    what = item["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def checksum(content: dict[str, Any]) -> str:
    """SHA-256 of a record's content but for the checksum itself."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
