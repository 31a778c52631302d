# SPDX-License-Identifier: GPL-3.0-or-later
"""A depth map as the arrays of a grid mesh in Blender's axes. No bpy.

Blender's camera looks down -z with y up, so a point of `geometry.points` (x right, y down,
z forward) is (x, -y, -z) here. That is a rotation: the quads keep their front side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import (
    CORNERS,
    FAR,
    FOV_DEGREES,
    NEAR,
    PANORAMA_FOV,
    MarigoldError,
    at_lines,
    background_layer,
    default_tear_ratio,
    grid_coordinates,
    grid_lines,
    grid_stride,
    grid_uvs,
    sharpen_edges,
    sphere_lines,
    sphere_rays,
)

VERTEX_BUDGET = 1024 * 1024
MAX_VERTEX_BUDGET = 4_000_000
# Resident, measured on torn grids of one and four million vertices with Blender 4.5: the base mesh
# and what the modifier makes of it.
BYTES_PER_VERTEX = 250
# The share of the default tear ratio's excess above 1 from which on an edge gets a background: a
# lower Tear Ratio or a greater Far then still finds one.
BACKGROUND_FROM = 0.6

# The reach of the faces across an edge, less than that of all others.
ACROSS = 1e-6

# A pixel that is left out. Not infinite: Blender 5.2 treats that as a damaged mesh.
HOLE = 1e36

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Faces:
    """Quads and their edges. corners: (Q, 4) int32. ends: (E, 2) int32, the vertices of each edge.
    edges: (Q, 4) int32, of each quad the edge from each corner to the next."""

    corners: NDArray[np.int32]
    ends: NDArray[np.int32]
    edges: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Background:
    """The background layer.

    vertices: (B,) int64, the vertex of the grid that each one lies behind. d: (B,) float32.
    faces: the corners and ends count these vertices. reach: (F,) float32, above 0, 1 at the end of
    the layer. torn: (F,) bool, faces across an edge, which show the picture and take the place of
    the grid's faces. nearest, furthest: (F,) float32, for those the extremes of d over the corners
    of the grid's face, else 0. colours: (rows, columns, 3) uint8, the filled picture, or None.
    """

    vertices: NDArray[np.int64]
    d: NDArray[np.float32]
    faces: Faces
    reach: NDArray[np.float32]
    torn: NDArray[np.bool_]
    nearest: NDArray[np.float32]
    furthest: NDArray[np.float32]
    colours: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class DepthGrid:
    """A grid of rows x columns vertices, row by row from the picture's top left.

    It is as large as the picture: its outer lines lie at the picture's edges, the others at the
    centres of pixels.

    rays: (V, 3) float32, (x, y, -1) at a field of view of 90 degrees; at another, x and y times
        the tangent of its half. Of a panorama unit vectors, and its last column is its first.
    d: (V,) float32, depth, 0 = near and 1 = far; HOLE where the mask leaves a pixel out, which
        tears its faces.
    nearest, furthest: (Q,) float32, the extremes of d over the corners of each quad.
    cut: (Q,) bool, the quads that the background layer has instead; None without a layer.
    uvs: (V, 2) float32. uncertainty: (V,) float32 or None.
    size: (height, width) of the map; stride: how many of its pixels lie between two vertices.
    panorama: the map is equirectangular, and depth the distance from its centre.
    """

    rows: int
    columns: int
    size: tuple[int, int]
    stride: float
    rays: NDArray[np.float32]
    uvs: NDArray[np.float32]
    d: NDArray[np.float32]
    nearest: NDArray[np.float32]
    furthest: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None
    cut: NDArray[np.bool_] | None
    background: Background | None
    panorama: bool

    @property
    def tear_ratio(self) -> float:
        """`geometry.default_tear_ratio` of this grid at the default field of view."""
        fov = PANORAMA_FOV if self.panorama else FOV_DEGREES
        return default_tear_ratio(*self.size, fov, self.stride)

    def positions(self) -> NDArray[np.float32]:
        """(V, 3) at the default distances and field of view, the camera at the origin."""
        tangent = 1 if self.panorama else math.tan(math.radians(FOV_DEGREES / 2))
        z = np.where(self.d < HOLE / 2, NEAR + self.d * (FAR - NEAR), 1).astype(np.float32)
        return self.rays * np.array([tangent, tangent, 1], dtype=np.float32) * z[:, None]

    def faces(self) -> Faces:
        """Of the grid without those that are cut."""
        kept = np.ones((self.rows - 1, self.columns - 1), dtype=bool)
        if self.cut is not None:
            kept = ~self.cut.reshape(kept.shape)
        return _faces(kept, _numbers(np.ones((self.rows, self.columns), dtype=bool)))


def depth_grid(
    depth: Floats,
    *,
    uncertainty: Floats | None = None,
    mask: NDArray[np.bool_] | None = None,
    max_vertices: int = VERTEX_BUDGET,
    picture: NDArray[np.uint8] | None = None,
    near: float = NEAR,
    far: float = FAR,
    fov_degrees: float = FOV_DEGREES,
    background: bool = False,
    panorama: bool = False,
) -> DepthGrid:
    """Depth (H, W), 0 = near and 1 = far -> DepthGrid of at most `max_vertices` vertices.

    uncertainty: (H, W). mask: (H, W) bool, True = use; pixels that are not finite or lie in front
    of depth 0 by so much that they would be behind the camera are left out as well. background:
    sharpen the depth edges at the distances `near` and `far`, guided by the `picture` (h, w, 3),
    and add a background layer behind them, for the field of view `fov_degrees`. panorama: the map
    (H, 2 H) is equirectangular; it gets no background layer.
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

    if panorama:
        rows, columns, v, u = sphere_lines(height, width, max_vertices)
        rays = (sphere_rays(v, u, height, width) * (1, -1, -1)).astype(np.float32)
    else:
        rows, columns = grid_lines(height, width, max_vertices)
        v = grid_coordinates(rows, height, border=True)
        u = grid_coordinates(columns, width, border=True)
        rays = np.full((len(rows), len(columns), 3), -1, dtype=np.float32)
        rays[..., 0] = (u - width / 2) / (max(height, width) / 2)
        rays[..., 1] = ((height / 2 - v) / (max(height, width) / 2))[:, None]
    stride = grid_stride(len(rows), len(columns) - panorama, height, width)
    lines = np.ix_(rows, columns)
    usable = usable[lines]
    d = np.where(usable, depth[lines], np.float32(HOLE))
    if panorama:
        for pole, known in ((d[0], usable[0]), (d[-1], usable[-1])):
            pole[known] = pole[known].mean() if known.any() else HOLE
    cut = layer = None
    if background and not panorama:
        ratio = default_tear_ratio(height, width, FOV_DEGREES, stride)
        colours = None if picture is None else at_lines(picture, rows, columns, height, width)
        d, cut, layer = _layered(d, usable, ratio, near, far, colours, fov_degrees)

    return DepthGrid(
        rows=len(rows),
        columns=len(columns),
        size=(height, width),
        stride=stride,
        rays=rays.reshape(-1, 3),
        uvs=grid_uvs(v, u, height, width).reshape(-1, 2),
        d=d.ravel(),
        nearest=_extreme(np.minimum, d).ravel(),
        furthest=_extreme(np.maximum, d).ravel(),
        uncertainty=None
        if uncertainty is None
        else np.where(usable & np.isfinite(uncertainty[lines]), uncertainty[lines], 0)
        .astype(np.float32)
        .ravel(),
        cut=cut,
        background=layer,
        panorama=panorama,
    )


def budget_in_words(vertices: int) -> tuple[str, str]:
    """The size of a mesh of so many vertices, for a panel: ("1.0 M", "260 MB")."""
    megabytes = vertices * BYTES_PER_VERTEX / 1e6
    digits = 1 - int(math.floor(math.log10(max(megabytes, 1))))
    count = f"{vertices / 1e6:.1f} M" if vertices >= 1e5 else f"{vertices}"
    return count, f"{round(megabytes, digits):g} MB"


def _numbers(used: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The place of each one that is used among all of them."""
    return np.cumsum(used, dtype=np.int32).reshape(used.shape) - np.int32(1)


def _faces(kept: NDArray[np.bool_], vertices: NDArray[np.int32]) -> Faces:
    """The quads of a grid that are `kept` (R - 1, C - 1), with their own edges alone: first those
    along the rows, then those down the columns. vertices: (R, C), their numbers."""
    framed = np.pad(kept, 1)
    along = framed[:-1, 1:-1] | framed[1:, 1:-1]
    down = framed[1:-1, :-1] | framed[1:-1, 1:]
    ends_along = [vertices[:, :-1][along], vertices[:, 1:][along]]
    ends_down = [vertices[:-1][down], vertices[1:][down]]
    along, down = _numbers(along), _numbers(down) + np.int32(len(ends_along[0]))
    sides = down[:, :-1], along[1:], down[:, 1:], along[:-1]
    return Faces(
        corners=np.stack([vertices[corner][kept] for corner in CORNERS], axis=-1),
        ends=np.concatenate([np.stack(ends, axis=-1) for ends in (ends_along, ends_down)]),
        edges=np.stack([side[kept] for side in sides], axis=-1),
    )


def _layered(
    d: NDArray[np.float32],
    usable: NDArray[np.bool_],
    ratio: float,
    near: float,
    far: float,
    colours: NDArray[np.uint8] | None,
    fov_degrees: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, Background | None]:
    """The grid's d with sharp edges, the quads across them, and the background behind them; None
    where nothing tears."""
    hole = np.float32(np.nan)
    z = np.where(usable, near + d * (far - near), hole).astype(np.float32)
    z = sharpen_edges(np.where(z > 0, z, hole), ratio, colours)
    sharp = np.where(np.isfinite(z), (z - near) / (far - near), d).astype(np.float32)
    layer = background_layer(z, 1 + BACKGROUND_FROM * (ratio - 1), colours, fov_degrees=fov_degrees)
    if not layer.quads.any():
        return sharp, None, None
    used = np.zeros(d.shape, dtype=bool)
    for corner in CORNERS:
        used[corner] |= layer.quads
    vertices = np.flatnonzero(used)
    torn = layer.torn[layer.quads]
    reach = _extreme(np.maximum, layer.reach)[layer.quads]
    of_front = [
        np.where(torn, _extreme(extreme, sharp)[layer.quads], np.float32(0))
        for extreme in (np.minimum, np.maximum)
    ]
    return (
        sharp,
        layer.torn.ravel(),
        Background(
            vertices=vertices,
            d=((layer.distance.ravel()[vertices] - near) / (far - near)).astype(np.float32),
            faces=_faces(layer.quads, _numbers(used)),
            reach=np.where(torn, ACROSS, np.maximum(reach, 10 * ACROSS)).astype(np.float32),
            torn=torn,
            nearest=of_front[0],
            furthest=of_front[1],
            colours=layer.colours,
        ),
    )


def _extreme(extreme: np.ufunc, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The minimum or maximum of (R, C) over the corners of each quad, (R - 1, C - 1)."""
    return extreme.reduce([values[corner] for corner in CORNERS])
