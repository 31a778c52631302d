"""The depth of an equirectangular panorama as a mesh around its centre, with numpy alone.

Axes are OpenCV's. Column 0 looks backwards, the middle column forwards, row 0 straight up.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MarigoldError
from .grid import (
    grid_coordinates,
    grid_lines,
    grid_quads,
    grid_stride,
    grid_uvs,
    textured_mesh,
    whole_faces,
)  # fmt: skip
from .mesh import Mesh
from .points import (
    FAR,
    MAX_VERTICES,
    NEAR,
    checked_mask,
    checked_picture,
    default_tear_ratio,
    depth_array,
    distances,
)  # fmt: skip

Floats = NDArray[np.floating[Any]]
# What a perspective camera has whose pixels are as wide as a panorama's in its middle.
PANORAMA_FOV = math.degrees(2 * math.atan(math.pi))
# Of the camera at the centre that a .glb gets.
VIEW_DEGREES = 90.0


def panorama_to_mesh(
    depth: Floats,
    *,
    image: NDArray[Any] | None = None,
    near: float | None = NEAR,
    far: float | None = FAR,
    tear_ratio: float | None = None,
    mask: NDArray[np.bool_] | None = None,
    max_vertices: int | None = MAX_VERTICES,
) -> Mesh:
    """Depth of a panorama (H, 2 H), the distance from its centre -> Mesh around the centre.

    near, far: the distances of depth 0 and 1; both None: depth is distance. The rest as in
    `grid.depth_to_mesh`. The mesh is closed across the panorama's seam, where it has vertices on
    both ends of the texture, and at the poles, each at the mean distance of its row. Its faces look
    inwards. Raises MarigoldError as `grid.depth_to_mesh`, and for a map of another shape.
    """
    depth = depth_array(depth)
    height, width = depth.shape
    rows, columns, v, u = sphere_lines(height, width, max_vertices)
    if tear_ratio is None:
        stride = grid_stride(len(rows), len(columns) - 1, height, width)
        tear_ratio = default_tear_ratio(height, width, PANORAMA_FOV, stride)
    if not tear_ratio > 1:
        raise MarigoldError(f"The tear ratio is {tear_ratio}; it must be greater than 1.")

    lines = np.ix_(rows, columns)
    z = distances(depth[lines], near, far)
    usable = np.isfinite(z) & (z > 0)
    if mask is not None:
        usable &= checked_mask(mask, depth.shape)[lines]
    for row in (0, -1):
        z[row] = z[row][usable[row]].mean() if usable[row].any() else 1
    rays = sphere_rays(v, u, height, width)
    with np.errstate(invalid="ignore"):
        points = (rays * z[..., None]).astype(np.float32)
    quads = grid_quads(*z.shape)[whole_faces(z, usable, tear_ratio).ravel()]
    return textured_mesh(
        [(quads, points.reshape(-1, 3), grid_uvs(v, u, height, width).reshape(-1, 2))],
        (rows[:, None] * width + columns).ravel(),
        (height, width),
        VIEW_DEGREES,
        None if image is None else checked_picture(image, height, width),
    )


def sphere_lines(
    height: int, width: int, max_vertices: int | None = MAX_VERTICES
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """The rows and columns of a panorama that its mesh keeps, and where they lie, in pixels from
    its edges. The first column stands at both ends of the texture. Raises MarigoldError for a map
    of another shape."""
    if height < 2 or not 1.9 <= width / height <= 2.1:
        raise MarigoldError(
            f"The depth map is {width} x {height}; that of a panorama is twice as wide as high."
        )
    rows, columns = grid_lines(height, width, max_vertices)
    u = np.append(columns + 0.5, width)
    u[0] = 0
    v = grid_coordinates(rows, height, border=True)
    return rows, np.append(columns, columns[0]), v, u


def sphere_rays(v: Floats, u: Floats, height: int, width: int) -> NDArray[np.float64]:
    """Unit vectors (rows, columns, 3) to the crossings of rows at `v` and columns at `u`."""
    latitude, longitude = (v / height - 0.5) * math.pi, (u / width * 2 - 1) * math.pi
    level = np.cos(latitude)[:, None]
    x, z = level * np.sin(longitude), level * np.cos(longitude)
    return np.stack(np.broadcast_arrays(x, np.sin(latitude)[:, None], z), axis=-1)
