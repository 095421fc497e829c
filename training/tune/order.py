"""In which order images are trained on: decided by the seed, and taken up again from a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matchgraph.training.buckets import Shape, grouped
from matchgraph.training.seeds import seeded_generator

if TYPE_CHECKING:
    import torch

# What the numbers of all orders are drawn for.
PURPOSE = "order"


class ShuffledOrder:
    """Numbers below a count without end, each epoch in an order of its own.

    Args:
        count: of images.
        generator: draws the orders.
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.position = 0
        self._count = count
        self._generator = generator
        self._shuffle()

    def take(self, n: int) -> list[int]:
        """The next `n` numbers."""
        taken = []
        for _ in range(n):
            if self.position == self._count:
                self._shuffle()
                self.position = 0
            taken.append(self._epoch[self.position])
            self.position += 1
        return taken

    def epoch_state(self) -> torch.Tensor:
        """The generator's state from which the current epoch's order was drawn."""
        return self._before

    def restore(self, epoch_state: torch.Tensor, position: int) -> None:
        """Go on where an order with this state and position was."""
        self._generator.set_state(epoch_state)
        self._shuffle()
        self.position = position

    def _shuffle(self) -> None:
        import torch

        self._before = self._generator.get_state()
        self._epoch = torch.randperm(self._count, generator=self._generator).tolist()


class BucketedOrder:
    """Numbers of images without end, so many at a time, all of one bucket.

    A bucket's images come in rounds, each in an order of its own, and a batch goes on into the next round
    where one ends. An epoch has as few batches of each bucket as let each of its images have been seen at
    least as often as there were epochs, so that no bucket is ever more than one batch ahead: one of fewer
    images than a batch sits epochs out. Where there is one bucket, the order is `ShuffledOrder`'s.

    Args:
        shapes: of each image, the bucket that it is in.
        size: of each batch.
        seed: decides the order.

    Attributes:
        position: batches taken so far.
    """

    def __init__(self, shapes: Sequence[Shape], size: int, seed: int) -> None:
        self._buckets = sorted(grouped(shapes).items())
        self._size, self._seed = size, seed
        self._begin()

    def take(self, n: int) -> list[int]:
        """The next batch.

        Args:
            n: the size of each batch.

        Raises:
            ValueError: it is of another size.
        """
        if n != self._size:
            raise ValueError(f"batches are of {self._size} images, not of {n}")
        # Where a batch exceeds all images, every bucket may be ahead for epochs.
        while not self._due:
            self._plan()
        bucket = self._due.pop()
        self.position += 1
        numbers = self._buckets[bucket][1]
        return [numbers[place] for place in self._rounds[bucket].take(n)]

    def epoch_state(self) -> torch.Tensor:
        """The generator's state from which the current epoch's batches were drawn."""
        return self._before

    def restore(self, epoch_state: torch.Tensor, position: int) -> None:
        """Go on where an order of this seed was; the batches before are gone through again.

        Raises:
            ValueError: there its state was another; the order begins anew.
        """
        self._begin()
        for _ in range(position):
            self.take(self._size)
        if not self._before.equal(epoch_state):
            self._begin()
            raise ValueError("its order of images is not that of this run")

    def _begin(self) -> None:
        self.position = 0
        self._epochs = 0
        self._taken = [0] * len(self._buckets)
        self._due: list[int] = []
        self._generator = seeded_generator("buckets", self._seed)
        self._before = self._generator.get_state()
        self._rounds = [
            ShuffledOrder(len(numbers), self._round_generator(shape)) for shape, numbers in self._buckets
        ]

    def _round_generator(self, shape: Shape) -> torch.Generator:
        # Of squares as where there are no buckets.
        of = () if shape[0] == shape[1] else ("x".join(map(str, shape)),)
        return seeded_generator(PURPOSE, *of, self._seed)

    def _plan(self) -> None:
        """Draw the order of an epoch's batches."""
        import torch

        self._before = self._generator.get_state()
        self._epochs += 1
        due = []
        for bucket, (_, numbers) in enumerate(self._buckets):
            lacking = self._epochs * len(numbers) - self._taken[bucket]
            batches = max(0, -(-lacking // self._size))
            self._taken[bucket] += batches * self._size
            due += [bucket] * batches
        self._due = [due[place] for place in torch.randperm(len(due), generator=self._generator).tolist()]
