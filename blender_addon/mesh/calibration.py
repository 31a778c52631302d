# SPDX-License-Identifier: GPL-3.0-or-later
"""Distances of a checkpoint's depth, and the upright position of a floor. No bpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import MarigoldError


def placed(
    depth: NDArray[np.float32],
    near: float,
    far: float,
    *,
    scale_invariant: bool = True,
    shift_invariant: bool = True,
) -> tuple[NDArray[np.float32], float, float]:
    """A checkpoint's depth as d in [0, 1] with the distances of 0 and 1.

    Affine-invariant depth is d, and the user's near and far stay. Where the checkpoint knows the
    shift, 0 is the camera, and only `far` is the user's; where it knows the scale too, depth is
    metric and neither is. Raises MarigoldError where there is no relief.
    """
    if shift_invariant:
        return depth, near, far
    seen = depth[np.isfinite(depth) & (depth > 0)]
    if not seen.size or not seen.max() > seen.min():
        raise MarigoldError("The depth map has the same distance everywhere, so no relief.")
    low, high = float(seen.min()), float(seen.max())
    d = np.where(depth > 0, (depth - low) / (high - low), np.float32(np.nan)).astype(np.float32)
    unit = far / high if scale_invariant else 1.0
    return d, low * unit, high * unit


def upright(points: NDArray[np.float64], camera: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 4x4 world transform that lays the plane of points onto z = 0, camera above it.

    points: (K, 3), three or more; camera: (3,), in world space. The plane is that of the least
    squares. The turn is the shortest one, so the heading stays. Raises MarigoldError for fewer
    points, and for points on a line.
    """
    if len(points) < 3:
        raise MarigoldError("Pick three points of the floor or more.")
    middle = points.mean(axis=0)
    _, lengths, axes = np.linalg.svd(points - middle)
    if not lengths[1] > 1e-3 * lengths[0]:
        raise MarigoldError("The floor's points lie on a line; pick corners of the floor.")
    normal = axes[2]
    if normal @ (camera - middle) < 0:
        normal = -normal
    transform = np.eye(4)
    transform[:3, :3] = _turn_to_z(normal)
    transform[2, 3] = -(transform[:3, :3] @ middle)[2]
    return transform


def _turn_to_z(normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rodrigues' rotation of `normal` onto (0, 0, 1)."""
    cosine = normal[2]
    if cosine < -1 + 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    x, y = normal[1], -normal[0]  # normal x (0, 0, 1), whose z is 0
    cross = np.array([[0, 0, y], [0, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)
