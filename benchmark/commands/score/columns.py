"""Match columns of external predictions to findings.

Other datasets' names of the same finding are accepted. Their names of a different or a wider finding are not (Lung
Opacity is not Infiltration, Pericardial Effusion not Effusion).

A pattern is the text around the names of the findings, the same for all of them, written `prob_{finding}`. Case is
ignored, and the words of a finding may be joined by spaces, underscores, hyphens or nothing.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from ...dataset import DataError
from ...utils.errors import first_few
from ...utils.text import count

PLACEHOLDER = "{finding}"
# Names of the same finding in CheXpert, MIMIC-CXR, PadChest, VinDr-CXR and reports. Not Pleural Other (CheXpert), nor
# Enlarged Cardiomediastinum, Lung Lesion and Nodule/Mass, which are wider, nor Hiatal Hernia, which is narrower.
SYNONYMS = {
    "Atelectasis": ("Atelectases",),
    "Effusion": ("Pleural Effusion", "Pleural Effusions", "Effusions"),
    "Infiltration": ("Infiltrate", "Infiltrates", "Infiltrations"),
    "Mass": ("Pulmonary Mass", "Lung Mass"),
    "Nodule": ("Pulmonary Nodule", "Lung Nodule"),
    "Edema": ("Pulmonary Edema", "Oedema", "Pulmonary Oedema"),
    "Emphysema": ("Pulmonary Emphysema",),
    "Fibrosis": ("Pulmonary Fibrosis", "Lung Fibrosis"),
    "Pleural_Thickening": ("Pleural Thickenings",),
}
# Words around the name of a finding that make it a different one.
NEGATIONS = {"no", "non", "not", "without", "absent", "absence", "negative", "neg", "inverse", "healthy", "normal"}
# Of two outputs per finding, number 0 is that it is absent.
OTHER_WORDS = {*NEGATIONS, "0", "pericardial", "subcutaneous"}
# Words that make it a number about a score instead of the score.
ABOUT_SCORES = {"std", "sd", "var", "variance", "uncertainty", "entropy", "error", "loss", "ci", "lower", "upper"}
ABOUT_SCORES |= {"weight", "threshold", "thresholds", "thr", "cutoff", "prevalence", "count"}
LABEL_WORDS = {"label", "labels", "target", "targets", "gt", "true", "truth", "groundtruth", "actual"}
SCORE_WORDS = {"prob", "probs", "probability", "proba", "pred", "prediction", "predicted", "score", "scores", "logit"}


class Columns(NamedTuple):
    """Columns of scores.

    Attributes:
        numbers: column numbers (C,), in the order of the findings.
        pattern: pattern of the column names.
    """

    numbers: list[int]
    pattern: str


def find_columns(names: Sequence[str], findings: Sequence[str], pattern: str | None = None) -> Columns:
    """Find the columns of scores.

    Args:
        names: names of all columns.
        findings: findings to match, one column each.
        pattern: pattern of the column names, as in `prob_{finding}`; None to detect it.

    Returns:
        One column per finding.

    Raises:
        DataError: if a finding has no column or several, or if no pattern or several cover all findings.
    """
    groups = _group(names, findings)
    chosen = _parse(pattern) if pattern is not None else _only_complete(groups, len(findings)) or _best(groups)
    columns = groups.get(chosen, {})
    _check_missing(names, findings, groups, chosen)
    duplicates = [
        f"{finding}: {', '.join(names[k] for k in numbers)}" for finding, numbers in columns.items() if numbers[1:]
    ]
    if duplicates:
        raise DataError(
            f"several columns for {count(len(duplicates), 'finding')} ({first_few(duplicates)}): keep one column each"
        )
    return Columns([columns[finding][0] for finding in findings], PLACEHOLDER.join(chosen))


Around = tuple[str, str]  # the text before and after a finding's name, in lower case
Groups = dict[Around, dict[str, list[int]]]  # column numbers by surrounding text and finding


def _group(names: Sequence[str], findings: Sequence[str]) -> Groups:
    groups: Groups = defaultdict(lambda: defaultdict(list))
    patterns = {finding: _spellings(finding, findings) for finding in findings}
    for number, name in enumerate(names):
        for finding, spellings in patterns.items():
            for around in set(_around(name.lower(), spellings)):
                groups[around][finding].append(number)
    return groups


def _spellings(finding: str, findings: Sequence[str]) -> list[re.Pattern[str]]:
    """Return a pattern per spelling of a finding; a lookahead, because matches may overlap.

    A synonym that the dataset lists as a finding of its own is none.
    """
    others = [_split(other) for other in findings if other != finding]
    spellings = [_split(text) for text in (finding, *SYNONYMS.get(finding, ()))]
    parts = [[re.escape(word) for word in words] for words in spellings if words not in others]
    return [re.compile("(?=(" + r"[\W_]*".join(words) + "))") for words in parts]


def _split(text: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", text.lower()) if word]


def _around(name: str, spellings: Sequence[re.Pattern[str]]) -> Iterator[Around]:
    for spelling in spellings:
        for match in spelling.finditer(name):
            yield name[: match.start(1)], name[match.end(1) :]


def _parse(pattern: str) -> Around:
    before, placeholder, after = pattern.strip().lower().partition(PLACEHOLDER)
    if not placeholder or PLACEHOLDER in after:
        raise DataError(
            f"--columns {pattern!r} does not contain {PLACEHOLDER} exactly once: "
            f"write for example --columns 'prob_{PLACEHOLDER}'"
        )
    return before, after


def _only_complete(groups: Groups, num_findings: int) -> Around | None:
    """Return the pattern of scores that covers all findings, if any. Raises DataError for several, or only labels."""
    complete = [around for around, columns in groups.items() if len(columns) == num_findings]
    scores = [around for around in complete if not _are_labels(around) and not _is_other(around)]
    # "Pleural Effusion" is a name and a prefix with a name: patterns of the same columns are one, the shortest.
    scores.sort(key=lambda around: len("".join(around)))
    scores = [a for k, a in enumerate(scores) if all(groups[a] != groups[shorter] for shorter in scores[:k])]
    if len(scores) > 1:
        patterns = [repr(PLACEHOLDER.join(around)) for around in scores]
        raise DataError(
            f"{len(scores)} column patterns cover all findings ({first_few(patterns)}): "
            f"choose the pattern of the scores, for example --columns {patterns[0]}"
        )
    labels = [around for around in complete if _are_labels(around)]
    if labels and not scores:
        pattern = repr(PLACEHOLDER.join(labels[0]))
        raise DataError(
            f"the only columns that cover all findings are named like labels ({pattern}): "
            f"add the scores, or declare these as scores with --columns {pattern}"
        )
    return scores[0] if scores else None


def _best(groups: Groups) -> Around:
    """Return the pattern that covers the most findings; if several do, the shortest."""
    scores = [around for around in groups if not _are_labels(around) and not _is_other(around)]
    return max(scores, key=lambda around: (len(groups[around]), -len("".join(around))), default=("", ""))


def _are_labels(around: Around) -> bool:
    words = _words(around)
    return bool(words & LABEL_WORDS) and not words & SCORE_WORDS


def _is_other(around: Around) -> bool:
    """Return whether the text around the name of a finding makes it a different finding, or no score."""
    return bool(_words(around) & (OTHER_WORDS | ABOUT_SCORES))


def _words(around: Around) -> set[str]:
    return {word for text in around for word in _split(text)}


def _check_missing(names: Sequence[str], findings: Sequence[str], groups: Groups, around: Around) -> None:
    columns = groups.get(around, {})
    missing = [finding for finding in findings if finding not in columns]
    if not missing:
        return
    used = {number for numbers in columns.values() for number in numbers}
    unused = {name.lower(): name for number, name in enumerate(names) if number not in used}
    matches = (get_close_matches(finding.lower().join(around), unused, 1, cutoff=0.7) for finding in missing)
    near = [unused[name] for match in matches for name in match]
    # A part of a name may be the finding: Hiatal Hernia.
    parts = [
        number
        for other, found in groups.items()
        if not _is_other(other)
        for f in missing
        for number in found.get(f, ())
    ]
    near += [names[number] for number in dict.fromkeys(parts) if number not in used and names[number] not in near]
    hint = f"similar: {first_few(near)}" if near else f"columns: {first_few(names, 5)}"
    raise DataError(
        f"{len(missing)} of {len(findings)} findings have no column like {PLACEHOLDER.join(around)!r} "
        f"({first_few(missing)}; {hint}): name one column per finding, or pass the pattern with --columns"
    )
