"""Which columns of somebody's table hold the scores of which finding, however they wrote the names.

A pattern is what stands around the findings' names, written `prob_{finding}`: one for all of them. Case does not
matter, nor whether the words of a finding are joined by spaces, underscores, hyphens or nothing.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from ...dataset import DataError
from ...utils.errors import first_few

HOLE = "{finding}"
ALSO = {"Infiltration": ("Infiltrate", "Infiltrates")}  # what others call it
LABEL_WORDS = {"label", "labels", "target", "targets", "gt", "true", "truth", "groundtruth", "actual"}
SCORE_WORDS = {"prob", "probs", "probability", "proba", "pred", "prediction", "predicted", "score", "scores", "logit"}


class Columns(NamedTuple):
    """The numbers of the columns (C,), in the order of the findings, and their pattern."""

    numbers: list[int]
    pattern: str


def find_columns(names: Sequence[str], findings: Sequence[str], pattern: str | None = None) -> Columns:
    """The columns that hold the scores.

    Args:
        names: of all columns.
        findings: all of which need a column.
        pattern: what the user says the names look like, as in `prob_{finding}`; None finds it out.

    Raises:
        DataError: a finding without a column, or with two; no pattern, or several, that cover all findings.
    """
    groups = _group(names, findings)
    chosen = _named(pattern) if pattern is not None else _only_one(groups, len(findings)) or _best(groups)
    found = groups.get(chosen, {})
    _check_missing(names, findings, found, chosen)
    twice = [f"{finding}: {', '.join(names[k] for k in numbers)}" for finding, numbers in found.items() if numbers[1:]]
    if twice:
        raise DataError(f"{len(twice)} findings have two columns ({first_few(twice)}): keep one of each")
    return Columns([found[finding][0] for finding in findings], HOLE.join(chosen))


Around = tuple[str, str]  # what stands before and after a finding's name, in lower case
Groups = dict[Around, dict[str, list[int]]]  # the columns of each finding, by what stands around its name


def _group(names: Sequence[str], findings: Sequence[str]) -> Groups:
    groups: Groups = defaultdict(lambda: defaultdict(list))
    spelt = {finding: _spellings(finding) for finding in findings}
    for number, name in enumerate(names):
        for finding, spellings in spelt.items():
            for around in set(_around(name.lower(), spellings)):
                groups[around][finding].append(number)
    return groups


def _spellings(finding: str) -> list[re.Pattern]:
    """Each spelling of a finding, to be found also where it overlaps itself."""
    texts = (finding, *ALSO.get(finding, ()))
    words = ([re.escape(word) for word in re.split(r"[\W_]+", text.lower()) if word] for text in texts)
    return [re.compile("(?=(" + r"[\W_]*".join(parts) + "))") for parts in words]


def _around(name: str, spellings: Sequence[re.Pattern]) -> Iterator[Around]:
    for spelling in spellings:
        for match in spelling.finditer(name):
            yield name[: match.start(1)], name[match.end(1) :]


def _named(pattern: str) -> Around:
    before, hole, after = pattern.strip().lower().partition(HOLE)
    if not hole or HOLE in after:
        raise DataError(f"--columns {pattern!r} does not name {HOLE} once: write for example --columns 'prob_{HOLE}'")
    return before, after


def _only_one(groups: Groups, findings: int) -> Around | None:
    """The one pattern that covers all findings and is not of labels, if there is any. Raises DataError for several."""
    whole = [around for around, found in groups.items() if len(found) == findings]
    scores = [around for around in whole if not _of_labels(around)]
    if len(scores) > 1:
        texts = [repr(HOLE.join(around)) for around in scores]
        raise DataError(
            f"{len(scores)} patterns of columns cover all findings ({first_few(texts)}): "
            f"say which holds the scores with --columns {texts[0]}"
        )
    if whole and not scores:
        text = repr(HOLE.join(whole[0]))
        raise DataError(
            f"the only columns that cover all findings are called labels ({text}): "
            f"add the scores, or say that these are scores with --columns {text}"
        )
    return scores[0] if scores else None


def _best(groups: Groups) -> Around:
    """The pattern that covers the most findings; of several the plainest."""
    scores = [around for around in groups if not _of_labels(around)]
    return max(scores, key=lambda around: (len(groups[around]), -len("".join(around))), default=("", ""))


def _of_labels(around: Around) -> bool:
    words = {word for text in around for word in re.split(r"[\W_]+", text)}
    return bool(words & LABEL_WORDS) and not words & SCORE_WORDS


def _check_missing(names: Sequence[str], findings: Sequence[str], found: dict[str, list[int]], chosen: Around) -> None:
    missing = [finding for finding in findings if finding not in found]
    if not missing:
        return
    used = {number for numbers in found.values() for number in numbers}
    free = {name.lower(): name for number, name in enumerate(names) if number not in used}
    likes = (get_close_matches(finding.lower().join(chosen), free, 1, cutoff=0.7) for finding in missing)
    near = [free[name] for like in likes for name in like]
    there = f"near: {first_few(near)}" if near else f"its columns: {first_few(names, 5)}"
    raise DataError(
        f"{len(missing)} of {len(findings)} findings have no column like {HOLE.join(chosen)!r} "
        f"({first_few(missing)}; {there}): name one column a finding, all alike, or say how with --columns"
    )
