"""What a pinhole camera sees of triangles: a z-buffer in numpy, to count holes with."""

from __future__ import annotations

import math

import numpy as np

from marigold_core.geometry.points import intrinsics

ROUNDING = 1e-4
CANDIDATES = 4_000_000  # pixels under the boxes of triangles that are tested at once


def nearest_faces(
    points: np.ndarray,
    triangles: np.ndarray,
    size: tuple[int, int],
    fov_degrees: float,
    camera: np.ndarray | None = None,
) -> np.ndarray:
    """The index of the triangle in front at each pixel's centre, (H, W) int64; -1 where there is
    none. points: (V, 3); camera: (4, 4), camera to world, OpenCV axes; None = the identity."""
    height, width = size
    if camera is not None:
        points = (points - camera[:3, 3]) @ camera[:3, :3]
    k = intrinsics(height, width, fov_degrees)
    z = points[:, 2].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = points[:, :2] / z[:, None] * k[0, 0] + k[:2, 2]
    ahead = (z[triangles] > 0).all(axis=1)
    corners = uv[triangles]
    first = np.ceil(np.nan_to_num(corners.min(axis=1)) - 0.5 - ROUNDING).clip(0, (width, height))
    last = np.floor(np.nan_to_num(corners.max(axis=1)) - 0.5 + ROUNDING).clip(
        -1, (width - 1, height - 1)
    )
    extent = (last - first + 1).max(axis=1)
    ahead &= (last >= first).all(axis=1)
    depth, owner = np.full(height * width, np.inf), np.full(height * width, -1)
    side = 1
    while (ahead & (extent > side // 2)).any():
        group = np.flatnonzero(ahead & (extent > side // 2) & (extent <= side))
        chunk = max(1, CANDIDATES // side**2)
        for start in range(0, len(group), chunk):
            some = group[start : start + chunk]
            _draw(corners[some], z[triangles[some]], first[some], side, some, size, depth, owner)
        side *= 2
    return owner.reshape(height, width)


def _draw(corners, z, first, side, numbers, size, depth, owner) -> None:
    height, width = size
    y, x = np.mgrid[0:side, 0:side].reshape(2, -1)
    column, row = first[:, :1] + x, first[:, 1:] + y
    p = np.stack([column, row], axis=-1) + 0.5
    a, b, c = (corners[:, None, k] for k in range(3))
    area = _cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.stack([_cross(c - b, p - b), _cross(a - c, p - c), _cross(b - a, p - a)], -1)
        weights = weights / area[..., None]
        inside = (weights >= -ROUNDING).all(axis=-1) & (row < height) & (column < width)
        distance = 1 / (weights / z[:, None]).sum(axis=-1)
    which, pixel = np.nonzero(inside)
    place = (row[which, pixel] * width + column[which, pixel]).astype(np.int64)
    distance = distance[which, pixel]
    order = np.lexsort((distance, place))
    place, distance, which = place[order], distance[order], which[order]
    once = np.r_[True, place[1:] != place[:-1]] if len(place) else np.zeros(0, bool)
    place, distance, which = place[once], distance[once], which[once]
    nearer = distance < depth[place]
    depth[place[nearer]], owner[place[nearer]] = distance[nearer], numbers[which[nearer]]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def orbit(pivot: float, right: float = 0.0, up: float = 0.0) -> np.ndarray:
    """The camera (4, 4) that has gone round the point at distance `pivot` on the axis by these
    degrees, and looks at it."""
    a, b = math.radians(right), math.radians(up)
    across = [[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]]
    down = [[1, 0, 0], [0, math.cos(b), math.sin(b)], [0, -math.sin(b), math.cos(b)]]
    camera = np.eye(4)
    camera[:3, :3] = np.array(across) @ np.array(down)
    camera[:3, 3] = np.array([0, 0, pivot]) - camera[:3, :3] @ np.array([0, 0, pivot])
    return camera
