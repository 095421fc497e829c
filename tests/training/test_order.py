"""Orders of images: each is seen equally often, and a resumed run goes on in the same one."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from matchgraph.training.seeds import seeded_generator
from matchgraph.training.tune.order import PURPOSE, BucketedOrder, ShuffledOrder

SQUARE, WIDE, HIGH = (32, 32), (40, 24), (24, 40)
# Of eleven images six are square, four wide, and one is alone.
SHAPES = [SQUARE, WIDE, SQUARE, WIDE, HIGH, SQUARE, SQUARE, WIDE, SQUARE, WIDE, SQUARE]


def shuffled(seed: int) -> ShuffledOrder:
    return ShuffledOrder(6, seeded_generator(PURPOSE, seed))


def test_each_epoch_has_every_number_once_in_an_order_of_its_own():
    order = shuffled(1)
    taken = [order.take(4) for _ in range(6)]
    epochs = torch.tensor(taken).view(4, 6).tolist()
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("taken", [0, 5, 6, 7, 15])
def test_an_order_goes_on_where_it_was(taken):
    one, other = shuffled(1), shuffled(9)
    one.take(taken)
    other.restore(one.epoch_state(), one.position)
    assert one.take(20) == other.take(20)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 13])
def test_batches_are_of_one_bucket_and_see_its_images_equally_often(size):
    order = BucketedOrder(SHAPES, size, seed=1)
    seen: Counter[int] = Counter()
    rounds: Counter[tuple[int, int]] = Counter()
    for batch in range(1, 401):
        picked = order.take(size)
        assert len(picked) == size
        [shape] = {SHAPES[number] for number in picked}
        rounds[shape] += 1
        seen.update(picked)
        for own in rounds:
            counts = [seen[number] for number, shape in enumerate(SHAPES) if shape == own]
            assert max(counts) - min(counts) <= 1
        assert order.position == batch
    # Those of no bucket more often than of another, but for a batch.
    epochs = 400 * size / len(SHAPES)
    for number, shape in enumerate(SHAPES):
        assert abs(seen[number] - epochs) <= size / SHAPES.count(shape) + size, number
    assert rounds.keys() == {SQUARE, WIDE, HIGH}


def test_after_an_epoch_every_image_has_been_seen():
    # Of six, four and one, in batches of four: two, one and one.
    order = BucketedOrder(SHAPES, 4, seed=1)
    assert {number for _ in range(4) for number in order.take(4)} == set(range(11))
    # Two squares were seen ahead, and what is alone three times: next are a batch of squares and a wide one.
    taken = [order.take(4) for _ in range(2)]
    assert {SHAPES[batch[0]] for batch in taken} == {SQUARE, WIDE}


def test_buckets_come_in_another_order_each_epoch_and_under_each_seed():
    shapes = [SQUARE] * 6 + [WIDE] * 6

    def buckets(seed: int) -> list[tuple[int, int]]:
        order = BucketedOrder(shapes, 2, seed)
        return [shapes[order.take(2)[0]] for _ in range(24)]

    one = buckets(1)
    assert one == buckets(1) != buckets(2)
    epochs = [tuple(one[first : first + 6]) for first in range(0, 24, 6)]
    assert all(Counter(epoch) == {SQUARE: 3, WIDE: 3} for epoch in epochs)
    assert len(set(epochs)) > 1


@pytest.mark.parametrize("size", [1, 4, 6, 7])
def test_squares_alone_come_as_without_buckets(size):
    plain, bucketed = shuffled(5), BucketedOrder([SQUARE] * 6, size, seed=5)
    assert [bucketed.take(size) for _ in range(9)] == [plain.take(size) for _ in range(9)]


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 5, 29])
def test_an_order_of_buckets_goes_on_where_it_was(taken):
    one, other = (BucketedOrder(SHAPES, 4, seed=1) for _ in range(2))
    for _ in range(taken):
        one.take(4)
    other.take(4)
    other.restore(one.epoch_state(), one.position)
    assert (other.position, other.epoch_state().tolist()) == (taken, one.epoch_state().tolist())
    assert [one.take(4) for _ in range(20)] == [other.take(4) for _ in range(20)]


def test_an_order_of_other_images_is_not_gone_on_with():
    one, other = (BucketedOrder(SHAPES, size, seed=1) for size in (4, 3))
    for _ in range(20):
        one.take(4)
    with pytest.raises(ValueError, match="not that of this run"):
        other.restore(one.epoch_state(), one.position)
    # It begins anew.
    assert other.take(3) == BucketedOrder(SHAPES, 3, seed=1).take(3)
    with pytest.raises(ValueError, match="batches are of 3 images, not of 4"):
        other.take(4)
