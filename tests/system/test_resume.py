"""A run that is killed at any moment resumes with the same command, and ends with bit-identical scores."""

import json
import os
import signal

import numpy as np
import pytest
from resumed_runs import KILLED, TERMINATED, ResumedRuns, words_of
from small_runs import SMALL_DATA, SMALL_RECIPE

SETTINGS = {**SMALL_DATA, **SMALL_RECIPE, "compute.precision": "float32"}


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory):
    """Start runs as listed, then until they end: their folders, exit statuses and seconds.

    The first task is a run that nothing interrupts.
    """
    folder = tmp_path_factory.mktemp("killed")
    words = [*words_of(SETTINGS), "--cache", str(cache)]
    return lambda tasks: ResumedRuns(folder, words, tasks).wait()


def artifacts(folder):
    """What a run leaves behind: the bytes of scores and heatmaps, weights and stages, except for times."""
    (place,) = folder.glob("results/*/*/*/run.json")
    record = json.loads(place.read_text())
    stages = [{k: v for k, v in stage.items() if "second" not in k} for stage in record["stages"]]
    maps = {name: part.tobytes() for name, part in np.load(place.with_name("maps.npz")).items()}
    board = (folder / "leaderboard.md").read_text()
    return place.with_name("scores.parquet").read_bytes(), maps, record["weights"], stages, len(board) > 0


def test_a_run_that_is_killed_repeatedly_ends_with_the_same_scores(runs):
    cuts = [{"share": 0.25}, {"share": 0.22, "signal": signal.SIGTERM}, {"share": 0.2}, {"share": 0.18}, {"share": 0.1}]
    end = {"starts": [{"before_end": 4}], "deterministic": True}
    found = runs({"whole": {"starts": []}, "cut": {"starts": cuts}, "end": end})
    whole, cut = found["whole"][0], found["cut"][0]
    assert found["whole"][1]["statuses"] == [0]
    assert found["cut"][1]["statuses"] == [KILLED, TERMINATED, KILLED, KILLED, KILLED, 0]
    assert found["end"][1]["statuses"] == [KILLED, 0]
    assert artifacts(cut) == artifacts(whole) == artifacts(found["end"][0])
    assert "rerun the same command to resume" in (cut / "log").read_text()
    assert "resumes after epoch" in (cut / "log").read_text()
    assert not list(cut.rglob("*.part"))
    assert len(list((cut / "runs").glob("*.lock"))) == 2  # left by the killed processes, and taken over by the next


@pytest.mark.long
def test_thirty_random_moments(runs):
    """Checkpoints after each step, or at the ends of epochs only: then a run has about a third of the moments."""
    rng = np.random.default_rng(int(os.environ.get("CHXBENCH_SEED", "0")))
    (_, whole) = runs({"timed": {"starts": []}})["timed"]
    tasks = {"whole": {"starts": []}}
    for number in range(30):
        every = 300.0 if number % 2 else 0.0
        share = {"share": rng.uniform(0, 0.36 if every else 0.99)}
        seconds = {"seconds": whole["seconds"] * rng.uniform(0.1, 0.4)}
        tasks[f"cut{number}"] = {"starts": [share if number % 3 else seconds], "every": every}
    found = runs(tasks)
    wanted = artifacts(found["whole"][0])
    for name, (folder, each) in found.items():
        assert each["statuses"][-1] == 0
        assert artifacts(folder) == wanted, name
    assert sum(each["statuses"][0] == KILLED for _, each in found.values()) >= 20  # a busy machine moves the rest
