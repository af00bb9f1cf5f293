"""Inference on images with a trained run: the run's own scores, files of every kind, failures that are reported."""

import csv
import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from own_dataset import own_config, own_dataset
from PIL import Image
from safetensors.torch import load_file, save_file

from chxbench import DATASETS, UserError
from chxbench.benchmark.cli import main
from chxbench.benchmark.commands.predict.annotations import AnnotationIndex, Annotations
from chxbench.benchmark.commands.predict.images import find_sources
from chxbench.benchmark.commands.predict.output import leading_findings
from chxbench.benchmark.commands.predict.predict import PredictConfig, predict_images
from chxbench.benchmark.commands.predict.report import report_predictions
from chxbench.benchmark.commands.run.report import report_run
from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.commands.trained_run import load_trained_run
from chxbench.benchmark.dataset import FINDINGS, DataError
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.utils.image_io import read_image
from chxbench.benchmark.utils.text import shell_word
from chxbench.benchmark.utils.workspace import Workspace


@pytest.fixture(scope="module")
def done(config_in, tmp_path_factory):
    """A completed run of sam: its experiment, its record, its published folder."""
    config = config_in(tmp_path_factory.mktemp("done"), method="sam", settings={"compute.precision": "float32"})
    record, place = run(config)
    return build_experiment(config), record, place


@pytest.fixture(scope="module")
def folder(done, tmp_path_factory):
    """Four test images as files: two PNG, one JPEG, one DICOM; and a file that is not an image."""
    pydicom = pytest.importorskip("pydicom")
    experiment, *_ = done
    place = tmp_path_factory.mktemp("images")
    names = experiment.index.images["image_id"].iloc[experiment.index.rows("test")[:4]].tolist()
    grays = [experiment.dataset.read(name, None) for name in names]
    for name, gray in zip(names[:2], grays[:2], strict=True):
        Image.fromarray(gray).save(place / name)
    Image.fromarray(grays[2]).save(place / "third.jpg", quality=98)
    write_dicom(pydicom, place / "fourth.dcm", grays[3])
    (place / "notes.txt").write_text("no image")
    return place, names


def write_dicom(pydicom, path, gray, inverted=False, window=(2040, 4080), kind="MONOCHROME"):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = gray.shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 16, 12, 11
    data.PixelRepresentation = 0
    data.PhotometricInterpretation = (kind + "12"[not inverted]) if kind == "MONOCHROME" else kind
    if window:
        data.WindowCenter, data.WindowWidth = window
    values = gray.astype(np.uint16) * 16
    data.PixelData = ((4080 - values) if inverted else values).astype(np.uint16).tobytes()
    data.save_as(path, enforce_file_format=True)


def rows_of(out):
    with (out / "predictions.csv").open(newline="") as file:
        return {row["image"]: {finding: float(row[finding]) for finding in FINDINGS} for row in csv.DictReader(file)}


def recorded(place):
    table = pd.read_parquet(place / "scores.parquet").set_index("image_id")
    return 1 / (1 + np.exp(-table[[f"score {finding}" for finding in FINDINGS]]))


def test_a_folder_gives_the_runs_own_scores_as_table_json_and_pictures(done, folder, tmp_path):
    experiment, record, place = done
    images, names = folder
    predict_images(PredictConfig([str(images)], experiment.work, tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    assert set(rows) == {*names[:2], "third.jpg", "fourth.dcm"}
    wanted = recorded(place)
    for name, source, close in [
        (names[0], names[0], 1e-5),
        (names[1], names[1], 1e-5),
        ("third.jpg", names[2], 0.002),
        ("fourth.dcm", names[3], 1e-5),
    ]:
        np.testing.assert_allclose(list(rows[name].values()), wanted.loc[source], atol=close)
        for other in set(names) - {source}:
            assert np.abs(np.array(list(rows[name].values())) - wanted.loc[other]).max() > 2 * close
    stems = sorted(path.name.removesuffix(".heatmaps.png") for path in (tmp_path / "out").glob("*.png"))
    assert stems == sorted(path.stem for path in (tmp_path / "out").glob("*.json"))
    assert len(stems) == 4
    content = json.loads((tmp_path / "out" / f"{names[0][:-4]}.json").read_text())
    assert content["run"] == record.run_id
    assert list(content["probabilities"]) == list(content["prevalence"]) == list(FINDINGS)
    assert content["trained_on"]["dataset"] == "phantom"
    assert "synthetic" in content["trained_on"]["caveat"]
    truth = experiment.index.images.set_index("image_id").loc[names[0], list(FINDINGS)]
    assert content["annotations"]["split"] == "test"
    assert content["annotations"]["labels"] == {finding: int(value) for finding, value in truth.items()}
    assert set(content["annotations"]["boxes"]) == {finding for finding, value in truth.items() if value == 1}
    assert json.loads((tmp_path / "out" / "third.json").read_text())["annotations"] is None


def test_another_image_of_the_same_name_is_not_annotated(done, folder, tmp_path):
    """Phantom and ChestX-ray14 name their files alike."""
    experiment, *_ = done
    images, names = folder
    shutil.copy(images / names[1], tmp_path / names[0])
    predict_images(PredictConfig([str(tmp_path / names[0])], experiment.work, tmp_path / "out", pictures=False))
    assert json.loads((tmp_path / "out" / f"{names[0][:-4]}.json").read_text())["annotations"] is None


def test_published_records_find_their_weights_and_image_ids_need_no_file(done, folder, tmp_path):
    _, _, place = done
    _, names = folder
    first = predict_images(PredictConfig(names[:2], place, tmp_path / "out", pictures=False))
    assert [prediction.name for prediction in first] == names[:2]
    assert not list((tmp_path / "out").glob("*.png"))
    np.testing.assert_allclose(list(first[0].probabilities.values()), recorded(place).loc[names[0]], atol=1e-5)


def test_a_broken_copy_in_the_dataset_does_not_keep_the_users_file_from_being_predicted(
    done, folder, tmp_path, monkeypatch
):
    experiment, *_ = done
    images, names = folder

    read = type(experiment.dataset).read

    def broken(self, image_id, path):
        if path is None:
            raise DataError("broken")
        return read(self, image_id, path)

    monkeypatch.setattr(type(experiment.dataset), "read", broken)
    (prediction,) = predict_images(
        PredictConfig([str(images / names[0])], experiment.work, tmp_path / "out", pictures=False)
    )
    assert prediction.name == names[0]
    assert json.loads((tmp_path / "out" / f"{names[0][:-4]}.json").read_text())["annotations"] is None


def test_the_other_heatmap_of_the_same_weights(done, folder, tmp_path):
    experiment, *_ = done
    _, names = folder
    score, cam = (
        predict_images(
            PredictConfig(names[:1], experiment.work, tmp_path / kind, pictures=False, options={"heatmap": kind})
        )[0]
        for kind in ("score", "cam")
    )
    assert score.probabilities == cam.probabilities
    assert not np.allclose(score.heat, cam.heat)
    content = json.loads((tmp_path / "cam" / f"{names[0][:-4]}.json").read_text())
    assert content["method"]["options"]["heatmap"] == "cam"


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_predicted(done, folder, tmp_path):
    experiment, *_ = done
    images, names = folder
    (tmp_path / "broken.png").write_bytes(b"no image")
    shutil.copy(images / names[0], tmp_path / names[0])
    ran = CliRunner().invoke(
        main, ["predict", str(tmp_path), "--run", str(experiment.work), "--out", str(tmp_path / "out"), "--no-pictures"]
    )
    assert ran.exit_code == 2
    assert "1 of 2 images cannot be used: image " in ran.output
    assert "broken.png cannot be read" in ran.output
    assert set(rows_of(tmp_path / "out")) == {names[0]}


def test_a_dataset_that_reads_otherwise_now_is_told(done, monkeypatch, capsys):
    _, _, place = done
    entry = DATASETS.get("phantom")
    load_trained_run(place, {})
    assert "has changed" not in capsys.readouterr().err
    monkeypatch.setitem(DATASETS._entries, "phantom", entry._replace(source_sha256="0" * 64))
    load_trained_run(place, {})
    assert "dataset phantom, which reads the images, has changed since the run" in capsys.readouterr().err


def test_the_command_prints_the_probabilities(done, folder, tmp_path):
    experiment, *_ = done
    images, names = folder
    ran = CliRunner().invoke(
        main, ["predict", str(images / names[0]), "--run", str(experiment.work), "--out", str(tmp_path / "out")]
    )
    assert ran.exit_code == 0, ran.output
    probability = rows_of(tmp_path / "out")[names[0]]["Pleural_Thickening"]
    assert any("Pleural Thickening" in line and f"{probability:.3f}" in line for line in ran.output.splitlines())


def test_equal_names_in_two_folders_are_kept_apart(done, folder, tmp_path):
    experiment, *_ = done
    images, names = folder
    (tmp_path / "other").mkdir()
    shutil.copy(images / names[1], tmp_path / "other" / names[0])
    paths = [str(images / names[0]), str(tmp_path / "other")]
    predict_images(PredictConfig(paths, experiment.work, tmp_path / "out", pictures=False))
    stem = names[0][:-4]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == [f"{stem}-2.json", f"{stem}.json"]
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [paths[0], f"{paths[1]}/{names[0]}"]


def test_many_images_go_through_worker_processes_in_order(done, folder, tmp_path):
    experiment, *_ = done
    images, names = folder
    (tmp_path / "many").mkdir()
    for k in range(60):
        shutil.copy(images / names[k % 2], tmp_path / "many" / f"{k:02}.png")
    predict_images(PredictConfig([str(tmp_path / "many")], experiment.work, tmp_path / "out", pictures=False))
    rows = rows_of(tmp_path / "out")
    assert list(rows) == [f"{k:02}.png" for k in range(60)]
    for k in range(60):
        np.testing.assert_allclose(
            list(rows[f"{k:02}.png"].values()), list(rows[f"{k % 2:02}.png"].values()), atol=1e-5
        )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param("nowhere.png", "no image found: nowhere.png", id="no file"),
        pytest.param(".", "no image found", id="folder without images"),
    ],
)
def test_paths_without_images_are_reported_before_anything_is_written(done, tmp_path, monkeypatch, asked, message):
    experiment, *_ = done
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        predict_images(PredictConfig([asked], experiment.work, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_without_its_weights_or_with_others_is_refused(done, tmp_path):
    experiment, *_ = done
    with pytest.raises(UserError, match=r"has no run\.json: "):
        load_trained_run(tmp_path, {})
    shutil.copy(experiment.work / "run.json", tmp_path / "run.json")
    with pytest.raises(UserError, match="weights of this run are missing"):
        load_trained_run(tmp_path, {})
    weights = load_file(experiment.work / "weights.safetensors")
    save_file(
        {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()},
        tmp_path / "weights.safetensors",
    )
    with pytest.raises(UserError, match="do not match the record"):
        load_trained_run(tmp_path, {})
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        load_trained_run(tmp_path, {})


@pytest.mark.parametrize("options", [{"backbone": "resnet34"}, {"pool": "max"}])
def test_options_that_were_trained_are_not_changed_afterwards(done, options):
    experiment, *_ = done
    with pytest.raises(UserError, match="cannot be changed after training; changeable options: heatmap"):
        load_trained_run(experiment.work, options)
    with pytest.raises(UserError, match="did you mean heatmap"):
        load_trained_run(experiment.work, {"heatmapp": "cam"})


@pytest.mark.parametrize("kind", ["PALETTE COLOR", "nonsense"])
def test_dicom_that_is_not_a_radiograph_is_refused(tmp_path, kind):
    pydicom = pytest.importorskip("pydicom")
    if kind == "nonsense":
        (tmp_path / "two.dcm").write_bytes(b"x")
    else:
        write_dicom(pydicom, tmp_path / "two.dcm", np.zeros((8, 8), np.uint8), kind=kind)
    with pytest.raises(DataError, match=r"two\.dcm"):
        read_image(tmp_path / "two.dcm")


def test_leading_findings_are_the_likeliest_and_the_labels_that_were_missed():
    probabilities = {"Mass": 0.9, "Nodule": 0.8, "Edema": 0.2, "Hernia": 0.1}
    annotations = Annotations("test", {"Mass": 0, "Nodule": None, "Edema": 0, "Hernia": 1}, {})
    assert leading_findings(probabilities, None, 2) == ["Mass", "Nodule"]
    assert leading_findings(probabilities, annotations, 2) == ["Mass", "Nodule", "Hernia"]
    assert leading_findings(probabilities, annotations, 9) == list(probabilities)


# --- one way of preparing an image ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(config_in, tmp_path_factory):
    """A completed run on a dataset whose pixels depend on an option; its configuration, record and folders."""
    folder = tmp_path_factory.mktemp("own hospital's")
    with own_dataset(folder, "gamma plugin.py") as place:
        config = own_config(config_in(folder, method="bsl", **place), **{"dataset.gamma": 3})
        yield config, *run(config)


def test_a_file_is_prepared_as_the_runs_dataset_does(own, tmp_path):
    config, _, place = own
    (tmp_path / "broken.png").write_bytes(b"no image")
    shutil.copy(config.data_dir / "02.png", tmp_path / "three.png")
    shutil.copy(config.data_dir / "02.png", tmp_path / "02.png")
    with pytest.raises(
        UserError, match=r"2 of 3 images .*gamma plugin\.py:\d+\) fails to read image .* as uint8 \(4, 4, 3\)"
    ):
        predict_images(PredictConfig([str(tmp_path)], place, tmp_path / "out", pictures=False))
    (by_id,) = predict_images(
        PredictConfig(["02.png"], place, tmp_path / "id", pictures=False, data_dir=config.data_dir)
    )
    wanted = 1 / (
        1 + np.exp(-pd.read_parquet(place / "scores.parquet").set_index("image_id").loc["02.png", "score Mass"])
    )
    assert by_id.probabilities["Mass"] == pytest.approx(wanted, abs=1e-5)
    by_file = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert by_file["Mass"].tolist() == [pytest.approx(wanted, abs=1e-5)]


def test_the_command_that_a_run_prints_can_be_pasted(own, tmp_path, capsys):
    """In a new process: without the plugin, predict does not know how the images were read."""
    config, record, place = own
    report_run(record, place, Workspace(config.results))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("inference"))
    image = config.data_dir / "02.png"
    words = line.removeprefix("inference").strip().replace("chxbench", f"{sys.executable} -m chxbench")
    words = words.replace("IMAGE", f"{shell_word(image)} --no-pictures")
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(
        ["bash", "-c", words.partition("--plugin")[0]], capture_output=True, text=True, cwd=tmp_path
    )
    assert refused.returncode == 2
    assert "the run's dataset 'gamma_of_test' is a plugin" in refused.stderr and "--plugin FILE.py" in refused.stderr


# --- any name, and nothing left out without a word ------------------------------------------------------------------

NAMES = [
    b"r\xf6ntgen.png",
    b"r\xf7ntgen.png",
    b"new\nline.png",
    b"esc\x1b[2J.png",
    "rtl\u202e\u2028b.png".encode(),
    b"x" * 251 + b".png",
    ("\u00e9" * 125).encode() + b".png",
    b"-x.png",
    b"...png",
    b"q'uo\"te.png",
    b"$x_1$ a^b_c.png",
    b"[red]a[b].png",
    b":skull:.png",
    b"A.png",
    b"a.png",
    "\u00e9.png".encode(),
    "e\u0301.png".encode(),
    "\U0001f600\u80ba.png".encode(),
    b"a\\b.png",
    b"NA.png",
]


@pytest.fixture(scope="module")
def odd(folder, tmp_path_factory):
    """A folder of images with every kind of name, one that cannot be read, and entries that are no images."""
    images, names = folder
    place = tmp_path_factory.mktemp("odd")
    for name in NAMES:
        shutil.copy(images / names[0], Path(place, os.fsdecode(name)))
    Path(place, os.fsdecode(b"bad\xe4.png")).write_bytes(b"no")
    Path(place, os.fsdecode(b"fol\xe4der.png")).mkdir()
    Path(place, os.fsdecode(b"te\xe4xt.txt")).write_text("x")
    return place


@pytest.mark.parametrize(
    "changes",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "latin-1", "C"],
)
def test_any_name_survives_on_any_terminal(done, odd, tmp_path, changes):
    experiment, *_ = done
    words = [sys.executable, "-m", "chxbench", "predict", odd, "--run", experiment.work, "--out", tmp_path / "out"]
    ran = subprocess.run([*words, "--no-pictures"], capture_output=True, env={**os.environ, **changes})
    assert ran.returncode == 2 and b"Traceback" not in ran.stderr
    assert b"1 of 21 images cannot be used" in ran.stderr and b"bad\\xe4.png cannot be read" in ran.stderr
    assert b"subfolders: fol\\xe4der.png (1)" in ran.stderr
    assert b"files with other endings: te\\xe4xt.txt (1)" in ran.stderr
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str, keep_default_na=False)
    assert len(set(table["path"])) == len(NAMES) and {"NA.png", r"r\xf6ntgen.png"} <= set(table["image"])
    contents = [json.loads(path.read_text()) for path in (tmp_path / "out").iterdir() if path.suffix == ".json"]
    assert {content["path"].encode() for content in contents} == {path.encode() for path in table["path"]}


def test_pictures_are_drawn_for_any_name(done, odd, tmp_path):
    experiment, *_ = done
    paths = [str(odd / os.fsdecode(NAMES[k])) for k in (0, 2, 5, 10, 17)]
    first = predict_images(PredictConfig(paths, experiment.work, tmp_path / "out", leading=1))
    stems = {path.name.removesuffix(".heatmaps.png") for path in (tmp_path / "out").glob("*.heatmaps.png")}
    assert stems == {r"r_xf6ntgen", "new line", "x" * 180, "$x_1$ a^b_c", "\U0001f600\u80ba"}
    report_predictions(first, tmp_path / "out")


def test_stems_differ_also_where_case_does_not_matter(done, odd):
    experiment, *_ = done
    sources = find_sources([str(odd)], AnnotationIndex(experiment.dataset))
    stems = [source.stem for source in sources]
    assert len({unicodedata.normalize("NFC", stem).casefold() for stem in stems}) == len(stems)
    assert max(len(stem.encode()) for stem in stems) <= 180


def test_own_pictures_are_not_taken_for_radiographs(done, folder, tmp_path, monkeypatch, capsys):
    experiment, *_ = done
    images, names = folder
    shutil.copy(images / names[0], tmp_path / names[0])
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        predict_images(PredictConfig(["."], experiment.work, Path(), leading=1))
        assert set(rows_of(tmp_path)) == {names[0]}
    assert f"figures of an earlier prediction: {names[0][:-4]}.heatmaps.png (1)" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_listed_by_their_folder_and_reported(done, tmp_path):
    experiment, *_ = done
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "empty.dcm").touch()
    with pytest.raises(UserError, match=r"3 of 3 .*empty\.dcm .*link\.png .*leads nowhere.*pipe\.png .*not a file"):
        predict_images(PredictConfig([str(tmp_path / "in")], experiment.work, tmp_path / "out", pictures=False))


def test_a_name_that_no_file_can_have_is_not_found(done, tmp_path):
    experiment, *_ = done
    with pytest.raises(UserError, match="no image found: xx"):
        predict_images(PredictConfig(["x" * 300], experiment.work, tmp_path / "out"))
