# SPDX-License-Identifier: GPL-3.0-or-later
"""A DepthGrid as a Blender mesh, written straight into its attributes.

`Mesh.from_pydata` turns every number into a Python object and `calc_edges` hashes every edge of a
grid whose edges are known beforehand; `benchmarks/blender_mesh.py` has the figures.
"""

from __future__ import annotations

import bpy
import numpy as np

from .depth_grid import DepthGrid

UV_MAP = "UVMap"
DEPTH = "d"
RAY = "ray"
NEAREST = "d_nearest"
FURTHEST = "d_furthest"
UNCERTAINTY = "uncertainty"
DISTANCE = "depth"  # what the live shape makes of d, in scene units


def grid_mesh(name: str, grid: DepthGrid) -> bpy.types.Mesh:
    """A new mesh datablock with quads, UVs and these attributes.

    Points: `d` (0 = near, 1 = far; HOLE = left out), `ray`, and `uncertainty` where there is
    one. Faces: `d_nearest`, `d_furthest`, over their corners.
    """
    quads, edges = grid.quads(), grid.edges()
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(grid.positions))
    mesh.edges.add(len(edges))
    mesh.loops.add(quads.size)
    mesh.polygons.add(len(quads))
    attributes = mesh.attributes
    attributes["position"].data.foreach_set("vector", grid.positions.ravel())
    _internal(mesh, ".edge_verts", "INT32_2D", "EDGE").data.foreach_set("value", edges.ravel())
    _internal(mesh, ".corner_vert", "INT", "CORNER").data.foreach_set("value", quads.ravel())
    _internal(mesh, ".corner_edge", "INT", "CORNER").data.foreach_set(
        "value", grid.quad_edges().ravel()
    )
    mesh.polygons.foreach_set("loop_start", np.arange(0, quads.size, 4, dtype=np.int32))

    uv_map = attributes.new(UV_MAP, "FLOAT2", "CORNER")
    uv_map.data.foreach_set("vector", _of_corners(grid).ravel())
    _add(mesh, RAY, "FLOAT_VECTOR", "POINT", grid.rays)
    _add(mesh, DEPTH, "FLOAT", "POINT", grid.d)
    if grid.uncertainty is not None:
        _add(mesh, UNCERTAINTY, "FLOAT", "POINT", grid.uncertainty)
    _add(mesh, NEAREST, "FLOAT", "FACE", grid.nearest)
    _add(mesh, FURTHEST, "FLOAT", "FACE", grid.furthest)
    mesh.update()
    return mesh


def _of_corners(grid: DepthGrid) -> np.ndarray:
    """The UVs of each quad's four corners, (Q, 8) float32; slices are 4x as quick as an index."""
    uvs = grid.uvs.view(np.float64).reshape(grid.rows, grid.columns)  # a pair is one number
    corners = np.empty((grid.rows - 1, grid.columns - 1, 4), dtype=np.float64)
    for k, part in enumerate((uvs[:-1, :-1], uvs[1:, :-1], uvs[1:, 1:], uvs[:-1, 1:])):
        corners[..., k] = part
    return corners.view(np.float32).reshape(-1, 8)


def _internal(mesh: bpy.types.Mesh, name: str, kind: str, domain: str) -> bpy.types.Attribute:
    return mesh.attributes.get(name) or mesh.attributes.new(name, kind, domain)


def _add(mesh: bpy.types.Mesh, name: str, kind: str, domain: str, values: np.ndarray) -> None:
    attribute = mesh.attributes.new(name, kind, domain)
    field = "vector" if kind == "FLOAT_VECTOR" else "value"
    attribute.data.foreach_set(field, np.ascontiguousarray(values, dtype=np.float32).ravel())
