"""A full disk: whatever was being written, one sentence names it, nothing is lost, and the same command resumes.

The system itself refuses the write, by a limit on the size of files.
"""

import resource
from contextlib import contextmanager

import numpy as np
import pytest

from chxbench import UserError
from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.engine import checkpoint
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.records import record as records
from chxbench.benchmark.utils import files
from chxbench.benchmark.utils.files import _write, check_seal, write_atomic

SMALL = {"options": {"backbone": "test_resnet"}, "method": "ma", "settings": {"compute.precision": "float32"}}
MOMENTS = [
    ("stage1/checkpoint.pt", 1),
    ("stage1/checkpoint.pt", 2),
    ("stage2/selection.npz", 1),
    ("stage2/checkpoint.pt", 1),
    ("weights.safetensors", 1),
    ("scores.parquet", 1),
    ("run.json", 1),
    ("copied", 2),
]
EXTRAS = [("heatmaps.png", 1), ("maps.npz", 1), ("run.json", 1), ("roc.png", 1), ("leaderboard.md", 1)]


@contextmanager
def no_room(limit=16):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def starve(patch, name, number):
    """Refuse the file of this name when it is written for the given time; returns what was refused."""
    times, refused = [], []

    def starved(function, where):
        def call(*arguments):
            times.extend([1] if (name == "copied" if where else str(arguments[0]).endswith(f"{name}.part")) else [])
            if len(times) < number or refused:
                return function(*arguments)
            refused.append(arguments[0])
            with no_room():
                return function(*arguments)

        return call

    patch.setattr(files, "_write", starved(_write, where=False))
    patch.setattr(records.shutil, "copyfile", starved(records.shutil.copyfile, where=True))
    return refused


def test_a_full_disk_at_any_moment_costs_nothing(config_in, tmp_path, monkeypatch):
    whole, there = run(config_in(tmp_path / "whole", **SMALL))
    config = config_in(tmp_path / "starved", **SMALL)
    work = build_experiment(config).work
    for name, number in MOMENTS:
        with monkeypatch.context() as patch, pytest.raises(UserError, match="File too large") as told:
            refused = starve(patch, name, number)
            run(config)
        assert len(refused) == 1
        assert "cannot be written (File too large): free disk space, then rerun the same command to resume" in str(
            told.value
        )
        assert (whole.run_id if name == "copied" else name) in str(told.value)
        assert not list(tmp_path.rglob("*.part"))
        if (work / "stage1" / "checkpoint.pt").exists():
            check_seal(work / "stage1" / "checkpoint.pt")
    assert_equal(run(config), whole, there)


def test_a_full_disk_during_an_extra_leaves_the_scores(config_in, tmp_path, monkeypatch, capsys):
    whole, there = run(config_in(tmp_path / "whole", **SMALL))
    config = config_in(tmp_path / "starved", **SMALL)
    for name, number in EXTRAS:
        with monkeypatch.context() as patch:
            refused = starve(patch, name, number)
            record, place = run(config)
        assert len(refused) == 1
        assert f"{name} cannot be written (File too large)" in capsys.readouterr().err
        assert (place / "scores.parquet").read_bytes() == (there / "scores.parquet").read_bytes()
        assert (record.localization is None) == (name in ("heatmaps.png", "maps.npz", "run.json"))
        assert not list(tmp_path.rglob("*.part"))
    assert_equal(run(config), whole, there)


def assert_equal(outcome, whole, there):
    record, place = outcome
    assert (place / "scores.parquet").read_bytes() == (there / "scores.parquet").read_bytes()
    assert record.localization.sha256 == whole.localization.sha256
    assert record.weights == whole.weights
    assert sorted(path.name for path in place.iterdir()) == sorted(path.name for path in there.iterdir())


def test_a_refused_checkpoint_leaves_the_previous_one(tmp_path):
    import torch

    path = tmp_path / "checkpoint.pt"
    checkpoint.save_checkpoint(path, {"weights": torch.ones(3)})
    with no_room(300), pytest.raises(UserError, match="free disk space"):
        checkpoint.save_checkpoint(path, {"weights": torch.zeros(10**6)})
    assert torch.equal(checkpoint.load_checkpoint(path)["weights"], torch.ones(3))
    assert [place.name for place in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_damaged_selection_is_made_again_and_a_foreign_one_is_refused(tmp_path, capsys):
    from chxbench.benchmark.engine.stages import _has_selection, _read_selection, _save_selection
    from chxbench.benchmark.method import Selection

    path = tmp_path / "selection.npz"
    _save_selection(Selection(np.arange(5)), path)
    assert _has_selection(path)
    assert _read_selection(path).rows.tolist() == [0, 1, 2, 3, 4]
    path.write_bytes(path.read_bytes()[:-50])
    assert not _has_selection(path)
    assert "is damaged (it has no seal): the examples are selected again" in capsys.readouterr().err
    write_atomic(path, b"something else", sealed=True)
    assert _has_selection(path)
    with pytest.raises(UserError, match="is not a selection of examples"):
        _read_selection(path)
