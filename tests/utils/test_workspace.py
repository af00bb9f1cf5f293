"""A leaderboard belongs to one results folder: that of another one is never overwritten."""

import os

import pytest
from other_user import as_other_user, read_only, shared_folder
from small_runs import SMALL_DATA, SMALL_RECIPE, invoke

from chxbench import UserError
from chxbench.benchmark.leaderboard.leaderboard import check_leaderboard, write_leaderboard
from chxbench.benchmark.utils.workspace import Workspace

SMALL = [word for pair in {**SMALL_DATA, **SMALL_RECIPE}.items() for word in ("--set", f"{pair[0]}={pair[1]}")]
RUN = ["--option", "backbone=test_resnet", *SMALL, "--set", "compute.precision=float32"]


def make(folder):
    """Make a results folder without records, and its page."""
    folder.mkdir(parents=True)
    write_leaderboard(Workspace(folder))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["leaderboard"], id="leaderboard"),
        pytest.param(["leaderboard", "--check"], id="leaderboard --check"),
        pytest.param(["run", "--method", "bsl", *RUN], id="run"),
        pytest.param(["speed", "--method", "bsl", *RUN], id="speed"),
        pytest.param(["score", "absent.csv", "--name", "x", "--dataset", "phantom"], id="score"),
    ],
)
def test_the_page_of_another_folder_is_not_overwritten(words, tmp_path):
    make(tmp_path / "a")
    page = (tmp_path / "leaderboard.md").read_bytes()
    if words[0] == "leaderboard":
        (tmp_path / "b").mkdir()
    ran = invoke(*words, "--results", tmp_path / "b")
    assert ran.exit_code == 2
    assert f"Error: {tmp_path / 'leaderboard.md'} belongs to {tmp_path / 'a'}: choose a --results in" in ran.output
    assert (tmp_path / "leaderboard.md").read_bytes() == page
    assert {path.name for path in tmp_path.iterdir()} - {"b"} == {"a", "leaderboard.md"}


def test_a_folder_reached_through_a_link_or_renamed_has_its_own_page(tmp_path):
    folder = make(tmp_path / "x" / "a")
    for link in (tmp_path / "x" / "link", tmp_path / "elsewhere"):
        link.symlink_to(folder)
        write_leaderboard(Workspace(link))
        assert check_leaderboard(Workspace(folder)) == 0
    renamed = folder.rename(tmp_path / "x" / "b")
    Workspace(renamed).check()
    folder.symlink_to(renamed)
    write_leaderboard(Workspace(renamed))
    write_leaderboard(Workspace(folder))
    assert Workspace(folder).leaderboard_mark == Workspace(renamed).leaderboard_mark
    folder.unlink()
    folder.mkdir()
    with pytest.raises(UserError, match=f"belongs to {renamed}"):
        Workspace(folder).check()


@pytest.mark.parametrize("name", ["my results", "--> <b>", "{}", "two\nlines", "é%20", os.fsdecode(b"\xff"), "(.*)"])
def test_a_folder_of_any_name_has_its_page(tmp_path, name):
    folder = make(tmp_path / name)
    write_leaderboard(Workspace(folder))
    first = (tmp_path / "leaderboard.md").read_text().splitlines()[0]
    assert first == Workspace(folder).leaderboard_mark and first.count(">") == 1
    with pytest.raises(UserError, match="belongs to"):
        Workspace(tmp_path / "other").check()


def test_the_page_can_be_moved_with_its_folder(tmp_path):
    make(tmp_path / "x" / "results")
    (tmp_path / "x").rename(tmp_path / "y")
    assert check_leaderboard(Workspace(tmp_path / "y" / "results")) == 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param("runs", "chxbench itself uses the name runs", id="runs"),
        pytest.param("leaderboard.md", "chxbench itself uses the name leaderboard.md", id="page"),
        pytest.param("file", "file is a file: choose a folder", id="file"),
        pytest.param("dangling", "dangling is a file: choose a folder", id="dangling link"),
    ],
)
def test_a_folder_that_cannot_have_records_is_refused(tmp_path, name, told):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere/at/all")
    if name == "dangling":
        Workspace(tmp_path / name).check()  # records are written to where it points
        return
    with pytest.raises(UserError, match=told):
        Workspace(tmp_path / name).check()


def test_results_that_are_a_link_to_itself_are_told(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"^results folder .*loop is, or lies below, a link that leads back to itself"):
        Workspace(tmp_path / "loop")


def test_a_page_or_working_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "leaderboard.md").mkdir()
    with pytest.raises(UserError, match=r"leaderboard\.md cannot be read \(Is a directory\): move it away"):
        Workspace(tmp_path / "results").check()
    (tmp_path / "leaderboard.md").rmdir()
    (tmp_path / "leaderboard.md").write_bytes(b"\xff my own page")
    with pytest.raises(UserError, match="was not written by chxbench"):
        Workspace(tmp_path / "results").check()
    (tmp_path / "leaderboard.md").unlink()
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="runs is a file"):
        Workspace(tmp_path / "results").check()


@pytest.mark.parametrize("locked", [".", "results", "runs"])
def test_a_folder_that_cannot_be_written_is_refused_before_training(locked):
    with shared_folder() as folder:
        for name in ("results", "runs"):
            (folder / name).mkdir()
        for place in (folder, folder / "results", folder / "runs"):
            place.chmod(0o777)
        read_only(folder / locked) if locked != "." else folder.chmod(0o555)
        with pytest.raises(UserError, match=f"{(folder / locked).resolve()} cannot be written to: choose a different"):
            as_other_user(Workspace(folder / "results").check)
