"""Fixtures: one small pixel cache for the whole session, and orders that train in seconds on it."""

import functools
import os

import pytest
from coarse_figures import make_coarse
from hypothesis import HealthCheck, settings
from small_runs import SMALL_DATA, SMALL_RECIPE

# `--hypothesis-profile=long` (or the variable) tries 60 times as many inputs: see `tox -e long`.
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
settings.register_profile("short", deadline=None, suppress_health_check=SLOW)
settings.register_profile("long", settings.get_profile("short"), max_examples=6000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The folder of pixel caches that all tests share; nothing is written to the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CHXBENCH_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def coarse_figures():
    """Draw every figure, but small; yields what saves it in full."""
    from matplotlib.figure import Figure

    whole = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", make_coarse(whole))
        yield whole


@pytest.fixture
def full_figures(coarse_figures, monkeypatch):
    """Draw figures as a user gets them, for tests of what they look like."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", coarse_figures)


@pytest.fixture(scope="session")
def config_in(cache):
    """Make an order for a small run that works in a folder; keyword arguments replace the order's fields."""
    from chxbench.benchmark.engine.experiment import RunConfig

    def make(folder, **changes):
        settings = {**SMALL_DATA, **SMALL_RECIPE, **changes.pop("settings", {})}
        fields = {"options": {"backbone": "test_resnet"}, "results": folder / "results", "cache": cache}
        return RunConfig(settings=settings, **{**fields, **changes})

    return make


@pytest.fixture
def small_config(config_in, tmp_path):
    """The same, in a folder of the test's own."""
    return functools.partial(config_in, tmp_path)
