"""Whole runs, small but real: from an order to a record, a figure and a leaderboard."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from sklearn.metrics import roc_auc_score
from torch import nn

from chxbench import METHODS, Output, PartCheck, Selection, Stage, UserError
from chxbench.benchmark.cli import main
from chxbench.benchmark.commands.run import train_and_score as module
from chxbench.benchmark.commands.run.run import _check_names, run
from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.engine import checkpoint
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.engine.stages import _every_image
from chxbench.benchmark.engine.weights import weights_sha256
from chxbench.benchmark.leaderboard.leaderboard import unreadable_record
from chxbench.benchmark.records.figures.style import drawn_from
from chxbench.methods.bsl import Baseline


@pytest.fixture(scope="module")
def done(config_in, tmp_path_factory, coarse_figures):
    """A finished run of ma with its figures as a user gets them, and where it was published."""
    config = config_in(tmp_path_factory.mktemp("done"), method="ma")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", coarse_figures)
        return config, *run(config)


def test_ma_runs_both_stages_to_a_record(done):
    config, record, place = done
    index = build_experiment(config).index
    first, second = record.stages
    assert place == config.results / "phantom" / "ma" / record.run_id
    assert first.examples == len(index.rows("train"))
    assert first.hard_positives is None
    assert second.examples == first.examples + second.hard_positives["images"] > first.examples
    assert (second.start, second.epochs, len(second.validation_auc)) == ("initial", 2, 2)
    assert list(record.auc) == list(FINDINGS)
    assert record.recipe.changed["train.epochs"] == 2
    assert record.method.changed == {"backbone": "test_resnet"}


def test_every_number_follows_from_the_scores_by_scikit_learn(done):
    _, record, place = done
    table = pd.read_parquet(place / "scores.parquet")
    test = table[table["split"] == "test"]
    assert set(table["split"]) == {"val", "test"}
    for finding, auc in record.auc.items():
        assert auc.positives == test[f"label {finding}"].sum()
        assert auc.value == pytest.approx(roc_auc_score(test[f"label {finding}"], test[f"score {finding}"]), abs=1e-12)
        assert auc.low is None or auc.low <= auc.value <= auc.high
    values = {finding: auc.value for finding, auc in record.auc.items()}
    assert record.mean_auc.value == pytest.approx(np.mean(list(values.values())))
    del values["Hernia"]
    assert record.mean_auc_without_rare.value == pytest.approx(np.mean(list(values.values())))
    assert (record.mean_auc.findings, record.mean_auc_without_rare.findings) == (14, 13)


def test_the_scored_images_are_the_split(done):
    config, record, place = done
    index = build_experiment(config).index
    table = pd.read_parquet(place / "scores.parquet")
    for split in ("val", "test"):
        rows = index.images.iloc[index.rows(split)]
        part = table[table["split"] == split]
        assert part["image_id"].tolist() == rows["image_id"].tolist()
        np.testing.assert_array_equal(part[[f"label {f}" for f in FINDINGS]], rows[list(FINDINGS)])
        assert record.dataset.counts[split].images == len(rows)


def test_the_run_leaves_a_figure_of_its_scores_and_a_leaderboard_with_its_row(done):
    config, record, place = done
    assert drawn_from(place / "roc.png") == record.scores.sha256
    board = (config.results.parent / "leaderboard.md").read_text()
    assert f"| {record.mean_auc.value:.3f} " in board
    assert "MA (FAM + SAM + HEM)" in board


def test_the_same_order_finds_the_finished_run_and_fresh_trains_anew(done, monkeypatch):
    config, record, _ = done
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_stages", lambda *_: pytest.fail("trained again"))
        assert run(config)[0] == record
    again, _ = run(replace(config, fresh=True))
    assert again.run_id == record.run_id
    assert again.created >= record.created
    assert again.auc == record.auc


def test_a_run_interrupted_in_its_second_stage_ends_with_the_same_scores(done, small_config, tmp_path, monkeypatch):
    _, whole, _ = done
    config = small_config(method="ma", results=tmp_path / "elsewhere" / "results")

    saves, save = [], checkpoint.save_checkpoint

    def die_in_the_second(path, state):
        save(path, state)
        saves.append(path.parent.name)
        if saves == ["stage1", "stage1", "stage2"]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_checkpoint", die_in_the_second)
        run(config)
    assert not config.results.exists()
    # Scoring again might choose other examples (on a GPU, say): the stage goes on with those it began with.
    monkeypatch.setattr(
        type(build_experiment(config).method), "add_hard_positives", lambda *_: pytest.fail("selected again")
    )
    record, _ = run(config)
    assert record.auc == whole.auc
    assert record.weights == whole.weights


def test_the_recorded_command_asks_for_the_same_run(done):
    import shlex

    from click.testing import CliRunner

    from chxbench.benchmark.cli import main

    config, record, _ = done
    words = shlex.split(record.command)[1:]
    again = CliRunner().invoke(main, [*words, "--results", str(config.results), "--cache", str(config.cache)])
    assert again.exit_code == 0, again.output
    assert "this run is already complete" in again.output
    assert record.run_id in again.output
    assert "Without Hernia" in again.output
    assert f"{record.localization.mean.method.pointing_game:.3f}" in again.output.split("Pointing game")[1]


def test_run_ids_tell_different_orders_apart(small_config):
    base = build_experiment(small_config()).run_id
    assert build_experiment(small_config()).run_id == base
    for change in ({"seed": 1}, {"method": "sam"}, {"settings": {"train.lr": 0.5}}, {"options": {"pool": "lse"}}):
        assert build_experiment(small_config(**change)).run_id != base


def test_two_processes_do_not_work_on_one_run(small_config):
    config = small_config()
    work = build_experiment(config).work
    work.parent.mkdir(parents=True)
    with (
        FileLock(work.with_name(f"{work.name}.lock")),
        pytest.raises(UserError, match="another process is working on this run"),
    ):
        run(config)


def test_weights_that_were_scored_are_kept(done):
    from safetensors.torch import load_file

    from chxbench.benchmark.data.pixel_cache import prepare_pixels as prepare
    from chxbench.benchmark.engine.device import Device
    from chxbench.benchmark.engine.inference import Predictor

    config, record, place = done
    experiment = build_experiment(config)
    weights = load_file(experiment.work / "weights.safetensors")
    assert weights_sha256(weights) == record.weights.final_sha256
    network = experiment.method.build(FINDINGS, "none")
    network.load_state_dict(weights)
    pixels, _ = prepare(experiment.dataset, experiment.index, experiment.recipe.pixels.size, config.cache)
    device = Device(experiment.recipe.compute.precision)
    predictor = Predictor(device, device.place(network), pixels, experiment.recipe)
    scores = predictor.scores(experiment.index.rows("val"), "again")
    table = pd.read_parquet(place / "scores.parquet")
    recorded = table.loc[table["split"] == "val", [f"score {finding}" for finding in FINDINGS]]
    np.testing.assert_allclose(scores, recorded, atol=0.05)  # batches of another length round bfloat16 otherwise


@pytest.mark.parametrize(
    ("select", "message"),
    [
        pytest.param(lambda *_: np.arange(3), "must select a Selection", id="bare rows"),
        pytest.param(lambda *_: Selection(np.array([10**6])), "from 0 to", id="rows that are not there"),
        pytest.param(lambda *_: Selection(np.array([], int)), "from 0 to", id="no rows"),
    ],
)
def test_a_stage_that_selects_nonsense_is_named(small_config, monkeypatch, select, message):
    config = small_config(method="ma", settings={"train.epochs": 1})
    stages = (Stage("first"), Stage("second", select))
    monkeypatch.setattr(type(build_experiment(config).method), "stages", lambda self: stages)
    with pytest.raises(UserError, match=message):
        run(config)
    assert not config.results.exists()


def test_a_first_stage_cannot_select(small_config, monkeypatch):
    config = small_config(method="ma")
    stages = (Stage("first", lambda *_: Selection(np.arange(3))),)
    monkeypatch.setattr(type(build_experiment(config).method), "stages", lambda self: stages)
    with pytest.raises(UserError, match="no stage is trained before it"):
        run(config)


def in_evaluation(change):
    """A forward pass that does as it should in training, and something else afterwards."""

    def forward(self, images):
        logits = images.mean((2, 3)).repeat(1, 5)[:, :14] * next(self.parameters()).flatten()[0]
        return Output(logits if self.training else change(logits))

    return forward


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        pytest.param(lambda self, images: images.mean((1, 2, 3)), "not Tensor", id="a tensor"),
        pytest.param(
            lambda self, images: Output(images.mean((2, 3))), r"logits \(16, 3\) for labels \(16, 14\)", id="findings"
        ),
        pytest.param(lambda self, images: Output(images.mean()), r"not \(\)", id="no batch"),
        pytest.param(
            in_evaluation(lambda logits: logits * np.nan), "49 of 49 images have scores that are not", id="nan"
        ),
        pytest.param(in_evaluation(lambda logits: logits[:, :3]), "returns 3 findings, not 14", id="fewer"),
    ],
)
def test_a_network_that_breaks_the_contract_is_told_with_the_place_of_its_method(
    small_config, monkeypatch, forward, message
):
    from chxbench.methods.blocks import MapClassifier

    monkeypatch.setattr(MapClassifier, "forward", forward)
    with pytest.raises(UserError, match=rf"^method bsl \(.*bsl\.py:\d+\) breaks its contract: .*{message}"):
        run(small_config(method="bsl", options={"backbone": "test_resnet"}))


@pytest.mark.parametrize(
    ("name", "returned", "message"),
    [
        pytest.param(
            "loss", lambda self, output, targets, weights: output.logits, r"scalar tensor, not \(16,", id="loss"
        ),
        pytest.param("label_weights", lambda self, targets: targets[0], r"tensor \(16, 14\)", id="label weights"),
        pytest.param("heat", lambda self, maps: maps[0], r"tensor \(B, C, h, w\)", id="heat"),
    ],
)
def test_a_method_that_returns_other_shapes_is_told(small_config, monkeypatch, name, returned, message):
    config = small_config(method="bsl", options={"backbone": "test_resnet"}, settings={"train.epochs": 1})
    monkeypatch.setattr(type(build_experiment(config).method), name, returned)
    with pytest.raises(UserError, match=rf"bsl\.py:\d+.*{name}\(\) must return a {message}"):
        run(config)


def test_too_little_memory_says_what_takes_half_of_it(small_config, monkeypatch):
    config = small_config(method="bsl", options={"backbone": "test_resnet"})

    def greedy(self, output, targets, weights):
        return torch.empty(2**60).sum()

    monkeypatch.setattr(type(build_experiment(config).method), "loss", greedy)
    with pytest.raises(UserError, match=r"a training step of 16 images at a time: try --set train\.micro_batch=8"):
        run(config)


def test_a_run_that_is_refused_leaves_nothing_in_runs(small_config):
    config = small_config(method="bsl", options={"backbone": "no_such_network"})
    with pytest.raises(UserError, match="no_such_network"):
        run(config)
    assert not build_experiment(config).work.parent.exists()


def test_the_lock_of_a_process_that_was_killed_is_taken_over(small_config):
    config = small_config(method="bsl", options={"backbone": "no_such_network"})
    work = build_experiment(config).work
    work.parent.mkdir(parents=True)
    hold = "import sys, time, filelock\nwith filelock.FileLock(sys.argv[1]): print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", hold, str(work.with_name(f"{work.name}.lock"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(UserError, match="another process is working on this run"):
            run(config)
        holder.kill()
        holder.wait()
        with pytest.raises(UserError, match="no_such_network"):  # it has the run now, and comes so far
            run(config)


def test_a_plugins_source_is_part_of_the_run(small_config, tmp_path):
    text = (
        "from dataclasses import dataclass\nfrom chxbench import METHODS\nfrom chxbench.methods.bsl import Baseline\n"
        "@METHODS.register('own')\n@dataclass(frozen=True)\nclass Own(Baseline): ...\n"
    )
    ids, entries = [], dict(METHODS._entries)
    for name, more in (("one", ""), ("two", "# another idea\n")):
        path = tmp_path / f"{name}.py"
        path.write_text(text + more)
        experiment = build_experiment(small_config(method="own", plugins=(path,)))
        assert not experiment.entry.built_in
        ids.append(experiment.run_id)
        METHODS._entries = dict(entries)
    assert ids[0] != ids[1]


def test_the_second_stage_never_touches_validation_or_test_and_its_order_is_seeded(small_config, tmp_path, monkeypatch):
    from chxbench.benchmark.engine import epoch

    asked = []

    def note(rows, setting, *key):
        asked.append((key, rows.copy()))
        return shifted(rows, setting, *key)

    def stop(*_):
        raise KeyboardInterrupt

    shifted = epoch.shifted_crops
    monkeypatch.setattr(epoch, "shifted_crops", note)
    monkeypatch.setattr(module, "score", stop)  # both stages are trained by then
    configs = []
    for seed, where in ((0, "a"), (0, "b"), (1, "c")):
        config = small_config(
            method="ma", seed=seed, results=tmp_path / where / "results", settings={"train.epochs": 1}
        )
        with pytest.raises(KeyboardInterrupt):
            run(config)
        experiment, ((_, first), (key, second)) = build_experiment(config), asked
        train_rows = set(experiment.index.rows("train"))
        assert set(first) == set(second) == train_rows
        assert key[:2] == (seed, 1)
        row, times = np.unique(second, return_counts=True)
        assert times.max() == 2
        assert (experiment.index.targets()[row[times == 2]] == 1).any(axis=1).all()  # B is made of positives
        configs.append(second.tolist())
        asked.clear()
    assert configs[0] == configs[1] != configs[2]


def test_a_test_set_with_boxes_is_localised(done):
    config, record, place = done
    index = build_experiment(config).index
    found, test = record.localization, set(index.images["image_id"].iloc[index.rows("test")])
    boxes = index.boxes[index.boxes["image_id"].isin(test)]
    assert found.heatmap == "the method's maps"
    assert found.mean.boxes == len(boxes)
    assert found.images == boxes["image_id"].nunique()
    for finding, hits in found.findings.items():
        assert hits.boxes == (boxes["finding"] == finding).sum()
    assert drawn_from(place / "heatmaps.png") == found.sha256


def test_without_boxes_or_maps_a_run_says_that_nothing_is_localised(small_config, tmp_path, monkeypatch, capsys):
    from chxbench.datasets.phantom import Phantom

    index = Phantom.index
    monkeypatch.setattr(
        Phantom, "index", lambda self, folder: replace(index(self, folder), boxes=index(self, folder).boxes[:0])
    )
    config = small_config(method="bsl", settings={"train.epochs": 1})
    record, place = run(config)
    assert record.localization is None
    assert "the test split has no boxes" in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir()) == ["roc.png", "run.json", "scores.parquet"]


def test_a_method_without_maps_or_places_is_scored_all_the_same(small_config, monkeypatch, capsys):
    from chxbench.methods.bsl import Baseline

    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.classify = nn.Linear(3 * 32 * 32, 14)

        def forward(self, images):
            return Output(self.classify(images.flatten(1)))

    monkeypatch.setattr(Baseline, "build", lambda *_: Blind())
    record, _ = run(small_config(method="bsl", settings={"train.epochs": 1}))
    assert record.localization is None
    assert "localization will not be scored: no layer of the network is a map of the image" in capsys.readouterr().err


def test_heatmaps_that_are_not_numbers_are_refused_before_anything_is_published(small_config, monkeypatch):
    from chxbench.methods.bsl import Baseline

    monkeypatch.setattr(Baseline, "heat", lambda self, maps: maps * np.nan)
    config = small_config(method="bsl", settings={"train.epochs": 1})
    with pytest.raises(UserError, match="heatmaps are not finite"):
        run(config)
    assert not config.results.exists()
    assert not (build_experiment(config).work / "run.json").exists()


def test_a_loaded_file_is_told_in_the_record(small_config, tmp_path, capsys):
    from safetensors.torch import save_file

    from chxbench.methods.backbones import build_backbone

    save_file(build_backbone("resnet18", "none").state_dict(), tmp_path / "plain.safetensors")
    settings = {"train.epochs": 1, "model.weights": str(tmp_path / "plain.safetensors")}
    record, _ = run(small_config(method="fam", settings=settings, options={"backbone": "resnet18"}))
    assert (record.weights.init, record.weights.source) == ("plain.safetensors", "plain.safetensors")
    assert len(record.weights.not_loaded) == 8 * 4 + 2
    assert "34 tensors not loaded" in capsys.readouterr().err


def test_a_file_where_the_records_should_lie_is_refused_at_once(small_config, tmp_path):
    (tmp_path / "results").write_text("a file")
    config = small_config(method="bsl")
    with pytest.raises(UserError, match="is a file: choose a folder for the records"):
        run(config)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_none_of_the_runs_files_stays(small_config):
    work = build_experiment(small_config(method="bsl")).work
    for name in (".ipynb_checkpoints", "heatmaps.old", "stage1/notes.d"):
        (work / name).mkdir(parents=True)
    _check_names(work)


@pytest.mark.parametrize("name", ["stage1/checkpoint.pt", "weights.safetensors", "../publish.lock"])
def test_a_folder_in_place_of_a_file_is_refused_before_training(small_config, capsys, name):
    config = small_config(method="bsl")
    path = build_experiment(config).work / name
    path.mkdir(parents=True)
    with pytest.raises(UserError, match=f"{path.name} is a folder, but .* writes a file of that name: remove it"):
        run(config)
    assert path.is_dir() and "stage 1" not in capsys.readouterr().err


class Forgetful(nn.Module):
    """What it learned after some steps is an attribute, which no state_dict has."""

    def __init__(self):
        super().__init__()
        self.classify, self.steps = nn.Linear(3, 14), 0

    def forward(self, images):
        features = torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3)), images.std((1, 2, 3))], 1)
        self.steps += self.training
        return Output(self.classify(features) * (-1 if self.steps > 6 else 1))


def test_what_is_published_is_of_the_saved_weights_and_a_difference_is_told(small_config, monkeypatch, capsys):
    monkeypatch.setattr(Baseline, "build", lambda self, findings, weights: Forgetful())
    record, _ = run(small_config(method="bsl", settings={"compute.precision": "float32"}))
    trained = record.stages[-1].validation_auc[-1]
    assert (
        told := re.search(
            r"has a validation AUC of (0\.\d+), and the trained one had (0\.\d+)", capsys.readouterr().err
        )
    )
    assert float(told[2]) == pytest.approx(trained, abs=5e-4)
    assert float(told[1]) == pytest.approx(1 - trained, abs=5e-4)  # the opposite sign


def test_a_network_that_outgrows_its_saved_weights_is_told(small_config, monkeypatch):
    class Growing(Forgetful):
        def forward(self, images):
            if self.steps == 6 and self.training:
                self.register_buffer("late", torch.zeros(1))
            return super().forward(images)

    monkeypatch.setattr(Baseline, "build", lambda self, findings, weights: Growing())
    with pytest.raises(UserError, match="fails to load its trained weights into a new network: RuntimeError"):
        run(small_config(method="bsl"))


def test_a_paper_that_the_table_does_not_have_is_told_before_training(small_config, monkeypatch):
    monkeypatch.setattr(Baseline, "reported", "blsl")
    with pytest.raises(UserError, match=r"method bsl \(.*bsl\.py:\d+\) has reported = 'blsl': did you mean bsl\?"):
        run(small_config(method="bsl"))


def test_any_record_that_stays_is_told_and_that_which_the_run_replaces_is_not(small_config):
    experiment = build_experiment(small_config(method="bsl"))
    workspace = experiment.workspace
    place = workspace.record_folder("phantom", "bsl", experiment.run_id)
    for path in (place / "run.json", workspace.results / "speed" / "cpu" / "bsl-0123456789.json"):
        assert unreadable_record(workspace, place) is None
        path.parent.mkdir(parents=True)
        path.write_text("{")
    assert "bsl-0123456789.json is not readable JSON" in unreadable_record(workspace, place)


@pytest.mark.parametrize(
    ("make", "told"),
    [(Path.touch, "--option backbone names a file by its full path"), (Path.mkdir, "--option backbone names a folder")],
)
def test_an_option_that_names_a_folder_or_a_private_path_is_mentioned(small_config, tmp_path, capsys, make, told):
    make(tmp_path / "named")
    build_experiment(small_config(method="bsl", options={"backbone": str(tmp_path / "named")}))
    assert told in capsys.readouterr().err


def test_a_damaged_record_elsewhere_is_told_before_training_and_takes_nothing(small_config, capsys):
    config = small_config(method="bsl", settings={"train.epochs": 1})
    other = config.results / "phantom" / "sam" / "quick-seed0-0123456789" / "run.json"
    other.parent.mkdir(parents=True)
    other.write_text("{")
    published = []
    run(config, lambda record, place: published.append(place))
    told, _, after = capsys.readouterr().err.partition("stage 1")
    assert "the run will be published without a leaderboard" in told
    assert "quick-seed0-0123456789/run.json is not readable JSON" in told
    assert "leaderboard.md is not regenerated" in after
    assert (published[0] / "scores.parquet").is_file()


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20, 1.0, True, "1", None])
def test_a_seed_that_no_library_takes_is_refused(small_config, seed):
    with pytest.raises(UserError, match="is invalid: use an integer from 0 to 4294967295"):
        run(small_config(seed=seed))


def test_several_seeds_are_trained_one_after_the_other_and_not_again(small_config):
    config = small_config(method="bsl")
    words = ["run", "--method", "bsl", "--results", str(config.results), "--cache", str(config.cache), "--seeds", "0,2"]
    for key, value in {**config.settings, "train.epochs": 1}.items():
        words += ["--set", f"{key}={value}"]
    first, again = (CliRunner().invoke(main, words) for _ in range(2))
    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    assert "seed 0, run 1 of 2" in first.output and "seed 2, run 2 of 2" in first.output
    assert again.output.count("this run is already complete") == 2
    seeds = [json.loads(path.read_text())["seed"] for path in config.results.glob("*/*/*/run.json")]
    assert sorted(seeds) == [0, 2]
    page = (config.results.parent / "leaderboard.md").read_text()
    assert "of 1 pair of runs that differ only in their seed" not in page  # no method to compare with


@pytest.mark.parametrize("seeds", ["", "3-1", "1,1", "0-", "x", "0-100", "-1", "1.5", "0 - 4"])
def test_seeds_that_are_no_range_and_no_list_are_refused(seeds):
    ran = CliRunner().invoke(main, ["run", "--method", "bsl", f"--seeds={seeds}"])
    assert ran.exit_code == 2 and "is neither a range (0-4) nor a list (0,2,5)" in ran.output


def test_one_seed_and_several_exclude_each_other():
    ran = CliRunner().invoke(main, ["run", "--method", "bsl", "--seed", "0", "--seeds", "0-4"])
    assert ran.exit_code == 2 and "--seed and --seeds exclude each other" in ran.output


def test_a_check_of_parts_that_fails_after_training_does_not_take_the_scores(small_config, monkeypatch, capsys):
    def fail_on_trained(self, network, images):
        if images.shape[0] > 2:  # the rehearsal has two
            raise ZeroDivisionError
        return [PartCheck("part", 1.0, 0.0)]

    monkeypatch.setattr(Baseline, "check_parts", fail_on_trained)
    record, _ = run(small_config(method="bsl", settings={"train.epochs": 1}))
    assert record.part_checks == [] and record.mean_auc.value is not None
    assert "the record will have no checks of the method's parts: method bsl (" in capsys.readouterr().err


def test_a_method_with_one_stage_trains_on_as_many_images_as_it_is_told(small_config):
    config = small_config(method="bsl", settings={"train.epochs": 2})
    plain, _ = run(config)
    images = plain.stages[0].examples
    longer, _ = run(replace(config, settings={**config.settings, "train.images": images + 30}))
    assert longer.stages[0].examples == images + 30 and longer.run_id != plain.run_id
    page = (config.results.parent / "leaderboard.md").read_text()
    assert page.count("Ranked by mean test AUC") == 1  # one board, two rows, with what each saw
    assert f"train.images={images + 30}`) " in page and f"{2 * (images + 30):,}" in page
    with pytest.raises(UserError, match=f"each epoch has all {images} training images: use {images} or more"):
        run(replace(config, settings={**config.settings, "train.images": images - 1}))
    with pytest.raises(UserError, match="method ma sets the images of its 2 stages: omit it"):
        run(replace(config, method="ma", settings={**config.settings, "train.images": images}))


def test_every_image_is_there_before_any_is_repeated():
    for images, most in ((7, 1), (10, 2), (20, 3)):
        rows = _every_image(7, images, seed=0).rows
        assert rows[:7].tolist() == list(range(7)) and len(rows) == images
        counts = np.bincount(rows)
        assert counts.max() == most and counts.max() - counts.min() <= 1
    assert _every_image(7, 0, seed=0).rows.tolist() == list(range(7))
    assert _every_image(7, 10, seed=0).rows.tolist() != _every_image(7, 10, seed=1).rows.tolist()
