"""The page: what is visible, what is folded, and a golden file of a small one.

After an intended change: `UPDATE_GOLDEN=1 pytest tests/leaderboard/test_markdown.py`, then read the diff of the file.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from markdown_it import MarkdownIt
from record_factory import heatmaps, publish, score_table

from chxbench.benchmark.leaderboard.boards import make_boards
from chxbench.benchmark.leaderboard.leaderboard import read_runs, render, write_leaderboard
from chxbench.benchmark.leaderboard.markdown import _anchors
from chxbench.benchmark.leaderboard.tables import MAX_METHOD_COLUMNS, Item, cross_table, short_names
from chxbench.benchmark.utils.workspace import Workspace

GOLDEN = Path(__file__).with_name("golden_leaderboard.md")


def page(results):
    return render(make_boards(read_runs(Workspace(results))))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The page of two boards: a method with two seeds, its control and its baseline with heatmaps; and a trial."""
    results = tmp_path_factory.mktemp("small") / "results"
    table = score_table(0.5)
    publish(results, table, "b0", "Baseline", maps=heatmaps(table, 2.0))
    publish(results, score_table(1.2, 3), "c0", "Control", name="ma_random", control=True)
    for seed in (0, 1):
        claims = {"name": "ma", "compared_with": ["bsl", "ma_random"], "examples": 20}
        publish(results, score_table(1.5, seed), f"m{seed}", "Method", seed=seed, **claims)
    publish(results, score_table(1, without=["Hernia"]), "t0", "Partial", split="1" * 64, absent=7)
    return page(results)


def without_identities(text):
    """Blank what depends on the recipe's settings, which other tests cover."""
    return re.sub(r"(auc|speed)-[0-9a-f]{10}", r"\1-0123456789", re.sub(r"- recipe: .*", "- recipe: `...`", text))


def test_a_small_page_is_the_golden_file(small):
    text = without_identities(small)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def visible(html):
    return re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)


def test_of_a_board_ranking_ablation_findings_and_localization_are_visible(small):
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(small)
    board = html[html.index("<h2>Made up") : html.index("<h2>Trial")]
    assert visible(board).count("<table>") == 4
    assert re.findall(r"<h3>(.*?)</h3>", board) == ["Paired differences (ablation)", "AUC per finding", "Localization"]
    assert board.count("<table>") > 6
    assert "|:--" not in html  # every table is read as one, folded or not
    assert html.count("<details>") == html.count("</details>") > 6


def test_the_contents_link_every_board_and_name_its_highest_mean(small):
    contents = [line for line in small.splitlines() if line.startswith("| [")]
    assert len(contents) == small.count("\n## ") - 1  # and the values that papers report
    assert re.search(
        r"\(#made-up-recipe-quick-with-evaluateresamples--100\) +\| +2 \+ 1 control \| [0-9., \[\]]+\| Method ",
        contents[0],
    )


@pytest.mark.parametrize("name", ["res ults", "a#b%41", "(1) <b>", "r\udcf6\n"])
def test_links_lead_to_the_files_of_a_results_folder_of_any_name(tmp_path, name):
    publish(tmp_path / name, score_table(1), "a0", "Method", maps=heatmaps(score_table(1), 1.0))
    write_leaderboard(Workspace(tmp_path / name))
    html = MarkdownIt("gfm-like", {"linkify": False}).render((tmp_path / "leaderboard.md").read_text())
    targets = re.findall(r'(?:href|src)="([^#"]+)"', html)
    assert len(targets) == 4  # the figure of AUCs; record, ROC curves and heatmaps
    assert all((tmp_path / os.fsdecode(unquote_to_bytes(target))).is_file() for target in targets), targets


def test_one_board_needs_no_contents(tmp_path):
    publish(tmp_path / "results", score_table(1), "a0", "Method")
    assert "](#" not in page(tmp_path / "results")


def test_anchors_are_those_of_github():
    headings = ["Phantom (synthetic radiographs), recipe quick", "A: b_c-d, x = 1.5", "A: b_c-d, x = 1.5"]
    assert _anchors(headings) == ["phantom-synthetic-radiographs-recipe-quick", "a-b_c-d-x--15", "a-b_c-d-x--15-1"]


def test_more_methods_than_fit_are_rows_and_only_the_first_are_visible(tmp_path):
    count = MAX_METHOD_COLUMNS + 1
    for number in range(count):
        about = {"options": {"copy": number}, "changed": {"copy": number}}
        publish(tmp_path / "results", score_table(3 - number / 5), f"a{number}", "Method", **about)
    text = page(tmp_path / "results")
    shown, folded = text.split(f"<details><summary>AUC per finding, all {count} rows</summary>")
    assert f"The first {MAX_METHOD_COLUMNS} of {count} rows of the ranking." in shown
    header = next(line for line in shown.splitlines() if line.startswith("| Finding"))
    assert header.count("copy=") == MAX_METHOD_COLUMNS
    assert "copy=8" not in header  # the last one of the ranking
    table = folded.split("</details>")[0]
    assert "| Pneumot. |" in re.sub(" +", " ", table)
    assert table.count("copy=") == count
    assert "Method\u00a0(`copy=8`)" in table


@pytest.mark.parametrize(("count", "first"), [(MAX_METHOD_COLUMNS, "Finding"), (MAX_METHOD_COLUMNS + 1, "Method")])
def test_a_cross_table_turns_where_methods_do_not_fit(count, first):
    labels = [f"m{number}" for number in range(count)]
    items = [Item("Atelectasis", "Atel.", ["7"], [f"0.{number}" for number in range(count)])]
    lines = cross_table(("Finding", "Test positives"), items, labels).splitlines()
    assert lines[0].startswith(f"| {first}")
    assert len(lines) - 2 == (1 if first == "Finding" else count + 1)
    assert all(f"0.{number}" in "".join(lines) for number in range(count))


def test_short_names_are_distinct_beginnings():
    names = ["Pneumonia", "Pneumothorax", "Mass", "Edema", "Effusion", "Pleural_Thickening", "No_Finding"]
    assert short_names(names) == ["Pneumon.", "Pneumot.", "Mass", "Edema", "Effu.", "Pleu.", "No_F."]
