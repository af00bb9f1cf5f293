"""`chxbench compare`: a paired comparison of two runs, written to comparison.json, comparison.md and roc.png.

Both runs are evaluated on the same bootstrap replicates of patients (metrics/paired.py), so that what makes a replicate
hard for both cancels in the difference.
"""

import json
from pathlib import Path
from typing import Any

from .... import __version__
from ...metrics.paired import Difference, compare
from ...records import speed_record
from ...utils.files import write_atomic
from .figure import draw_comparison
from .pair import LEVEL, ComparedPair, Side, check_same_test_set, read_side
from .run_differences import differing_context, paired_timings
from .tables import comparison_markdown, summarize

FILES = ("roc.png", "comparison.md", "comparison.json")


def compare_runs(first: Path, second: Path, resamples: int, results: Path) -> ComparedPair:
    """Compare two runs on the test images that both were evaluated on.

    Args:
        first: folder with run.json and its artifacts.
        second: another one.
        resamples: number of bootstrap replicates of patients.
        results: folder whose speed records are added; need not exist.

    Raises:
        UserError: no record in a folder, one that does not follow from its artifacts, or two that were evaluated on
            different images or labels.
    """
    one, other = read_side(first), read_side(second)
    check_same_test_set(one, other)
    scored, others = one.scored(one.findings), other.scored(one.findings)
    rare = [c for c, finding in enumerate(one.findings) if finding in one.record.dataset.rare]
    found = compare(scored.scores, others.scores, scored.labels, scored.patients, resamples, rare)
    speeds = [speed_record.read(path) for path in speed_record.find(results)]
    facts = differing_context(one.record, other.record)
    return ComparedPair(one, other, found, resamples, facts, paired_timings(one.record, other.record, speeds))


def default_folder(compared: ComparedPair) -> Path:
    """Return `comparisons/<method-run>-vs-<method-run>`."""
    return Path("comparisons", f"{compared.first.run}-vs-{compared.second.run}")


def write_comparison(compared: ComparedPair, folder: Path) -> None:
    """Write figure, Markdown and JSON, each atomically; where the JSON is new, so are the others."""
    page = comparison_markdown(compared)
    numbers = json.dumps(_content(compared), indent=1, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    draw_comparison(compared, folder / "roc.png")
    write_atomic(folder / "comparison.md", page.encode())
    write_atomic(folder / "comparison.json", numbers.encode())


def _content(compared: ComparedPair) -> dict[str, Any]:
    """Return the content of comparison.json: plain numbers, null where undefined."""
    found = compared.found
    return {
        "chxbench": __version__,
        "first": _side(compared.first),
        "second": _side(compared.second),
        "difference": "AUC of the first minus AUC of the second",
        "resamples": compared.resamples,
        "level": LEVEL,
        "findings": {name: _difference(one) for name, one in compared.each.items()},
        "mean_auc": _difference(found.mean),
        "mean_auc_without_rare": _difference(found.mean_without),
        "significant": compared.significant,
        "summary": summarize(compared),
        "also_different": [fact._asdict() for fact in compared.facts],
        "speed": [
            {
                "setup": pair.first.setup.model_dump(mode="json"),
                "first": pair.first.checksum,
                "second": pair.second.checksum,
            }
            for pair in compared.timings
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    record = side.record
    return {
        "folder": side.folder.as_posix(),
        "run_id": record.run_id,
        "method": record.method.name,
        "title": side.title,
        "record": record.checksum,
        "scores": record.scores.sha256,
        "test_images": len(side.table),
        "test_patients": int(side.table["patient_id"].nunique()),
    }


def _difference(one: Difference) -> dict[str, Any]:
    return one._asdict()
