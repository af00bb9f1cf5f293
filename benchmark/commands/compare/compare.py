"""`chxbench compare`: compare two runs, paired, and write comparison.json, comparison.md and roc.png.

Both runs are evaluated on the same bootstrap replicates of patients (metrics/paired.py), so that variation that affects
both cancels in the difference.
"""

import json
from pathlib import Path
from typing import Any

from ...metrics.paired import compare
from ...records import speed_record
from ...utils.files import write_atomic
from ...utils.package import __version__
from .figure import draw_comparison
from .pair import ALPHA, ComparedPair, ComparedRun, check_same_test_set, read_compared_run
from .run_differences import differing_context, paired_timings
from .tables import comparison_markdown, summarize

FILES = ("roc.png", "comparison.md", "comparison.json")


def compare_runs(first: Path, second: Path, resamples: int, results: Path) -> ComparedPair:
    """Compare two runs on the test images that both were evaluated on.

    Args:
        first: folder of the first run, with run.json and its artifacts.
        second: folder of the second run.
        resamples: number of bootstrap replicates of patients.
        results: folder whose speed records are included; need not exist.

    Raises:
        UserError: if a folder has no record or one that does not match its artifacts, or if the runs were evaluated on
            different images or labels.
    """
    run_a, run_b = read_compared_run(first), read_compared_run(second)
    check_same_test_set(run_a, run_b)
    test_a, test_b = run_a.test_scores(run_a.findings), run_b.test_scores(run_a.findings)
    rare = [c for c, finding in enumerate(run_a.findings) if finding in run_a.record.dataset.rare]
    comparison = compare(test_a.scores, test_b.scores, test_a.labels, test_a.patients, resamples, rare)
    speeds = [speed_record.read(path) for path in speed_record.find(results)]
    facts = differing_context(run_a.record, run_b.record)
    return ComparedPair(run_a, run_b, comparison, resamples, facts, paired_timings(run_a.record, run_b.record, speeds))


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
        "first": _describe_run(compared.first),
        "second": _describe_run(compared.second),
        "difference": "AUC of the first minus AUC of the second",
        "resamples": compared.resamples,
        "level": ALPHA,
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
            }
            for pair in compared.timings
        ],
    }


def _describe_run(run: ComparedRun) -> dict[str, Any]:
    record = run.record
    return {
        "folder": run.folder.as_posix(),
        "run_id": record.run_id,
        "method": record.method.name,
        "title": run.title,
        "record": record.checksum,
        "scores": record.scores.sha256,
        "test_images": len(run.table),
        "test_patients": int(run.table["patient_id"].nunique()),
    }
