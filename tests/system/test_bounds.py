"""Input from outside is measured before it is read, and cannot name paths outside its own folder."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nih_release import claimed_png
from record_factory import edit, heatmaps, publish, recheck, score_table

from chxbench.benchmark.commands.predict.annotations import AnnotationIndex
from chxbench.benchmark.commands.predict.images import find_sources
from chxbench.benchmark.dataset import DataError
from chxbench.benchmark.evaluation import artifacts
from chxbench.benchmark.records import record as records
from chxbench.benchmark.records.recompute import verify_record
from chxbench.benchmark.records.record import RecordError
from chxbench.benchmark.utils import image_io
from chxbench.benchmark.utils.errors import UserError
from chxbench.benchmark.utils.files import file_sha256
from chxbench.benchmark.utils.image_io import read_image
from chxbench.datasets.phantom import Phantom

# --- images -------------------------------------------------------------------------------------------------------


@pytest.fixture
def dicom(tmp_path):
    """Write a DICOM file of 4x6 pixels, with these elements changed, in this transfer syntax."""
    pydicom = pytest.importorskip("pydicom")

    def write(syntax=pydicom.uid.ExplicitVRLittleEndian, **changes):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = syntax
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"
        data = pydicom.Dataset()
        data.file_meta = meta
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
        data.PhotometricInterpretation, data.SamplesPerPixel, data.Rows, data.Columns = "MONOCHROME2", 1, 4, 6
        data.PixelData = bytes(range(24))
        for name, value in changes.items():
            setattr(data, name, value)
        data.save_as(tmp_path / "image.dcm", enforce_file_format=True)
        return tmp_path / "image.dcm"

    return write


def refusal(path) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_dicom_file_within_the_bounds_is_read(dicom):
    np.testing.assert_array_equal(read_image(dicom()), np.arange(24).reshape(4, 6))


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param({"Rows": 65_535, "Columns": 65_535}, id="sides"),
        pytest.param({"NumberOfFrames": "1000000000"}, id="frames"),
        pytest.param({"Rows": 8000, "Columns": 8000, "SamplesPerPixel": 3}, id="colours"),
    ],
)
def test_a_dicom_file_that_claims_too_many_pixels_is_refused_by_its_header(dicom, monkeypatch, claim):
    path = dicom(**claim)
    monkeypatch.setattr("pydicom.Dataset.pixel_array", property(lambda self: pytest.fail("pixels were read")))
    assert "it has more than 64 million pixels" in refusal(path)


def test_a_dicom_file_that_would_have_to_be_inflated_is_refused(dicom):
    assert "all of it is deflated" in refusal(dicom("1.2.840.10008.1.2.1.99"))


def test_a_dicom_file_beyond_the_bound_is_not_read(dicom, monkeypatch):
    monkeypatch.setattr(image_io, "MAX_DICOM_BYTES", 100)
    assert "it has more than 0 MiB" in refusal(dicom())


def test_a_window_that_is_no_number_is_refused(dicom):
    assert "its WindowCenter is not finite" in refusal(dicom(WindowCenter="9e999", WindowWidth="10"))


def test_a_png_that_claims_too_many_pixels_is_refused_by_its_header(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(claimed_png(50_000, 50_000))
    assert "it has more than 64 million pixels" in refusal(path)


def test_control_characters_of_a_name_get_into_no_name_that_is_written(tmp_path):
    path = tmp_path / "a\x1b[2J\u202eb.png"
    path.write_bytes(b"")
    (source,) = find_sources([str(path)], AnnotationIndex(Phantom()))
    assert source.stem == "a [2J b"


# --- records ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    table = score_table(1.0)
    results = tmp_path_factory.mktemp("complete") / "results"
    return publish(results, table, "quick-seed0-0", "One", maps=heatmaps(table, 1.0))[0]


@pytest.fixture
def made(complete, tmp_path):
    """The folder of a record with scores and heatmaps."""
    return Path(shutil.copytree(complete, tmp_path / "made"))


def change(folder, **parts):
    """Change keys of run.json (`dataset__name` is dataset.name), and its checksum, so that nothing else is wrong."""

    def apply(content):
        for path, value in parts.items():
            *above, last = path.split("__")
            place = content
            for key in above:
                place = place[key]
            place[last] = value
        recheck(content)

    edit(folder / "run.json", apply)


def message_of(folder) -> str:
    """Read and verify a record that is rejected; return the message."""
    with pytest.raises(UserError) as caught:
        verify_record(folder, records.read(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_the_record_is_fine_before_it_is_changed(made):
    change(made)
    assert verify_record(made, records.read(made)).maps is not None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"schema": ' + "9" * 5000 + "}", id="a number of 5000 digits"),
        pytest.param('{"schema": 2, "a": ' + '{"a":' * 500 + "1" + "}" * 501, id="deep in an object"),
        pytest.param("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), id="no JSON"),
        pytest.param('{"schema": "' + "x" * 9999 + '"}', id="long schema"),
    ],
)
def test_text_that_is_not_a_record_is_rejected_in_one_short_sentence(made, text):
    (made / "run.json").write_text(text)
    assert len(message_of(made)) < 500


def test_a_record_beyond_the_bound_is_not_read(made, monkeypatch):
    monkeypatch.setattr(records, "MAX_BYTES", 1000)
    assert "has more than 0 MiB" in message_of(made)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_id", "../../other"),
        ("run_id", ".."),
        ("run_id", "a/b"),
        ("run_id", "a\nb"),
        ("method__name", "../m"),
        ("method__name", "m\x1b[31m"),
        ("dataset__name", "/etc"),
        ("scores__file", "../scores.parquet"),
        ("localization__file", "/tmp/maps.npz"),
        ("recipe", {}),
        ("recipe__evaluate", 5),
        ("recipe__compute", {"precision": "float64"}),
        ("recipe__changed", None),
        ("auc", {}),
    ],
)
def test_a_record_that_names_another_place_or_half_a_recipe_is_refused(made, key, value):
    change(made, **{key: value})
    assert "is not a record: " in message_of(made) and key.split("__")[0] in message_of(made)


def rescored(folder, table):
    table.to_parquet(folder / "scores.parquet", index=False)
    change(folder, scores__sha256=file_sha256(folder / "scores.parquet"))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda t: t.assign(**{"score Mass": "high"}), id="text for a score"),
        pytest.param(lambda t: t.assign(**{"label Mass": [[1.0]] * len(t)}), id="lists for labels"),
        pytest.param(lambda t: t.assign(**{"label Mass": np.float32(2)}), id="label 2"),
        pytest.param(lambda t: t.assign(image_id=range(len(t))), id="numbers for images"),
        pytest.param(lambda t: t.assign(patient_id=None), id="no patients"),
        pytest.param(lambda t: t.assign(sex=[["F"]] * len(t)), id="lists for a sex"),
        pytest.param(lambda t: t.iloc[:0], id="no row"),
    ],
)
def test_scores_of_another_kind_are_refused(made, damage):
    rescored(made, damage(score_table(1.0)))
    assert "scores.parquet" in message_of(made)


@pytest.mark.parametrize("bound", ["MAX_CELLS", "MAX_BYTES"])
def test_scores_beyond_the_bound_are_not_read(made, monkeypatch, bound):
    monkeypatch.setattr(artifacts, bound, 100)
    monkeypatch.setattr(pd, "read_parquet", lambda *_: pytest.fail("it was read"))
    assert "scores.parquet cannot be read (it contains more than" in message_of(made)


@pytest.mark.parametrize("junk", [b"", b"PAR1", b"PAR1" + b"\xff" * 99 + b"PAR1", b"\0" * 999])
def test_scores_that_are_no_parquet_are_refused(made, junk):
    (made / "scores.parquet").write_bytes(junk)
    change(made, scores__sha256=file_sha256(made / "scores.parquet"))
    assert "scores.parquet cannot be read" in message_of(made)


def remapped(folder, **arrays):
    """Heatmaps with these arrays changed, under the hash that the record then names."""
    with np.load(folder / "maps.npz") as file:
        parts = {**dict(file), **arrays}
    with (folder / "maps.npz").open("wb") as file:
        np.savez(file, **parts)
    changed = artifacts.HeatmapSet(**{**parts, "kind": str(parts["kind"])})
    change(folder, localization__sha256=artifacts.heatmaps_sha256(changed))


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param({"image_id": np.array([["000"]])}, id="images in two dimensions"),
        pytest.param({"image_id": np.arange(40)}, id="numbers for images"),
        pytest.param({"patient_id": np.array(["0"])}, id="one patient"),
        pytest.param({"maps": np.zeros((40, 14), np.float16)}, id="numbers for maps"),
        pytest.param({"maps": np.zeros((40, 14, 0, 0), np.float16)}, id="maps without a place"),
        pytest.param({"boxes": np.full((40, 4), "a")}, id="text for boxes"),
        pytest.param({"box_image": np.zeros(40)}, id="fractions of images"),
    ],
)
def test_heatmaps_of_another_kind_are_refused(made, arrays):
    remapped(made, **arrays)
    assert "maps.npz" in message_of(made)


def test_heatmaps_beyond_the_bound_are_not_read(made, monkeypatch):
    monkeypatch.setattr(artifacts, "MAX_BYTES", 20_000)
    monkeypatch.setattr(artifacts, "load_scores", lambda path: pd.read_parquet(path))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
    assert "maps.npz cannot be read (it contains more than 0 MiB)" in message_of(made)


def test_an_array_that_claims_to_be_larger_than_it_is_is_not_allocated(made):
    with np.load(made / "maps.npz") as file:
        parts = dict(file)
    head = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 4), }".ljust(117)
        + b"\n"
    )
    with zipfile.ZipFile(made / "maps.npz", "w") as file:
        for name, part in parts.items():
            with file.open(f"{name}.npy", "w") as member:
                member.write(head) if name == "boxes" else np.lib.format.write_array(member, part)
    assert (
        "maps.npz cannot be read (the header of boxes.npy states a larger size than the file contains)"
        in message_of(made)
    )


def test_heatmaps_that_would_have_to_be_unpickled_are_refused(made):
    with np.load(made / "maps.npz") as file:
        parts = {**dict(file), "boxes": np.array([{}], object)}
    np.savez(made / "maps.npz", **parts)
    assert "maps.npz cannot be read" in message_of(made)


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04K\x01."])
def test_heatmaps_that_are_something_else_are_refused(made, junk):
    (made / "maps.npz").write_bytes(junk)
    assert "maps.npz cannot be read" in message_of(made)


def test_a_record_refused_is_a_record_error(made):
    (made / "run.json").write_text(json.dumps({"schema": 3}))
    with pytest.raises(RecordError, match="has schema 3, this version reads 2"):
        records.read(made)
