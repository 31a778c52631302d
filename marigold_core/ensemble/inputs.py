"""What the functions of this folder take, checked; and the warning about what was left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import EnsembleWarning, MarigoldError


def check_invariance(scale_invariant: bool, shift_invariant: bool) -> None:
    if shift_invariant and not scale_invariant:
        raise MarigoldError(
            "No checkpoint is invariant to shift alone; set scale_invariant=True or"
            " shift_invariant=False."
        )


def as_maps(value: Any, name: str) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """float32 (N, h, w), and what gives a result back in the caller's kind."""
    is_array = isinstance(value, np.ndarray)
    maps = torch.from_numpy(np.ascontiguousarray(value)) if is_array else value
    if not isinstance(maps, Tensor) or not maps.is_floating_point():
        raise MarigoldError(f"The {name} must be a floating-point torch tensor or numpy array.")
    if maps.ndim == 4 and maps.shape[1] == 1:
        maps = maps[:, 0]
    if maps.ndim != 3 or not maps.numel():
        raise MarigoldError(
            f"The {name} have the shape {tuple(value.shape)}; give (N, h, w) with N of 1 or more."
        )
    return maps.detach().float().contiguous(), Tensor.numpy if is_array else lambda result: result


def as_mask(mask: Any, maps: Tensor, count: int = 1) -> Tensor:
    """bool (h, w) on the maps' device; (T, h, w) when asked for a count of them."""
    pixels = torch.as_tensor(mask, device=maps.device)
    shapes = [tuple(maps.shape[1:])] + [tuple(maps.shape)] * (count > 1)
    if pixels.dtype != torch.bool or tuple(pixels.shape) not in shapes:
        raise MarigoldError(
            f"The mask is {pixels.dtype} {tuple(pixels.shape)}; it must be bool {shapes[-1]}."
        )
    if not pixels.any():
        raise MarigoldError("The mask leaves no pixel; True means that a pixel is used.")
    return pixels if count == 1 else pixels.expand(maps.shape)


def named(which: Tensor, why: str) -> list[str]:
    numbers = (which.nonzero()[:, 0] + 1).tolist()
    return [f"{', '.join(map(str, numbers))} of {len(which)}: {why}"] if numbers else []


def warn(reasons: list[str], what: str = "Ensemble member") -> None:
    if reasons:
        warnings.warn(f"{what}s {'; '.join(reasons)}.", EnsembleWarning, stacklevel=4)
