# SPDX-License-Identifier: GPL-3.0-or-later
"""Points of the picture on a depth mesh: (u, v) in [0, 1], v upwards, as its UVs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import bpy
from mathutils import Vector

from ..backend.engine_parts import MarigoldError
from .depth_object import COLUMNS, ROWS, SIZE
from .grid_mesh import DEPTH, RAY
from .shape_inputs import get_input


@dataclass(frozen=True)
class PicturePoint:
    """d: 0 = near, 1 = far. ray: (x, y, -1) at the mesh's field of view. position: in the space
    of the object, where the live shape has it without smoothing."""

    d: float
    ray: tuple[float, float, float]
    position: Vector


def picture_point(obj: bpy.types.Object, uv: Sequence[float]) -> PicturePoint:
    """What the mesh has at the vertex nearest to `uv`. Raises MarigoldError."""
    if SIZE not in obj:
        raise MarigoldError(f"{obj.name} is no depth mesh of this add-on.")
    if not (0 <= uv[0] <= 1 and 0 <= uv[1] <= 1):
        raise MarigoldError(f"The point {uv[0]:.3f}, {uv[1]:.3f} lies outside the picture.")
    height, width = obj[SIZE]
    rows, columns = obj[ROWS], obj[COLUMNS]
    row = _line((1 - uv[1]) * height - 0.5, height, rows)
    column = _line(uv[0] * width - 0.5, width, columns)
    vertex = row * columns + column
    d = obj.data.attributes[DEPTH].data[vertex].value
    tangent = math.tan(get_input(obj, "Field of View") / 2)
    x, y, _ = obj.data.attributes[RAY].data[vertex].vector
    x, y = x * tangent, y * tangent
    near, far = get_input(obj, "Near"), get_input(obj, "Far")
    z = near + get_input(obj, "Relief") * d * (far - near)
    spread = far if get_input(obj, "Flat Displacement") else z
    return PicturePoint(d, (x, y, -1.0), Vector((x * spread, y * spread, -z)))


def uv_of(obj: bpy.types.Object, position: Vector) -> tuple[float, float]:
    """Where a point of the mesh, in the object's space, lies in the picture."""
    height, width = obj[SIZE]
    flat = get_input(obj, "Flat Displacement")
    spread = get_input(obj, "Far") if flat else max(-position.z, 1e-9)
    spread *= math.tan(get_input(obj, "Field of View") / 2)
    half = max(height, width) / 2
    u = 0.5 + position.x / spread * half / width
    v = 0.5 + position.y / spread * half / height
    return min(max(u, 0.0), 1.0), min(max(v, 0.0), 1.0)


def _line(pixel: float, pixels: int, lines: int) -> int:
    """The grid line nearest to a pixel: the lines are evenly spread, first and last kept."""
    return min(max(round(pixel / (pixels - 1) * (lines - 1)), 0), lines - 1)
