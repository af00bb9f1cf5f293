"""What runs on every push is what tox.ini describes."""

import re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def tox_ini():
    parser = ConfigParser()
    parser.read(ROOT / "tox.ini")
    return parser


def jobs():
    """Each job's text, by name: what is indented under `jobs:`."""
    _, _, text = WORKFLOW.read_text().partition("\njobs:\n")
    names_and_texts = re.split(r"^  (\w+):\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(names_and_texts[::2], names_and_texts[1::2], strict=True))


def test_every_environment_of_tox_but_speed_is_a_job_of_its_own():
    parser = tox_ini()
    known = set(re.split(r",\s*", parser["tox"]["env_list"]))
    known |= {section.removeprefix("testenv:") for section in parser.sections() if section.startswith("testenv:")}
    called = {name: re.findall(r"^      - run: tox -e (\S+)$", text, re.MULTILINE) for name, text in jobs().items()}
    assert called == {name: [name] for name in known - {"speed"}}


def test_the_workflow_may_read_and_nothing_else():
    text = WORKFLOW.read_text()
    assert re.findall(r"permissions:\n((?:  .*\n)+)", text) == ["  contents: read\n"]
    assert text.count("permissions:") == 1
    assert "secrets." not in text
    assert text.count("actions/checkout@") == text.count("persist-credentials: false") == len(jobs())


def test_actions_are_pinned_to_a_major_version():
    used = re.findall(r"uses: (\S+)", WORKFLOW.read_text())
    assert used
    assert [action for action in used if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []


def test_the_oldest_python_that_the_package_allows_is_tested():
    (oldest,) = re.findall(r'^requires-python = ">=([\d.]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    (tested,) = re.findall(r"python: \[(.*)\]", jobs()["tests"])
    assert f'"{oldest}"' in tested.split(", ")


def test_the_leaderboard_is_checked_made_again_and_compared():
    commands = tox_ini()["testenv:leaderboard"]["commands"].split("\n")[1:]
    assert commands == [
        "chxbench leaderboard --check",
        "chxbench leaderboard",
        "git diff --exit-code -- leaderboard.md results",
    ]
