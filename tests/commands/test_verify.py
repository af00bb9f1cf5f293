"""Tampered records are rejected by name, even if every hash and checksum was made to fit; true ones pass."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from record_factory import edit, fields, publish, recheck, score_table

from chxbench.benchmark.cli import main
from chxbench.benchmark.commands.verify import verify_run
from chxbench.benchmark.evaluation import artifacts
from chxbench.benchmark.evaluation.scores import evaluate_scores, evaluate_secondary_metrics
from chxbench.benchmark.leaderboard import verified_cache
from chxbench.benchmark.leaderboard.verified_cache import verify_cached
from chxbench.benchmark.records import record as records
from chxbench.benchmark.records.provenance import origin
from chxbench.benchmark.records.record import RecordError
from chxbench.benchmark.records.schema import RunDescription
from chxbench.benchmark.utils.files import file_sha256
from chxbench.benchmark.utils.options import to_dict
from chxbench.datasets.chestxray14 import ChestXray14
from chxbench.datasets.phantom import Phantom

SET = Phantom(images=60, size=64)


@pytest.fixture(scope="module")
def true_results(tmp_path_factory):
    """One record of made-up scores on a dataset that can be drawn again, and its leaderboard."""
    results = tmp_path_factory.mktemp("true") / "results"
    index = SET.index(None)
    rows = np.concatenate([index.rows("val"), index.rows("test")])
    labels = index.targets()[rows]
    scores = np.random.default_rng(0).standard_normal(labels.shape) + labels
    table = artifacts.score_table(index, rows, scores)
    filled = fields(table, "a0", "True one")
    about = {"name": "phantom", "options": to_dict(SET), "labels": index.labels._asdict()}
    filled["dataset"] |= {**about, "split": index.split._asdict()}
    folder = results / "phantom" / "bsl" / "a0"
    folder.mkdir(parents=True)
    records.write(folder, RunDescription.model_validate(filled), table, None)
    assert chxbench("leaderboard", "--results", results).exit_code == 0
    return results


@pytest.fixture
def results(true_results, tmp_path):
    shutil.copytree(true_results.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "results"


def chxbench(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def forge_scores(folder, change):
    """Change the table, and everything in the record that follows from it: hashes, counts, numbers."""
    table = change(pd.read_parquet(folder / "scores.parquet"))
    table.to_parquet(folder / "scores.parquet", index=False)

    def follow(content):
        content["scores"]["sha256"] = file_sha256(folder / "scores.parquet")
        content |= evaluate_scores(table, 100, content["dataset"]["rare"])[0].model_dump()
        content["secondary_metrics"] = evaluate_secondary_metrics(table, 100)[0].model_dump()
        recheck(content)

    edit(folder / "run.json", follow)


def forge(**changes):
    """Change keys of the record, and its checksum."""

    def change(folder):
        def follow(content):
            for path, value in changes.items():
                *parents, last = path.split("__")
                place = content
                for parent in parents:
                    place = place[parent]
                place[last] = value
            recheck(content)

        edit(folder / "run.json", follow)

    return change


def swap_labels(table):
    """A positive and a negative test image of one finding change places: every count stays as it was."""
    column = table["label Effusion"].where(table["split"] == "test")
    table.loc[[column.idxmax(), column.idxmin()], "label Effusion"] = [0.0, 1.0]
    return table


TAMPERED = [
    pytest.param(forge(auc__Mass__value=0.99), r"auc\.Mass\.value is 0\.990000, the artifacts give", id="changed AUC"),
    pytest.param(
        lambda folder: forge_scores(folder, swap_labels),
        f"differs from {Phantom.title} in label Effusion of 2 images",
        id="swapped label",
    ),
    pytest.param(
        lambda folder: forge_scores(folder, lambda table: table.iloc[:-1]),
        "does not contain the test images that the record counts",
        id="dropped row",
    ),
    pytest.param(
        forge(dataset__split__sha256="1" * 64),
        "has split hash 111111111111, the dataset has",
        id="another split's hash",
    ),
    pytest.param(
        forge(method__title="MA](http://x) <img src=x>"),
        "method.title: a title has none of the characters",
        id="method renamed with markup",
    ),
    pytest.param(forge(method__name="<b>ma</b>"), "method.name: String should match pattern", id="name with HTML"),
    pytest.param(forge(schema=3), "has schema 3, this version reads 2", id="future schema"),
    pytest.param(forge(mean_auc__value=float("nan")), "mean_auc.value: Input should be a finite number", id="NaN"),
    pytest.param(forge(stages=[]), "a run without stages", id="a run without its training"),
]


@pytest.mark.parametrize("command", ["verify", "leaderboard", "check"])
@pytest.mark.parametrize(("tamper", "message"), TAMPERED)
def test_a_tampered_record_is_refused_by_name(results, tamper, message, command):
    folder = results / "phantom" / "bsl" / "a0"
    before = (results.parent / "leaderboard.md").read_text()
    tamper(folder)
    words = {
        "verify": ["verify", folder],
        "leaderboard": ["leaderboard", "--results", results],
        "check": ["leaderboard", "--check", "--results", results],
    }[command]
    answer = chxbench(*words)
    assert answer.exit_code == 2
    assert "Traceback" not in answer.output
    output = " ".join(answer.output.replace("│", " ").split())
    assert str(folder) in output.replace(" ", "") or str(folder) in output
    assert message.replace("\\", "").replace(" ", "") in output.replace(" ", "")
    assert (results.parent / "leaderboard.md").read_text() == before


def test_a_true_record_passes_every_check(results):
    answer = chxbench("verify", results / "phantom" / "bsl" / "a0")
    assert answer.exit_code == 0, answer.output
    assert " fail " not in answer.output
    assert "compared with the dataset itself" in " ".join(answer.output.replace("│", " ").split())


def test_what_cannot_be_checked_is_reported(tmp_path):
    folder, _ = publish(tmp_path / "results", score_table(1), "a0", "Of an unknown dataset")
    answer = chxbench("verify", folder)
    assert answer.exit_code == 0
    assert "skipped" in answer.output
    assert "--data-dir" in answer.output


def test_each_check_stands_by_itself(results):
    folder = results / "phantom" / "bsl" / "a0"
    (folder / "roc.png").write_bytes(b"")
    forge(auc__Mass__value=0.99)(folder)
    answer = chxbench("verify", folder)
    assert answer.exit_code == 2
    assert answer.output.count(" fail ") == 2
    assert "2 of 12 checks failed" in answer.output


@pytest.mark.parametrize(("file", "failed"), [("run.json", "record"), ("scores.parquet", "scores")])
def test_checks_that_need_an_unreadable_file_are_listed_as_skipped(results, file, failed):
    folder = results / "phantom" / "bsl" / "a0"
    every = [check.subject for check in verify_run(folder).checks]
    (folder / file).write_bytes(b"damaged")
    checks = {check.subject: check.outcome for check in verify_run(folder).checks}
    assert list(checks) == every
    assert [subject for subject, outcome in checks.items() if outcome == "fail"] == [failed]
    assert checks["images"] == checks["AUC, statistics"] == checks["labels, split"] == "skipped"


def test_no_record_there_is_one_sentence(tmp_path):
    answer = chxbench("verify", tmp_path)
    assert (answer.exit_code, answer.output.count("\n")) == (2, 1)
    assert "has no run.json" in answer.output


def test_labels_of_the_official_list_are_known_without_the_label_file(results, monkeypatch):
    """A dataset whose files are not at hand is checked by the hashes that its plugin knows."""
    folder = results / "phantom" / "bsl" / "a0"
    record = records.read(folder)
    table = records.read_scores(folder, record)
    test = table[table["split"] == "test"]
    labels, images = record.dataset.labels, artifacts.image_list_sha256(test["image_id"])
    monkeypatch.setattr(Phantom, "needs_folder", True)
    monkeypatch.setattr(Phantom, "known_labels", {labels.sha256: labels.version})
    monkeypatch.setattr(Phantom, "known_tests", {images: "small"})
    monkeypatch.setattr(Phantom, "known_truths", {(labels.version, "small"): artifacts.ground_truth_sha256(test)})
    assert origin(folder, record, table) == (labels.version, "small", "with known hashes")
    with pytest.raises(RecordError, match="has labels of the small list that differ from"):
        origin(folder, record, swap_labels(table))
    other = record.model_copy(
        update={"dataset": record.dataset.model_copy(update={"labels": labels.model_copy(update={"sha256": "1" * 64})})}
    )
    with pytest.raises(RecordError, match="calls its labels phantom-2"):
        origin(folder, other, table)


def test_known_hashes_are_those_of_the_release():
    """The constants name the official list and label file; the release itself is too large to be here."""
    assert set(ChestXray14.known_labels.values()) == {version for version, _ in ChestXray14.known_truths}
    assert set(ChestXray14.known_tests.values()) == {name for _, name in ChestXray14.known_truths}


def test_what_was_verified_once_is_not_computed_again_until_a_byte_changes(results, tmp_path, monkeypatch):
    folder, kept = results / "phantom" / "bsl" / "a0", tmp_path / "kept"
    record = records.read(folder)
    first = verify_cached(folder, record, kept)
    computed = []
    monkeypatch.setattr(verified_cache, "_compute", lambda *_: computed.append(1) or first)
    assert verify_cached(folder, record, kept) == first
    assert not computed
    (entry,) = kept.iterdir()
    content = json.loads(entry.read_text())
    content["statistics"]["mean_auc"]["replicates"][0] = 0.99
    entry.write_text(json.dumps(content))
    verify_cached(folder, record, kept)
    assert len(computed) == 1  # the entry was changed
    edit(folder / "run.json", lambda content: content.update(created="2026-01-02T00:00:00+00:00") or recheck(content))
    verify_cached(folder, record, kept)
    assert len(computed) == 2  # the record was changed
    assert Path(entry).exists()
