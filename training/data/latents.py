"""Depth as the VAE takes it, the mask of its latents, and batches of procedural scenes."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.nn.functional as F
from einops import repeat
from render.procedural import render_scenes
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from marigold_core.depth import normalize_depth

# Pictures come in landscape, portrait and square; a batch has one shape.
SHAPES = ((120, 160), (120, 160), (144, 144), (160, 120))


def depth_target(depth: Tensor, valid: Tensor) -> Tensor:
    """(B, H, W) metric depth -> (B, 3, H, W) in [-1, 1], normalised at 2 % and 98 % (paper, eq. 4).

    The quantiles are those of the valid pixels; the others take the same formula and are clipped,
    as in the authors' `ScaleShiftDepthNormalizer`: what is infinite becomes the far plane, 1.
    """
    maps = [
        normalize_depth(d, mode="percentile", percentiles=(2, 98), mask=m)
        for d, m in zip(depth.cpu().numpy(), valid.cpu().numpy(), strict=True)
    ]
    targets = torch.from_numpy(np.stack(maps) * 2 - 1).to(depth.device)
    return repeat(targets, "b h w -> b c h w", c=3)


def has_range(depth: Tensor, valid: Tensor) -> Tensor:
    """(B,) bool: scenes with a depth range to normalise by; not a wall that fills the picture."""
    found = []
    for d, m in zip(depth.cpu().numpy(), valid.cpu().numpy(), strict=True):
        # numpy's: torch.quantile takes no more than 16 million values.
        low, high = np.quantile(d[m], (0.02, 0.98)) if m.any() else (0.0, 0.0)
        found.append(bool(high - low > 0.02 * high))
    return torch.tensor(found, device=depth.device)


def latent_mask(valid: Tensor, factor: int = 8) -> Tensor:
    """(B, H, W) bool -> (B, 1, h, w) bool: the latent cells whose pixels are all valid."""
    invalid = (~valid)[:, None].float()
    return F.max_pool2d(invalid, factor, factor) == 0


class SceneBatches(Dataset[tuple[Tensor, Tensor]]):
    """`count` batches of pictures and depth targets, both (size, 3, H, W) in [-1, 1].

    Batch i is a function of i alone: its generator is seeded by (seed, i). It can be a little
    short, because scenes without a depth range are left out.
    """

    def __init__(self, count: int, size: int, seed: int, device: str = "cpu") -> None:
        self.count, self.size, self.seed, self.device = count, size, seed, device

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + i)
        height, width = SHAPES[i % len(SHAPES)]
        scenes = render_scenes(self.size, height, width, generator, self.device)
        keep = has_range(scenes.depth, scenes.valid)
        rgb, depth, valid = scenes.rgb[keep], scenes.depth[keep], scenes.valid[keep]
        return rgb * 2 - 1, depth_target(depth, valid)

    def loader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """In order; rendered by one process a core, or on the device itself."""
        workers = (os.cpu_count() or 1) if self.device == "cpu" else 0
        return DataLoader(self, batch_size=None, num_workers=workers)
