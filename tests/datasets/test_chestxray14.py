"""NIH ChestX-ray14, on small folders in the shape of the release, and on the real files where they are."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from nih_release import BOX_HEADER, HEADER, LABELS, TEST, TRAIN_VAL, V2017, V2020, paint, release, row
from PIL import Image

from chxbench.benchmark.dataset import BOX_COLUMNS, FINDINGS, TRAITS, DataError, Index, check, split_sha256
from chxbench.benchmark.registry import DATASETS
from chxbench.datasets.chestxray14 import LISTS, ChestXray14

SHARED = Path(__file__).resolve().parents[3] / "shared"


def refusal(root: Path | None, **options: object) -> str:
    """Return the error message, which is always one line."""
    with pytest.raises(DataError) as caught:
        ChestXray14(**options).index(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def findings_of(index: Index) -> dict[str, set[str]]:
    table = index.images.set_index("image_id")[list(FINDINGS)]
    return {name: {finding for finding in FINDINGS if table.loc[name, finding] == 1} for name in table.index}


EXPECTED = {name: set(text.split("|")) - {"No Finding"} for name, text in LABELS.items()}


def test_it_is_registered():
    assert DATASETS.get("chestxray14").cls is ChestXray14
    assert ChestXray14.name == "chestxray14"


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("images/{}".format, id="one folder"),
        pytest.param(lambda name: f"images_{int(name[:8]):03}/images/{name}", id="numbered folders"),
        pytest.param(lambda name: f"images/{name}" if name in TEST else f"images_001/images/{name}", id="mixed"),
    ],
)
def test_images_are_found_in_every_layout(tmp_path, place):
    index = check(ChestXray14().index(release(tmp_path, place=place)))
    assert list(index.images.columns) == ["image_id", "patient_id", "path", "split", *TRAITS, *FINDINGS]
    assert dict(zip(index.images["image_id"], index.images["path"], strict=True)) == {
        name: str(tmp_path / place(name)) for name in LABELS
    }
    assert set(index.images["patient_id"]) == {f"0000000{k}" for k in range(1, 6)}
    assert set(index.images.loc[index.images["split"] == "test", "image_id"]) == set(TEST)
    assert findings_of(index) == EXPECTED
    assert index.targets().dtype == np.float32
    assert index.absent == {}
    assert index.split.sha256 == split_sha256(index.images)
    assert index.split.name == "custom lists, validation by patient (seed 0, 12.5 %)"


def plain(header: str, tail: str = "") -> str:
    return "\n".join([header, *(row(*item) + tail for item in LABELS.items())]) + "\n"


@pytest.mark.parametrize(
    ("name", "text", "version"),
    [
        pytest.param(V2020, plain(HEADER), "NIH v2020 (modified)", id="v2020"),
        pytest.param(V2017, plain(HEADER + ","), "NIH v2017 (unverified)", id="v2017"),
        pytest.param(V2017, plain(HEADER + ",", ","), "NIH v2017 (unverified)", id="v2017 with commas in the rows"),
        pytest.param(V2017, plain(HEADER, ","), "NIH v2017 (unverified)", id="commas in the rows only"),
        pytest.param(V2020, plain(HEADER.replace("Gender", "Sex")), "NIH v2020 (modified)", id="Patient Sex"),
        pytest.param(V2020, "\ufeff" + plain(HEADER).replace("\n", "\r\n"), "NIH v2020 (modified)", id="BOM and CRLF"),
        pytest.param(V2020, plain(HEADER) + "\n\n", "NIH v2020 (modified)", id="blank lines"),
        pytest.param("ours.csv", plain(HEADER), "unknown", id="own file"),
    ],
)
def test_label_files(tmp_path, name, text, version):
    root = release(tmp_path)
    (root / V2020).unlink()
    (root / name).write_bytes(text.encode())
    index = ChestXray14(labels=name if version == "unknown" else "").index(root)
    assert findings_of(index) == EXPECTED
    assert index.labels == (name, hashlib.sha256(text.encode()).hexdigest(), version)


def test_without_any_image_the_lists_alone_make_an_index(tmp_path):
    root = release(tmp_path, boxes=[f"{TEST[0]},Mass,1,1,5,5", f"{TEST[1]},Nodule,2,2,6,6"])
    whole = ChestXray14().index(root)
    for name in LABELS:
        (root / "images" / name).unlink()
    listed = check(ChestXray14().listed(root))
    assert listed.images["path"].isna().all()
    pd.testing.assert_frame_equal(listed.images.drop(columns="path"), whole.images.drop(columns="path"))
    pd.testing.assert_frame_equal(listed.boxes, whole.boxes)
    assert (listed.labels, listed.split, listed.absent) == (whole.labels, whole.split, {})


def traits(tmp_path: Path, header: str, *cells: str) -> pd.DataFrame:
    """The traits of a release whose label file has this header, and these three fields for its first rows."""
    root = release(tmp_path)
    lines = [row(*item) for item in LABELS.items()]
    rows = [line.replace("58,M,PA", text) for line, text in zip(lines, cells, strict=False)]
    (root / V2020).write_text("\n".join([header, *rows, *lines[len(rows) :]]) + "\n")
    images = check(ChestXray14().index(root)).images.set_index("image_id").loc[list(LABELS)]
    return images[[trait for trait in TRAITS if trait in images]].iloc[: len(cells)]


@pytest.mark.parametrize(
    ("text", "years"),
    [
        pytest.param("57", 57, id="v2020"),
        pytest.param("057Y", 57, id="years, as v2017 writes them"),
        pytest.param("006M", 0.5, id="months"),
        pytest.param("073D", 73 / 365.25, id="days"),
        pytest.param("120", 120, id="very old"),
        pytest.param("155", None, id="a typing error of v2017"),
        pytest.param("411Y", None, id="another"),
        pytest.param("", None, id="empty"),
        pytest.param("-3", None, id="negative"),
        pytest.param("unknown", None, id="a word"),
    ],
)
def test_ages_are_years_and_what_makes_no_sense_is_unknown(tmp_path, text, years):
    age = traits(tmp_path, HEADER, f"{text},M,PA")["age"].iloc[0]
    assert age == years if years is not None else np.isnan(age)


def test_sex_and_view_are_read_and_unknown_text_is_missing(tmp_path):
    found = traits(tmp_path, HEADER.replace("Gender", "Sex"), "58,F,AP", "58,m, pa", "58,,LL", "58,O,")
    assert found["sex"].iloc[:2].tolist() == ["F", "M"] and found["sex"].iloc[2:].isna().all()
    assert found["view"].iloc[:2].tolist() == ["AP", "PA"] and found["view"].iloc[2:].isna().all()


def test_a_label_file_without_the_columns_of_traits_is_enough(tmp_path):
    header = HEADER.replace("Patient Age", "x").replace("Patient Gender", "y")
    assert list(traits(tmp_path, header).columns) == ["view"]


def test_the_traits_change_no_identity_of_the_split(tmp_path):
    one, other = release(tmp_path / "one"), release(tmp_path / "other")
    (other / V2020).write_text(plain(HEADER).replace("58,M,PA", "33,F,AP"))
    assert ChestXray14().index(one).split == ChestXray14().index(other).split


def test_of_two_label_files_v2020_is_used_unless_the_user_names_the_other(tmp_path):
    root = release(tmp_path)
    (root / V2017).write_text(plain(HEADER + ",").replace("Pneumonia", "Pneumothorax"))
    assert ChestXray14().index(root).labels.file == V2020
    index = ChestXray14(labels=V2017).index(root)
    assert index.labels.file == V2017
    assert findings_of(index)["00000005_001.png"] == {"Pneumothorax"}


def test_older_spellings_of_findings_are_understood(tmp_path):
    labels = LABELS | {"00000002_000.png": "Pleural Thickening|Infiltrate"}
    assert findings_of(ChestXray14().index(release(tmp_path, labels)))["00000002_000.png"] == {
        "Pleural_Thickening",
        "Infiltration",
    }


@pytest.mark.parametrize(
    ("findings", "unknown"), [("Mass|Massiv", "Massiv"), ("No Finding|Mass", "No Finding"), ("", ""), ("Mass|", "")]
)
def test_an_unknown_finding_is_rejected_with_its_row(tmp_path, findings, unknown):
    labels = LABELS | {"00000002_000.png": findings, "00000004_000.png": findings}
    assert f"{V2020}, row 4 ({unknown!r}), row 6 ({unknown!r}): unknown finding" in refusal(release(tmp_path, labels))


def test_rows_are_those_an_editor_shows(tmp_path):
    root = release(tmp_path)
    (root / V2020).write_text(plain(HEADER).replace("\n", "\n\n").replace("Hernia", "Hernja"))
    assert f"{V2020}, row 11 ('Hernja'): unknown finding" in refusal(root)


@pytest.mark.parametrize("patient", ["3", "x", "00000003"])
def test_a_patient_column_that_disagrees_with_the_name_is_rejected_with_its_row(tmp_path, patient):
    root = release(tmp_path)
    good, bad = row("00000002_000.png", "Pleural_Thickening"), row("00000002_000.png", "Pleural_Thickening", patient)
    (root / V2020).write_text(plain(HEADER).replace(good, bad))
    assert f"row 4 (00000002_000.png, patient {patient!r}): the patient column disagrees" in refusal(root)


def test_an_image_with_two_rows_is_rejected(tmp_path):
    root = release(tmp_path)
    (root / V2020).write_text(plain(HEADER) + row("00000004_000.png", "Mass") + "\n")
    assert "row 9 (00000004_000.png): the image already has a row" in refusal(root)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"image,label\n1,2\n", id="other columns"),
        pytest.param(b"\x89PNG\r\n\x1a\n\xff\xfe", id="not text"),
        pytest.param(HEADER.encode() + b'\n"' + b"x,y\n" * 3, id="open quote"),
    ],
)
def test_a_label_file_that_is_something_else_is_rejected(tmp_path, data):
    root = release(tmp_path)
    (root / V2020).write_bytes(data)
    message = refusal(root)
    assert str(root / V2020) in message and "download it again" in message


def test_lists_may_have_other_line_ends_blank_lines_and_a_byte_order_mark(tmp_path):
    root = release(tmp_path)
    plain_split = ChestXray14().index(root).split
    (root / "train_val_list.txt").write_bytes("\r\n".join(["", *TRAIN_VAL, "", ""]).encode())
    (root / "test_list.txt").write_bytes("\n".join(TEST).encode("utf-8-sig"))
    assert ChestXray14().index(root).split == plain_split


@pytest.mark.parametrize(
    ("train_val", "test", "message"),
    [
        pytest.param([*TRAIN_VAL, TEST[0]], TEST, f"1 image in both .*{TEST[0]}", id="image in both lists"),
        pytest.param([*TRAIN_VAL, TEST[0]], TEST[1:], "1 patient in both .*00000005", id="patient in both lists"),
        pytest.param(
            [*TRAIN_VAL, "00000008_000.png", "00000009_000.png"],
            TEST,
            f"2 listed images missing from .*{V2020} .00000008_000.png, 00000009_000.png",
            id="no label",
        ),
        pytest.param([*TRAIN_VAL, "scan.png"], TEST, r"train_val_list.txt, row 6 \('scan.png'\)", id="no patient"),
        pytest.param(TRAIN_VAL, [], "test_list.txt lists no image", id="empty list"),
    ],
)
def test_lists_that_cannot_be_a_split_are_rejected(tmp_path, train_val, test, message):
    root = release(tmp_path, train_val=train_val, test=test)
    with pytest.raises(DataError, match=message):
        ChestXray14().index(root)


def test_missing_images_are_rejected_with_their_number_and_what_to_do(tmp_path):
    root = release(tmp_path)
    for name in ("00000001_000.png", "00000001_004.png", "00000002_000.png", TEST[0]):
        (root / "images" / name).unlink()
    assert refusal(root) == (
        f"4 of the 7 listed images are not under {root} "
        "(00000001_000.png, 00000001_004.png, 00000002_000.png and 1 more): "
        "download the rest, or use what is there with --set dataset.allow_missing=true"
    )


def test_allow_missing_uses_what_exists_and_reports_the_rest(tmp_path):
    root = release(tmp_path)
    listed = ChestXray14().listed(root).images
    gone = ["00000003_000.png", TEST[0]]
    for name in gone:
        (root / "images" / name).unlink()
    index = ChestXray14(allow_missing=True).index(root)
    splits = listed[listed["image_id"].isin(gone)]["split"].tolist()
    assert index.absent == {split: splits.count(split) for split in ("train", "val", "test")}
    assert set(index.images["image_id"]) == set(LABELS) - set(gone)
    assert index.images["path"].notna().all()
    assert index.split.name.endswith(", partial: 5 of 7 images")


def replace_by(kind: str, path: Path) -> None:
    path.unlink()
    if kind == "link":
        path.symlink_to("nowhere")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_is_not_there_and_is_named(tmp_path, kind, capsys):
    root = release(tmp_path)
    replace_by(kind, root / "images" / TEST[0])
    near = f"1 file with another ending or without readable content ({root / 'images' / TEST[0]})"
    assert f"1 of the 7 listed images are not under {root} ({TEST[0]}), but {near}: download the rest" in refusal(root)
    index = check(ChestXray14(allow_missing=True).index(root))
    assert set(index.images["image_id"]) == set(LABELS) - {TEST[0]} and index.absent["test"] == 1
    assert near in capsys.readouterr().err


def test_an_empty_file_is_there_unless_missing_ones_are_allowed(tmp_path):
    """Without that option it is reported or skipped as any other that cannot be decoded."""
    root = release(tmp_path)
    replace_by("empty", root / "images" / TEST[0])
    assert len(ChestXray14().index(root).images) == 7
    assert TEST[0] not in set(ChestXray14(allow_missing=True).index(root).images["image_id"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_as_an_empty_one(tmp_path):
    root = release(tmp_path)
    (root / "images" / TEST[0]).chmod(0)
    assert len(ChestXray14().index(root).images) == 7
    assert TEST[0] not in set(ChestXray14(allow_missing=True).index(root).images["image_id"])


def test_the_case_of_a_file_name_does_not_matter(tmp_path):
    root = release(tmp_path)
    path = root / "images" / TEST[0]
    path.rename(path.with_suffix(".PNG"))
    paths = ChestXray14().index(root).images.set_index("image_id")["path"]
    assert paths[TEST[0]] == str(path.with_suffix(".PNG"))
    paint(path.with_suffix(".Png"), (3, 3))
    assert "1 image with different files of the same name" in refusal(root)
    paint(path)  # the listed name itself comes first
    assert ChestXray14().index(root).images.set_index("image_id")["path"][TEST[0]] == str(path)


@pytest.mark.parametrize("ending", [".jpg", ".JPEG", ".dcm"])
def test_another_ending_is_named(tmp_path, ending, capsys):
    root = release(tmp_path)
    path = root / "images" / TEST[0]
    path.rename(path.with_suffix(ending))
    paint(root / "thumbs" / "00000001_000.jpg")  # of an image that is there
    near = f"1 file with another ending or without readable content ({path.with_suffix(ending)})"
    assert near in refusal(root)
    assert ChestXray14(allow_missing=True).index(root).absent["test"] == 1
    assert near in capsys.readouterr().err
    for name in LABELS:
        (root / "images" / name).unlink(missing_ok=True)
    assert "contains none of the 7 listed images, but 2 file" in refusal(root, allow_missing=True)


def test_a_folder_whose_name_is_not_text_is_read(tmp_path):
    root = release(tmp_path / os.fsdecode(b"nih\xf6"))
    index = check(ChestXray14().index(root))
    assert ChestXray14().read(TEST[0], index.images["path"].iloc[-1]).shape == (6, 6)


def test_a_list_may_have_names_with_any_character(tmp_path):
    name = "00000006_\u2028\x85 a.png"
    root = release(tmp_path, {**LABELS, name: "Mass"}, [*TRAIN_VAL, name])
    assert findings_of(ChestXray14().index(root))[name] == {"Mass"}


def test_the_validation_patients_depend_on_the_list_and_the_seed_not_on_which_images_exist(tmp_path):
    names = [f"{patient:08}_{image:03}.png" for patient in range(1, 41) for image in range(2)]
    test = ["00000050_000.png"]
    root = release(tmp_path, dict.fromkeys([*names, *test], "No Finding"), names, test)
    images = ChestXray14().index(root).images
    whole = set(images.loc[images["split"] == "val", "patient_id"])
    assert len(whole) == 5  # 12.5 % of 40 patients
    assert not whole & set(images.loc[images["split"] == "train", "patient_id"])
    expected = sorted(
        (f"{patient:08}" for patient in range(1, 41)), key=lambda p: hashlib.sha256(f"0:{p}".encode()).hexdigest()
    )
    assert whole == set(expected[:5])

    for name in names[::3]:
        (root / "images" / name).unlink()
    partial = ChestXray14(allow_missing=True).index(root).images
    before = images.set_index("image_id")["split"]
    assert partial.set_index("image_id")["split"].equals(before[partial["image_id"]])

    seeded = ChestXray14(split_seed=1, validation_share=0.25).validation_patients(names)
    assert len(seeded) == 10 and not whole <= seeded
    assert ChestXray14(validation_share=0.001).validation_patients(names)  # a validation split is never empty


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_validation_share_outside_0_and_1_is_rejected(tmp_path, share):
    assert "validation_share" in refusal(release(tmp_path), validation_share=share)


def without(*names: str) -> Callable[[Path], Path]:
    def make(tmp_path: Path) -> Path:
        root = release(tmp_path / "data")
        for name in names:
            (root / name).unlink()
        return root

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda tmp_path: None, "no data folder given: pass --data-dir FOLDER", id="none"),
        pytest.param(lambda tmp_path: tmp_path / "no", "no does not exist", id="no folder"),
        pytest.param(lambda tmp_path: release(tmp_path) / V2020, f"{V2020} is a file: pass the folder", id="a file"),
        pytest.param(without(V2020), f"data has no label file {V2020} or {V2017}", id="no labels"),
        pytest.param(without("test_list.txt"), "data has no test_list.txt:", id="one list"),
        pytest.param(without(*LISTS), "data has no train_val_list.txt and no test_list.txt:", id="no lists"),
        pytest.param(
            without(*(f"images/{name}" for name in LABELS)), "data contains none of the 7 listed images", id="no images"
        ),
    ],
)
def test_problems_of_a_folder_are_reported_in_one_sentence(tmp_path, make, message):
    assert message in refusal(make(tmp_path), allow_missing=True)


def test_a_label_file_the_user_names_must_exist(tmp_path):
    assert "has no label file mine.csv" in refusal(release(tmp_path), labels="mine.csv")


def test_one_image_in_two_places_is_taken_once_and_two_images_of_one_name_are_rejected(tmp_path):
    root = release(tmp_path)
    name = TRAIN_VAL[0]
    paint(root / "images_001" / "images" / name)
    images = ChestXray14().index(root).images
    assert images.set_index("image_id").loc[name, "path"] == str(root / "images" / name)
    paint(root / "images_001" / "images" / name, size=(60, 40))
    message = refusal(root)
    assert (
        f"1 image with different files of the same name ({root}/images/{name} and {root}/images_001/images/{name})"
        in message
    )


def test_other_files_links_and_loops_do_no_harm(tmp_path):
    root = release(tmp_path / "data", place="pool/{}".format)
    (root / "pool").rename(tmp_path / "pool")
    (root / "images").symlink_to(tmp_path / "pool", target_is_directory=True)
    (tmp_path / "pool" / "back").symlink_to(root, target_is_directory=True)
    for stray in ("scan.png", "._00000001_000.png", "ä b.png", "00000009_000.png"):
        paint(tmp_path / "pool" / stray)
    index = ChestXray14().index(root)
    assert set(index.images["image_id"]) == set(LABELS)
    assert all(Path(path).parent == root / "images" for path in index.images["path"])


# --- boxes --------------------------------------------------------------------------------------------------------


def test_boxes_become_fractions_that_fit_the_picture(tmp_path):
    """A square painted at known pixels of a 1024-pixel image, shrunk to 256: the box still frames it exactly."""
    root = release(tmp_path, boxes=[f"{TEST[0]},Infiltrate,128,512,64,256", f"{TEST[1]},Mass,0,0,1024,1024"])
    pixels = np.zeros((1024, 1024), np.uint8)
    pixels[512:768, 128:192] = 255
    Image.fromarray(pixels).resize((256, 256), Image.Resampling.BOX).save(root / "images" / TEST[0])
    index = ChestXray14().index(root)
    assert tuple(index.boxes.columns) == BOX_COLUMNS
    box, whole = (entry for _, entry in index.boxes.iterrows())
    assert (box["image_id"], box["finding"]) == (TEST[0], "Infiltration")
    image = ChestXray14().read(TEST[0], str(root / "images" / TEST[0]))
    height, width = image.shape
    left, top = round(box["x"] * width), round(box["y"] * height)
    right, bottom = left + round(box["w"] * width), top + round(box["h"] * height)
    assert (image[top:bottom, left:right] == 255).all()
    assert image.sum() == image[top:bottom, left:right].sum() > 0
    assert whole[["x", "y", "w", "h"]].tolist() == [0, 0, 1, 1]


def test_less_than_a_pixel_over_the_edge_is_clipped(tmp_path):
    box = ChestXray14().index(release(tmp_path, boxes=[f"{TEST[0]},Mass,-0.5,1000,100,24.75"])).boxes.iloc[0]
    assert box[["x", "y", "w", "h"]].tolist() == [0, 1000 / 1024, 99.5 / 1024, 24 / 1024]


@pytest.mark.parametrize(
    "numbers",
    ["-2,0,5,5", "0,0,1030,5", "0,1020,5,9", "5,5,0,5", "5,5,5,-1", "nan,0,5,5", "0,0,inf,5", "a,0,5,5", "0,0,5,"],
)
def test_boxes_outside_the_image_are_rejected_with_their_row(tmp_path, numbers):
    root = release(tmp_path, boxes=[f"{TEST[0]},Mass,1,1,5,5", f"{TEST[1]},Mass,{numbers}"])
    assert f"BBox_List_2017.csv, row 3 ({TEST[1]}): the box is not inside the 1024 x 1024 image" in refusal(root)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("00000099_000.png,Mass,1,1,5,5", "row 2 (00000099_000.png): the image is in neither list"),
        (f"{TEST[0]},Massiv,1,1,5,5", f"row 2 ({TEST[0]}): unknown finding"),
    ],
)
def test_boxes_of_unknown_images_or_findings_are_rejected(tmp_path, line, message):
    assert message in refusal(release(tmp_path, boxes=[line]))


def test_boxes_of_absent_images_go_with_them(tmp_path):
    root = release(tmp_path, boxes=[f"{TEST[0]},Mass,1,1,5,5,,,", f"{TEST[1]},Nodule,2,2,6,6,,,"])
    (root / "images" / TEST[0]).unlink()
    boxes = ChestXray14(allow_missing=True).index(root).boxes
    assert boxes[["image_id", "finding"]].to_numpy().tolist() == [[TEST[1], "Nodule"]]


def test_without_a_box_file_or_without_a_row_in_it_the_index_has_no_boxes(tmp_path):
    root = release(tmp_path)
    assert len(ChestXray14().index(root).boxes) == 0
    (root / "BBox_List_2017.csv").write_text(BOX_HEADER + "\n")
    boxes = ChestXray14().index(root).boxes
    assert len(boxes) == 0 and tuple(boxes.columns) == BOX_COLUMNS


# --- pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGBA", "RGB"])
def test_pixels_are_gray_and_upright(tmp_path, mode):
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8)  # taller than wide would hide a transpose
    colours[..., 3] = 255  # as in the release
    image = Image.fromarray(colours).convert(mode)
    image.save(tmp_path / "image.png")
    pixels = ChestXray14().read("image.png", str(tmp_path / "image.png"))
    assert pixels.dtype == np.uint8 and pixels.shape == (4, 6)
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("L")))


# --- the real files -----------------------------------------------------------------------------------------------

# Protocol §2: positives in the order of FINDINGS, then No Finding, over the whole official lists with the v2020 labels.
OFFICIAL = {
    "train_val": [8280, 1707, 8659, 13782, 4034, 4708, 876, 2637, 2852, 1378, 1423, 1251, 2242, 141, 50500],
    "test": [3279, 1069, 4658, 6112, 1748, 1623, 555, 2665, 1815, 925, 1093, 435, 1143, 86, 9861],
}


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the real NIH files are not there: {folder} is missing")
    return folder


@pytest.fixture(scope="module")
def nih256() -> Index:
    return check(ChestXray14(allow_missing=True).index(shared("nih256")))


@pytest.fixture(scope="module")
def nih() -> Index:
    return check(ChestXray14(allow_missing=True).index(shared("nih")))


@pytest.fixture(scope="module")
def official() -> Index:
    return check(ChestXray14().listed(shared("nih")))


@pytest.mark.parametrize("name", LISTS)
def test_the_official_lists_are_known_by_their_bytes(name):
    assert hashlib.sha256((shared("nih") / name).read_bytes()).hexdigest() == LISTS[name]


def test_the_official_lists_match_the_protocol(official):
    images = official.images
    assert official.labels.version == "NIH v2020"
    assert official.split.name == "NIH official test, validation by patient (seed 0, 12.5 %)"
    train_val, test = images[images["split"] != "test"], images[images["split"] == "test"]
    assert (len(train_val), train_val["patient_id"].nunique()) == (86_524, 28_008)
    assert (len(test), test["patient_id"].nunique()) == (25_596, 2_797)
    for name, part in (("train_val", train_val), ("test", test)):
        labels = part[list(FINDINGS)].to_numpy()
        assert [*labels.sum(axis=0).astype(int), int((labels.sum(axis=1) == 0).sum())] == OFFICIAL[name]


def test_the_default_validation_split_is_the_published_one(official):
    """Results of different versions of this file can be compared only as long as this hash stays."""
    held_out = official.images[official.images["split"] == "val"]
    assert (len(held_out), held_out["patient_id"].nunique()) == (10_670, 3_501)
    assert official.split.sha256 == "deda6f35b2da5541b5976506572a3a4c0048fee66b64f89a9dff100df3d346f8"


def test_the_traits_of_the_release_are_all_known(official):
    images = official.images
    assert images["sex"].value_counts().to_dict() == {"M": 63_340, "F": 48_780}
    assert images["view"].value_counts().to_dict() == {"PA": 67_310, "AP": 44_810}
    assert (images["age"].min(), images["age"].max()) == (0, 95)


def test_the_partial_download_is_indexed(nih256):
    splits = nih256.images["split"].value_counts()
    assert splits["train"] + splits["val"] == 1_212 and splits["test"] == 206
    assert nih256.boxes["image_id"].nunique() == 50
    assert (nih256.boxes[["x", "y"]] >= 0).all(axis=None)
    assert (nih256.boxes["x"] + nih256.boxes["w"] <= 1).all() and (nih256.boxes["y"] + nih256.boxes["h"] <= 1).all()
    assert nih256.absent["train"] + nih256.absent["val"] == 86_524 - 1_212 and nih256.absent["test"] == 25_596 - 206
    assert nih256.split.name == (
        "NIH official test, validation by patient (seed 0, 12.5 %), partial: 1,418 of 112,120 images"
    )
    assert (nih256.targets().sum(axis=0) > 0).all()


def test_the_same_images_fall_in_the_same_splits_whatever_else_exists(nih, nih256):
    few, more = (index.images.set_index("image_id")["split"] for index in (nih, nih256))
    assert len(few) == 140
    assert few.equals(more[few.index])


def test_real_pixels_equal_what_pillow_shows(nih):
    modes: dict[str, list[tuple[str, str]]] = {"L": [], "RGBA": []}
    for image_id, path in zip(nih.images["image_id"], nih.images["path"], strict=True):
        with Image.open(path) as image:
            modes[image.mode].append((image_id, path))
    assert len(modes["RGBA"]) == 7
    for image_id, path in [*modes["RGBA"], *modes["L"][:3]]:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("L"))
        pixels = ChestXray14().read(image_id, path)
        assert pixels.shape == (1024, 1024)
        np.testing.assert_array_equal(pixels, expected)
