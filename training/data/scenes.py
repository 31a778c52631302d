"""Procedural scenes as a data set: rendered when they are asked for, the same every time."""

from __future__ import annotations

from itertools import count

import torch
from render.procedural import render_scenes

from marigold_core.errors import MarigoldError

from .latents import SHAPES, has_range
from .sample import Sample, SampleDataset, resized_shape

# Scene i of a split has the seed FIRST_SEED[split] + i. (A scene that is thrown away is replaced
# by one from a seed far above all of these.)
FIRST_SEED = {"train": 0, "val": 500_000_000, "test": 987_654_321}
ANEW = 10_000_000_000


class ProceduralScenes(SampleDataset):
    """`total` scenes: landscape, portrait and square pictures in turn (`latents.SHAPES`).

    resolution: None is 160 pixels for the longer side. Depth is planar metres, infinite
    in the sky. A scene without a depth range, such as a wall that fills the picture, is replaced
    by another.
    """

    def __init__(
        self,
        total: str | int,
        split: str = "train",
        resolution: int | tuple[int, int] | None = None,
    ) -> None:
        try:
            self.total = int(total)
        except ValueError:
            self.total = 0
        if self.total < 1:
            raise MarigoldError(f"procedural:{total} is not a number of scenes, 1 or more.")
        if split not in FIRST_SEED:
            raise MarigoldError(f"Procedural scenes have no split {split!r}; use train, val, test.")
        self.split, self.resolution = split, resolution

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.total:
            raise IndexError(index)
        height, width = resized_shape(*SHAPES[index % len(SHAPES)], self.resolution)
        first = FIRST_SEED[self.split] + index
        for seed in count(first, ANEW):
            generator = torch.Generator().manual_seed(seed)
            scene = render_scenes(1, height, width, generator)
            if has_range(scene.depth, scene.valid):
                break
        return Sample(scene.rgb[0], scene.depth[0], scene.valid[0], self.name(index))

    def name(self, index: int) -> str:
        return f"{self.split} scene {index}"
