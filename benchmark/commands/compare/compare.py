"""Two runs against each other, from their folders to a folder of their own: comparison.json, comparison.md, roc.png.

The same draws of patients judge both (paired.py), so that what makes a draw hard for both cancels.
"""

import json
from pathlib import Path
from typing import Any

from .... import __version__
from ...metrics.paired import Difference, compare
from ...records import speed_record
from .context import differing_context, paired_timings
from .figure import draw_comparison
from .pair import LEVEL, ComparedPair, Side, check_same_test_set, read_side
from .tables import comparison_markdown, summarize

FILES = ("roc.png", "comparison.md", "comparison.json")


def compare_runs(first: Path, second: Path, resamples: int, results: Path) -> ComparedPair:
    """Compare two runs on the test images that both were scored on.

    Args:
        first, second: folders with run.json and its evidence.
        resamples: draws of patients.
        results: where speed records are looked for; need not be there.

    Raises:
        UserError: no record, one that lies, or two that were scored on other images or labels.
    """
    one, other = read_side(first), read_side(second)
    check_same_test_set(one, other)
    mine, others = one.scored(one.findings), other.scored(one.findings)
    rare = [c for c, finding in enumerate(one.findings) if finding in one.record.dataset.rare]
    found = compare(mine.scores, others.scores, mine.labels, mine.patients, resamples, rare)
    speeds = [speed_record.read(path) for path in speed_record.find(results)]
    facts = differing_context(one.record, other.record)
    return ComparedPair(one, other, found, resamples, facts, paired_timings(one.record, other.record, speeds))


def default_folder(compared: ComparedPair) -> Path:
    """`comparisons/<a>-vs-<b>`"""
    return Path("comparisons", f"{compared.first.run}-vs-{compared.second.run}")


def write_comparison(compared: ComparedPair, folder: Path) -> None:
    """Write figure, Markdown and JSON: all three are whole before the first takes its place, the JSON comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"{name}.part" for name in FILES]
    figure, text, numbers = parts
    try:
        draw_comparison(compared, figure)
        text.write_text(comparison_markdown(compared), encoding="utf-8")
        numbers.write_text(json.dumps(_content(compared), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        for part in parts:
            part.replace(part.with_suffix(""))
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _content(compared: ComparedPair) -> dict[str, Any]:
    """All numbers, none formatted; null where there is none."""
    found = compared.found
    return {
        "chxbench": __version__,
        "first": _side(compared.first),
        "second": _side(compared.second),
        "difference": "AUC of the first less AUC of the second",
        "resamples": compared.resamples,
        "level": LEVEL,
        "findings": {name: _difference(one) for name, one in compared.each.items()},
        "mean_auc": _difference(found.mean),
        "mean_auc_without_rare": _difference(found.mean_without),
        "significant": compared.significant,
        "in_words": summarize(compared),
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
