"""Images replaced after they were decoded: nothing is resumed, published or verified as if they were the same."""

import os
from dataclasses import replace

import pytest
from own_dataset import draw, own_config, own_dataset
from small_runs import invoke

from chxbench import UserError
from chxbench.benchmark.commands.run import train_and_score
from chxbench.benchmark.commands.run.run import run


@pytest.fixture
def config(config_in, tmp_path):
    with own_dataset(tmp_path) as place:
        yield own_config(config_in(tmp_path, method="bsl", cache=tmp_path / "cache", **place))


def replace_image(config, number=1):
    path = config.data_dir / f"{number:02}.png"
    draw(path, 99)
    os.utime(path, ns=(1, 1))  # a file system may count time in seconds


def test_a_completed_run_is_not_published_again(config):
    record, place = run(config)
    assert run(config)[0] == record
    replace_image(config)
    with pytest.raises(UserError, match=r"the images of Own hospital have changed since .*: pass --fresh"):
        run(config)
    fresh, _ = run(replace(config, fresh=True))
    assert fresh.run_id == record.run_id
    assert fresh.dataset.pixels.sha256 != record.dataset.pixels.sha256
    assert [folder.name for folder in place.parent.iterdir()] == [record.run_id]


def test_a_training_is_not_resumed(config, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_and_score, "score", _interrupt)
        run(config)
    replace_image(config)
    with pytest.raises(UserError, match=r"checkpoint.* or its images have changed since\): .*--fresh"):
        run(config)


def test_a_record_is_not_verified(config):
    _, place = run(config)
    words = ["verify", place, "--plugin", *config.plugins]
    assert "the images are needed" in _outcome(invoke(*words), 0)
    words += ["--data-dir", config.data_dir]
    assert "decoded 16 of 16 sampled images again, equal" in _outcome(invoke(*words), 0)
    replace_image(config, 0)  # the first is always in the sample
    assert "other pixels than those of 1 image in" in _outcome(invoke(*words), 2)


def _interrupt(*_):
    raise KeyboardInterrupt


def _outcome(answer, exit_code):
    assert answer.exit_code == exit_code, answer.output
    return " ".join(answer.output.replace("│", " ").split())
