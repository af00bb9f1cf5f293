"""Whatever a file holds, reading it gives a value or a UserError of one sentence: never another exception.

Files are valid ones with a few changes, in their bytes or in what they say, and arbitrary bytes.
"""

import contextlib
import gzip
import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nih_release import BOX_HEADER, HEADER, LABELS, TEST, TRAIN_VAL, V2020, release
from PIL import Image
from record_factory import edit, heatmaps, publish, recheck, score_table
from speed_factory import speed_fields

from chxbench.benchmark.commands.score.predictions import read_predictions
from chxbench.benchmark.dataset import Index, Labels, Split, check
from chxbench.benchmark.evaluation import artifacts
from chxbench.benchmark.recipe import RECIPES, load_recipe
from chxbench.benchmark.records import record as records
from chxbench.benchmark.records import speed_record
from chxbench.benchmark.records.recompute import check_arrays, check_rows
from chxbench.benchmark.utils.errors import UserError
from chxbench.benchmark.utils.files import file_sha256
from chxbench.benchmark.utils.image_io import read_image
from chxbench.datasets.chestxray14 import ChestXray14
from chxbench.datasets.nih_tables import read_boxes, read_labels, read_lists

ROOT = Path(__file__).parents[2]

FEW = settings(max_examples=settings.default.max_examples // 4)  # a file is written and read for each
TOKENS = [
    *(b"\0", b"\xff", b'"', b'""', b",", b";", b"\t", b"\n", b"\r", b"\r\n", b"|", b"'", b"\\", b" ", b"-", b"+"),
    *(b"nan", b"inf", b"-inf", b"1e999", b"-1e999", b"9" * 400, b"1_000", b"0x1F", b"1j", b"NA", b"None", b"true"),
    *("\ufeff".encode(), "\u2028".encode(), "\x85".encode(), "ä".encode(), "\u202e".encode(), b"\xed\xa0\x80"),
    *(b"\x1b[31m", b"{finding}", b"00000001_000.png", b"Image Index", b"No Finding", b"Mass|Mass", b"[", b"{"),
]


@st.composite
def changed(draw, original: bytes) -> bytes:
    """A few places of a file with something else there."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 5))):
        begin = draw(st.integers(0, len(data)))
        end = begin + draw(st.sampled_from([0, 0, 1, 2, 8, 60, 10**6]))
        copied = draw(st.integers(0, len(data)))
        again = st.just(bytes(data[copied : copied + 70]))
        data[begin:end] = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=9), again))
    return bytes(data)


def files(original: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(changed(original), changed(original), changed(original), st.binary(max_size=300))


@contextlib.contextmanager
def only_user_errors():
    """Accept a UserError of one sentence; any other exception fails the test."""
    try:
        yield
    except UserError as error:
        assert str(error).strip() and "\n" not in str(error)


# --- the release --------------------------------------------------------------------------------------------------

LIST = "\n".join(TRAIN_VAL).encode()
ROWS = [f"{name},{text},0,{int(name[:8])},058Y,M,PA,9,9,1,1" for name, text in LABELS.items()]
TABLE = "\n".join([HEADER, *ROWS, ""]).encode()
BOXES = "\n".join([BOX_HEADER, f"{TEST[0]},Mass,1,2.5,30,40", f"{TEST[1]},Infiltrate,5,6,7,8", ""]).encode()
NAMES = {"train_val_list.txt": LIST, V2020: TABLE, "BBox_List_2017.csv": BOXES}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return release(tmp_path_factory.mktemp("fuzz") / "nih")


@FEW
@given(data=files(LIST))
def test_lists(root, data):
    (root / "train_val_list.txt").write_bytes(data)
    with only_user_errors():
        read_lists(root)


@FEW
@given(data=files(TABLE))
def test_labels(root, data):
    (root / "labels.csv").write_bytes(data)
    with only_user_errors():
        read_labels(root / "labels.csv")


@FEW
@given(data=files(BOXES))
def test_boxes(root, data):
    (root / "boxes.csv").write_bytes(data)
    with only_user_errors():
        read_boxes(root / "boxes.csv", set(LABELS))


@FEW
@given(data=st.data())
def test_a_release_with_a_changed_file_is_a_whole_index_or_refused(root, data):
    name = data.draw(st.sampled_from(sorted(NAMES)))
    for other, original in NAMES.items():
        (root / other).write_bytes(data.draw(files(original)) if other == name else original)
    with only_user_errors():
        check(ChestXray14(allow_missing=True).index(root))


# --- images -------------------------------------------------------------------------------------------------------


def picture(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


PICTURES = [picture(*kind) for kind in (("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "L"), ("TIFF", "L"))]


@FEW
@given(data=st.sampled_from(PICTURES).flatmap(files))
def test_images(root, data):
    (root / "image.png").write_bytes(data)
    with only_user_errors():
        pixels = read_image(root / "image.png")
        assert pixels.ndim == 2 and pixels.dtype == np.uint8


# --- external predictions -----------------------------------------------------------------------------------------

FINDINGS = ("Mass", "Hernia", "Pleural_Thickening")
SCORES = pd.DataFrame({"image": list(LABELS), **{f"prob_{f}": np.linspace(0.1, 0.9, 7) for f in FINDINGS}})


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def known() -> Index:
    images = pd.DataFrame({"image_id": list(LABELS), "patient_id": [name[:8] for name in LABELS], "split": "test"})
    images[list(FINDINGS)] = 0.0
    return Index(images, pd.DataFrame(), FINDINGS, Labels("x", "0" * 64, "1"), Split("x", "0" * 64))


CSV = SCORES.to_csv(index=False).encode()
PACKED = [CSV, CSV, CSV.replace(b",", b";").replace(b".", b","), gzip.compress(CSV, mtime=0), parquet(SCORES)]


@FEW
@given(data=st.sampled_from(PACKED).flatmap(files), scale=st.sampled_from(["auto", "probability", "logit"]))
def test_predictions(root, data, scale):
    (root / "scores").write_bytes(data)
    with only_user_errors():
        read = read_predictions(root / "scores", known(), scale)
        assert np.isfinite(read.scores).all() and read.notes


@FEW
@given(text=st.text(max_size=99), pattern=st.text(max_size=20))
def test_predictions_of_any_text_and_pattern(root, text, pattern):
    (root / "scores").write_bytes(text.encode("utf-8", "surrogatepass"))
    with only_user_errors():
        read_predictions(root / "scores", known(), columns=pattern)


# --- recipes ------------------------------------------------------------------------------------------------------


@FEW
@given(data=files((RECIPES / "quick.toml").read_bytes()))
def test_recipes(root, data):
    (root / "mine.toml").write_bytes(data)
    with only_user_errors():
        load_recipe(str(root / "mine.toml"), {})


# --- records ------------------------------------------------------------------------------------------------------

ODD = st.sampled_from([2**70, -1, 1e308, "..", "a/b", "\x1b[31m"])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), ODD),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)),
    max_leaves=5,
)


@st.composite
def altered(draw, content):
    """A record that says something else in a place or two, and is signed for it."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 2))):
        place = content
        while True:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(list(keys)))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or draw(st.integers(0, 4)) == 0:
                break
            place = inner
        if isinstance(place, dict) and draw(st.integers(0, 4)) == 0:
            del place[key]
        else:
            place[key] = draw(JSON)
    if "checksum" in content:
        recheck(content)
    return content


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A record with few scores and heatmaps."""
    table = score_table(1.0)
    table = table[(table["split"] == "test").cumsum() < 60]
    results = tmp_path_factory.mktemp("records") / "results"
    return publish(results, table, "quick-seed0-0", "One", maps=heatmaps(table, 1.0))[0]


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("copy") / "made" / "bsl" / "quick-seed0-0"))


@FEW
@given(data=st.data())
def test_records(folder, made, data):
    original = (made / "run.json").read_bytes()
    (folder / "run.json").write_bytes(data.draw(files(original)))
    with only_user_errors():
        records.read(folder)


@FEW
@given(data=st.data())
def test_records_that_are_signed(folder, made, data):
    content = data.draw(altered(json.loads((made / "run.json").read_text())))
    (folder / "run.json").write_text(json.dumps(content))
    with only_user_errors():
        record = records.read(folder)
        records.check_place(folder, record)
        table = records.read_scores(folder, record)
        check_rows(folder, record, table)
        records.read_maps(folder, record)


@FEW
@given(data=st.data())
def test_scores_of_records(folder, made, data):
    shutil.copyfile(made / "run.json", folder / "run.json")
    (folder / "scores.parquet").write_bytes(data.draw(files((made / "scores.parquet").read_bytes())))
    sha256 = file_sha256(folder / "scores.parquet")
    edit(folder / "run.json", lambda content: (content["scores"].update(sha256=sha256), recheck(content)))
    with only_user_errors():
        record = records.read(folder)
        check_rows(folder, record, records.read_scores(folder, record))


@FEW
@given(data=st.data())
def test_heatmaps_of_records(folder, made, data):
    for name in ("run.json", "scores.parquet"):
        shutil.copyfile(made / name, folder / name)
    (folder / "maps.npz").write_bytes(data.draw(files((made / "maps.npz").read_bytes())))
    with contextlib.suppress(Exception):
        sha256 = artifacts.heatmaps_sha256(artifacts.load_heatmaps(folder / "maps.npz"))
        edit(folder / "run.json", lambda content: (content["localization"].update(sha256=sha256), recheck(content)))
    with only_user_errors():
        record = records.read(folder)
        check_arrays(folder, record, records.read_scores(folder, record), records.read_maps(folder, record))


def written_speed():
    """A speed record, where it belongs, and its content."""
    with tempfile.TemporaryDirectory() as results:
        record, path, _ = speed_record.publish(speed_fields(), Path(results))
        return speed_record.place(record), json.loads(path.read_text())


SPEED_PLACE, SPEED = written_speed()


@FEW
@given(content=altered(SPEED))
def test_speed_records(root, content):
    path = root / SPEED_PLACE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    with only_user_errors():
        speed_record.read(path)
