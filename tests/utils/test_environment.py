"""The cache folder, and users whom the system does not know."""

import os
import pwd
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import chxbench
from chxbench import UserError
from chxbench.benchmark.leaderboard.leaderboard import write_leaderboard
from chxbench.benchmark.utils import environment
from chxbench.benchmark.utils.environment import cache_folder, versions
from chxbench.benchmark.utils.workspace import Workspace


def unknown(*_):
    raise KeyError("uid not found")


@pytest.fixture
def homeless(monkeypatch):
    """A user id without an account and without HOME."""
    for name in ("HOME", "XDG_CACHE_HOME", "CHXBENCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_folder_the_cache_must_be_chosen_and_the_leaderboard_needs_none(homeless, tmp_path):
    with pytest.raises(UserError, match="there is no home folder for the cache: set CHXBENCH_CACHE to a folder"):
        cache_folder()
    (tmp_path / "results").mkdir()
    write_leaderboard(Workspace(tmp_path / "results"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leaderboard.md", "results"]


def test_the_cache_of_an_older_platformdirs_is_no_folder_called_tilde(homeless, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache") / name)
    with pytest.raises(UserError, match="no home folder"):
        cache_folder()


@pytest.mark.parametrize(
    ("value", "wanted"), [("~/x", "HOME/x"), (".", "."), ("a b", "a b"), ("", "HOME/.cache/chxbench")]
)
def test_the_variable_moves_the_cache(monkeypatch, tmp_path, value, wanted):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHXBENCH_CACHE", value)
    if value or sys.platform == "linux":
        assert cache_folder() == Path(wanted.replace("HOME", str(tmp_path)))


def test_a_cache_that_is_a_link_to_itself_is_told(monkeypatch, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("CHXBENCH_CACHE", str(tmp_path / "loop" / "below"))
    with pytest.raises(
        UserError, match=r"lies below, a link that leads back to itself: .* set CHXBENCH_CACHE to a diff"
    ):
        cache_folder()


def test_libraries_that_ask_for_the_users_name_get_one():
    code = """
import getpass, pwd
def unknown(*_):
    raise KeyError("uid not found")
pwd.getpwuid = unknown
import chxbench
print(getpass.getuser())
"""
    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"user{os.getuid()}\n"


def test_a_package_that_is_on_the_path_and_not_installed_has_its_version(monkeypatch):
    def version_of_installed(name):
        if name == "chxbench":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(environment, "version", version_of_installed)
    assert versions()["chxbench"] == chxbench.__version__
