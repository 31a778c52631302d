"""Many maps to one, pixel by pixel: moments, the true median and its deviation, in small memory."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

# Pixels taken at once. On a CPU 10 rows of 2**15 floats stay in the cache: median of 10 maps of
# 576 x 768, one thread: 7 ms, 9 ms at 2**16, 19 ms for whole maps (torch.sort 138 ms).
CPU_PIXELS, GPU_PIXELS = 2**15, 2**20
# Pixels of a sample: an alignment by them adds 0.01 % to the error of one by all pixels.
SAMPLE = 2**13


def wide_dtype(maps: Tensor) -> torch.dtype:
    """float64 for sums, except on MPS, which has none."""
    return torch.float32 if maps.device.type == "mps" else torch.float64


def chunk_pixels(maps: Tensor) -> int:
    return CPU_PIXELS if maps.device.type == "cpu" else GPU_PIXELS


def moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Means (N,) and covariances (N, N) of (N, P) maps, float64 on the CPU: one round trip.

    Centred first, then summed in float64 (on MPS in float32, chunk by chunk), because float32
    sums of uncentred maps near 0.5 lose the small differences that decide.
    """
    wide = wide_dtype(maps)
    origin = maps.mean(1, keepdim=True)
    products, sums = [], []
    for chunk in maps.split(chunk_pixels(maps), 1):
        centred = (chunk - origin).to(wide)
        products.append(centred @ centred.T)
        sums.append(centred.sum(1, keepdim=True))
    origins = origin.to(wide).expand(len(sums), -1, -1)
    gathered = torch.cat([torch.stack(products), torch.stack(sums), origins], 2).cpu().double()
    n, pixels = maps.shape
    residual = gathered[:, :, n].sum(0) / pixels
    covariance = gathered[:, :, :n].sum(0) / pixels - torch.outer(residual, residual)
    covariance.diagonal().clamp_(min=0)
    return gathered[0, :, n + 1] + residual, covariance


def sample(maps: Tensor) -> Tensor:
    """Up to SAMPLE pixels of (N, P) maps, evenly spread, float64 (N, K) on the CPU."""
    pixels = maps.shape[1]
    if pixels > SAMPLE:
        # Multiples of the golden ratio: even at every length, and no row or column is favoured.
        spots = torch.arange(SAMPLE, dtype=torch.float64) * ((5**0.5 - 1) / 2) % 1
        maps = maps[:, (spots * pixels).long().to(maps.device)]
    return maps.cpu().double()


def merge(
    members: Tensor,
    rows: list[int],
    scale: Tensor,
    shift: Tensor,
    reduction: str,
    *,
    spread: bool = True,
) -> tuple[Tensor, Tensor]:
    """Reduce `scale[k] * members[rows[k]] + shift[k]` over k: depth and spread, both (P,).

    members: float32 (N, P); scale, shift: (len(rows),). reduction "median" (true median, median
    absolute deviation) or "mean" (mean, standard deviation over len(rows) - 1). Chunk by chunk, so
    that no aligned copy of all members exists. Without spread the second result is empty.
    """
    scale, shift = (v.float().to(members.device)[:, None] for v in (scale, shift))
    depth = torch.empty_like(members[0])
    deviation = torch.zeros_like(depth if spread else depth[:0])
    step = chunk_pixels(members)
    for a in range(0, len(depth), step):
        aligned = torch.stack([members[i, a : a + step] for i in rows]).mul_(scale).add_(shift)
        if reduction == "mean":
            depth[a : a + step] = average = aligned.mean(0)
            if spread and len(rows) > 1:
                variance = aligned.sub_(average).square_().sum(0).div_(len(rows) - 1)
                deviation[a : a + step] = variance.sqrt_()
            continue
        middle = median(list(aligned.clone() if spread else aligned))
        depth[a : a + step] = middle
        if spread:
            deviation[a : a + step] = median(list(aligned.sub_(middle).abs_()))
    return depth, deviation


def median(rows: list[Tensor]) -> Tensor:
    """The elementwise true median of N equal rows, which are overwritten."""
    for i, j in _network(len(rows)):
        smaller = torch.minimum(rows[i], rows[j])
        torch.maximum(rows[i], rows[j], out=rows[j])
        rows[i] = smaller
    lower, upper = rows[(len(rows) - 1) // 2], rows[len(rows) // 2]
    return torch.lerp(lower, upper, 0.5)


@lru_cache
def _network(n: int) -> tuple[tuple[int, int], ...]:
    """Batcher's odd-even merge sort (Knuth 5.2.2, algorithm M) without what the middle ignores."""
    comparators = []
    top = 1 << max(n - 1, 1).bit_length() - 1
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            comparators += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    needed, pruned = {(n - 1) // 2, n // 2}, []
    for pair in reversed(comparators):
        if needed & set(pair):
            needed |= set(pair)
            pruned.append(pair)
    return tuple(reversed(pruned))
