"""A complete run at the size of the paper, on a large set of drawn radiographs, from the command to its record."""

import json
import shutil
import time
from datetime import datetime

import pytest
from child_processes import wait

pytestmark = pytest.mark.gpu
IMAGES, EPOCHS = 16_000, 3


def phases_of(log):
    """Seconds from one event of a run's log to the next, by the first event."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    marks = [event for event in events if event["event"] in ("started", "stage", "scoring", "finished")]
    times = [datetime.fromisoformat(event["time"]) for event in marks]
    return {
        f"{event['event']} {event.get('stage', '')}".strip(): (end - begin).total_seconds()
        for event, begin, end in zip(marks, times, times[1:], strict=False)
    }


def test_ma_at_the_size_of_the_paper(start, out, tmp_path, tell):
    data = ["--set", f"dataset.images={IMAGES}"]
    started = time.perf_counter()
    assert wait(start(["prepare", "--dataset", "phantom", "--recipe", "paper", *data], out / "paper.log"), 200) == 0
    tell(f"preparing {IMAGES:,} images", f"{time.perf_counter() - started:.0f} s")
    words = ["run", "--method", "ma", "--recipe", "paper", "--results", tmp_path / "results", *data]
    words += ["--set", "model.weights=none", "--set", f"train.epochs={EPOCHS}", "--set", "train.drop_after=[2]"]
    status = wait(start(words, out / "paper.log"), 280)
    for path in tmp_path.glob("runs/*/log.jsonl"):
        shutil.copy(path, out / "paper.jsonl")
        tell("ma, paper size", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in phases_of(path).items()))
    assert status == 0, (out / "paper.log").read_text()[-3000:]
    (place,) = tmp_path.glob("results/phantom/ma/*/run.json")
    shutil.copy(place, out / "paper-run.json")
    record = json.loads(place.read_text())
    speeds = ", ".join(f"{stage['images_per_second']:,.0f}" for stage in record["stages"])
    tell("ma, both stages", f"{speeds} images/s", f"mean AUC {record['mean_auc']['value']:.3f}")
    assert record["localization"]["grid"] == [7, 7]
