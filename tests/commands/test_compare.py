"""`chxbench compare`: what it computes, what it refuses and why, what it writes and shows."""

import json
from functools import cache, partial
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import roc_auc_score
from speed_factory import rounds_of, speed_fields

from chxbench.benchmark.cli import main
from chxbench.benchmark.commands.compare import compare
from chxbench.benchmark.commands.compare.compare import compare_methods
from chxbench.benchmark.commands.compare.figure import comparison_sha256
from chxbench.benchmark.commands.compare.run_differences import paired_timings
from chxbench.benchmark.commands.compare.tables import summarize
from chxbench.benchmark.dataset import split_sha256
from chxbench.benchmark.metrics.paired import holm
from chxbench.benchmark.records import record as records
from chxbench.benchmark.records import speed_record
from chxbench.benchmark.records.figures.style import drawn_from
from chxbench.benchmark.records.schema import RunDescription

RESULTS = Path(__file__).parents[2] / "results"
MA, SAM = RESULTS / "phantom/ma/quick-seed0-bc7d823473", RESULTS / "phantom/sam/quick-seed0-ba9d3d023a"
WANG = RESULTS / "phantom/wang2017"
# Two runs with findings that differ significantly, and which.
BETTER, WORSE = RESULTS / "phantom/ma/quick-seed1-96d6e02957", RESULTS / "phantom/sam/quick-seed1-11ffe50316"
CLEAR = "Infiltration"


@cache
def committed(folder):
    """A committed run: what its record says of it, and its scores."""
    content = json.loads((folder / "run.json").read_text())
    return {key: content[key] for key in content if key in RunDescription.model_fields}, pd.read_parquet(
        folder / "scores.parquet"
    )


def make_run(folder, source=MA, table=None, change=lambda fields: None):
    """Write a record like a committed one, of other scores or with other facts; the folder."""
    fields, scores = committed(source)
    fields, table = json.loads(json.dumps(fields)), (scores if table is None else table)
    fields["recipe"]["evaluate"]["resamples"] = 100
    findings = [name.removeprefix("label ") for name in table if name.startswith("label ")]
    for split in ("val", "test"):
        part = table[table["split"] == split]
        counts = {"images": len(part), "patients": part["patient_id"].nunique()}
        counts["positives"] = {finding: int((part[f"label {finding}"] == 1).sum()) for finding in findings}
        fields["dataset"]["counts"][split].update(counts)
    fields["dataset"]["findings"] = findings
    fields["dataset"]["rare"] = [finding for finding in fields["dataset"]["rare"] if finding in findings]
    change(fields)
    folder.mkdir(parents=True)
    records.write(folder, RunDescription.model_validate(fields), table, None)
    return folder


@pytest.fixture
def two(tmp_path):
    """Folders of two runs on the same images."""
    return make_run(tmp_path / "a"), make_run(tmp_path / "b", SAM)


def command(*words, columns=80):
    asked = [str(word) for word in words]
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(main, ["compare", "--resamples", "100", *asked])


def scores_of(folder):
    table = pd.read_parquet(folder / "scores.parquet")
    return table[table["split"] == "test"].set_index("image_id")


def test_two_runs_are_compared_finding_by_finding(tmp_path):
    ran = command(BETTER, WORSE, "--out", tmp_path / "new" / "out", "--resamples", 600)
    assert ran.exit_code == 0, ran.output
    content = json.loads((tmp_path / "new" / "out" / "comparison.json").read_text())
    one, other = scores_of(BETTER), scores_of(WORSE)
    for finding, found in content["findings"].items():
        areas = [roc_auc_score(part[f"label {finding}"], part[f"score {finding}"]) for part in (one, other)]
        assert [found["first"], found["second"]] == pytest.approx(areas)
        assert found["value"] == pytest.approx(areas[0] - areas[1])
        of_class = [one[one[f"label {finding}"] == value]["patient_id"].nunique() for value in (0, 1)]
        if min(of_class) >= 32:
            assert found["low"] < found["value"] < found["high"]
        else:
            assert (found["low"], found["high"], found["p"]) == (None, None, None)
    p_values = [found["p"] for found in content["findings"].values()]
    assert [found["p_corrected"] for found in content["findings"].values()] == holm(p_values)
    assert content["mean_auc"]["value"] == pytest.approx(sum(f["value"] for f in content["findings"].values()) / 14)
    rest = [found["value"] for name, found in content["findings"].items() if name != "Hernia"]
    assert content["mean_auc_without_rare"]["value"] == pytest.approx(sum(rest) / 13)
    corrected = {name: found["p_corrected"] for name, found in content["findings"].items()}
    significant = [name for name, p in corrected.items() if p is not None and p <= 0.05]
    assert content["significant"] == significant and CLEAR in significant
    assert f"{CLEAR} ({content['findings'][CLEAR]['value']:+.3f})" in " ".join(ran.output.split())
    assert not content["of_methods"] and "These are trained networks, not methods" in " ".join(ran.output.split())


def test_methods_are_compared_over_all_their_seeds(tmp_path):
    ran = command(MA.parent, WANG, "--out", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for side, folder in (("first", MA.parent), ("second", WANG)):
        runs = content[side]["runs"]
        assert [run["seed"] for run in runs] == [0, 1, 2, 3, 4] and content[side]["title"].endswith(
            "seeds 0, 1, 2, 3, 4"
        )
        areas = [
            roc_auc_score(scores["label Mass"], scores["score Mass"])
            for scores in map(scores_of, sorted(folder.iterdir()))
        ]
        assert content["findings"]["Mass"][side] == pytest.approx(sum(areas) / 5)
    assert content["of_methods"] and "trained networks" not in ran.output
    facts = {fact["name"]: (fact["first"], fact["second"]) for fact in content["also_different"]}
    assert "seeds" not in facts  # both have the same
    assert facts["images trained on"] == ("21,000", "13,908") and facts["images of all stages"] == ("34,908", "13,908")
    assert "A was trained on 1.6 times as many images, which may explain the difference." in content["summary"]


def test_runs_that_differ_in_more_than_their_seed_are_no_method(tmp_path):
    for number, experiment in enumerate(("1" * 64, "2" * 64)):
        make_run(tmp_path / "mixed" / f"r{number}", change=partial(set_experiment, experiment))
    ran = command(tmp_path / "mixed", SAM, "--out", tmp_path / "out")
    assert ran.exit_code == 2 and "has runs that differ in more than their seed (r0, r1)" in ran.output


def set_experiment(sha256, fields):
    fields["experiment_sha256"] = sha256


def test_the_page_and_the_figure_show_the_same_numbers(full_figures, two, tmp_path):
    assert command(*two, "--out", tmp_path / "out").exit_code == 0
    compared = compare_methods(*two, 100, tmp_path)
    page = (tmp_path / "out" / "comparison.md").read_text()
    mass = compared.differences["Mass"]
    assert mass.low is not None
    assert f"{mass.first:.3f} | {mass.second:.3f} |  {mass.value:+.3f} | {mass.low:+.3f} to {mass.high:+.3f}" in page
    assert "(roc.png)" in page and "602 test images of 206 patients" in page
    figure = tmp_path / "out" / "roc.png"
    assert drawn_from(figure) == comparison_sha256(compared)
    with Image.open(figure) as image:
        assert image.width == 1360 and image.convert("RGBA").getpixel((0, 0)) == (255,) * 4


def test_a_figure_of_other_scores_carries_another_hash(two, tmp_path):
    there, back, itself = ((two[0], two[1]), (two[1], two[0]), (two[0], two[0]))
    hashes = [comparison_sha256(compare_methods(*pair, 100, tmp_path)) for pair in (there, back, itself)]
    assert len(set(hashes)) == 3


def test_the_screen_fits_80_columns(tmp_path):
    shown = command(MA, SAM, "--out", tmp_path / "out", "--results", RESULTS).output
    lines = [line for line in shown.splitlines() if str(tmp_path) not in line and str(RESULTS) not in line]
    assert len(lines) > 35 and max(map(len, lines)) <= 80
    assert "Pleural Thickening" in shown and "Without Hernia" in shown


def test_a_run_does_not_differ_from_itself(two, tmp_path):
    ran = command(two[0], two[0], "--out", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for found in (content["findings"]["Effusion"], content["mean_auc"]):
        assert (found["value"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)
    assert content["also_different"] == [] and "No finding differs significantly at 5 %" in ran.output


def test_without_out_the_folder_is_named_after_both(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*two).exit_code == 0
    folder = tmp_path / "comparisons" / "ma-quick-seed0-bc7d823473-vs-sam-quick-seed0-ba9d3d023a"
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.json", "comparison.md", "roc.png"]


def first_test_row(table):
    return table.index[table["split"] == "test"][0]


def flipped(table):
    row = first_test_row(table)
    table.loc[row, "label Mass"] = 1 - table.loc[row, "label Mass"]
    return table


def unknown(table):
    table.loc[first_test_row(table), "label Edema"] = float("nan")
    return table


def moved(table):
    table.loc[first_test_row(table), "patient_id"] = "somebody"
    return table


@pytest.mark.parametrize(
    ("table_change", "told"),
    [
        pytest.param(lambda t: t.drop(first_test_row(t)), "only {a} has 1 test image ({image})", id="fewer"),
        pytest.param(flipped, "1 label (Mass on {image}) different", id="label"),
        pytest.param(unknown, "1 label (Edema on {image}) different", id="unknown"),
        pytest.param(moved, "1 image ({image}) assigned to different patients", id="patient"),
        pytest.param(
            lambda t: t.drop(columns=["label Mass", "score Mass", "label Hernia", "score Hernia"]),
            "only {a} has 2 findings (Hernia, Mass)",
            id="findings",
        ),
        pytest.param(
            lambda t: t.assign(image_id="other " + t["image_id"]),
            "only {a} has 602 test images ({image}, ",
            id="all",
        ),
    ],
)
def test_runs_on_other_images_or_labels_are_refused(tmp_path, table_change, told):
    a, table = make_run(tmp_path / "a"), committed(SAM)[1].copy()
    image = table.loc[first_test_row(table), "image_id"]
    b = make_run(tmp_path / "b", SAM, table_change(table))
    for pair in ((a, b), (b, a)):
        ran = command(*pair, "--out", tmp_path / "out")
        assert ran.exit_code == 2 and len(ran.output.strip().splitlines()) == 1
        assert told.format(a=a, image=image) in ran.output
        assert "were not evaluated on the same test images and labels" in ran.output
        assert not (tmp_path / "out").exists()


def test_labels_that_both_do_not_know_are_the_same(tmp_path):
    runs = [
        make_run(tmp_path / name, source, unknown(committed(source)[1].copy()))
        for name, source in (("a", MA), ("b", SAM))
    ]
    assert compare_methods(*runs, 100, tmp_path).differences["Edema"].value is not None


def rename_data(fields):
    fields["dataset"]["name"] = "other"
    fields["dataset"]["labels"] |= {"file": "corrected.csv", "sha256": "0" * 64, "version": "2"}


def test_dataset_and_label_file_are_named_where_the_labels_differ(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", SAM, flipped(committed(SAM)[1].copy()), rename_data)
    shown = command(a, b, "--out", tmp_path / "out").output
    assert "dataset phantom vs. other; label file drawn (phantom-2, 2000 images, seed 0) vs." in shown
    assert "vs. corrected.csv (2); 1 label (" in shown


def test_the_same_labels_under_another_name_are_compared_and_listed(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", SAM, change=rename_data)
    facts = {fact.name: fact[1:] for fact in compare_methods(a, b, 100, tmp_path).facts}
    assert facts["dataset"] == ("phantom", "other") and "corrected.csv, 2 (0000000000)" in facts["labels"]


def test_findings_are_matched_by_name_and_images_by_id(two, tmp_path):
    table = committed(SAM)[1].sample(frac=1, random_state=0)
    findings = [name.removeprefix("label ") for name in table if name.startswith("label ")][::-1]
    names = [f"{kind} {finding}" for kind in ("label", "score") for finding in findings]
    turned = make_run(tmp_path / "turned", SAM, table[["image_id", "patient_id", "split", *names]])
    one, other = (compare_methods(two[0], second, 100, tmp_path) for second in (two[1], turned))
    assert one.differences == other.differences


def test_only_what_differs_is_listed(tmp_path):
    def change(fields):
        fields["seed"] = 3
        fields["recipe"]["train"] |= {"lr": 0.5, "batch_norm": "auto"}
        fields["environment"]["code"] = {"commit": "f" * 40, "dirty": True}

    a, b = make_run(tmp_path / "a", SAM), make_run(tmp_path / "b", SAM, change=change)
    facts = compare_methods(a, b, 100, tmp_path).facts
    assert facts == [
        ("train.lr", "0.003", "0.5"),
        ("code", records.read(SAM).environment.code.commit[:10], "ffffffffff + changes"),
        ("seeds", "0", "3"),
    ]


def make_elsewhere(fields):
    """Scores that another program made: nothing is known of their training."""
    fields.update(experiment_sha256=None, seed=None, recipe=None, weights=None, stages=[], selection="not known")
    fields["dataset"]["pixels"] = None
    fields["environment"] |= {"precision": None, "layout": None, "hardware": {}}
    about = {"file": "theirs.csv", "sha256": "0" * 64, "image_column": "image", "columns": "{finding}"}
    fields["submission"] = {**about, "scale": "probability"}
    table = records.read_scores(SAM, records.read(SAM))
    fields["dataset"]["split"]["sha256"] = split_sha256(table[table["split"] == "test"])


def test_scores_from_elsewhere_are_compared_without_their_training(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", SAM, change=make_elsewhere)
    ran = command(a, b, "--out", tmp_path / "out", "--results", RESULTS)
    assert ran.exit_code == 0, ran.output
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    facts = {fact["name"]: (fact["first"], fact["second"]) for fact in content["also_different"]}
    assert facts["scores"] == (None, "from theirs.csv") and facts["train.lr"] == ("0.003", None)
    assert content["speed"] == [] and "seed" not in content["second"]["title"]


def test_an_undefined_finding_has_a_reason_instead_of_numbers(tmp_path):
    tables = [committed(source)[1].copy() for source in (MA, SAM)]
    for table in tables:
        table["label Hernia"] = 0.0
    runs = [
        make_run(tmp_path / name, source, table) for name, source, table in zip("ab", (MA, SAM), tables, strict=True)
    ]
    ran = command(*runs, "--out", tmp_path / "out", "--resamples", 600)
    assert "no positive image" in ran.output and "for 4 findings" in ran.output
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["findings"]["Hernia"]["value"] is None
    assert content["mean_auc"] == content["mean_auc_without_rare"]


def test_no_defined_finding_is_reported(tmp_path):
    tables = [committed(source)[1].copy() for source in (MA, SAM)]
    for table in tables:
        table[[name for name in table if name.startswith("label ")]] = 0.0
    runs = [
        make_run(tmp_path / name, source, table) for name, source, table in zip("ab", (MA, SAM), tables, strict=True)
    ]
    ran = command(*runs, "--out", tmp_path / "out")
    assert ran.exit_code == 0 and "nothing can be compared" in " ".join(ran.output.split())
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["mean_auc"]["value"] is None


def test_the_better_run_is_named_either_way(tmp_path):
    compared = compare_methods(BETTER, WORSE, 600, tmp_path)
    turned = compare_methods(WORSE, BETTER, 600, tmp_path)
    assert "A is better on" in summarize(compared)[1] and f"{CLEAR} (+" in summarize(compared)[1]
    assert "B is better on" in summarize(turned)[1] and f"{CLEAR} (-" in summarize(turned)[1]


def publish_speeds(results, **changes):
    """Publish speeds of the committed runs of ma and sam, and read them; changes are those of sam."""
    of_each = {
        MA: {"shared_with": ["sam"], "rounds": rounds_of(inference=100.0)},
        SAM: {"rounds": rounds_of(inference=80.0), **changes},
    }
    for folder, fields in of_each.items():
        method = records.read(folder).method
        identity = method.model_dump(include={"options", "source_sha256", "built_in"})
        speed_record.publish(speed_fields(method.name, method=identity, **fields), results)
    return [speed_record.read(path) for path in speed_record.find(results)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({}, "inference 1.25 [1.25, 1.25]", id="paired"),
        pytest.param({"created": "2026-01-02T00:00:00+00:00"}, "different sessions", id="another session"),
        pytest.param({"shared_with": ["ma"], "rounds": rounds_of()}, "the same network", id="shared"),
        pytest.param({"rounds": rounds_of(others=0.2)}, "of B is not comparable: other processes", id="busy"),
    ],
)
def test_the_page_says_what_the_speeds_are_worth(tmp_path, changes, told):
    publish_speeds(tmp_path / "results", **changes)
    ran = command(MA, SAM, "--out", tmp_path / "out", "--results", tmp_path / "results", "--resamples", 600)
    assert ran.exit_code == 0, ran.output
    assert told in " ".join(ran.output.split())
    page = (tmp_path / "out" / "comparison.md").read_text().replace("\\", "")
    assert told in page
    assert ("not comparable" in page) == ("not comparable" in told)
    (speed,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["speed"]
    assert (speed["ratio"]["inference"]["value"] is None) == ("created" in changes)
    assert speed["same_network"] == ("shared_with" in changes)
    assert list(speed["not_comparable"]) == (["B"] if "not comparable" in told else [])


def test_speeds_are_compared_only_in_the_same_setup(two, tmp_path):
    one, other = (records.read(folder) for folder in (MA, SAM))
    speeds = publish_speeds(tmp_path)
    (pair,) = paired_timings(one, other, speeds)
    assert (pair.first.method.name, pair.second.method.name) == ("ma", "sam")
    elsewhere = [
        speed.model_copy(update={"setup": speed.setup.model_copy(update={"device": "another"})})
        if speed.method.name == "sam"
        else speed
        for speed in speeds
    ]
    assert paired_timings(one, other, elsewhere) == []
    assert paired_timings(one, other, []) == []


def test_texts_of_a_record_cannot_break_the_page(tmp_path):
    def change(fields):
        fields["method"]["options"]["gates"] = "a | b\n<script>`"

    a, b = make_run(tmp_path / "a", SAM), make_run(tmp_path / "b", SAM, change=change)
    assert command(a, b, "--out", tmp_path / "out").exit_code == 0
    page = (tmp_path / "out" / "comparison.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("| option gates")]
    assert line.replace("\\|", "").count("|") == 4 and line.count("`") == 4


def damage(folder):
    (folder / "run.json").write_text((folder / "run.json").read_text().replace('"seed": 0', '"seed": 1'))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda folder: (folder / "run.json").unlink(), "has no run.json: pass the folder", id="none"),
        pytest.param(lambda folder: (folder / "scores.parquet").unlink(), "scores.parquet is missing", id="no scores"),
        pytest.param(damage, "was changed after it was written", id="changed"),
    ],
)
def test_a_folder_without_a_valid_record_is_rejected(two, tmp_path, change, told):
    change(two[1])
    ran = command(*two, "--out", tmp_path / "out")
    assert ran.exit_code == 2 and told in ran.output and str(two[1]) in ran.output
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_where_the_page_cannot_be_made(two, tmp_path, monkeypatch):
    def fail(_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(compare, "comparison_markdown", fail)
    assert isinstance(command(*two, "--out", tmp_path / "out").exception, RuntimeError)
    assert not (tmp_path / "out").exists()
