"""The texts shown to people."""

import os
import subprocess

import pytest

from chxbench.benchmark.utils.text import MAX_STEM, count, encodable, file_stem, plain, shell_word, title_problem


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 images"), (1, "1 image"), (3, "3 images"), (12_000, "12,000 images")]
)
def test_a_count_has_the_noun_in_its_number(number, expected):
    assert count(number, "image") == expected


def test_an_irregular_plural_is_given():
    assert count(1, "batch", "batches") == "1 batch"
    assert count(2, "batch", "batches") == "2 batches"


ODD = os.fsdecode(b"r\xf6 \n\x1b'\"\\$(x) \xe2\x80\xae-")


@pytest.mark.parametrize("word", [ODD, "a b", "-x", "\u00e9", "", "it's\tso"])
def test_a_quoted_word_reaches_a_command_as_it_was(word):
    done = subprocess.run(["bash", "-c", f"printf %s {shell_word(word)}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(word)
    assert plain(shell_word(word)) == shell_word(word)


@pytest.mark.parametrize(
    ("text", "shown"),
    [(ODD[:3], r"r\xf6 "), ("a\nb\u2028c\u061cd", "a b c d"), ("\ud800", r"\ud800"), ("\u00e9", "\u00e9")],
)
def test_what_is_shown_is_one_line_that_can_be_encoded(text, shown):
    assert plain(text) == shown
    assert plain(text).encode().decode() == shown
    assert encodable("a\nb") == "a\nb"


def test_a_title_can_be_encoded():
    assert title_problem("MA \udcf6") == "a title has no control characters"
    assert title_problem("MA \u00f6") is None


@pytest.mark.parametrize("name", [ODD, "\u80ba" * 80 + ".png", "x" * 255, "..", "a/b\\c.png"])
def test_a_stem_is_a_name_that_has_room_for_endings(name, tmp_path):
    stem = file_stem(name)
    assert len(os.fsencode(stem)) <= MAX_STEM and "\\" not in stem and "/" not in stem
    (tmp_path / f"{stem}-100.heatmaps.png.part").touch()
