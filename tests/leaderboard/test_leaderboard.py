"""Records that lie are refused, and the leaderboard is what the records give, to the letter."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from record_factory import edit, heatmaps, publish, recheck, score_table

from chxbench import UserError
from chxbench.benchmark.commands.compare.compare import compare_methods
from chxbench.benchmark.evaluation.artifacts import heatmaps_sha256, save_heatmaps
from chxbench.benchmark.leaderboard.ablation import paired_differences, rank_rows, rank_text
from chxbench.benchmark.leaderboard.boards import make_boards
from chxbench.benchmark.leaderboard.leaderboard import check_leaderboard, render, write_leaderboard
from chxbench.benchmark.leaderboard.leaderboard import read_runs as read
from chxbench.benchmark.leaderboard.rows import make_rows
from chxbench.benchmark.metrics.intervals import compare_means, interval
from chxbench.benchmark.records import record as records
from chxbench.benchmark.records.record import RecordError
from chxbench.benchmark.utils.files import file_sha256
from chxbench.benchmark.utils.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Two methods, one with two seeds, and their leaderboard beside the folder."""
    base = tmp_path_factory.mktemp("three")
    publish(base / "results", score_table(0.5), "a0", "Weak")
    publish(base / "results", score_table(1.5, 1), "b0", "Strong", name="ma")
    publish(base / "results", score_table(1.5, 2), "b1", "Strong", seed=1, name="ma")
    write_leaderboard(Workspace(base / "results"))
    return base


@pytest.fixture
def results(three, tmp_path):
    """A copy of them that a test may change."""
    shutil.copytree(three, tmp_path, dirs_exist_ok=True)
    return tmp_path / "results"


@pytest.fixture(scope="module")
def localized(three, tmp_path_factory):
    """The same with a run that has heatmaps: the folder of them all, and that run's record."""
    base = Path(shutil.copytree(three, tmp_path_factory.mktemp("localized") / "all"))
    _, record = publish_localized(base / "results", 0.7, name="sam")
    write_leaderboard(Workspace(base / "results"))
    return base, record


@pytest.fixture
def with_maps(localized, tmp_path):
    """A copy that a test may change: its results, and the folder of the run that has heatmaps."""
    shutil.copytree(localized[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "results", tmp_path / "results" / "made" / "sam" / "l0"


def text_of(results):
    return render(make_boards(read(Workspace(results))))


def board(results):
    return (results.parent / "leaderboard.md").read_text()


def test_the_committed_tree_agrees_with_itself():
    assert check_leaderboard(Workspace(ROOT / "results")) >= 5


def test_methods_are_ranked_by_the_mean_over_their_seeds(results):
    text = board(results)
    strong = [run.record.mean_auc.value for run in read(Workspace(results)) if run.record.method.name == "ma"]
    table = text[text.index("| Rank") : text.index("![Mean AUC")].splitlines()
    first, second = table[2:4]
    assert f"| {np.mean(strong):.3f} [" in first
    assert f"2 ({min(strong):.3f}–{max(strong):.3f})" in first
    assert "Weak" in second
    assert check_leaderboard(Workspace(results)) == 3


def test_other_splits_and_recipes_have_boards_of_their_own(results):
    publish(results, score_table(3), "c0", "Elsewhere", split="1" * 64)
    publish(results, score_table(3), "c1", "Longer", settings={"train.epochs": 9})
    text = text_of(results)
    assert text.count("Ranked by mean test AUC") == 3
    assert "recipe quick with evaluate.resamples = 100, train.epochs = 9" in text


def test_an_undefined_finding_is_no_number_and_leaves_the_mean(results, tmp_path):
    _, record = publish(results, score_table(1, without=["Hernia"]), "h0", "No hernia", split="2" * 64)
    assert record.auc["Hernia"].value is None
    assert record.mean_auc.findings == 13
    assert record.mean_auc.value == record.mean_auc_without_rare.value
    rows = [line for line in text_of(results).splitlines() if line.startswith("| Hernia")]
    assert any("–" in row for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda c: c["auc"]["Mass"].update(value=0.9), "changed after it was written", id="AUC"),
        pytest.param(lambda c: c["stages"][0].update(seconds=2.0), "changed after it was written", id="any number"),
        pytest.param(
            lambda c: (c["auc"]["Mass"].update(value=0.9), recheck(c)),
            r"auc\.Mass\.value is 0\.900000, the artifacts give",
            id="AUC and checksum",
        ),
        pytest.param(
            lambda c: (c["mean_auc"].update(low=0.1), recheck(c)), r"mean_auc\.low is 0\.1", id="interval and checksum"
        ),
        pytest.param(lambda c: (c["auc"].pop("Mass"), recheck(c)), "does not have the findings", id="finding dropped"),
        pytest.param(lambda c: c.update(schema=3), "has schema 3, this version reads 2", id="future schema"),
        pytest.param(lambda c: c.update(extra=1), "extra: Extra inputs", id="unknown key"),
        pytest.param(lambda c: c.pop("seed"), "seed: Field required", id="missing key"),
        pytest.param(lambda c: c["scores"].update(file="../../x"), "scores.file", id="path out of the folder"),
        pytest.param(lambda c: (c.update(run_id="other"), recheck(c)), "contains the record of", id="renamed"),
    ],
)
def test_a_record_that_lies_is_refused(results, change, message):
    edit(results / "made" / "bsl" / "a0" / "run.json", change)
    for refused in (check_leaderboard, write_leaderboard):
        with pytest.raises(RecordError, match=message):
            refused(Workspace(results))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda t: t[t["image_id"] != "299"], "does not contain the test images", id="row dropped"),
        pytest.param(lambda t: t.assign(**{"score Mass": np.nan}), "a score that is not finite", id="NaN"),
        pytest.param(lambda t: t.assign(image_id="000"), "lists an image twice", id="image twice"),
        pytest.param(lambda t: t.drop(columns="score Mass"), "does not have the columns", id="column dropped"),
        pytest.param(lambda t: t.assign(**{"label Mass": 1 - t["label Mass"]}), "does not contain", id="labels turned"),
    ],
)
def test_scores_that_are_not_the_splits_are_refused_though_all_hashes_fit(results, change, message):
    folder = results / "made" / "bsl" / "a0"
    change(pd.read_parquet(folder / "scores.parquet")).to_parquet(folder / "scores.parquet", index=False)
    digest = file_sha256(folder / "scores.parquet")
    edit(folder / "run.json", lambda c: (c["scores"].update(sha256=digest), recheck(c)))
    with pytest.raises(RecordError, match=message):
        check_leaderboard(Workspace(results))


def test_runs_on_other_images_do_not_share_a_board(results):
    table = score_table(1)
    table["image_id"] = "x" + table["image_id"]
    publish(results, table, "x0", "Others", name="sam")
    with pytest.raises(RecordError, match="were evaluated on different images or labels"):
        text_of(results)


def test_a_seed_counts_once(results):
    publish(results, score_table(1.5, 3), "b2", "Strong", seed=1, name="ma")
    with pytest.raises(RecordError, match="ma has a seed twice"):
        text_of(results)


def test_an_edited_plugin_is_a_row_of_its_own(results):
    for run_id, source in (("p0", "1" * 64), ("p1", "2" * 64)):
        publish(results, score_table(1), run_id, "Mine", name="mine", built_in=False, source_sha256=source)
    text = text_of(results)
    assert "Mine (`plugin mine 1111111`)" in text
    assert "Mine (`plugin mine 2222222`)" in text


def test_changed_or_missing_scores_are_refused(results):
    path = results / "made" / "bsl" / "a0" / "scores.parquet"
    table = pd.read_parquet(path)
    table.loc[100, "label Mass"] = 1 - table.loc[100, "label Mass"]
    table.to_parquet(path, index=False)
    with pytest.raises(RecordError, match="does not match the SHA-256 in its record"):
        check_leaderboard(Workspace(results))
    path.unlink()
    with pytest.raises(RecordError, match=r"scores\.parquet is missing"):
        check_leaderboard(Workspace(results))


def test_scores_that_have_lost_their_record_are_told_and_not_left_out(results):
    (results / "made" / "bsl" / "a0" / "run.json").unlink()
    for refused in (check_leaderboard, write_leaderboard):
        with pytest.raises(RecordError, match=r"a0/run\.json cannot be read \(No such file or directory\): restore it"):
            refused(Workspace(results))


def test_a_leaderboard_changed_by_hand_is_told_by_line(results):
    path = results.parent / "leaderboard.md"
    lines = board(results).splitlines()
    number = next(k for k, line in enumerate(lines) if "Weak" in line)
    path.write_text("\n".join([*lines[:number], lines[number].replace("0.", "0.9", 1), *lines[number + 1 :]]) + "\n")
    with pytest.raises(RecordError, match=f"line {number + 1} is"):
        check_leaderboard(Workspace(results))
    path.unlink()
    with pytest.raises(RecordError, match="line 1 is None"):
        check_leaderboard(Workspace(results))


def test_a_figure_of_other_scores_is_told(results):
    folder = results / "made"
    shutil.copy(folder / "ma" / "b0" / "roc.png", folder / "bsl" / "a0" / "roc.png")
    with pytest.raises(RecordError, match=r"a0/roc\.png does not show the current data"):
        check_leaderboard(Workspace(results))
    write_leaderboard(Workspace(results))
    assert check_leaderboard(Workspace(results)) == 3


def test_texts_from_a_record_are_only_text(results):
    evil = "<script>x</script> | [a](b) ![c](d) `e` \x1b[31m\u202e**f**"
    pool = {"pool": evil}
    publish(results, score_table(1), "e0", "Evil", options=pool, changed=pool, version=evil, split="1" * 64)
    text = text_of(results)
    assert "<script>" not in text.replace("`pool=<script>", "")  # in code nothing is markup
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\nrm " not in text
    assert r"\| \[a\](b) \!\[c\](d) \`e\`" in text
    row = next(line for line in text.splitlines() if "script" in line and line.startswith("| –"))
    columns = next(line for line in text.splitlines() if line.startswith("| Rank")).count("|")
    assert row.replace("\\|", "").count("|") == columns


def test_a_file_of_somebody_else_is_not_overwritten(results):
    path = results.parent / "leaderboard.md"
    path.write_text("my notes\n")
    with pytest.raises(UserError, match="was not written by chxbench leaderboard"):
        write_leaderboard(Workspace(results))
    assert path.read_text() == "my notes\n"


def test_no_records_give_a_leaderboard_of_what_papers_report(tmp_path):
    with pytest.raises(UserError, match=r"results folder .* does not exist"):
        write_leaderboard(Workspace(tmp_path / "results"))
    (tmp_path / "results").mkdir()
    write_leaderboard(Workspace(tmp_path / "results"))
    text = (tmp_path / "leaderboard.md").read_text()
    assert text.startswith(Workspace(Path("results")).leaderboard_mark)
    assert "| Hernia" in text
    assert "0.7942" in text


def test_publishing_replaces_whole_folders(three, tmp_path):
    folder = three / "results" / "made" / "bsl" / "a0"
    record = records.read(folder)
    place, replaced = records.publish(folder, record, tmp_path / "results")
    assert records.publish(folder, record, tmp_path / "results") == (place, "already published in")
    (place / "left over").touch()
    (place / "roc.png").write_bytes(b"")
    again, replaced_again = records.publish(folder, record, tmp_path / "results")
    assert (replaced, replaced_again, place) == ("published in", "replaced the record in", again)
    assert sorted(path.name for path in place.iterdir()) == ["roc.png", "run.json", "scores.parquet"]
    assert sorted(path.name for path in place.parent.iterdir()) == ["a0"]


@pytest.mark.parametrize(
    ("brightness", "told"),
    [
        pytest.param(0.0, "significantly below the boxes of other patients: Maps.", id="noise"),
        pytest.param(3.0, "significantly above the boxes of other patients: Maps.", id="boxes"),
    ],
)
def test_heatmaps_are_compared_with_the_boxes_of_other_patients(results, brightness, told):
    publish_localized(results, brightness, name="sam")
    assert (
        "- Pointing game, not tested against the boxes of other patients (too few seeds or patients): Maps."
        in text_of(results)
    )
    publish_localized(results, brightness, "l1", name="sam", seed=1)
    assert f"- Pointing game, {told}" in text_of(results)


def publish_localized(results, brightness, run_id="l0", **about):
    return publish(results, score_table(1, 7), run_id, "Maps", maps=heatmaps(score_table(1), brightness), **about)


def test_localization_is_shown_next_to_its_baselines(localized):
    base, record = localized
    found = record.localization
    assert (found.mean.boxes, found.mean.findings, found.images, found.grid) == (120, 2, 120, [4, 4])
    assert found.findings["Mass"].method is None  # no box: null
    assert found.mean.method.pointing_game > 0.6 > 0.3 > found.mean.random.pointing_game
    assert found.mean.pointing_game.low < found.mean.method.pointing_game < found.mean.pointing_game.high
    assert found.mean.prior.pointing_game > found.mean.random.pointing_game
    text = (base / "leaderboard.md").read_text()
    row = next(line for line in text.splitlines() if "the method's maps" in line)
    assert f"{found.mean.method.pointing_game:.3f} [" in row
    assert f"| {found.mean.method.iobb.accuracy[1]:.3f} [" in row
    assert "Baseline: random 4x4 heatmaps" in text and "Baseline: boxes of other patients, 4x4 heatmaps" in text
    assert "heatmaps.png)" in text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda folder: edit(
                folder / "run.json",
                lambda c: (c["localization"]["mean"]["method"]["iobb"]["accuracy"].__setitem__(1, 0.99), recheck(c)),
            ),
            r"mean\.method\.iobb\.accuracy\[1\] is 0\.990000, the artifacts give",
            id="a forged number",
        ),
        pytest.param(
            lambda folder: save_heatmaps(heatmaps(score_table(1), 9.0), folder / "maps.npz"),
            r"maps\.npz does not match",
            id="other heatmaps",
        ),
        pytest.param(lambda folder: (folder / "maps.npz").write_bytes(b"x"), "cannot be read", id="no heatmaps"),
        pytest.param(lambda folder: (folder / "maps.npz").unlink(), "cannot be read", id="heatmaps gone"),
        pytest.param(
            lambda folder: shutil.copy(folder / "roc.png", folder / "heatmaps.png"),
            r"heatmaps\.png does not show the heatmaps of its record",
            id="another figure",
        ),
    ],
)
def test_localization_that_does_not_follow_from_its_heatmaps_is_refused(with_maps, damage, message):
    results, folder = with_maps
    damage(folder)
    with pytest.raises(RecordError, match=message):
        check_leaderboard(Workspace(results))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m._replace(image_id=np.roll(m.image_id, 1)), id="patients of other images"),
        pytest.param(lambda m: m._replace(box_finding=m.box_finding + 14), id="a finding too many"),
        pytest.param(lambda m: m._replace(boxes=m.boxes[:10]), id="fewer boxes"),
    ],
)
def test_heatmaps_that_do_not_fit_the_record_are_refused_though_all_hashes_fit(with_maps, change):
    results, folder = with_maps
    maps = change(heatmaps(score_table(1), 3.0))
    save_heatmaps(maps, folder / "maps.npz")
    digest = heatmaps_sha256(maps)
    edit(folder / "run.json", lambda c: (c["localization"].update(sha256=digest), recheck(c)))
    with pytest.raises(RecordError, match=r"maps\.npz contains"):
        read(Workspace(results))


def test_runs_localized_against_different_boxes_do_not_share_a_board(results):
    maps = heatmaps(score_table(1), 3.0)
    publish(results, score_table(1, 7), "l0", "Maps", maps=maps, name="sam")
    publish(results, score_table(1, 8), "l1", "Maps", maps=maps._replace(boxes=maps.boxes / 2), name="sam", seed=1)
    with pytest.raises(RecordError, match="were localized against different boxes"):
        text_of(results)


def test_a_paired_difference_is_over_all_seeds_of_both(results):
    claim = {"name": "sam", "compared_with": ["ma", "bsl", "nobody"]}
    publish(results, score_table(1.5, 2), "s1", "Step", seed=1, **claim)
    publish(results, score_table(3.0, 5), "s2", "Step", seed=2, **claim)
    rows = make_rows(read(Workspace(results)))
    steps = {step.lower.label: step for step in paired_differences(rows)}
    means = {row.label: row.mean_auc for row in rows}
    assert {name: step.value for name, step in steps.items()} == pytest.approx(
        {name: means["Step"] - means[name] for name in ("Strong", "Weak")}
    )
    assert steps["Weak"].p is None and "at least 2 seeds" in steps["Weak"].untested
    step, strong = (row.statistics("mean_auc") for row in steps["Strong"][:2])
    found, error = compare_means(step, strong, rows[0].seed_variance["mean_auc"])
    assert (steps["Strong"].p, steps["Strong"].spread) == (error.p_value(found.value), error)
    assert rows[0].seed_variance["mean_auc"].freedom == 2  # five runs of three rows, of which Weak has one


def test_a_difference_is_that_of_compare(results):
    """A board of two methods and `chxbench compare` compute the same, from the same functions."""
    shutil.rmtree(results / "made" / "bsl")
    for seed in (0, 1):
        publish(results, score_table(1.0, 5 + seed), f"s{seed}", "Step", seed=seed, name="sam", compared_with=["ma"])
    rows = make_rows(read(Workspace(results)))
    (step,) = paired_differences(rows)
    compared = compare_methods(results / "made" / "sam", results / "made" / "ma", 100, results).comparison.mean
    ours = (step.value, step.value - step.spread.margin, step.value + step.spread.margin, step.p)
    assert ours == pytest.approx((compared.value, compared.low, compared.high, compared.p), abs=1e-12)
    for row in rows:
        for run in row.runs:
            recorded = run.record.mean_auc
            assert interval(run.verified.statistic("mean_auc")) == pytest.approx(
                (recorded.value, recorded.low, recorded.high), abs=1e-12
            )


@pytest.mark.parametrize(
    ("skill", "examples", "told"),
    [
        pytest.param(3.0, 10, "Gain at equal training budget (the 95 % interval over", id="better"),
        pytest.param(0.5, 10, "No significant difference at equal training budget (the 95 % interval over", id="alike"),
        pytest.param(-1.0, 10, "Loss at equal training budget (the 95 % interval over", id="worse"),
        pytest.param(3.0, 20, "excludes 0), which may explain all of it: Step", id="better at more"),
        pytest.param(3.0, 5, "Gain with 0.5x the images that the scored network was", id="better at less"),
    ],
)
def test_the_summary_states_what_a_difference_shows_and_what_not(results, skill, examples, told):
    claim = {"name": "sam", "compared_with": ["bsl"], "examples": examples}
    publish(results, score_table(skill, 5), "s0", "Step", **claim)
    assert "- Not tested, because a conclusion needs at least 2 seeds of each method: Step vs. Weak" in text_of(results)
    publish(results, score_table(skill, 6), "s1", "Step", seed=1, **claim)
    publish(results, score_table(0.5, 9), "a1", "Weak", seed=1)
    lines = text_of(results).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("- ") and "Step vs. Weak (" in line)
    assert told in lines[first]
    assert lines[first + 1] == "- Note that nothing here is about patients."
    assert "of 3 pairs of runs of the same method with different seeds, the test finds 0 different (0 %)" in text_of(
        results
    )


@pytest.mark.parametrize(("repeated", "tested"), [(4, False), (3, True)])
def test_selections_that_are_nearly_the_same_images_are_not_compared(results, repeated, tested):
    """If both repeat all 4 training images with a finding, which ones were selected cannot matter."""
    shutil.rmtree(results / "made")

    def repeat(fields):
        fields["stages"][0].update(hard_positives={"Mass": repeated, "images": repeated})

    for seed in (0, 1):
        hard = {"name": "sam", "compared_with": ["bsl"], "seed": seed, "change": repeat}
        publish(results, score_table(2.0, seed), f"s{seed}", "Hard", **hard)
        publish(results, score_table(1.0, seed), f"r{seed}", "Random", seed=seed, change=repeat)
    text = text_of(results)
    told = "- Not tested, because both repeat at least 100 % of the training images with a finding"
    assert (told in text, "- Gain at equal training budget" in text) == (not tested, tested)


@pytest.mark.parametrize(
    ("upper", "lower", "told"),
    [
        pytest.param(0.0004, None, "a part of the method is inactive (gates: 0.0004, minimum 0.001)", id="inactive"),
        pytest.param(0.02, None, None, id="active"),
        pytest.param(0.0004, 0.0004, None, id="both have it"),
    ],
)
def test_a_part_that_does_nothing_is_neither_credited_nor_blamed(results, upper, lower, told):
    shutil.rmtree(results / "made")

    def measured(value):
        checks = [] if value is None else [{"name": "gates", "value": value, "minimum": 0.001}]
        return lambda fields: fields.update(part_checks=checks)

    for seed in (0, 1):
        above = {"name": "fam", "compared_with": ["bsl"], "seed": seed, "change": measured(upper)}
        publish(results, score_table(2.0, seed), f"s{seed}", "Gated", **above)
        publish(results, score_table(1.0, seed), f"r{seed}", "Plain", seed=seed, change=measured(lower))
    text = text_of(results)
    assert (f"- Not tested, because {told}: Gated vs. Plain" in text) == (told is not None)
    assert ("- Gain at equal training budget" in text) == (told is None)
    ranks = ("1–2", "1–2") if told else ("1", "2")  # without a test, they are not told apart
    assert f"| {ranks[0]} of 2 | Gated" in re.sub(" +", " ", text) and f"| {ranks[1]} of 2 | Plain" in text


@pytest.mark.parametrize(("rise", "told"), [(0.03, True), (0.005, False)])
def test_training_that_may_not_have_converged_is_told(results, rise, told):
    def rising(fields):
        fields["stages"][0].update(epochs=2, loss=[0.7, 0.6], validation_auc=[0.6, 0.6 + rise])

    claim = {"name": "sam", "compared_with": ["bsl"], "change": rising}
    publish(results, score_table(1.0), "s0", "Step", **claim)
    text = text_of(results)
    assert ("- Note that training may not have converged (the validation AUC rose" in text) == told
    assert (f"speed of training: Step (+{rise:.3f})." in text) == told


def test_ranks_are_intervals_within_a_training_budget(results):
    """Two that differ, two that do not, one alone with more images, one with a single seed."""
    shutil.rmtree(results / "made")
    methods = {"ma": (3.0, 10), "sam": (1.0, 10), "fam": (1.0, 10), "bsl": (3.0, 20)}
    for number, (name, (skill, examples)) in enumerate(methods.items()):
        for seed in (0, 1, 2):
            table = score_table(skill, 10 * number + seed)
            publish(results, table, f"{name}{seed}", name, seed=seed, name=name, examples=examples)
    publish(results, score_table(9.0), "w0", "wang2017", name="wang2017")
    rows = make_rows(read(Workspace(results)))
    ranks = {row.label: rank_text(rank) for row, rank in zip(rows, rank_rows(rows), strict=True)}
    assert ranks == {"ma": "1 of 3", "sam": "2–3 of 3", "fam": "2–3 of 3", "bsl": "–", "wang2017": "–"}


def test_options_that_both_have_must_be_equal_in_a_pair(results):
    publish(results, score_table(1), "o0", "Lower", name="fam", options={"gates": "open"})
    about = {"name": "sam", "compared_with": ["fam"]}
    publish(results, score_table(1), "o1", "Same", options={"gates": "open", "pool": "max"}, **about)
    publish(results, score_table(1), "o2", "Other", options={"gates": "random"}, **about)
    steps = paired_differences(make_rows(read(Workspace(results))))
    assert [(step.upper.label, step.lower.label) for step in steps] == [("Same", "Lower")]


def test_a_run_on_a_part_of_the_images_is_a_trial_and_comes_last(results):
    publish(results, score_table(9), "t0", "Partial", split="1" * 64, absent=7, settings={"train.epochs": 1})
    text = text_of(results)
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles[1].startswith("## Trial, not a benchmark result: ")
