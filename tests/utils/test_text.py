"""The texts shown to people."""

import pytest

from chxbench.benchmark.utils.text import count


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 images"), (1, "1 image"), (3, "3 images"), (12_000, "12,000 images")]
)
def test_a_count_has_the_noun_in_its_number(number, expected):
    assert count(number, "image") == expected


def test_an_irregular_plural_is_given():
    assert count(1, "batch", "batches") == "1 batch"
    assert count(2, "batch", "batches") == "2 batches"
