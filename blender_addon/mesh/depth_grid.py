# SPDX-License-Identifier: GPL-3.0-or-later
"""A depth map as the arrays of a grid mesh in Blender's axes. No bpy in here.

Blender's camera looks down -z with y up, so a point of `marigold_core.geometry` (x right, y down,
z forward) is (x, -y, -z) here. That is a rotation: the quads keep their front side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import (
    FAR,
    FOV_DEGREES,
    NEAR,
    MarigoldError,
    default_tear_ratio,
    grid_lines,
    grid_quads,
    unproject,
)

VERTEX_BUDGET = 1024 * 1024
MAX_VERTEX_BUDGET = 4_000_000
# Resident, measured on torn grids of one and four million vertices with Blender 4.5: the base mesh
# and what the modifier makes of it.
BYTES_PER_VERTEX = 250

# A pixel that is left out. Not infinite: Blender 5.2 counts that as damage to the mesh.
HOLE = 1e36

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class DepthGrid:
    """A grid of rows x columns vertices, row by row from the picture's top left.

    positions: (V, 3) float32, Blender's axes, the camera at the origin, at the default distances.
    rays: (V, 3) float32, (x, y, -1) at a field of view of 90 degrees; at another, x and y times
        the tangent of its half.
    d: (V,) float32, depth as the checkpoint gives it, 0 = near and 1 = far; HOLE where the mask
        leaves a pixel out, which tears its faces.
    nearest, furthest: (Q,) float32, the extremes of d over the corners of each quad.
    uvs: (V, 2) float32. uncertainty: (V,) float32 or None.
    size: (height, width) of the map; stride: how many of its pixels lie between two vertices.
    """

    rows: int
    columns: int
    size: tuple[int, int]
    stride: float
    positions: NDArray[np.float32]
    rays: NDArray[np.float32]
    uvs: NDArray[np.float32]
    d: NDArray[np.float32]
    nearest: NDArray[np.float32]
    furthest: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None

    @property
    def tear_ratio(self) -> float:
        """`geometry.default_tear_ratio` of this grid at the default field of view."""
        return default_tear_ratio(*self.size, FOV_DEGREES, self.stride)

    def quads(self) -> NDArray[np.int32]:
        return grid_quads(self.rows, self.columns)

    def edges(self) -> NDArray[np.int32]:
        """(E, 2) int32: first all along the rows, then all down the columns."""
        corner = np.arange(self.rows * self.columns, dtype=np.int32)
        corner = corner.reshape(self.rows, self.columns)
        along = np.stack([corner[:, :-1], corner[:, 1:]], axis=-1).reshape(-1, 2)
        down = np.stack([corner[:-1], corner[1:]], axis=-1).reshape(-1, 2)
        return np.concatenate([along, down])

    def quad_edges(self) -> NDArray[np.int32]:
        """(Q, 4) int32: of each quad the edge from each corner to the next, rows of `edges`."""
        rows, columns = self.rows, self.columns
        along = np.arange(rows * (columns - 1), dtype=np.int32).reshape(rows, columns - 1)
        down = along.size + np.arange((rows - 1) * columns, dtype=np.int32)
        down = down.reshape(rows - 1, columns)
        left, bottom, right, top = down[:, :-1], along[1:], down[:, 1:], along[:-1]
        return np.stack([left, bottom, right, top], axis=-1).reshape(-1, 4)


def depth_grid(
    depth: Floats,
    *,
    uncertainty: Floats | None = None,
    mask: NDArray[np.bool_] | None = None,
    max_vertices: int = VERTEX_BUDGET,
) -> DepthGrid:
    """Depth (H, W), 0 = near and 1 = far -> DepthGrid of at most `max_vertices` vertices.

    uncertainty: (H, W). mask: (H, W) bool, True = use; pixels that are not finite or lie in front
    of depth 0 by so much that they would be behind the camera are left out as well.
    Raises MarigoldError for other shapes, maps under 2x2 and masks that leave nothing.
    """
    depth = np.asarray(depth, dtype=np.float32)
    if depth.ndim != 2 or min(depth.shape) < 2:
        raise MarigoldError(
            f"A depth map has two axes of two pixels or more; this one has shape {depth.shape}."
        )
    for name, other in (("mask", mask), ("uncertainty", uncertainty)):
        if other is not None and other.shape != depth.shape:
            raise MarigoldError(
                f"The {name} has shape {other.shape}, the depth map {depth.shape}; they must match."
            )
    height, width = depth.shape
    usable = np.isfinite(depth) & (NEAR + depth * (FAR - NEAR) > 0)
    if mask is not None:
        usable &= mask
    if not usable.any():
        raise MarigoldError("The depth map has no usable pixel: all are masked or not finite.")

    rows, columns = grid_lines(height, width, max_vertices)
    lines = np.ix_(rows, columns)
    usable = usable[lines]
    to_blender = np.array([1, -1, -1], dtype=np.float32)
    # A depth of 0 at near 1 is the ray itself; at 90 degrees the half angle's tangent is 1.
    rays = unproject(np.zeros_like(depth), fov_degrees=90.0, near=1.0, far=2.0)[lines] * to_blender
    positions = unproject(np.where(np.isfinite(depth), depth, np.float32(1)))[lines] * to_blender

    d = np.where(usable, depth[lines], np.float32(HOLE))
    corners = [d[:-1, :-1], d[1:, :-1], d[1:, 1:], d[:-1, 1:]]
    uvs = np.empty((*d.shape, 2), dtype=np.float32)
    uvs[..., 0] = (columns + 0.5) / width
    uvs[..., 1] = (1 - (rows + 0.5) / height)[:, None]
    return DepthGrid(
        rows=len(rows),
        columns=len(columns),
        size=(height, width),
        stride=max((height - 1) / (len(rows) - 1), (width - 1) / (len(columns) - 1)),
        positions=positions.reshape(-1, 3),
        rays=rays.reshape(-1, 3),
        uvs=uvs.reshape(-1, 2),
        d=d.ravel(),
        nearest=np.minimum.reduce(corners).ravel(),
        furthest=np.maximum.reduce(corners).ravel(),
        uncertainty=None
        if uncertainty is None
        else np.where(usable & np.isfinite(uncertainty[lines]), uncertainty[lines], 0)
        .astype(np.float32)
        .ravel(),
    )


def budget_in_words(vertices: int) -> tuple[str, str]:
    """What a mesh of so many vertices is, for a panel: ("1.0 M", "260 MB")."""
    megabytes = vertices * BYTES_PER_VERTEX / 1e6
    digits = 1 - int(math.floor(math.log10(max(megabytes, 1))))
    count = f"{vertices / 1e6:.1f} M" if vertices >= 1e5 else f"{vertices}"
    return count, f"{round(megabytes, digits):g} MB"
