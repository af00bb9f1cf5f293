"""`chxbench compare`: compare two methods, paired, and write comparison.json, comparison.md and roc.png.

All runs of both are evaluated on the same bootstrap replicates of patients (metrics/paired.py), so that variation that
affects both cancels in the difference.
"""

import json
from pathlib import Path
from typing import Any

from ...leaderboard.speed import COMPARED
from ...metrics.paired import compare
from ...records import speed_record
from ...utils.files import write_atomic
from ...utils.package import __version__
from .figure import draw_comparison
from .pair import ALPHA, ComparedMethod, ComparedPair, check_same_test_set, read_compared_method
from .run_differences import ContextFact, differing_context, paired_timings
from .tables import comparison_markdown, summarize

FILES = ("roc.png", "comparison.md", "comparison.json")


def compare_methods(first: Path, second: Path, resamples: int, results: Path) -> ComparedPair:
    """Compare two methods, or two single runs, on the test images that all runs were evaluated on.

    Args:
        first: folder of a run, with run.json and its artifacts, or of the runs of the first method.
        second: folder of the second run or method.
        resamples: number of bootstrap replicates of patients.
        results: folder whose speed records are included; need not exist.

    Raises:
        UserError: if a folder has no record or one that does not match its artifacts, or if the runs were evaluated on
            different images or labels.
    """
    one, other = read_compared_method(first), read_compared_method(second)
    check_same_test_set(one.first, other.first)
    findings, rare = one.first.findings, one.record.dataset.rare
    tests, others = ([run.test_scores(findings) for run in method.runs] for method in (one, other))
    comparison = compare(
        [test.scores for test in tests],
        [test.scores for test in others],
        tests[0].labels,
        tests[0].patients,
        resamples,
        [c for c, finding in enumerate(findings) if finding in rare],
    )
    speeds = [speed_record.read(path) for path in speed_record.find(results)]
    facts = differing_context(one.record, other.record)
    if one.seeds != other.seeds:
        facts.append(ContextFact("seeds", one.seeds or None, other.seeds or None))
    return ComparedPair(one, other, comparison, resamples, facts, paired_timings(one.record, other.record, speeds))


def default_folder(compared: ComparedPair) -> Path:
    """Return `comparisons/<method-run>-vs-<method-run>`."""
    return Path("comparisons", f"{compared.first.label}-vs-{compared.second.label}")


def write_comparison(compared: ComparedPair, folder: Path) -> None:
    """Write figure, Markdown and JSON, each atomically; the JSON is last, so that if it is new, all are."""
    page = comparison_markdown(compared)
    content = json.dumps(_content(compared), indent=1, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    draw_comparison(compared, folder / "roc.png")
    write_atomic(folder / "comparison.md", page.encode())
    write_atomic(folder / "comparison.json", content.encode())


def _content(compared: ComparedPair) -> dict[str, Any]:
    """Return the content of comparison.json; undefined numbers are null."""
    comparison = compared.comparison
    return {
        "chxbench": __version__,
        "first": _describe(compared.first),
        "second": _describe(compared.second),
        "difference": "AUC of the first minus AUC of the second",
        "resamples": compared.resamples,
        "level": ALPHA,
        "of_methods": compared.is_of_methods,
        "findings": {name: difference._asdict() for name, difference in compared.differences.items()},
        "mean_auc": comparison.mean._asdict(),
        "mean_auc_without_rare": comparison.mean_without._asdict(),
        "significant": compared.significant,
        "summary": summarize(compared),
        "also_different": [fact._asdict() for fact in compared.facts],
        "speed": [
            {
                "setup": pair.first.setup.model_dump(mode="json"),
                "first": pair.first.checksum,
                "second": pair.second.checksum,
                "same_network": pair.first.is_shared_with(pair.second),
                "ratio": {quantity: pair.ratio(quantity)._asdict() for quantity in COMPARED},
                "not_comparable": pair.doubts,
            }
            for pair in compared.timings
        ],
    }


def _describe(method: ComparedMethod) -> dict[str, Any]:
    table = method.first.table
    return {
        "folder": method.folder.as_posix(),
        "method": method.record.method.name,
        "title": method.title,
        "test_images": len(table),
        "test_patients": int(table["patient_id"].nunique()),
        "runs": [
            {
                "folder": run.folder.as_posix(),
                "run_id": run.record.run_id,
                "seed": run.record.seed,
                "record": run.record.checksum,
                "scores": run.record.scores.sha256,
            }
            for run in method.runs
        ],
    }
