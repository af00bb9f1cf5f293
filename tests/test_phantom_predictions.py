"""The table of docs/phantom_predictions.py, from scores of runs that are made up."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from chxbench.benchmark.evaluation.artifacts import score_table
from chxbench.benchmark.metrics.intervals import Spread
from chxbench.datasets.phantom import Phantom

FILE = Path(__file__).parents[1] / "docs" / "phantom_predictions.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("phantom_predictions", FILE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_prediction_has_its_runs_and_none_is_listed_twice(script):
    runs = script.needed_runs(range(2))
    assert len(set(runs)) == len(runs) == 2 * len({run[:3] for run in runs})
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    for one in script.PREDICTIONS:
        for arm in (one.first, one.second):
            assert {("", 0.0), (one.dial, one.setting)} <= {run[1:3] for run in runs if run.arm == arm}


@pytest.mark.parametrize(
    ("effect", "value", "said"),
    [
        ("more", 3.0, "as predicted"),
        ("less", -3.0, "as predicted"),
        ("more", -3.0, "**against the prediction**"),
        ("less", 3.0, "**against the prediction**"),
        ("none", 3.0, "**against the prediction**"),
        ("more", 0.1, "not found"),
        ("none", 0.1, "as predicted: no difference found"),
    ],
)
def test_an_outcome_follows_from_value_and_interval(script, effect, value, said):
    assert script.outcome(effect, value, Spread(1.0, 100.0)) == said
    assert script.outcome(effect, value, None) == "not testable: too few patients"


def test_the_table_has_the_differences_of_the_runs_that_exist(script, tmp_path):
    index, rng = Phantom().index(None), np.random.default_rng(0)
    rows = np.concatenate([index.rows("val"), index.rows("test")])
    gains = {("fam", ""): 0.5, ("fam", "mimics"): 0.5, ("sam", ""): 0.5, ("sam", "mimics"): 1.5}
    for run in script.needed_runs(range(2)):
        if run.arm.options or (run.arm.method, run.dial) not in gains:
            continue
        scores = rng.standard_normal((len(rows), 14)) + gains[run.arm.method, run.dial] * index.targets()[rows]
        place = run.folder(tmp_path) / "phantom" / run.arm.method / f"quick-seed{run.seed}-0"
        place.mkdir(parents=True)
        score_table(index, rows, scores.astype(np.float32)).to_parquet(place / "scores.parquet", index=False)
    mimics, nulls = [
        line.split(" | ") for line in script.table(range(2), tmp_path) if line.startswith(("| `mi", "| `sam"))
    ]
    assert mimics[1] == "`sam` - `fam`" and mimics[-1] == "as predicted |"
    assert float(mimics[5].split()[0]) == pytest.approx(0.2, abs=0.06)  # Phi(1.5 / sqrt 2) - Phi(0.5 / sqrt 2) = 0.22
    assert nulls[-1] == "as predicted: no difference found |"
