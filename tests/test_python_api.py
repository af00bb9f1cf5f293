"""The Python API: docs/python-api.md runs as it is written, and what it returns is what the commands write."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from small_runs import SMALL_DATA, SMALL_RECIPE

import chxbench

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python-api.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Names after the page's blocks on runs were executed, on a small dataset and network, and their folder."""
    folder = tmp_path_factory.mktemp("page")
    run = chxbench.run

    def run_small(options, settings, **arguments):
        settings = {**settings, **SMALL_DATA, **SMALL_RECIPE}
        return run(options={**options, "backbone": "test_resnet"}, settings=settings, **arguments)

    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(chxbench, "run", run_small, raising=False)
        for block in BLOCKS[:3]:
            exec(block, names)
    return names, folder


def test_run_publishes_what_it_returns(page):
    names, folder = page
    record = names["record"]
    (published,) = (folder / "experiments" / "results").glob("phantom/sam/*/run.json")
    assert json.loads(published.read_text())["checksum"] == record.checksum
    assert (folder / "experiments" / "leaderboard.md").exists()
    assert record.method.options["pool"] == "lse"


def test_predict_returns_the_table_that_it_writes(page):
    names, folder = page
    predictions = names["predictions"]
    assert list(predictions["image"]) == ["00000001_000.png"]
    assert predictions[list(names["record"].auc)].to_numpy().min() > 0
    pd.testing.assert_frame_equal(predictions, pd.read_csv(folder / "experiments" / "predictions" / "predictions.csv"))


def test_load_results_has_one_row_per_record(page):
    names, _ = page
    table, record = names["table"], names["record"]
    (row,) = table.to_dict("records")
    assert (row["run_id"], row["method"], row["seed"]) == (record.run_id, "sam", 0)
    assert (row["mean_auc"], row["recipe"]) == (record.mean_auc.value, "quick")
    assert [name for name in table if name.startswith("auc ")] == [f"auc {finding}" for finding in record.auc]


def test_load_results_reads_the_committed_records():
    table = chxbench.load_results(ROOT / "results")
    assert len(table) == len(list((ROOT / "results").glob("*/*/*/run.json")))
    shown = table.dropna(subset="mean_auc_low")  # not the trial, with too few patients, and constant scores
    assert set(table["method"]) - {"floor_prevalence", "floor_traits"} == set(shown["method"])
    assert shown["mean_auc"].between(shown["mean_auc_low"], shown["mean_auc_high"]).all()


def test_load_results_rejects_a_changed_record_and_a_missing_folder(page, tmp_path):
    _, folder = page
    text = next((folder / "experiments" / "results").glob("*/*/*/run.json")).read_text()
    copy = tmp_path / "results" / "phantom" / "sam" / "copy" / "run.json"
    copy.parent.mkdir(parents=True)
    copy.write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(chxbench.UserError, match="was changed after it was written"):
        chxbench.load_results(tmp_path / "results")
    with pytest.raises(chxbench.UserError, match="does not exist"):
        chxbench.load_results(tmp_path / "none")


def test_load_results_of_no_records_is_an_empty_table(tmp_path):
    table = chxbench.load_results(tmp_path)
    assert len(table) == 0 and "mean_auc" in table


def test_the_page_on_arrays_runs():
    if not hasattr(chxbench, "evaluate_scores"):
        pytest.skip("evaluation.scores has no evaluate_arrays")
    names = {}
    exec(BLOCKS[3], names)
    assert 0.5 < names["report"]["mean_auc"]["value"] < 1


def test_every_public_name_is_imported_on_first_use():
    code = (
        "import sys, chxbench; assert not {'numpy', 'pandas', 'torch', 'pydantic'} & set(sys.modules)\n"
        "assert set(chxbench.__all__) <= set(dir(chxbench))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in set(chxbench.__all__) - {"evaluate_scores"}:
        assert getattr(chxbench, name) is not None
