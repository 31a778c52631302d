"""Several predictions of surface normals merged into one: directions, so without alignment."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import repeat
from torch import Tensor

from .inputs import as_members, check_reduction, finite_members

# Below this length the mean of unit vectors is rounding: the members point in opposite directions.
OPPOSITE = 1e-5


@torch.no_grad()
def ensemble_normals(predictions: Any, *, reduction: str = "closest") -> tuple[Any, Any]:
    """The members' mean direction, or the member nearest to it: `normals, uncertainty`.

    predictions: floating (N, 3, h, w), torch on any device or numpy; x right, y up, z towards the
    viewer. They are brought to unit length first. reduction: "closest", at each pixel the member
    with the smallest angle to the mean direction, or "mean", that direction (Ke et al. 2025,
    arXiv 2505.09358; both as in diffusers).

    normals: float32 (3, h, w), of length 1 everywhere. Where members cancel out, which leaves no
    mean direction, the member that faces the viewer most stands in for it. Zero vectors count as
    (0, 0, 1). uncertainty: float32 (h, w), the mean angle between a member and the mean direction
    (or what stands in for it), in radians, [0, pi]; None for one member.

    Members with NaN or infinity are left out with an `EnsembleWarning`. Raises MarigoldError on a
    wrong shape, a wrong word, or when no member is finite.
    """
    check_reduction(reduction, "closest", "mean")
    members, wrap = as_members(predictions, "normals", "(N, 3, h, w)", channels=3)
    units = unit(members if len(members) == 1 else members[finite_members(members)])
    if len(members) == 1:
        return wrap(units[0]), None
    direction = units.mean(0)
    facing = pick(units, units[:, 2].argmax(0))
    cancelled = direction.norm(dim=0) < OPPOSITE
    mean = torch.where(cancelled, facing, F.normalize(direction, dim=0))
    angles = torch.stack([angle_between(member, mean) for member in units])
    normals = mean if reduction == "mean" else pick(units, angles.argmin(0))
    return wrap(normals), wrap(angles.mean(0))


def unit(normals: Tensor) -> Tensor:
    """Normals (N, 3, h, w) at length 1; zero vectors become (0, 0, 1), towards the viewer."""
    units = F.normalize(normals, dim=1)
    units[:, 2] += (normals == 0).all(1)
    return units


def pick(units: Tensor, index: Tensor) -> Tensor:
    """(3, h, w): at each pixel the member, of (N, 3, h, w), whose number stands in index (h, w)."""
    return units.gather(0, repeat(index, "h w -> 1 c h w", c=3))[0]


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """The angle between unit vectors (3, ...), in radians.

    Kahan's formula: an arc cosine in float32 knows angles below 0.02 degrees as 0.
    """
    return 2 * torch.atan2((a - b).norm(dim=0), (a + b).norm(dim=0))
