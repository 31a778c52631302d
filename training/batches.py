"""Which latents make up micro-batch n, and the random numbers that go with it.

Everything is a function of the run's seed and of n, the number of the micro-batch since the run
began, over all processes. So a run resumes exactly from nothing but its step, and two processes
take the steps of one with twice the accumulation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from base_model import Base
from data.latent_cache import LatentCache, cache_folder, fill, write_index
from data.mixture import Mixture
from data.registry import open_dataset
from targets import TARGETS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from marigold_core.errors import MarigoldError


class LatentBatch(NamedTuple):
    """See `data.latent_cache.LatentSample`; everything with a first axis for the samples."""

    number: int
    names: list[str]
    image: Tensor
    target: Tensor
    mask: Tensor
    truth: Tensor
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
        self.mixture = Mixture(caches, weights, seed, size)

    def __getitem__(self, number: int) -> LatentBatch:
        draw = self.mixture.draw(number)
        flips = np.random.default_rng((self.seed, 2, number)).random(len(draw.indices)) < 0.5
        samples = [
            self.caches[draw.dataset][index, bool(flipped and self.flip)]
            for index, flipped in zip(draw.indices, flips, strict=True)
        ]
        names, *tensors = zip(*samples, strict=True)
        return LatentBatch(number, list(names), *(torch.stack(part) for part in tensors))

    def again(self, numbers: Sequence[int]) -> Iterator[LatentBatch]:
        """The first of them again and again; its noise changes as theirs would."""
        first = None
        for number in numbers:
            first = first or self[number]
            yield first._replace(number=number)

    def loader(self, numbers: Sequence[int], workers: int) -> Iterator[LatentBatch]:
        """Those micro-batches in that order, read ahead by worker processes."""
        pin = torch.cuda.is_available()
        return iter(DataLoader(self, None, sampler=numbers, num_workers=workers, pin_memory=pin))


def open_cache(
    accelerator: Accelerator, recipe: Any, base: Base, spec: str, variants: int
) -> LatentCache:
    """The training latents of one of --data: encoded by all processes, if they are not there yet.

    Says which samples were left out and why. Raises MarigoldError where none is usable.
    """
    maps = TARGETS[recipe.target].maps
    views = {"farthest": recipe.farthest, "variants": variants, "maps": maps}
    dataset = open_dataset(spec, "train", recipe.resolution, **views)
    kind = {
        "flip": recipe.flip, "metric": recipe.objective == "e2e", "invalid": recipe.invalid,
        "target": recipe.target,
    }  # fmt: skip
    folder = cache_folder(
        recipe.cache, spec, "train", recipe.resolution, base.vae_fingerprint, **kind, **views
    )
    if not (folder / "index.json").is_file():
        hidden = not accelerator.is_main_process
        fill(
            folder,
            dataset,
            base.vae,
            share=(accelerator.process_index, accelerator.num_processes),
            workers=recipe.workers,
            progress=lambda n: iter(tqdm(n, desc=f"latents of {spec}", disable=hidden)),
            **kind,
        )
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_index(folder, len(dataset))
        accelerator.wait_for_everyone()
    cache = LatentCache(folder)
    reasons = list(cache.left_out.values())
    if reasons:
        shown = [*reasons[:10], *(["..."] if len(reasons) > 10 else [])]
        accelerator.print(
            f"{spec}: {len(reasons)} of {len(dataset)} samples are left out:\n  "
            + "\n  ".join(shown)
        )
    if not len(cache):
        raise MarigoldError(f"{spec} has no usable sample; the first: {reasons[0]}")
    return cache


def micro_batch_numbers(
    start: int, steps: int, accumulation: int, process: int, processes: int
) -> range:
    """The micro-batches of one process, for the optimiser steps start..steps.

    Step s of the whole run consists of numbers s*A*P .. (s+1)*A*P; processes take turns.
    """
    each = accumulation * processes
    return range(start * each + process, steps * each, processes)


def dropout_seed(seed: int, number: int) -> int:
    """The seed of micro-batch `number`'s dropout, so that a resumed run drops the same."""
    return int(np.random.SeedSequence((seed, 4, number)).generate_state(1)[0])


def noise_generator(seed: int, number: int, device: torch.device) -> torch.Generator:
    """The generator of micro-batch `number`: for its timesteps, then its noise.

    Mixed by numpy, because torch's generator on the CPU takes 32 bits of a seed.
    """
    state = int(np.random.SeedSequence((seed, 3, number)).generate_state(1)[0])
    return torch.Generator(device).manual_seed(state)
