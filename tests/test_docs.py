"""Links in the documentation: every relative link and image resolves to a committed file, every anchor to a heading."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
PAGES += [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def targets(page: Path) -> list[str]:
    """Return the targets of the links and images of a page, without those of code and of other sites."""
    links = LINK.findall(CODE.sub("", page.read_text()))
    return [link for link in links if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_committed(path: Path) -> bool:
    """Return whether git tracks the file; outside a checkout, whether it exists."""
    if not (ROOT / ".git").exists():
        return path.exists()
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "--", path], capture_output=True, text=True, check=True)
    return bool(listed.stdout)


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_resolve(name):
    page = ROOT / name
    broken = []
    for target in targets(page):
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.is_relative_to(ROOT.resolve()) or not path.exists() or not is_committed(path):
            broken.append(target)
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            broken.append(f"{target}: no such heading")
    assert not broken


def test_readme_shows_figures_and_links():
    links = targets(ROOT / "README.md")
    assert sum(link.endswith(".png") for link in links) == 2
    assert "docs/protocol.md" in links


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# `run.json`, schema 2\n\n```console\n# a comment\n```\n\n## A [link](b.md): one-two\n")
    assert anchors(page) == {"runjson-schema-2", "a-link-one-two"}
