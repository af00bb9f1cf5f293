"""Batches: crops by key, every image once whatever the number of processes, errors of the reading thread raised."""

import numpy as np
import pytest

from chxbench.benchmark.data import loader as loader_module
from chxbench.benchmark.data.loader import (
    Shard,
    batch_sizes,
    center_crops,
    gather_crops,
    read_batches,
    shard_batches,
    shard_within_batches,
    shifted_crops,
)
from chxbench.benchmark.recipe import Pixels


@pytest.fixture
def source():
    """A map of ten small images, their labels, and crops of some of them."""
    rng = np.random.default_rng(0)
    pixels, targets = rng.integers(0, 256, (10, 36, 36), np.uint8), rng.random((10, 3)).astype(np.float32)
    return pixels, targets, shifted_crops(np.array([3, 3, 9, 0, 1]), Pixels(size=36, crop=32, max_shift=2), 7)


def test_training_crops_are_around_the_center_and_depend_on_the_key_alone():
    setting = Pixels(size=256, crop=224, max_shift=12)
    rows = np.arange(5000)
    crop = shifted_crops(rows, setting, 0, 1, 2)
    for corners in (crop.tops, crop.lefts):
        assert sorted(set(corners.tolist())) == list(range(4, 29))  # 16 +- 12: not RandomCrop's 0..32
    again, other = shifted_crops(rows, setting, 0, 1, 2), shifted_crops(rows, setting, 0, 1, 3)
    assert (again.tops == crop.tops).all()
    assert (other.tops != crop.tops).any()
    assert set(center_crops(rows, setting).tops.tolist()) == {16}


def test_batches_are_the_crops_in_order(source):
    pixels, targets, crop = source
    loaded = list(read_batches(pixels, targets, crop, 32, shard_within_batches(5, 2)))
    assert [len(batch.images) for batch in loaded] == [2, 3]
    images = np.concatenate([batch.images for batch in loaded])
    for image, row, top, left in zip(images, *crop, strict=True):
        np.testing.assert_array_equal(image, pixels[row][top : top + 32, left : left + 32])
    np.testing.assert_array_equal(np.concatenate([batch.targets for batch in loaded]), targets[crop.rows])
    np.testing.assert_array_equal(images, gather_crops(pixels, crop, 32))


def test_processes_divide_each_batch_and_get_all_its_labels(source):
    pixels, targets, crop = source
    whole = list(read_batches(pixels, targets, crop, 32, shard_within_batches(5, 5)))
    parts = [list(read_batches(pixels, targets, crop, 32, shard_within_batches(5, 5, Shard(k, 3)))) for k in range(3)]
    assert [len(part[0].images) for part in parts] == [1, 2, 2]
    np.testing.assert_array_equal(np.concatenate([part[0].images for part in parts]), whole[0].images)
    for part in parts:
        np.testing.assert_array_equal(part[0].targets, whole[0].targets)
    labels = np.concatenate([part[0].targets[part[0].local] for part in parts])
    np.testing.assert_array_equal(labels, whole[0].targets)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize(("total", "size"), [(100, 16), (97, 32), (33, 32), (7, 96)])
def test_every_image_is_trained_on_and_scored_once(total, size, processes):
    shards = [Shard(k, processes) for k in range(processes)]
    split = [span for shard in shards for span in shard_within_batches(total, size, shard)]
    assert sorted(position for span in split if not span.is_padding for position in span.local) == list(range(total))
    assert all(len(span.local) for span in split)
    assert [span.global_ for span in split] == processes * [span.global_ for span in shard_within_batches(total, size)]
    dealt = [span.local for shard in shards for span in shard_batches(total, size, shard)]
    assert sorted(dealt, key=lambda positions: positions.start) == [span.local for span in shard_batches(total, size)]


@pytest.mark.parametrize(("total", "most", "sizes"), [(7, 3, [3, 4]), (8, 3, [3, 3, 2]), (1, 3, [1]), (6, 3, [3, 3])])
def test_no_batch_has_one_image(total, most, sizes):
    assert batch_sizes(total, most) == sizes


def test_an_error_while_a_batch_is_read_ahead_does_not_end_the_epoch_silently(source, monkeypatch):
    def fail_at_the_second(pixels, crop, side, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 2:
            raise OSError("the disk has gone")
        return gather_crops(pixels, crop, side)

    monkeypatch.setattr(loader_module, "gather_crops", fail_at_the_second)
    loader = read_batches(*source, 32, shard_within_batches(5, 2))
    next(loader)
    with pytest.raises(OSError, match="the disk has gone"):
        next(loader)
