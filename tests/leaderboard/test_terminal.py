"""The leaderboard in the terminal: whole numbers at any width, and text from records is only text."""

import re

import pytest
from click.testing import CliRunner
from record_factory import publish, score_table
from rich.cells import cell_len

from chxbench.benchmark.cli import main
from chxbench.benchmark.leaderboard.boards import make_boards
from chxbench.benchmark.leaderboard.leaderboard import read_runs as read
from chxbench.benchmark.leaderboard.terminal import show_boards
from chxbench.benchmark.utils.workspace import Workspace

EVIL = (
    "[bold red]x[/] [link=file:///etc]y[/link] :smile: \x1b[31m\u202e\x07 `a` *b* <b>&amp;</b> \\[c] 漢字 " + "w" * 99
)


@pytest.fixture
def results(tmp_path):
    """A method with two seeds that claims to better a control, and a trial on another split."""
    folder = tmp_path / "results"
    publish(folder, score_table(0.5), "a0", "Weak", options={"pool": EVIL}, changed={"pool": EVIL})
    for seed in (0, 1):
        publish(folder, score_table(1.5, seed), f"b{seed}", "Strong", seed=seed, name="ma", compared_with=["bsl"])
    publish(folder, score_table(1, without=["Hernia"]), "t0", "Partial", split="1" * 64, absent=7)
    return folder


def shown(results, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    show_boards(read(Workspace(results)))
    return capsys.readouterr().out


def numbers(results):
    """What must stand in the ranking: mean, interval and seeds of every row."""
    boards = make_boards(read(Workspace(results)))
    for row in (row for board in boards for row in board.rows):
        value, low, high = row.interval("mean_auc")
        yield f"{value:.3f} [{low:.3f}, {high:.3f}]"
        yield f"{row.interval('mean_auc_without_rare').value:.3f}"
        if len(row.runs) > 1:
            values = [statistic.value for statistic in row.statistics("mean_auc")]
            yield f"{len(row.runs)} ({min(values):.3f}–{max(values):.3f})"


@pytest.mark.parametrize("columns", [30, 80, 200])
def test_numbers_are_whole_however_narrow_the_screen(results, capsys, monkeypatch, columns):
    text = shown(results, capsys, monkeypatch, columns)
    assert [number for number in numbers(results) if number not in text] == []


def test_a_long_name_is_folded_and_not_cut(results, capsys, monkeypatch):
    narrow, wide = (shown(results, capsys, monkeypatch, columns) for columns in (80, 400))
    assert narrow.count("w") == wide.count("w") > 200
    assert "…" not in narrow


@pytest.mark.parametrize("columns", [80, 200])
def test_no_line_is_longer_than_the_screen(results, capsys, monkeypatch, columns):
    lines = shown(results, capsys, monkeypatch, columns).splitlines()
    assert max(map(cell_len, lines)) <= columns


def test_text_from_records_is_only_text(results, capsys, monkeypatch):
    text = shown(results, capsys, monkeypatch, 400)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)
    table, sentence = text.split("Paired differences (ablation):\n")
    for part in (table, sentence):
        assert "[bold red]x[/] [link=file:///etc]y[/link] :smile:" in part
        assert "`a` *b* <b>&amp;</b> \\[c] 漢字 www" in part
    assert "Strong vs. Weak (pool=[bold red]x" in sentence


def test_a_dataset_and_a_rule_are_only_text_too(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "600")
    (run, *_) = read(Workspace(results))
    dataset = run.record.dataset.model_copy(update={"title": EVIL, "caveat": EVIL})
    record = run.record.model_copy(update={"dataset": dataset, "selection": EVIL})
    show_boards([run._replace(record=record)])
    text = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)
    assert text.count("[bold red]x[/] [link=file:///etc]y[/link] :smile:") == 3  # heading, rule, method


def test_boards_are_in_the_order_of_the_leaderboard_best_first(results, capsys, monkeypatch):
    text = shown(results, capsys, monkeypatch, 80)
    headings = [line for line in text.splitlines() if "Made up, recipe quick" in line]
    assert [heading.startswith("Trial, not a benchmark result: ") for heading in headings] == [False, True]
    assert text.index("Strong  ") < text.index("Weak (pool=")
    assert text.count("Ranked by mean test AUC") == 2
    assert "nothing here is about patients." in " ".join(text.split())


def test_an_undefined_mean_is_a_dash(tmp_path, capsys, monkeypatch):
    table = score_table(1)
    nothing = table.assign(**{column: 0.0 for column in table if column.startswith("label ")})
    publish(tmp_path / "results", nothing, "n0", "Nothing")
    publish(tmp_path / "results", nothing, "n1", "Nothing", seed=1)
    assert re.search(r"Nothing +– +– +2 *\n", shown(tmp_path / "results", capsys, monkeypatch, 80))


def test_the_command_shows_and_changes_nothing(results):
    before = sorted((path, path.stat().st_mtime_ns) for path in results.parent.rglob("*"))
    told = CliRunner().invoke(main, ["leaderboard", "--results", str(results), "--show"])
    assert (told.exit_code, "Strong" in told.output) == (0, True)
    assert sorted((path, path.stat().st_mtime_ns) for path in results.parent.rglob("*")) == before


def test_a_record_that_lies_is_not_shown(results):
    (results / "made" / "bsl" / "a0" / "scores.parquet").unlink()
    told = CliRunner().invoke(main, ["leaderboard", "--results", str(results), "--show"])
    assert (told.exit_code, "Strong" in told.output) == (2, False)
    assert "scores.parquet is missing" in told.output


def test_no_records_are_no_error(tmp_path):
    (tmp_path / "results").mkdir()
    told = CliRunner().invoke(main, ["leaderboard", "--results", str(tmp_path / "results"), "--show"])
    assert (told.exit_code, "No records yet" in told.output) == (0, True)


def test_check_and_show_exclude_each_other():
    told = CliRunner().invoke(main, ["leaderboard", "--check", "--show"])
    assert (told.exit_code, "choose one" in told.output) == (2, True)
