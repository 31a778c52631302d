"""What the functions of this folder take, checked; and the warning about what was left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import EnsembleWarning, MarigoldError

NOT_FINITE = "hold NaN or infinity"


def check_invariance(scale_invariant: bool, shift_invariant: bool) -> None:
    if shift_invariant and not scale_invariant:
        raise MarigoldError(
            "No checkpoint is invariant to shift alone; set scale_invariant=True or"
            " shift_invariant=False."
        )


def as_maps(value: Any, name: str) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """float32 (N, h, w), and what gives a result back in the caller's kind."""
    if getattr(value, "ndim", 0) == 4 and value.shape[1] == 1:
        value = value[:, 0]
    return as_members(value, name, "(N, h, w)")


def as_members(
    value: Any, name: str, shape: str, channels: int | None = None
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """float32 members of a shape such as "(N, 3, h, w)", and what gives a result back.

    The result is of the caller's kind, torch or numpy. channels: the length that axis -3 must have.
    """
    is_array = isinstance(value, np.ndarray)
    members = torch.from_numpy(np.ascontiguousarray(value)) if is_array else value
    if not isinstance(members, Tensor) or not members.is_floating_point():
        raise MarigoldError(f"The {name} must be a floating-point torch tensor or numpy array.")
    right = members.ndim == shape.count(",") + 1 and members.numel()
    if not right or channels not in (None, members.shape[-3]):
        raise MarigoldError(
            f"The {name} have the shape {tuple(value.shape)}; give {shape} with N of 1 or more."
        )
    return members.detach().float().contiguous(), Tensor.numpy if is_array else lambda map: map


def finite_members(members: Tensor) -> list[int]:
    """The numbers, from 0, of members (N, ...) without NaN or infinity; warns of the others.

    Raises MarigoldError when there are none.
    """
    finite = members.flatten(1).isfinite().all(1).cpu()
    if not finite.any():
        raise MarigoldError(
            "Every ensemble member holds NaN or infinity; run the checkpoint in float32."
        )
    warn(named(~finite, NOT_FINITE), stacklevel=5)
    return finite.nonzero()[:, 0].tolist()


def check_reduction(reduction: str, *known: str) -> None:
    if reduction not in known:
        words = " or ".join(f'"{word}"' for word in known)
        raise MarigoldError(f"reduction is {reduction!r}; use {words}.")


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


def warn(reasons: list[str], what: str = "Ensemble member", stacklevel: int = 4) -> None:
    """stacklevel 4: warn, the public function, its no_grad wrapper, and who called it."""
    if reasons:
        warnings.warn(f"{what}s {'; '.join(reasons)}.", EnsembleWarning, stacklevel=stacklevel)
