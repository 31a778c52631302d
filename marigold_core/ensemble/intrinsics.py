"""Several predictions of intrinsic images merged into one; what has no scale of its own aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from ..errors import MarigoldError
from .alignment import align_to_median, loadings
from .inputs import as_mask, as_members, check_reduction, finite_members
from .merging import merge, moments, sample

# The most that alignment multiplies or divides a member by.
LARGEST_GAIN = 4.0


@torch.no_grad()
def ensemble_intrinsics(
    predictions: Any,
    *,
    reduction: str = "median",
    up_to_scale: Sequence[bool] | None = None,
    mask: Any = None,
) -> tuple[Any, Any]:
    """Merge intrinsic images, channel by channel: `images, uncertainty`.

    predictions: floating (N, T, 3, h, w), N members of T targets (albedo, shading, ...), torch on
    any device or numpy. images, uncertainty: of the same kind, float32 (T, 3, h, w); uncertainty
    is None for one member, which comes back as it is.

    reduction: "median" (for even N the average of the two middle values) with the median absolute
    deviation as the uncertainty, or "mean" with the standard deviation over N - 1.

    up_to_scale: which targets are known up to a factor only (shading and residual of the lighting
    checkpoint; none by default). Their members are brought to one scale first, by the closed form
    of `ensemble_depth` without a shift: one factor for the three channels, the median factor
    being 1. Values of bright members can then exceed 1. Without it the result is diffusers'
    (whose median of an even N is the lower middle value). mask: bool (h, w), True = used for the
    factors.

    Members with NaN or infinity are left out with an `EnsembleWarning`. Raises MarigoldError on a
    wrong shape, a wrong word, an empty mask, or when no member is finite.
    """
    check_reduction(reduction, "median", "mean")
    members, wrap = as_members(predictions, "intrinsic images", "(N, T, 3, h, w)", channels=3)
    n, targets, _, height, width = members.shape
    aligned = [False] * targets if up_to_scale is None else list(up_to_scale)
    if len(aligned) != targets:
        raise MarigoldError(
            f"up_to_scale has {len(aligned)} entries for {targets} targets; give one for each."
        )
    used = None if mask is None else as_mask(mask, members[:, 0, 0])
    if n == 1:
        return wrap(members[0].clone()), None
    rows = finite_members(members)
    images, uncertainty = torch.empty_like(members[0]), torch.empty_like(members[0])
    for target in range(targets):
        maps = rearrange(members[:, target], "n c h w -> n (c h w)")
        scale = torch.ones(len(rows), dtype=torch.float64)
        if aligned[target] and len(rows) > 1:
            pixels = slice(None) if used is None else repeat(used, "h w -> (c h w)", c=3)
            scale = common_scale(maps[rows][:, pixels])
        merged = merge(maps, rows, scale, torch.zeros_like(scale), reduction)
        for whole, part in zip((images, uncertainty), merged, strict=True):
            whole[target] = rearrange(part, "(c h w) -> c h w", c=3, h=height, w=width)
    return wrap(images), wrap(uncertainty)


def common_scale(maps: Tensor) -> Tensor:
    """Factors, float64 (N,) with a median of 1, that bring maps (N, P) to one scale.

    Maps that are black everywhere keep a factor of 1: they have no scale.
    """
    mean, covariance = moments(maps)
    second = covariance + torch.outer(mean, mean)
    size = second.diagonal().sqrt()
    lit = size > 0
    scale = torch.ones_like(size)
    if lit.sum() < 2:
        return scale
    correlation = (second / torch.outer(size, size))[lit][:, lit]
    first = 1 / (size[lit] * loadings(correlation))
    found, _ = align_to_median(sample(maps)[lit], first, torch.zeros_like(first), False)
    scale[lit] = (found / found.quantile(0.5)).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    return scale
