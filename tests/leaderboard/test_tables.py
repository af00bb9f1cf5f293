"""What stands in a board's tables beside the AUC: reported values, controls, other statistics, groups."""

import numpy as np
import pytest
from record_factory import publish, score_table

from chxbench.benchmark.leaderboard.ablation import rank_rows, rank_text
from chxbench.benchmark.leaderboard.boards import make_boards
from chxbench.benchmark.leaderboard.leaderboard import read_runs
from chxbench.benchmark.leaderboard.literature import reported
from chxbench.benchmark.leaderboard.markdown import board_markdown
from chxbench.benchmark.leaderboard.rows import make_rows
from chxbench.benchmark.leaderboard.secondary_metrics import secondary_metrics, secondary_metrics_notes, subgroup_table
from chxbench.benchmark.leaderboard.tables import ranking
from chxbench.benchmark.records.provenance import Origin
from chxbench.benchmark.utils.workspace import Workspace


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def rows_of(results):
    return make_rows(read_runs(Workspace(results)))


def on_nih(run, version, test):
    """The same run, as if it had been scored on NIH's images."""
    labels = run.record.dataset.labels.model_copy(update={"version": version})
    dataset = run.record.dataset.model_copy(update={"name": "chestxray14", "labels": labels})
    record = run.record.model_copy(update={"dataset": dataset})
    verified = run.verified.model_copy(update={"origin": Origin(None, test, None)})
    return run._replace(record=record, verified=verified)


@pytest.mark.parametrize(
    ("version", "test", "shown"),
    [
        pytest.param("NIH v2017 (unverified)", "NIH official test", True, id="the paper's protocol"),
        pytest.param("NIH v2020", "NIH official test", False, id="other labels"),
        pytest.param("NIH v2017 (unverified)", None, False, id="other images"),
    ],
)
def test_a_reported_value_has_a_difference_where_the_protocol_is_the_same(results, version, test, shown):
    publish(results, score_table(1.5), "a0", "MA", name="ma", reported="ma")
    (row,) = make_rows([on_nih(run, version, test) for run in read_runs(Workspace(results))])
    cells = [cell.strip() for cell in ranking([row], [""]).splitlines()[-1].strip("|").split("|")]
    assert cells[-3:-1] == ["0.7942", "Ma et al., ICASSP 2019; NIH official test split, NIH v2017 labels"]
    assert cells[-1] == (f"{row.mean_auc - 0.7942:+.3f}" if shown else "–")
    told = "\n".join(board_markdown(make_boards(row.runs)[0], []))
    assert ("A difference from a reported value is given only" in told) != shown


def test_a_reported_value_is_of_the_papers_dataset_and_options(results):
    publish(results, score_table(1.5), "a0", "MA", name="ma", reported="ma")
    publish(results, score_table(1.5), "a1", "MA", name="ma", reported="ma", options={"k": 1}, changed={"k": 1})
    plain, changed = sorted(rows_of(results), key=lambda row: len(row.first.method.changed))
    assert plain.reported is None
    assert "Reported" not in ranking([plain], [""])
    assert make_rows([on_nih(changed.runs[0], "1", None)])[0].reported is None
    assert reported("ma", "chestxray14").mean_auc == 0.7942
    assert reported(None, "chestxray14") is None


def test_a_control_is_marked_and_ranked_like_a_method(results):
    for seed in (0, 1):
        publish(results, score_table(3, seed), f"c{seed}", "Best of all", name="ma_random", control=True, seed=seed)
        publish(results, score_table(1, seed), f"a{seed}", "Method", seed=seed)
    rows = rows_of(results)
    lines = ranking(rows, [rank_text(rank) for rank in rank_rows(rows)]).splitlines()[2:]
    assert [[cell.strip() for cell in line.split("|")[1:3]] for line in lines] == [
        ["1 of 2", "Best of all (control)"],
        ["2 of 2", "Method"],
    ]


def cells_of(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_other_statistics_are_means_over_findings_and_seeds(results):
    for seed in (0, 1):
        publish(results, score_table(1.5, seed), f"a{seed}", "Method", seed=seed)
    ((row),) = rows_of(results)
    parts = [run.verified.secondary_metrics for run in row.runs]
    (cells,) = cells_of(secondary_metrics([row]))
    each = [np.mean([one.brier for one in part.findings.values()]) for part in parts]
    assert cells[2].startswith(f"{np.mean(each):.4f} [")
    error = np.mean([part.mean.calibration_error for part in parts])
    floor = np.mean([part.mean.calibration_error_floor for part in parts])
    assert cells[3:5] == [f"{error:.4f}", f"{floor:.4f}"] and error > floor
    assert cells[5] == f"{np.mean([part.mean.sensitivity for part in parts]):.3f}"
    assert float(cells[6]) == pytest.approx(0.9, abs=0.06)  # thresholds are chosen on 60 validation images


def test_statistics_of_a_finding_without_a_class_are_null_with_a_reason(results):
    _, record = publish(results, score_table(1, without=["Hernia"]), "h0", "No hernia")
    hernia, mass = record.secondary_metrics.findings["Hernia"], record.secondary_metrics.findings["Mass"]
    assert (hernia.undefined_reason, mass.undefined_reason) == ("no positive image", None)
    assert (hernia.average_precision, hernia.sensitivity.value) == (None, None)
    assert hernia.specificity.value is not None
    assert record.secondary_metrics.mean.average_precision.findings == 13


def test_without_negatives_to_validate_on_no_threshold_is_fixed(results):
    table = score_table(1)
    labels = [name for name in table if name.startswith("label ")]
    table.loc[table["split"] == "val", labels] = 1.0
    _, record = publish(results, table, "t0", "No negatives")
    assert record.secondary_metrics.mean.sensitivity is None
    rows = rows_of(results)
    assert "Sensitivity" not in secondary_metrics(rows)
    assert "Sensitivity and specificity are undefined" in secondary_metrics_notes(rows)


def test_groups_that_the_labels_tell_of_are_judged_apart(results):
    table = score_table(1)
    sex, age = np.where(np.arange(300) % 2, "F", "M"), np.where(np.arange(300) % 3, 30.0, np.nan)
    table.insert(3, "sex", sex)
    table.insert(4, "age", age)
    _, record = publish(results, table, "g0", "Grouped")
    groups = record.secondary_metrics.subgroups
    assert {trait: list(part) for trait, part in groups.items()} == {"sex": ["F", "M"], "age": ["20 to 39"]}
    assert groups["sex"]["F"].images == 120
    assert groups["age"]["20 to 39"].images == 160  # of the rest the age is unknown
    apart = table[(table["split"] != "test") | (table["sex"] == "F")].drop(columns=["sex", "age"])
    _, alone = publish(results, apart.reset_index(drop=True), "g1", "Alone", split="1" * 64)
    assert groups["sex"]["F"].mean_auc == alone.mean_auc
    told = cells_of(subgroup_table(rows_of(results)))
    assert [row[0] for row in told] == ["sex F", "sex M", "age 20 to 39"]
    assert all(row.count("–") == 1 for row in told)  # the other row does not tell whose images they are


def put(*path, value):
    """Return a change that sets a field of a record, given by its path."""

    def change(fields):
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put("experiment_sha256", value="1" * 64), id="what the result follows from"),
        pytest.param(put("method", "source_sha256", value="1" * 64), id="code of the method"),
        pytest.param(put("dataset", "pixels", "sha256", value="1" * 64), id="pixels"),
        pytest.param(put("weights", "source", value="timm/resnet18.a1_in1k"), id="pretrained weights"),
        pytest.param(put("environment", "precision", value="bfloat16"), id="precision"),
    ],
)
def test_runs_of_different_inputs_are_no_seeds_of_one_row(results, change):
    publish(results, score_table(1.5), "a0", "MA")
    publish(results, score_table(1.4), "a1", "MA", seed=1)
    publish(results, score_table(1.3), "b1", "MA", seed=1, change=change)
    rows = rows_of(results)
    assert [{run.record.run_id for run in row.runs} for row in rows] == [{"a0", "a1"}, {"b1"}]
    assert len({row.label for row in rows}) == 2 and all("variant" in row.label for row in rows)


def test_a_new_commit_or_version_separates_no_seeds(results):
    publish(results, score_table(1.5), "a0", "MA")
    publish(results, score_table(1.4), "a1", "MA", seed=1, change=put("environment", "code", "commit", value="f" * 40))
    publish(results, score_table(1.4), "a2", "MA", seed=2, change=put("environment", "versions", "torch", value="9"))
    (row,) = rows_of(results)
    assert len(row.runs) == 3 and "variant" not in row.label


def test_files_of_initial_weights_are_told_apart_by_their_content(results):
    settings = {"model.weights": "w.safetensors"}
    for number, content in enumerate("0012"):
        change = put("weights", "file_sha256", value=content * 64)
        publish(results, score_table(1.5), f"a{number}", "MA", seed=number, settings=settings, change=change)
    boards = make_boards(read_runs(Workspace(results)))
    assert sorted(len(row.runs) for board in boards for row in board.rows) == [1, 1, 2]
    assert len(boards) == 3
