"""A complete run at the size of the paper, on many synthetic radiographs, from the command to its published record."""

import shutil
import time

import pytest
from run_phases import phases_of

from chxbench.benchmark.records import record as records
from chxbench.benchmark.records.recompute import verify_record
from chxbench.benchmark.utils.run_log import read_log

TABLE = "paper.txt"
pytestmark = pytest.mark.gpu
IMAGES, EPOCHS, SECONDS = 12_000, 3, 220
SETTINGS = {"dataset.images": IMAGES, "model.weights": "none", "train.epochs": EPOCHS, "train.drop_after": "[2]"}


@pytest.mark.gpu(seconds=SECONDS + 20)
def test_ma_at_the_size_of_the_paper(start, finish, out, tmp_path, tell):
    words = ["run", "--method", "ma", "--dataset", "phantom", "--recipe", "paper", "--results", tmp_path / "results"]
    words += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    started = time.monotonic()
    try:
        finish(start(words, out / "paper.log"), out / "paper.log", SECONDS)
    finally:
        for path in tmp_path.glob("runs/*/log.jsonl"):
            shutil.copy(path, out / "log.jsonl")
            phases = phases_of(read_log(path))
            phases["start of Python, publication, leaderboard"] = time.monotonic() - started - sum(phases.values())
            for phase, seconds in phases.items():
                tell(f"ma, {IMAGES:,} images, {EPOCHS} epochs a stage: {phase}", f"{seconds:.1f} s")
    tell("the whole command", f"{time.monotonic() - started:.1f} s")
    (place,) = records.find(tmp_path / "results")
    for name in ("run.json", "scores.parquet"):
        shutil.copy(place / name, out / name)
    record = records.read(place)
    verify_record(place, record)
    speeds = ", ".join(f"{stage.images_per_second:,.0f} images/s" for stage in record.stages)
    tell("training of its two stages", speeds, f"mean AUC {record.mean_auc.value:.3f}")
    assert record.environment.hardware["kind"] == "cuda"
    assert record.localization_problem is None
    assert len(record.stages) == 2
