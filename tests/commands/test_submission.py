"""Scores as other people write them: what is understood, and what is refused with one sentence."""

import gzip
import math
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chxbench.benchmark.commands.score import table as table_module
from chxbench.benchmark.commands.score.columns import find_columns
from chxbench.benchmark.commands.score.predictions import log_odds, read_predictions
from chxbench.benchmark.dataset import FINDINGS, DataError, Index, Labels, Split

IDS = [f"0000000{patient}_00{image}.png" for patient in range(1, 5) for image in range(2)]
MASS, HERNIA, PLEURAL, INFILTRATION = THREE = ("Mass", "Hernia", "Pleural_Thickening", "Infiltration")
SCORES = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.25, 0.75, 0.125], [0.9, 0.8, 0.7, 0.6]])


def index(ids=IDS, findings=THREE) -> Index:
    images = pd.DataFrame({"image_id": ids, "patient_id": [name[:8] for name in ids], "split": "test"})
    images[list(findings)] = 0.0
    return Index(images, pd.DataFrame(), findings, Labels("x", "0" * 64, "1"), Split("x", "0" * 64))


def table(columns=THREE, ids=IDS[:3], scores=SCORES, image="Image Index") -> pd.DataFrame:
    made = pd.DataFrame(scores, columns=list(columns))
    made.insert(0, image, ids)
    return made


def write(folder: Path, made: pd.DataFrame, name="scores.csv", **options) -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        made.to_parquet(path, **options)
    else:
        made.to_csv(path, **{"index": False, **options})
    return path


def refusal(path: Path, known: Index | None = None, **options) -> str:
    """What the user is told: always one line that names the file."""
    with pytest.raises(DataError) as caught:
        read_predictions(path, known or index(), **options)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def check_scores(path: Path, rows=(0, 1, 2), expected=SCORES, known: Index | None = None, **options) -> tuple[str, ...]:
    read = read_predictions(path, known or index(), **options)
    assert read.rows.tolist() == list(rows)
    assert read.scores.dtype == np.float64
    np.testing.assert_allclose(1 / (1 + np.exp(-read.scores)), expected, rtol=1e-12)
    return read.notes


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("scores.csv", {}, id="commas"),
        pytest.param("scores.csv", {"sep": ";"}, id="semicolons"),
        pytest.param("scores.csv", {"sep": ";", "decimal": ","}, id="semicolons and decimal commas"),
        pytest.param("scores.tsv", {"sep": "\t"}, id="tabs"),
        pytest.param("scores.csv.gz", {}, id="gzipped"),
        pytest.param("scores.csv", {"encoding": "utf-8-sig"}, id="byte order mark"),
        pytest.param("scores.csv", {"encoding": "utf-16"}, id="UTF-16"),
        pytest.param("scores.csv", {"lineterminator": "\r\n"}, id="CRLF"),
        pytest.param("scores.csv", {"quoting": 1}, id="all quoted"),
        pytest.param("scores.csv", {"index": True}, id="row numbers as pandas writes them"),
        pytest.param("scores.parquet", {}, id="parquet"),
        pytest.param("scores.parquet", {"compression": "gzip"}, id="packed parquet"),
    ],
)
def test_every_kind_of_file_gives_the_same_scores(tmp_path, name, options):
    check_scores(write(tmp_path, table(), name, **options))


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_images_may_be_the_index_of_a_pandas_table(tmp_path, name):
    made = table().set_index("Image Index")
    for label in ("Image Index", None):
        made.index.name = label
        notes = check_scores(write(tmp_path, made, name, index=True))
        assert label is not None or "(unnamed)" in notes[0] or "__index_level_0__" in notes[0]


def test_blank_lines_and_spaces_behind_delimiters_do_no_harm(tmp_path):
    path = tmp_path / "scores.csv"
    lines = write(tmp_path, table()).read_text().replace(",", ", ").splitlines()
    path.write_text("\n\n".join(["", *lines, "", ""]))
    check_scores(path)
    path.write_text("\n\n".join(["", *lines, "", ""]).replace("0.25", "n/a"))
    assert "row 7, column 'Hernia' ('n/a')" in refusal(path)


def test_parquet_columns_that_are_neither_text_nor_number_are_left_out(tmp_path):
    made = table().assign(embedding=[[1.0, 2.0]] * 3, when=pd.Timestamp(0), good=True)
    made["Image Index"] = made["Image Index"].astype("category")
    check_scores(
        write(tmp_path, made.astype(dict.fromkeys(THREE, "float32")), "scores.parquet"), expected=SCORES.astype("f4")
    )


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"\n \n\n", "is empty", id="blank"),
        pytest.param(b"image,Mass\n", "has no rows of scores", id="header alone"),
        pytest.param(b"image,Mass\n\n,\n", "has no rows of scores", id="blank rows"),
        pytest.param(pickle.dumps([1.5] * 9), "neither text in UTF-8 nor parquet", id="pickle"),
        pytest.param(b"PK\x03\x04\x00\x00", "neither text in UTF-8 nor parquet", id="spreadsheet"),
        pytest.param(b"\x89PNG\r\n", "neither text in UTF-8 nor parquet", id="picture"),
        pytest.param(b"PAR1 and nothing", "is not a readable parquet file", id="broken parquet"),
        pytest.param(gzip.compress(b"image,Mass\n" * 99)[:-9], "is a damaged gzip file", id="broken gzip"),
        pytest.param(
            b"image,Mass\na,1\nb,1,2\n", "is not a table (Expected 2 fields in line 3, saw 3)", id="a longer row"
        ),
        pytest.param(b'image,Mass\n"a,1\n', "is not a table", id="open quote"),
        pytest.param(b"x" * 200_000 + b",Mass\na,1\n", "is not a table", id="an endless name"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, data, told):
    path = tmp_path / "scores.csv"
    path.write_bytes(data)
    assert told in refusal(path)


@pytest.mark.parametrize("damage", range(12, 400, 20))
def test_a_damaged_parquet_file_is_read_or_refused_in_one_line(tmp_path, damage):
    path = write(tmp_path, table(), "scores.parquet")
    data = path.read_bytes()
    path.write_bytes(data[:-damage] + b"\xff\x9d\xff\xff" + data[4 - damage :])
    try:
        read_predictions(path, index())
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    assert "is not a file" in refusal(tmp_path / "no.csv")
    assert "is not a file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "bound", "told"),
    [
        pytest.param("scores.csv", "MAX_BYTES", "MiB of text", id="text"),
        pytest.param("scores.csv.gz", "MAX_BYTES", "MiB of text", id="unpacked text"),
        pytest.param("scores.csv", "MAX_CELLS", "cells", id="cells of text"),
        pytest.param("scores.parquet", "MAX_CELLS", "cells", id="cells of parquet"),
        pytest.param("scores.parquet", "MAX_BYTES", "MiB: keep", id="bytes of parquet"),
    ],
)
def test_a_file_beyond_the_bound_is_refused(tmp_path, monkeypatch, name, bound, told):
    path = write(tmp_path, table(), name)
    monkeypatch.setattr(table_module, bound, 10)
    assert f"has more than {10 >> 20 if bound == 'MAX_BYTES' else 10} {told}" in refusal(path)


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spell",
    [
        pytest.param("{}.png", id="as listed"),
        pytest.param("{}", id="without extension"),
        pytest.param("{}.jpg", id="another extension"),
        pytest.param("/data/nih/images_001/images/{}.png", id="with folders"),
        pytest.param("C:\\nih\\{}.PNG", id="with folders of Windows"),
        pytest.param("images/{}", id="folder, no extension"),
    ],
)
@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_images_are_known_however_they_are_written(tmp_path, spell, name):
    order = [6, 1, 4]
    ids = [spell.format(IDS[k].removesuffix(".png")) for k in order]
    notes = check_scores(write(tmp_path, table(ids=ids, image="anything"), name), order)
    assert notes[0] == "images: column 'anything', 3 images"


def test_images_with_folders_in_their_ids_and_numbers_as_ids_are_known(tmp_path):
    check_scores(
        write(tmp_path, table(ids=["p1/a.png", "p2/a.png", "p2/b.png"])),
        known=index(["p1/a.png", "p2/a.png", "p2/b.png"]),
    )
    numbers = index(["1001", "1002", "1003"])
    for name in ("scores.csv", "scores.parquet"):
        check_scores(write(tmp_path, table(ids=[1001, 1002, 1003]), name), known=numbers)


def test_the_column_of_the_images_is_the_one_that_names_most_of_them(tmp_path):
    made = table().assign(note=["none", IDS[5], ""], path=[f"x/{name}" for name in IDS[:3]], number=[7, 8, 9])
    check_scores(write(tmp_path, made[["note", "number", *THREE, "Image Index", "path"]]))


def test_two_columns_that_name_different_images_are_refused(tmp_path):
    told = refusal(write(tmp_path, table().assign(earlier=IDS[3:6])))
    assert "columns 'Image Index' and 'earlier' refer to different images" in told


def test_a_file_without_known_images_is_refused_and_shows_one(tmp_path):
    told = refusal(write(tmp_path, table(ids=["a", "b", "c"])))
    assert "has no column with images of the dataset" in told and "such as 00000001_000.png" in told


def test_unknown_images_are_refused_with_a_count_and_the_first_few_rows(tmp_path):
    ids = [IDS[0], "mean", "", "a\x1b[31m.png", "b"]
    told = refusal(write(tmp_path, table(ids=ids, scores=np.full((5, 4), 0.5))))
    assert "row 3 ('mean'); row 4 (''); row 5 ('a [31m.png') and 1 more: 4 of 5 images in column 'Image Index'" in told


def test_an_image_that_is_listed_twice_is_refused(tmp_path):
    told = refusal(write(tmp_path, table(ids=[IDS[0], IDS[1], f"again/{IDS[0]}"])))
    assert f"row 4 ('again/{IDS[0]}'): image listed more than once" in told
    told = refusal(write(tmp_path, table(ids=[IDS[0]] * 3), "scores.parquet"))
    assert f"row 2 ('{IDS[0]}'); row 3 ('{IDS[0]}'): image listed" in told


# --- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        pytest.param(THREE, "{finding}", id="as listed"),
        pytest.param(["Mass", "Hernia", "Pleural Thickening", "Infiltrate"], "{finding}", id="older spellings"),
        pytest.param(["mass", "hernia", "pleural_thickening", "infiltration"], "{finding}", id="lower case"),
        pytest.param(["MASS", "HERNIA", "PLEURAL-THICKENING", "INFILTRATES"], "{finding}", id="upper case, hyphen"),
        pytest.param(["Mass", "Hernia", "PleuralThickening", "Infiltration"], "{finding}", id="nothing between"),
        pytest.param([f"prob_{f}" for f in THREE], "prob_{finding}", id="prefix"),
        pytest.param([f"Prob {f.replace('_', ' ')}" for f in THREE], "prob {finding}", id="prefix and spaces"),
        pytest.param([f"{f}_score" for f in THREE], "{finding}_score", id="suffix"),
        pytest.param([f"model 1: {f} (pred)" for f in THREE], "model 1: {finding} (pred)", id="both"),
        pytest.param(
            [*(f"score {f}" for f in THREE), *(f"label {f}" for f in THREE)], "score {finding}", id="own scores.parquet"
        ),
        pytest.param([*(f"y_true_{f}" for f in THREE), *(f"y_pred_{f}" for f in THREE)], "y_pred_{finding}", id="y"),
        pytest.param([*(f"{f}_gt" for f in THREE), *THREE], "{finding}", id="truth with a suffix"),
        pytest.param([*(f"target_{f}" for f in THREE), *(f"{f}.prob" for f in THREE)], "{finding}.prob", id="target"),
        pytest.param([f"target_pred_{f}" for f in THREE], "target_pred_{finding}", id="scores of a target"),
        pytest.param([*THREE, "prob_Mass", "Age", "Mass size", ""], "{finding}", id="extra columns"),
    ],
)
def test_names_of_columns_are_understood(names, pattern):
    found = find_columns(names, THREE)
    assert found.pattern == pattern
    before, after = pattern.split("{finding}")
    for finding, number in zip(THREE, found.numbers, strict=True):
        letters = "".join(filter(str.isalpha, names[number].lower().removeprefix(before).removesuffix(after)))
        assert letters.startswith(finding.lower().replace("_", "")[:9])


def test_findings_of_which_one_ends_another_are_told_apart():
    names = ["p_Pleural Effusion", "p_Effusion", "p_Lung Lesion", "p_Lesion"]
    findings = ("Effusion", "Lesion", "Pleural Effusion", "Lung Lesion")
    assert find_columns(names, findings).numbers == [1, 3, 0, 2]


@pytest.mark.parametrize(
    ("column", "finding"),
    [
        ("Pleural Effusion", "Effusion"),
        ("pleural_effusion", "Effusion"),
        ("Pulmonary fibrosis", "Fibrosis"),
        ("Oedema", "Edema"),
        ("infiltrates", "Infiltration"),
        ("pleural thickening", "Pleural_Thickening"),
    ],
)
@pytest.mark.parametrize("pattern", ["{}", "prob_{}"])
def test_other_datasets_names_of_a_finding_are_accepted(column, finding, pattern):
    names = ["image", pattern.format(column), pattern.format("Cardiomegaly")]
    assert find_columns(names, ("Cardiomegaly", finding)) == ([2, 1], pattern.format("{finding}"))
    assert find_columns(names[:2], (finding,)) == ([1], pattern.format("{finding}"))


@pytest.mark.parametrize(
    ("column", "finding", "hint"),
    [
        ("Lung Opacity", "Infiltration", "columns: image"),
        ("Enlarged Cardiomediastinum", "Cardiomegaly", "columns: image"),
        ("Lung Lesion", "Mass", "columns: image"),
        ("Pleural Other", "Pleural_Thickening", "columns: image"),
        ("Nodule/Mass", "Mass", "similar: Nodule/Mass"),
        ("Hiatal Hernia", "Hernia", "similar: Hiatal Hernia"),
        ("Pericardial Effusion", "Effusion", "columns: image"),
        ("Subcutaneous Emphysema", "Emphysema", "columns: image"),
    ],
)
def test_names_of_another_finding_are_not_accepted(column, finding, hint):
    with pytest.raises(DataError, match=rf"1 of 2 findings have no column .*{finding}; {hint}"):
        find_columns(["image", column, "Edema"], (finding, "Edema"))


@pytest.mark.parametrize("column", ["Pericardial Effusion", "No Effusion", "prob_no_Effusion"])
def test_words_that_make_a_different_finding_are_no_pattern(column):
    """A dataset of one finding: any text around its name would be a pattern."""
    with pytest.raises(DataError, match="1 of 1 findings have no column"):
        find_columns(["image", column], ("Effusion",))
    assert find_columns([column, "prob_Effusion"], ("Effusion",)).numbers == [1]


def test_a_finding_in_two_columns_by_two_of_its_names_is_refused():
    with pytest.raises(DataError, match=r"several columns for 1 finding \(Effusion: Effusion, Pleural Effusion\)"):
        find_columns(["Edema", "Effusion", "Pleural Effusion"], ("Edema", "Effusion"))


def test_two_patterns_that_cover_all_findings_are_refused_and_the_user_decides(tmp_path):
    made = table().assign(**{f"Logit_{finding}": 2.0 - 4 * SCORES[:, k] for k, finding in enumerate(THREE)})
    path = write(tmp_path, made)
    told = refusal(path)
    assert "2 column patterns cover all findings ('{finding}', 'logit_{finding}')" in told
    assert "--columns '{finding}'" in told
    check_scores(path, columns="{finding}")
    read = read_predictions(path, index(), columns=" LOGIT_{finding}")
    np.testing.assert_array_equal(read.scores, made[[f"Logit_{finding}" for finding in THREE]])


@pytest.mark.parametrize(
    ("names", "pattern", "told"),
    [
        pytest.param(
            ["prob_Mass", "prob_Hernya", "prob_Pleural_Thickening", "Infiltration"],
            None,
            "2 of 4 findings have no column like 'prob_{finding}' (Hernia, Infiltration; "
            "similar: prob_Hernya, Infiltration)",
            id="misspelt and another prefix",
        ),
        pytest.param(["a", "b"], None, "4 of 4 findings have no column like '{finding}'", id="none"),
        pytest.param(["a", "b"], None, "columns: a, b)", id="none, and what there is"),
        pytest.param(list(THREE), "p_{finding}", "no column like 'p_{finding}'", id="another pattern asked for"),
        pytest.param(list(THREE), "prob", "does not contain {finding} exactly once", id="a pattern without a hole"),
        pytest.param(list(THREE), "{finding}{finding}", "does not contain {finding} exactly once", id="two holes"),
        pytest.param([*THREE, "mass"], None, "several columns for 1 finding (Mass: Mass, mass)", id="two of a finding"),
        pytest.param([*THREE, "Infiltrate"], None, "(Infiltration: Infiltration, Infiltrate)", id="two spellings"),
        *(
            pytest.param([text.format(f) for f in THREE], None, "have no column like '{finding}'", id=text)
            for text in ("{}_0", "healthy_{}", "{}_std", "{}_threshold", "{} loss", "{}-uncertainty")
        ),
        pytest.param([f"label_{f}" for f in THREE], None, "named like labels ('label_{finding}')", id="labels alone"),
    ],
)
def test_names_that_do_not_say_what_is_what_are_refused(names, pattern, told):
    with pytest.raises(DataError) as caught:
        find_columns(names, THREE, pattern)
    assert told in str(caught.value) and "\n" not in str(caught.value)


WORDS = st.text("abcxyz_ .-()", max_size=6).filter(lambda text: not text.startswith(" ") and not text.endswith(" "))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), before=WORDS, after=WORDS)
def test_any_spelling_order_and_company_gives_the_scores_back(data, before, after):
    spelt = [
        data.draw(st.sampled_from([finding, finding.lower(), finding.upper(), finding.replace("_", " ")]))
        for finding in FINDINGS
    ]
    names = [before + name + after for name in spelt]
    others = [f"{k}{text}" for k, text in enumerate(data.draw(st.lists(WORDS, max_size=4)))]
    order = data.draw(st.permutations([*names, *others]))
    found = find_columns(order, FINDINGS)
    assert [order[number] for number in found.numbers] == names
    assert found.pattern == f"{before}{{finding}}{after}"


# --- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_finite_number_is_refused_with_row_and_column(tmp_path, name, bad):
    scores = SCORES.copy()
    scores[1, 2] = scores[2, 0] = bad
    told = refusal(write(tmp_path, table(scores=scores), name), scale="probability")
    row = 3 if name == "scores.csv" else 2
    assert f"row {row}, column 'Pleural_Thickening' (" in told and f"row {row + 1}, column 'Mass'" in told
    assert "2 of 12 scores are not finite numbers" in told


@pytest.mark.parametrize("text", ["", "n/a", "0.5 %", "1.2.3", "1,2,3", "high" * 99])
def test_text_in_a_score_column_is_refused_with_row_and_column(tmp_path, text):
    made = table().astype({"Hernia": object})
    made.loc[1, "Hernia"] = text
    for name, row in (("scores.csv", 3), ("scores.parquet", 2)):
        told = refusal(write(tmp_path, made.astype({"Hernia": str}), name))
        assert f"row {row}, column 'Hernia' ({text[:40]!r}): 1 of 12 scores" in told


@pytest.mark.parametrize(
    ("scores", "scale", "noted"),
    [
        pytest.param(SCORES, "auto", "scale: probability (all scores are from 0 to 1)", id="probabilities"),
        pytest.param(SCORES, "probability", "scale: probability (by --scale)", id="probabilities, said"),
        pytest.param(SCORES, "logit", "scale: logit (by --scale)", id="log-odds from 0 to 1, said"),
        pytest.param(SCORES * 9 - 4, "auto", "scale: logit (some scores are below 0 or above 1)", id="log-odds"),
        pytest.param(SCORES * 100, "logit", "scale: logit (by --scale)", id="large log-odds, said"),
        pytest.param((SCORES > 0.5) * 1, "probability", "scale: probability (by --scale)", id="decisions, said"),
    ],
)
def test_the_scale_is_found_or_said(tmp_path, scores, scale, noted):
    read = read_predictions(write(tmp_path, table(scores=scores)), index(), scale)
    assert read.notes[2] == noted
    expected = log_odds(scores) if "probability" in noted else scores
    np.testing.assert_allclose(read.scores, expected, rtol=1e-12)


def wide(value: float) -> np.ndarray:
    scores = np.linspace(0.1, 0.9, 32).reshape(8, 4)
    scores[2, 1] = value
    return scores


@pytest.mark.parametrize(
    ("scores", "scale", "told"),
    [
        pytest.param(wide(1.5), "auto", "row 4, column 'Hernia' ('1.5'): only 1 of 32 scores", id="one above"),
        pytest.param(wide(-0.1), "auto", "row 4, column 'Hernia' ('-0.1'): only 1 of 32 scores", id="one below"),
        pytest.param(wide(1.5), "probability", "('1.5'): 1 of 32 scores are not probabilities", id="not as said"),
        pytest.param(100 * wide(0.5), "auto", "since none is negative, likely to be log-odds", id="percent"),
        pytest.param(np.sign(wide(0.5) - 0.5), "auto", "has only -1 and 0 and 1 in 'Mass'", id="labels of both signs"),
        pytest.param((wide(0.5) > 0.5) * 1, "auto", "has only 0 and 1 in 'Mass' and the other columns", id="labels"),
    ],
)
def test_a_doubtful_scale_is_refused(tmp_path, scores, scale, told):
    assert told in refusal(write(tmp_path, table(ids=IDS, scores=scores)), scale=scale)


def test_log_odds_keep_order_and_ties_and_are_finite_at_the_ends():
    tiny, near = np.nextafter(0, 1), np.nextafter(1, 0)
    probabilities = np.array([[0, tiny, 1e-300, 0.001, np.nextafter(0.001, 1)], [0.5, 0.5, near, 1, 1]])
    odds = log_odds(probabilities)
    assert np.isfinite(odds).all() and odds.shape == probabilities.shape
    assert (np.diff(odds[0]) > 0).all() and odds[1, 0] == odds[1, 1] == 0 and odds[1, 2] < odds[1, 3] == odds[1, 4]


def test_log_odds_of_very_many_neighbours_are_told_apart():
    values = 0.001 + np.spacing(0.001) * np.arange(400_000)
    assert (np.diff(log_odds(values)) > 0).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.floats(0.0009, 0.00090000001)), min_size=1, max_size=40))
def test_log_odds_rank_as_the_probabilities_do(values):
    values = np.array([*values, *np.nextafter(values, 0), *values])
    odds = log_odds(values)
    assert np.isfinite(odds).all()
    np.testing.assert_array_equal(np.unique(values, return_inverse=True)[1], np.unique(odds, return_inverse=True)[1])
    np.testing.assert_allclose(1 / (1 + np.exp(-np.clip(odds, -700, 700))), values, rtol=1e-11, atol=1e-300)
