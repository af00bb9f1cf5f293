"""The schema of records: documented as JSON Schema, complete, and consistent within itself."""

import json
from pathlib import Path

import pytest
from record_factory import edit, fields, heatmaps, publish, recheck, score_table

from chxbench.benchmark.records import record as records
from chxbench.benchmark.records.record import RecordError
from chxbench.benchmark.records.schema import Record, RunDescription, json_schema
from chxbench.benchmark.records.speed_record import SpeedRecord

DOCS = Path(__file__).parents[2] / "docs"


def schema_of(text):
    """A JSON Schema without what versions of pydantic write differently: that any key is allowed."""

    def prune(value):
        if isinstance(value, dict):
            return {key: prune(part) for key, part in value.items() if (key, part) != ("additionalProperties", True)}
        return [prune(part) for part in value] if isinstance(value, list) else value

    return prune(json.loads(text))


@pytest.mark.parametrize(
    ("model", "file"), [(Record, "record.schema.json"), (SpeedRecord, "speed-record.schema.json")], ids=["run", "speed"]
)
def test_the_documented_json_schema_is_that_of_the_models(model, file):
    """Written by `python -m chxbench.benchmark.records.schema` and `....records.speed_record`."""
    assert schema_of((DOCS / file).read_text(encoding="utf-8")) == schema_of(json_schema(model))


def test_every_key_is_required():
    schema = json.loads(json_schema(Record))
    for name, part in {"Record": schema, **schema["$defs"]}.items():
        if name not in ("Model", "Train", "Evaluate", "Compute"):  # sections of a recipe have defaults
            assert part["required"] == list(part["properties"]), name


@pytest.fixture
def folder(tmp_path):
    table = score_table(1)
    return publish(tmp_path / "results", table, "a0", "One", maps=heatmaps(table, 1.0))[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda c: c["dataset"]["findings"].reverse(), "auc does not have the findings", id="order"),
        pytest.param(lambda c: c["dataset"]["findings"].append("Mass"), "a finding is listed twice", id="twice"),
        pytest.param(lambda c: c["dataset"]["rare"].append("Scoliosis"), "a rare finding is not among", id="rare"),
        pytest.param(lambda c: c["dataset"]["counts"].update(other=c["dataset"]["counts"]["val"]), "train", id="split"),
        pytest.param(lambda c: c["dataset"]["counts"].pop("train"), "a run without train", id="no training split"),
        pytest.param(lambda c: c["recipe"].update(extra={}), "recipe.extra", id="a recipe's section"),
        pytest.param(lambda c: c["recipe"]["train"].update(extra=1), "recipe.train.extra", id="a recipe's key"),
        pytest.param(lambda c: c["method"].pop("control"), "method.control", id="control"),
        pytest.param(lambda c: c.update(secondary_metrics=None), "secondary_metrics", id="no secondary metrics"),
        pytest.param(lambda c: c.update(speed=None), "speed", id="unknown key"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(folder, change, message):
    edit(folder / "run.json", lambda content: (change(content), recheck(content)))
    with pytest.raises(RecordError, match=f"is not a record: .*{message}"):
        records.read(folder)


def test_external_predictions_do_not_claim_to_be_trained():
    submission = {"file": "a.csv", "sha256": "0" * 64, "image_column": "image", "columns": "{finding}"}
    described = fields(score_table(1), "a0", "One")
    unknown = "experiment_sha256, seed, recipe, weights, stages, pixels"
    with pytest.raises(ValueError, match=f"external predictions with {unknown}"):
        RunDescription.model_validate({**described, "submission": {**submission, "scale": "logit"}})


def test_a_record_begins_with_its_schema_and_ends_with_its_checksum(folder):
    content = json.loads((folder / "run.json").read_text())
    assert (next(iter(content)), list(content)[-1]) == ("schema", "checksum")
    assert set(content) == {field.alias or name for name, field in Record.model_fields.items()}
