"""Depth maps (H, W) in [0, 1] and ensembles (N, H, W) of them, made of random numbers."""

from __future__ import annotations

import torch


def seed(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def truth(height: int = 24, width: int = 36, number: int = 0) -> torch.Tensor:
    depth = torch.rand(height, width, generator=seed(number))
    depth += torch.linspace(0, 1, height)[:, None]
    return (depth - depth.min()) / (depth.max() - depth.min())


def affine(depth: torch.Tensor, *pairs: tuple[float, float]) -> torch.Tensor:
    return torch.stack([scale * depth + shift for scale, shift in pairs])


def noisy(n: int, sigma: float, number: int = 1, size: tuple[int, int] = (24, 36)) -> torch.Tensor:
    g = seed(number)
    maps = truth(*size) + sigma * torch.randn(n, *size, generator=g)
    return maps * (0.4 + 0.5 * torch.rand(n, 1, 1, generator=g)) + 0.1
