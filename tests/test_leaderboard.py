"""Records that lie are refused, and the leaderboard is what the records give, to the letter."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from chxbench import UserError
from chxbench.benchmark import record as records
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.figures import draw_roc
from chxbench.benchmark.leaderboard import MARK, check_leaderboard, render, write_leaderboard
from chxbench.benchmark.leaderboard import read_runs as read
from chxbench.benchmark.recipe import as_table, load_recipe
from chxbench.benchmark.record import RecordError

ROOT = Path(__file__).parents[1]
HASH = "0" * 64


def score_table(skill, seed=0, without=()):
    """Scores of 60 validation and 240 test images; findings in `without` have no positives."""
    labels = (np.random.default_rng(0).random((300, 14)) < 0.3).astype(np.float32)
    rng = np.random.default_rng(seed)
    labels[:, [FINDINGS.index(finding) for finding in without]] = 0
    scores = (rng.standard_normal((300, 14)) + skill * labels).astype(np.float32)
    names = {"image_id": [f"{k:03}" for k in range(300)], "patient_id": [f"{k // 3}" for k in range(300)]}
    table = pd.DataFrame({**names, "split": ["val"] * 60 + ["test"] * 240})
    columns = {f"label {f}": labels[:, c] for c, f in enumerate(FINDINGS)}
    return table.assign(**columns, **{f"score {f}": scores[:, c] for c, f in enumerate(FINDINGS)})


def count(table, split):
    part = table[table["split"] == split]
    positives = {finding: int(part[f"label {finding}"].sum()) for finding in FINDINGS}
    return {"images": len(part), "patients": part["patient_id"].nunique(), "positives": positives, "absent": 0}


def fields(table, run_id, title, seed=0, settings=None, split=HASH, **method):
    """The record of a run that never was, but for its scores."""
    counts = {"images": 10, "patients": 5, "positives": {}, "absent": 0}
    about = {"name": "bsl", "title": title, "paper": "", "reported": None, "options": {}, "changed": {}}
    about = {**about, "built_in": True, "source_sha256": HASH, **method}
    stage = {"name": "train", "start": "initial", "examples": 10, "hard_positives": None, "epochs": 1, "best_epoch": 1}
    return {
        "run_id": run_id,
        "created": "2026-01-01T00:00:00+00:00",
        "command": f"chxbench run --method {about['name']} --seed {seed}\nrm -rf \x1b[31m",
        "seed": seed,
        "selection": "the last epoch",
        "method": about,
        "dataset": {
            "name": "phantom",
            "title": "Phantom",
            "options": {},
            "labels": {"file": "drawn", "sha256": HASH, "version": "1"},
            "split": {"name": "by patient", "sha256": split},
            "pixels_sha256": HASH,
            "counts": {"train": counts, **{part: count(table, part) for part in ("val", "test")}},
        },
        "recipe": as_table(load_recipe("quick", {"evaluate.resamples": 100, **(settings or {})})),
        "weights": {"init": "none", "sha256": HASH, "final_sha256": HASH},
        "stages": [{**stage, "validation_auc": [0.5], "loss": [0.7], "seconds": 1.0, "images_per_second": 10.0}],
        "localization": None,
        "speed": None,
        "environment": {
            "versions": {"chxbench": "0.1.0"},
            "hardware": {"device": "a CPU", "cores": 2},
            "precision": "float32",
            "layout": "channels_last",
            "code": {"commit": None, "dirty": None},
        },
    }


def publish(results, table, *about, **changes):
    """Write a record with its scores and figure into the results folder; the folder and the record."""
    filled = fields(table, *about, **changes)
    folder = results / "phantom" / filled["method"]["name"] / filled["run_id"]
    folder.mkdir(parents=True)
    record = records.write(folder, filled, table)
    draw_roc(record, table, folder / "roc.png")
    return folder, record


@pytest.fixture
def results(tmp_path):
    """Two methods, one with two seeds, and their leaderboard beside the folder."""
    publish(tmp_path / "results", score_table(0.5), "a0", "Weak")
    publish(tmp_path / "results", score_table(1.5, 1), "b0", "Strong", name="ma")
    publish(tmp_path / "results", score_table(1.5, 2), "b1", "Strong", seed=1, name="ma")
    write_leaderboard(tmp_path / "results", tmp_path / "leaderboard.md")
    return tmp_path / "results"


def board(results):
    return (results.parent / "leaderboard.md").read_text()


def test_the_committed_tree_agrees_with_itself():
    assert check_leaderboard(ROOT / "results", ROOT / "leaderboard.md") >= 5


def test_methods_are_ranked_by_the_mean_over_their_seeds(results):
    text = board(results)
    strong = [run.record.mean_auc.value for run in read(results, results.parent) if run.record.method.name == "ma"]
    first, second = [line for line in text.splitlines() if line.lstrip("| ").startswith(("1 ", "2 "))]
    assert f"| {np.mean(strong):.3f} [" in first
    assert f"2 ({min(strong):.3f} to {max(strong):.3f})" in first
    assert "Weak" in second
    assert check_leaderboard(results, results.parent / "leaderboard.md") == 3


def test_other_splits_and_recipes_have_boards_of_their_own(results):
    publish(results, score_table(3), "c0", "Elsewhere", split="1" * 64)
    publish(results, score_table(3), "c1", "Longer", settings={"train.epochs": 9})
    text = render(read(results, results.parent))
    assert text.count("Ranked by the mean test AUC") == 3
    assert "recipe quick with evaluate.resamples = 100, train.epochs = 9" in text


def test_an_undefined_finding_is_no_number_and_leaves_the_mean(results, tmp_path):
    _, record = publish(results, score_table(1, without=["Hernia"]), "h0", "No hernia", split="2" * 64)
    assert record.auc["Hernia"].value is None
    assert record.mean_auc.findings == 13
    assert record.mean_auc.value == record.mean_auc_without_hernia.value
    rows = [line for line in render(read(results, tmp_path)).splitlines() if line.startswith("| Hernia")]
    assert any("–" in row for row in rows)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1) + "\n")


def recheck(content):
    content["checksum"] = records._checksum(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda c: c["auc"]["Mass"].update(value=0.9), "changed after it was written", id="AUC"),
        pytest.param(lambda c: c["stages"][0].update(seconds=2.0), "changed after it was written", id="any number"),
        pytest.param(
            lambda c: (c["auc"]["Mass"].update(value=0.9), recheck(c)),
            r"auc\.Mass\.value is 0\.900000, the scores give",
            id="AUC and checksum",
        ),
        pytest.param(
            lambda c: (c["mean_auc"].update(low=0.1), recheck(c)), r"mean_auc\.low is 0\.1", id="interval and checksum"
        ),
        pytest.param(lambda c: (c["auc"].pop("Mass"), recheck(c)), "does not have the columns", id="finding dropped"),
        pytest.param(lambda c: c.update(schema=2), "has schema 2, this version reads 1", id="future schema"),
        pytest.param(lambda c: c.update(extra=1), "extra: Extra inputs", id="unknown key"),
        pytest.param(lambda c: c.pop("seed"), "seed: Field required", id="missing key"),
        pytest.param(lambda c: c["scores"].update(file="../../x"), "scores.file", id="path out of the folder"),
        pytest.param(lambda c: (c.update(run_id="other"), recheck(c)), "holds the record of", id="renamed"),
    ],
)
def test_a_record_that_lies_is_refused(results, change, message):
    edit(results / "phantom" / "bsl" / "a0" / "run.json", change)
    for refused in (check_leaderboard, write_leaderboard):
        with pytest.raises(RecordError, match=message):
            refused(results, results.parent / "leaderboard.md")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda t: t[t["image_id"] != "299"], "does not hold the test images", id="row dropped"),
        pytest.param(lambda t: t.assign(**{"score Mass": np.nan}), "a score that is no number", id="NaN"),
        pytest.param(lambda t: t.assign(image_id="000"), "an image twice", id="image twice"),
        pytest.param(lambda t: t.drop(columns="score Mass"), "does not have the columns", id="column dropped"),
        pytest.param(lambda t: t.assign(**{"label Mass": 1 - t["label Mass"]}), "does not hold", id="labels turned"),
    ],
)
def test_scores_that_are_not_the_splits_are_refused_though_all_hashes_fit(results, change, message):
    folder = results / "phantom" / "bsl" / "a0"
    change(pd.read_parquet(folder / "scores.parquet")).to_parquet(folder / "scores.parquet", index=False)
    digest = records.file_sha256(folder / "scores.parquet")
    edit(folder / "run.json", lambda c: (c["scores"].update(sha256=digest), recheck(c)))
    with pytest.raises(RecordError, match=message):
        check_leaderboard(results, results.parent / "leaderboard.md")


def test_runs_on_other_images_do_not_share_a_board(results):
    table = score_table(1)
    table["image_id"] = "x" + table["image_id"]
    publish(results, table, "x0", "Others", name="sam")
    with pytest.raises(RecordError, match="were scored on other images or labels"):
        render(read(results, results.parent))


def test_a_seed_counts_once(results):
    publish(results, score_table(1.5, 3), "b2", "Strong", seed=1, name="ma")
    with pytest.raises(RecordError, match="a seed of ma stands twice"):
        render(read(results, results.parent))


def test_an_edited_plugin_is_a_row_of_its_own(results):
    for run_id, source in (("p0", "1" * 64), ("p1", "2" * 64)):
        publish(results, score_table(1), run_id, "Mine", name="mine", built_in=False, source_sha256=source)
    text = render(read(results, results.parent))
    assert "Mine (`plugin 1111111`)" in text
    assert "Mine (`plugin 2222222`)" in text


def test_changed_or_missing_scores_are_refused(results):
    path = results / "phantom" / "bsl" / "a0" / "scores.parquet"
    table = pd.read_parquet(path)
    table.loc[100, "label Mass"] = 1 - table.loc[100, "label Mass"]
    table.to_parquet(path, index=False)
    with pytest.raises(RecordError, match="is not the file that the record was made from"):
        check_leaderboard(results, results.parent / "leaderboard.md")
    path.unlink()
    with pytest.raises(RecordError, match=r"scores\.parquet is missing"):
        check_leaderboard(results, results.parent / "leaderboard.md")


def test_a_leaderboard_changed_by_hand_is_told_by_line(results):
    path = results.parent / "leaderboard.md"
    lines = board(results).splitlines()
    number = next(k for k, line in enumerate(lines) if "Weak" in line)
    path.write_text("\n".join([*lines[:number], lines[number].replace("0.", "0.9", 1), *lines[number + 1 :]]) + "\n")
    with pytest.raises(RecordError, match=f"line {number + 1} is"):
        check_leaderboard(results, path)
    path.unlink()
    with pytest.raises(RecordError, match="line 1 is None"):
        check_leaderboard(results, path)


def test_a_figure_of_other_scores_is_told(results):
    folder = results / "phantom"
    shutil.copy(folder / "ma" / "b0" / "roc.png", folder / "bsl" / "a0" / "roc.png")
    with pytest.raises(RecordError, match=r"a0/roc\.png does not show this record's scores"):
        check_leaderboard(results, results.parent / "leaderboard.md")
    write_leaderboard(results, results.parent / "leaderboard.md")
    assert check_leaderboard(results, results.parent / "leaderboard.md") == 3


def test_names_from_a_record_are_only_text(results):
    evil = "<script>x</script> | [a](b) ![c](d) `e` \x1b[31m\u202e**f**"
    publish(results, score_table(1), "e0", evil, options={"pool": "`|<b>"}, changed={"pool": "`|<b>"})
    text = render(read(results, results.parent))
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\nrm " not in text
    assert r"\| \[a\](b) \!\[c\](d) \`e\`" in text
    row = next(line for line in text.splitlines() if "script" in line)
    columns = next(line for line in text.splitlines() if line.startswith("|   # |")).count("|")
    assert row.replace("\\|", "").count("|") == columns


def test_a_file_of_somebody_else_is_not_overwritten(results):
    path = results.parent / "leaderboard.md"
    path.write_text("my notes\n")
    with pytest.raises(UserError, match="was not written by chxbench leaderboard"):
        write_leaderboard(results, path)
    assert path.read_text() == "my notes\n"


def test_no_records_give_a_leaderboard_of_what_papers_report(tmp_path):
    with pytest.raises(UserError, match="there is no results folder"):
        write_leaderboard(tmp_path / "results", tmp_path / "leaderboard.md")
    (tmp_path / "results").mkdir()
    write_leaderboard(tmp_path / "results", tmp_path / "leaderboard.md")
    text = (tmp_path / "leaderboard.md").read_text()
    assert text.startswith(MARK)
    assert "| Hernia" in text
    assert "**0.7942**" in text


def test_publishing_replaces_whole_folders(tmp_path):
    folder, record = publish(tmp_path / "work", score_table(1), "a0", "A")
    place, replaced = records.publish(folder, record, tmp_path / "results")
    assert records.publish(folder, record, tmp_path / "results") == (place, "already published in")
    (place / "left over").touch()
    (place / "roc.png").write_bytes(b"")
    again, replaced_again = records.publish(folder, record, tmp_path / "results")
    assert (replaced, replaced_again, place) == ("published in", "replaced the record in", again)
    assert sorted(path.name for path in place.iterdir()) == ["roc.png", "run.json", "scores.parquet"]
    assert sorted(path.name for path in place.parent.iterdir()) == ["a0"]
