"""Which latents make up micro-batch n, and the random numbers that go with it.

Everything is a function of the run's seed and of n, the number of the micro-batch since the run
began, over all processes. So a run resumes exactly from nothing but its step, and two processes
see what one with twice the accumulation sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from data.latent_cache import LatentCache
from data.mixture import Mixture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class LatentBatch(NamedTuple):
    """See `data.latent_cache.LatentSample`; everything with a first axis for the samples."""

    number: int
    names: list[str]
    image: Tensor
    depth: Tensor
    mask: Tensor
    metres: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> LatentBatch:
        return LatentBatch(
            self.number, self.names, *(t.to(device, non_blocking=True) for t in self[2:])
        )


class LatentBatches(Dataset[LatentBatch]):
    """Micro-batch n of an endless sequence, for any n."""

    def __init__(
        self,
        caches: Sequence[LatentCache],
        weights: Sequence[float],
        seed: int,
        size: int,
        flip: bool,
    ) -> None:
        self.caches, self.seed, self.flip = caches, seed, flip
        self.mixture = Mixture(caches, weights, seed, size)  # type: ignore[arg-type]

    def __getitem__(self, number: int) -> LatentBatch:
        draw = self.mixture.draw(number)
        flips = np.random.default_rng((self.seed, 2, number)).random(len(draw.indices)) < 0.5
        samples = [
            self.caches[draw.dataset][index, bool(flipped and self.flip)]
            for index, flipped in zip(draw.indices, flips, strict=True)
        ]
        names, *tensors = zip(*samples, strict=True)
        return LatentBatch(number, list(names), *(torch.stack(part) for part in tensors))

    def loader(self, numbers: Sequence[int], workers: int) -> Iterator[LatentBatch]:
        """Those micro-batches in that order, read ahead by worker processes."""
        return iter(DataLoader(self, None, sampler=numbers, num_workers=workers, pin_memory=True))


def micro_batch_numbers(
    start: int, steps: int, accumulation: int, process: int, processes: int
) -> list[int]:
    """The micro-batches of one process, for the optimiser steps start..steps.

    Step s of the whole run consists of numbers s*A*P .. (s+1)*A*P; processes take turns.
    """
    return list(
        range(start * accumulation * processes + process, steps * accumulation * processes, processes)
    )


def noise_generator(seed: int, number: int, device: torch.device) -> torch.Generator:
    """The generator of micro-batch `number`: for its timesteps, then its noise.

    Mixed by numpy, because torch's generator on the CPU takes 32 bits of a seed.
    """
    state = int(np.random.SeedSequence((seed, 3, number)).generate_state(1)[0])
    return torch.Generator(device).manual_seed(state)
