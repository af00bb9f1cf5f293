"""What the page and the terminal conclude: training budgets, the check without an effect, floors, tests left out."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from record_factory import as_floor, publish, score_table, split_of

from chxbench.benchmark.dataset import FINDINGS
from chxbench.benchmark.evaluation.artifacts import label_column
from chxbench.benchmark.evaluation.scores import evaluate_secondary_metrics
from chxbench.benchmark.leaderboard import ablation
from chxbench.benchmark.leaderboard.boards import make_boards
from chxbench.benchmark.leaderboard.figure_files import required_figures
from chxbench.benchmark.leaderboard.leaderboard import read_runs, render
from chxbench.benchmark.leaderboard.rows import all_images, equal_budgets, make_rows, trained_on
from chxbench.benchmark.leaderboard.terminal import show_boards
from chxbench.benchmark.metrics.intervals import MIN_PATIENTS, interval
from chxbench.benchmark.metrics.paired import holm
from chxbench.benchmark.utils.workspace import Workspace


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def page(results):
    return render(make_boards(read_runs(Workspace(results))))


def rows_of(results):
    return make_rows(read_runs(Workspace(results)))


def terminal(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show_boards(read_runs(Workspace(results)))
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("stages", "trained", "of_all"),
    [
        pytest.param([("initial", 10, 2)], 20, 20, id="one stage"),
        pytest.param([("initial", 10, 2), ("initial", 15, 2)], 30, 50, id="a restart"),
        pytest.param([("initial", 10, 2), ("previous", 15, 2)], 50, 50, id="the same network trained on"),
        pytest.param([("initial", 9, 1), ("initial", 10, 2), ("previous", 15, 2)], 50, 59, id="both"),
        pytest.param([], 0, 0, id="external predictions"),
    ],
)
def test_the_budget_is_what_the_scored_network_was_trained_on(stages, trained, of_all):
    parts = [SimpleNamespace(start=start, examples=images, epochs=epochs) for start, images, epochs in stages]
    assert (trained_on(parts), all_images(parts)) == (trained, of_all)


@pytest.mark.parametrize(("other", "equal"), [(105, True), (106, False), (95.3, True), (95, False)])
def test_budgets_within_five_percent_of_the_smaller_are_equal(other, equal):
    assert equal_budgets(100, other) == equal_budgets(other, 100) == equal


def with_first_stage(start):
    """A change that puts a stage of 10 images before the stage of a run."""

    def change(fields):
        (stage,) = fields["stages"]
        fields["stages"] = [{**stage, "examples": 10}, {**stage, "start": start}]

    return change


@pytest.mark.parametrize(
    ("start", "examples", "claim", "cost"),
    [
        pytest.param("initial", 16, "Gain at equal training budget", True, id="as many as the scored network"),
        pytest.param("initial", 26, "Gain with 0.6x the images that the scored network", False, id="as many in all"),
        pytest.param("previous", 26, "Gain at equal training budget", False, id="one network trained on all"),
        pytest.param("initial", 10, "Gain with 1.6x the images that the scored network", False, id="fewer"),
    ],
)
def test_a_gain_is_at_equal_budget_if_the_scored_networks_saw_as_many_images(results, start, examples, claim, cost):
    for seed in (0, 1):
        two = {"name": "ma", "compared_with": ["sam"], "examples": 16, "change": with_first_stage(start)}
        publish(results, score_table(3.0, seed), f"m{seed}", "Two stages", seed=seed, **two)
        publish(results, score_table(1.0, seed), f"s{seed}", "One", seed=seed, name="sam", examples=examples)
    text = page(results)
    assert f"- {claim}" in text
    note = "the images of all stages differ, because an earlier stage selected the examples: Two stages vs. One (1.6x)"
    assert (note in text) == cost
    row = next(line for line in text.splitlines() if re.match(r"\| \S+( of 2)? +\| Two stages", line))
    trained = 16 if start == "initial" else 26
    assert [cell.strip() for cell in row.split("|")[-3:-1]] == [str(trained), "26"]
    assert row.startswith("| 1 of 2 ") == (claim == "Gain at equal training budget")


def publish_seeds(results, name, skills, **about):
    for seed, skill in enumerate(skills):
        publish(results, score_table(skill, seed), f"{name}{seed}", name, seed=seed, name=name, **about)


def count_null(results):
    pairs = ablation.check_null(rows_of(results))
    return sum(pair.p < 0.05 for pair in pairs), len(pairs)


def test_the_check_without_an_effect_fails_if_the_seeds_of_one_method_vary_more(results):
    publish_seeds(results, "bsl", (1.0, 1.0, 1.0))
    publish_seeds(results, "fam", (1.1, 1.1, 1.1))
    publish_seeds(results, "sam", (1.2, 1.2, 1.2))
    assert count_null(results) == (0, 9)
    publish_seeds(results, "ma", (0.2, 1.2, 3.0))
    assert count_null(results) == (3, 12)


def test_the_check_without_an_effect_needs_the_seeds_of_another_method(results):
    publish_seeds(results, "bsl", (1.0, 1.0))
    publish_seeds(results, "ma", (2.0,), compared_with=["bsl"])
    assert ablation.null_sentence(rows_of(results)) == ""


def test_what_else_differs_between_the_runs_of_the_check_is_told(results, capsys, monkeypatch):
    def changed(fields):
        fields["environment"]["code"] = {"commit": "f" * 40, "dirty": False}
        fields["environment"]["versions"]["torch"] = "9"

    publish_seeds(results, "bsl", (1.0, 1.0))
    publish_seeds(results, "ma", (2.0, 2.0), compared_with=["bsl"])
    alike = "of 2 pairs of runs of the same method with different seeds, the test finds 0 different (0 %)"
    assert alike in page(results) and "also differ" not in page(results)
    publish(results, score_table(2.0, 2), "ma2", "ma", seed=2, name="ma", compared_with=["bsl"], change=changed)
    told = "Of these pairs, 2 also differ in the commit of chxbench and 2 also differ in the version of torch."
    assert told in page(results)
    shown = terminal(results, capsys, monkeypatch)
    assert "of 4 pairs of runs of the same method with different seeds" in shown and told in shown


@pytest.mark.parametrize("skill", [pytest.param(2.0, id="above"), pytest.param(0.8, id="below what it extends")])
def test_pairs_that_are_not_tested_have_no_p_and_do_not_count_in_the_correction(results, monkeypatch, skill):
    def gates(fields):
        if fields["seed"] == 0:
            fields["part_checks"] = [{"name": "gates", "value": 0.0004, "minimum": 0.001}]

    publish_seeds(results, "bsl", (1.3, 1.3))
    publish_seeds(results, "fam", (skill, skill), compared_with=["bsl"], change=gates)
    publish_seeds(results, "wang2017", (-1.0, -1.0))
    rows = rows_of(results)
    (pair,) = ablation.paired_differences(rows)
    assert pair.p is None and "(gates: 0.0004, minimum 0.001; measured in 1 of 2 runs, seed 0)" in pair.untested
    corrected = []
    monkeypatch.setattr(ablation, "holm", lambda found: corrected.append(found) or holm(found))
    ranks = {row.label: ablation.rank_text(rank) for row, rank in zip(rows, ablation.rank_rows(rows), strict=True)}
    assert [p is None for p in corrected[0]] == [True, False, False]
    assert ranks == {"fam": "1–2 of 3", "bsl": "1–2 of 3", "wang2017": "3 of 3"}


def publish_floor(results, skill):
    publish(
        results,
        score_table(skill, 7),
        f"f{skill}",
        f"Floor {skill}",
        name="floor_thumbnail",
        split=split_of(score_table(1)),
        change=as_floor,
        settings={"evaluate.resamples": 1000},
    )


@pytest.mark.parametrize(("skill", "higher"), [(3.0, True), (0.3, False)])
def test_a_higher_floor_is_named_first(results, skill, higher, capsys, monkeypatch):
    publish_seeds(results, "ma", (1.0, 1.0), settings={"evaluate.resamples": 1000})
    publish(results, score_table(1.0), "t0", "Partial", split="1" * 64, absent=7)
    publish_floor(results, skill)
    (board, _) = make_boards(read_runs(Workspace(results)))
    value = f"{board.floors[0].mean_auc:.3f}"
    text = page(results)
    told = f"The highest mean AUC, {value}, is that of a floor, which needs no network: Floor {skill}."
    assert (f"80 patients. {told} Ranked by" in text) == higher
    assert f"| {value}, Floor {skill} |" in re.sub(" +", " ", text)  # in the contents
    assert text.split("# Leaderboard\n\n")[1].startswith("3 runs and 1 floor. ")
    shown = terminal(results, capsys, monkeypatch)
    assert (told in shown) == higher and f"floor Floor {skill} {value} [" in shown


def test_floors_are_drawn_with_the_methods(results):
    publish_seeds(results, "ma", (1.0,))
    boards, *floors = [make_boards(read_runs(Workspace(results)))]
    publish_floor(results, 0.5)
    floors = make_boards(read_runs(Workspace(results)))
    drawn = [
        next(figure for figure in required_figures([], made, [], results) if figure.path.name.startswith("auc-"))
        for made in (boards, floors)
    ]
    assert drawn[0].path == drawn[1].path and drawn[0].sha256 != drawn[1].sha256


@pytest.mark.parametrize(
    ("methods", "outcome"), [(("ma",), "above"), (("ma", "sam"), "not significantly different from")]
)
def test_tests_against_a_floor_are_corrected_for_the_number_of_methods(results, monkeypatch, methods, outcome):
    for name in methods:
        publish_seeds(results, name, (1.0, 1.0))
    monkeypatch.setattr(ablation, "compare_with_floor", lambda *_: (0.1, 0.03))
    (sentence,) = ablation.floor_sentences(rows_of(results), "mean_auc", lambda _: None, ("Mean AUC", "Thumbs"))
    assert f"{outcome} Thumbs" in sentence


@pytest.mark.parametrize(("patients", "shown"), [(MIN_PATIENTS, True), (MIN_PATIENTS - 1, False)])
def test_the_brier_score_has_an_interval_if_enough_patients_have_any_finding(patients, shown):
    table = score_table(1)
    labels = [label_column(finding) for finding in FINDINGS]
    table[labels] = 0.0
    test = np.flatnonzero(table["split"] == "test")[: 3 * patients : 3]  # an image of each patient, of any finding
    for number, row in enumerate(test):
        table.loc[row, labels[number % len(labels)]] = 1.0
    metrics, statistics = evaluate_secondary_metrics(table, 50)
    assert (interval(statistics["brier"]).low is not None) == (metrics.mean.brier.low is not None) == shown


def test_brackets_are_of_expected_values_and_tell_which_numbers_have_none(results):
    publish_seeds(results, "ma", (1.0,))
    text = page(results)
    assert "95 % intervals of the expected value over test patients and training seeds" in text
    assert "floors and external predictions, which have no seeds, are over test patients alone" in text
    assert "AFP and the baselines of localization have none." in text
    assert "(Holm 1979), within each budget" in text
