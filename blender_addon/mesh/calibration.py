# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user knows of the scene, turned into near and far and an upright position. No bpy.

A checkpoint gives depth up to a scale and a shift. Two known distances fix both; three points on
the floor show which way is up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import MarigoldError
from .depth_grid import HOLE


def calibrated_range(
    d: Sequence[float], rays: Sequence[Sequence[float]], distances: Sequence[float]
) -> tuple[float, float]:
    """(near, far) that put two points at their distances.

    d: their depth, 0 = near and 1 = far. rays: their (x, y, -1) at the mesh's field of view.
    distances: from the camera, as a tape measures them: along the ray, not along the axis.
    Raises MarigoldError where no such range exists.
    """
    if max(d) > HOLE / 2:
        raise MarigoldError("A picked point lies where the mask leaves the picture out.")
    if min(distances) <= 0:
        raise MarigoldError("A distance from the camera is above 0.")
    z = [distance / math.hypot(*ray) for distance, ray in zip(distances, rays, strict=True)]
    if abs(d[1] - d[0]) < 1e-3:
        raise MarigoldError("The two points are equally deep; pick a near and a far one.")
    span = (z[1] - z[0]) / (d[1] - d[0])
    near = z[0] - d[0] * span
    if span <= 0:
        raise MarigoldError(
            "The point with the greater distance is the nearer one in the map; exchange the"
            " distances or pick other points."
        )
    if near <= 0:
        raise MarigoldError(
            "These distances put the nearest part of the picture behind the camera; check them, or"
            " pick two points that are further apart in depth."
        )
    return near, near + span


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
    """The 4x4 world transform that lays the plane of three points onto z = 0, camera above it.

    points: (3, 3), camera: (3,), in world space. The turn is the shortest one, so the heading
    stays. Raises MarigoldError for points on a line.
    """
    points = np.asarray(points, dtype=np.float64)
    normal = np.cross(points[1] - points[0], points[2] - points[0])
    sides = [np.linalg.norm(points[i] - points[i - 1]) for i in range(3)]
    if not np.linalg.norm(normal) > 1e-3 * max(sides) ** 2:
        raise MarigoldError("The three points lie on a line; pick three corners of the floor.")
    normal /= np.linalg.norm(normal)
    if normal @ (camera - points[0]) < 0:
        normal = -normal
    transform = np.eye(4)
    transform[:3, :3] = _turn_to_z(normal)
    transform[2, 3] = -(transform[:3, :3] @ points.mean(axis=0))[2]
    return transform


def _turn_to_z(normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rodrigues' rotation of `normal` onto (0, 0, 1)."""
    cosine = normal[2]
    if cosine < -1 + 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    x, y = normal[1], -normal[0]  # normal x (0, 0, 1), whose z is 0
    cross = np.array([[0, 0, y], [0, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)
