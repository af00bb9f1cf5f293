"""Inference on images with a trained run: the run's own scores, files of every kind, failures that are reported."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from chxbench import UserError
from chxbench.benchmark.cli import main
from chxbench.benchmark.commands.predict.annotations import Annotations
from chxbench.benchmark.commands.predict.output import leading_findings
from chxbench.benchmark.commands.predict.predict import PredictConfig, predict_images
from chxbench.benchmark.commands.run.run import run
from chxbench.benchmark.commands.trained_run import load_trained_run
from chxbench.benchmark.dataset import FINDINGS, DataError
from chxbench.benchmark.engine.experiment import build_experiment
from chxbench.benchmark.utils.image_io import read_image


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
    assert list(content["probabilities"]) == list(FINDINGS)
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

    def broken(*_):
        raise DataError("broken")

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


def test_dicom_is_read_by_its_window_and_photometric_interpretation(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    gray = np.arange(50, 178, dtype=np.uint8).reshape(8, 16)
    path = tmp_path / "one.dcm"
    for inverted in (False, True):
        write_dicom(pydicom, path, gray, inverted)
        np.testing.assert_array_equal(read_image(path), gray)  # the window keeps black and white where they are
    write_dicom(pydicom, path, gray, window=(1600, 800))  # 1200..2000 of 12 bits
    np.testing.assert_array_equal(read_image(path), np.round(255 * ((gray * 16.0 - 1200) / 800).clip(0, 1)))
    write_dicom(pydicom, path, gray, window=None)  # no window: from the lowest to the highest
    assert (read_image(path).min(), read_image(path).max()) == (0, 255)


@pytest.mark.parametrize("kind", ["PALETTE COLOR", "nonsense"])
def test_dicom_that_is_not_a_radiograph_is_refused(tmp_path, kind):
    pydicom = pytest.importorskip("pydicom")
    if kind == "nonsense":
        (tmp_path / "two.dcm").write_bytes(b"x")
    else:
        write_dicom(pydicom, tmp_path / "two.dcm", np.zeros((8, 8), np.uint8), kind=kind)
    with pytest.raises(DataError, match=r"two\.dcm"):
        read_image(tmp_path / "two.dcm")


def test_a_png_of_16_bits_is_refused_instead_of_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 30_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png cannot be read .*more than 8 bits"):
        read_image(tmp_path / "deep.png")


def test_leading_findings_are_the_likeliest_and_the_labels_that_were_missed():
    probabilities = {"Mass": 0.9, "Nodule": 0.8, "Edema": 0.2, "Hernia": 0.1}
    annotations = Annotations("test", {"Mass": 0, "Nodule": None, "Edema": 0, "Hernia": 1}, {})
    assert leading_findings(probabilities, None, 2) == ["Mass", "Nodule"]
    assert leading_findings(probabilities, annotations, 2) == ["Mass", "Nodule", "Hernia"]
    assert leading_findings(probabilities, annotations, 9) == list(probabilities)
