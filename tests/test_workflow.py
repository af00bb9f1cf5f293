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


def called(text):
    """The environments of tox that a job runs, by name or one after the other from its matrix."""
    names = re.findall(r"^      - run: tox -e (\S+)$", text, re.MULTILINE)
    chosen = re.findall(r'^          - \{python: \S+, environment: "?([\w,]+)"?\}$', text, re.MULTILINE)
    chosen = [name for names in chosen for name in names.split(",")]
    return names + chosen if "      - run: tox -e ${{ matrix.environment }}\n" in text else names


def test_every_environment_of_tox_that_is_quick_is_called_once():
    parser = tox_ini()
    known = set(re.split(r",\s*", parser["tox"]["env_list"]))
    known |= {section.removeprefix("testenv:") for section in parser.sections() if section.startswith("testenv:")}
    found = {name: called(text) for name, text in jobs().items()}
    assert found == {"lint": ["lint"], "tests": ["tests", "types", "coverage"], "leaderboard": ["leaderboard"]}
    assert {environment for environments in found.values() for environment in environments} == known - {
        "speed",
        "long",
        "gpu",
    }


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
    assert oldest in re.findall(r'\{python: "([\d.]+)"', jobs()["tests"])


def test_the_leaderboard_is_checked_made_again_and_compared():
    commands = tox_ini()["testenv:leaderboard"]["commands"].split("\n")[1:]
    assert commands == [
        "chxbench leaderboard --check",
        "chxbench leaderboard",
        "git diff --exit-code -- leaderboard.md results",
    ]


def test_the_only_lines_that_coverage_leaves_out_need_a_gpu():
    files = [path for wing in ("benchmark", "methods", "datasets") for path in (ROOT / wing).rglob("*.py")]
    lines = [line for path in files for line in path.read_text().splitlines() if "no cover" in line]
    assert lines
    assert [line for line in lines if not re.search(r"cuda.*:  # pragma: no cover \(needs a GPU\)$", line)] == []
