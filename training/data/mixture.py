"""Several data sets in given shares: which samples make up batch n, for any n, from a seed.

The paper (section 4.1) draws every batch from one data set: Hypersim with probability 0.9,
Virtual KITTI with 0.1. Here the draw is a function of the batch's number, so that a run resumes
at any position with nothing but that number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from marigold_core.errors import MarigoldError

# Draws are made in blocks, each from a generator of its own.
BLOCK = 4096


class Draw(NamedTuple):
    """One batch: the number of its data set, and the numbers of its samples there."""

    dataset: int
    indices: tuple[int, ...]


class Shaped(Protocol):
    """What can be mixed: samples of known shapes."""

    def __len__(self) -> int: ...

    def shape(self, index: int) -> tuple[int, int]: ...


class Mixture:
    """Batch n of an endless sequence, `draw(n)`: `batch_size` samples of one shape and data set.

    datasets, weights: as many of each; the weights are shares, in any unit. Each data set is gone
    through in a shuffled order, and shuffled again when it is used up; what does not fill a batch
    of one shape is left out of that round, unless it is all there is, when samples repeat.
    """

    def __init__(
        self,
        datasets: Sequence[Shaped],
        weights: Sequence[float],
        seed: int,
        batch_size: int = 1,
    ) -> None:
        if not datasets or len(datasets) != len(weights):
            raise MarigoldError(
                f"{len(datasets)} data sets need as many weights, not {len(weights)}."
            )
        shares = np.asarray(weights, np.float64)
        if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
            raise MarigoldError(f"Weights are 0 or more and not all 0, not {list(weights)}.")
        for dataset, share in zip(datasets, shares, strict=True):
            if share > 0 and not len(dataset):
                raise MarigoldError("A data set of the mixture is empty.")
        if batch_size < 1:
            raise MarigoldError(f"A batch has at least 1 sample, not {batch_size}.")
        self.datasets, self.seed, self.batch_size = list(datasets), seed, batch_size
        self.shares = shares / shares.sum()
        self._choices = np.zeros(0, np.int64)
        self._buckets: dict[int, list[list[int]]] = {}
        # The last round of each data set that was asked for: many consecutive batches use it.
        self._rounds: dict[int, tuple[int, list[tuple[int, ...]]]] = {}

    def draw(self, position: int) -> Draw:
        """Which samples make up that batch, without reading them."""
        if position < 0:
            raise MarigoldError(f"A position in the mixture is 0 or more, not {position}.")
        while len(self._choices) <= position:
            block = np.random.default_rng((self.seed, 0, len(self._choices) // BLOCK))
            drawn = block.choice(len(self.shares), BLOCK, p=self.shares)
            self._choices = np.concatenate([self._choices, drawn])
        chosen = int(self._choices[position])
        before = int(np.count_nonzero(self._choices[:position] == chosen))
        epoch, place = divmod(before, self._batches(chosen))
        if self._rounds.get(chosen, (None,))[0] != epoch:
            self._rounds[chosen] = epoch, self._shuffled(chosen, epoch)
        return Draw(chosen, self._rounds[chosen][1][place])

    def _batches(self, number: int) -> int:
        """Batches in every round through a data set."""
        return max(1, sum(len(shape) // self.batch_size for shape in self._shapes(number)))

    def _shuffled(self, number: int, epoch: int) -> list[tuple[int, ...]]:
        """The batches of one round through a data set."""
        random = np.random.default_rng((self.seed, 1, number, epoch))
        batches = []
        for bucket in self._shapes(number):
            order = random.permutation(bucket)
            for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
                batches.append(tuple(map(int, order[start : start + self.batch_size])))
        if not batches:  # Fewer samples of any shape than a batch takes.
            order = random.permutation(max(self._shapes(number), key=len))
            batches.append(tuple(map(int, np.resize(order, self.batch_size))))
        return [batches[i] for i in random.permutation(len(batches))]

    def _shapes(self, number: int) -> list[list[int]]:
        """The numbers of a data set's samples, a list for each shape."""
        if number not in self._buckets:
            dataset = self.datasets[number]
            by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
            for index in range(len(dataset)):
                by_shape[dataset.shape(index)].append(index)
            self._buckets[number] = list(by_shape.values())
        return self._buckets[number]
