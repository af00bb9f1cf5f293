"""Metrics of a score table, and the same protocol on arrays."""

import numpy as np
import pandas as pd
import pytest
from record_factory import publish, score_table

from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.evaluation.artifacts import findings_of, label_column, score_column, traits_of
from chxbench.benchmark.evaluation.scores import (
    MAX_GROUPS,
    evaluate_arrays,
    evaluate_scores,
    evaluate_secondary_metrics,
    split_scores,
)
from chxbench.benchmark.utils.errors import UserError


@pytest.fixture(scope="module")
def table():
    """Scores in the order of their image ids; Hernia has no positives."""
    return score_table(1.0, without=["Hernia"])


def arrays_of(table, **changes):
    """Arguments of `evaluate_arrays` for the test split of a table."""
    test, val = split_scores(table), split_scores(table, "val")
    arrays = {"scores": test.scores, "labels": test.labels, "patients": test.patients}
    return {**arrays, "validation": (val.scores, val.labels), "findings": test.findings, "resamples": 100, **changes}


def test_arrays_give_the_metrics_of_a_record(table, tmp_path):
    _, record = publish(tmp_path / "results", table, "a0", "Of a table")
    found = evaluate_arrays(**arrays_of(table), rare=("Hernia",))
    assert found == record.model_dump(include=set(found))
    assert found["mean_auc"]["findings"] == found["mean_auc_without_rare"]["findings"] == 13


def test_patients_may_be_numbers(table):
    found = evaluate_arrays(**arrays_of(table))
    numbers = split_scores(table).patients.astype(int)
    assert evaluate_arrays(**arrays_of(table, patients=numbers)) == found
    assert evaluate_arrays(**arrays_of(table, patients=numbers.tolist())) == found


def test_without_validation_no_threshold_is_fixed(table):
    found = evaluate_arrays(**arrays_of(table, validation=None, findings=None))
    assert list(found["auc"])[:2] == ["finding_0", "finding_1"]
    mass = found["secondary_metrics"]["findings"]["finding_4"]
    assert mass["threshold"] is None and mass["average_precision"] > 0
    assert mass["sensitivity"] == mass["specificity"] == {"value": None, "low": None, "high": None}
    assert found["secondary_metrics"]["mean"]["sensitivity"] is None


def test_the_second_mean_leaves_out_rare_findings(table):
    found = evaluate_arrays(**arrays_of(table, rare=["Mass", "Nodule"]))
    rest = [auc["value"] for name, auc in found["auc"].items() if name not in ("Mass", "Nodule", "Hernia")]
    assert found["mean_auc_without_rare"]["value"] == pytest.approx(np.mean(rest))
    assert (found["mean_auc"]["findings"], found["mean_auc_without_rare"]["findings"]) == (13, 11)


def test_the_second_mean_is_the_first_where_no_finding_is_rare(table):
    metrics, _ = evaluate_scores(table, 100)
    assert metrics.mean_auc_without_rare == metrics.mean_auc


def test_the_second_mean_is_undefined_where_every_finding_is_rare(table):
    mean = evaluate_scores(table, 100, FINDINGS)[0].mean_auc_without_rare
    assert (mean.value, mean.low, mean.high, mean.findings) == (None, None, None, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"scores": np.zeros((240, 13))}, r"scores have the shape \(240, 13\), labels", id="shapes"),
        pytest.param({"scores": np.zeros(240), "labels": np.zeros(240)}, "arrays of the same", id="one dimension"),
        pytest.param({"scores": np.full((240, 14), np.nan)}, "3,360 scores are not finite", id="not finite"),
        pytest.param({"scores": np.full((240, 14), "high")}, "are not numbers", id="text"),
        pytest.param({"labels": np.full((240, 14), 0.5)}, "labels other than 0, 1 and NaN", id="soft labels"),
        pytest.param({"patients": np.arange(9)}, "pass one patient per image", id="patients"),
        pytest.param({"findings": ["Mass"]}, "1 findings for 14 columns", id="findings"),
        pytest.param({"findings": ["Mass"] * 14}, "name each column once", id="a finding twice"),
        pytest.param({"rare": ["Scoliosis"]}, r"not among the findings \(Scoliosis\)", id="rare"),
        pytest.param({"resamples": 0}, "pass at least 1", id="resamples"),
        pytest.param({"validation": (np.zeros((5, 14)), np.zeros((4, 14)))}, "validation scores have", id="validation"),
        pytest.param({"validation": (np.zeros((5, 2)), np.zeros((5, 2)))}, "14 findings for 2 columns", id="columns"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(table, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate_arrays(**arrays_of(table, **changes))


def test_column_names_are_read_as_they_are_built(table):
    assert findings_of(table) == list(FINDINGS)
    assert table.columns.tolist() == [
        *("image_id", "patient_id", "split"),
        *map(label_column, FINDINGS),
        *map(score_column, FINDINGS),
    ]


def with_trait(table, name, values):
    return table.assign(**{name: pd.Series(values)[np.arange(len(table)) % len(values)].to_numpy()})


@pytest.mark.parametrize(
    ("name", "values", "groups"),
    [
        pytest.param("scanner", ["B", "A", None], ["A", "B"], id="text"),
        pytest.param("age", [0.5, 19.9, 20.0, 100.0, np.nan], ["0 to 19", "20 to 39", "80 to 120"], id="age"),
        pytest.param("beds", [2.0, 1.0], ["1.0", "2.0"], id="numbers"),
        pytest.param("visit", [f"{k:03}" for k in range(MAX_GROUPS + 1)], [], id="identifiers"),
    ],
)
def test_subgroups_are_those_of_any_trait(table, name, values, groups):
    traits = with_trait(table, name, values)
    assert traits_of(traits) == [name]
    found = evaluate_secondary_metrics(traits, 100)[0].subgroups[name]
    assert list(found) == groups
    if name == "scanner":
        part = traits[(traits["split"] == "test") & (traits["scanner"] == "A")]
        alone = evaluate_scores(part, 100)[0].mean_auc
        assert (found["A"].images, found["A"].mean_auc) == (len(part), alone)
