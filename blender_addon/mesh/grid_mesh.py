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
BACKGROUND = "background"
DISTANCE = "depth"  # what the live shape makes of d, in scene units


def grid_mesh(name: str, grid: DepthGrid) -> bpy.types.Mesh:
    """A new mesh datablock with quads, UVs and these attributes.

    Points: `d` (0 = near, 1 = far; HOLE = left out), `ray`, and `uncertainty` where there is
    one. Faces: `d_nearest`, `d_furthest`, over their corners; with a background layer `background`,
    which is 0 on the grid and above on the layer, whose faces follow those of the grid.
    """
    faces, layer = grid.faces(), grid.background
    parts = [faces] if layer is None else [faces, layer.faces]
    behind = np.empty(0, dtype=np.int64) if layer is None else layer.vertices
    corners, ends, edges = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("corners", "ends", "edges")
    )
    positions = grid.positions()
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(positions) + len(behind))
    mesh.edges.add(len(ends))
    mesh.loops.add(corners.size)
    mesh.polygons.add(len(corners))
    attributes = mesh.attributes
    attributes["position"].data.foreach_set("vector", _with(positions, positions[behind]).ravel())
    _internal(mesh, ".edge_verts", "INT32_2D", "EDGE").data.foreach_set("value", ends.ravel())
    _internal(mesh, ".corner_vert", "INT", "CORNER").data.foreach_set("value", corners.ravel())
    _internal(mesh, ".corner_edge", "INT", "CORNER").data.foreach_set("value", edges.ravel())
    mesh.polygons.foreach_set("loop_start", np.arange(0, corners.size, 4, dtype=np.int32))

    uv_map = attributes.new(UV_MAP, "FLOAT2", "CORNER")
    uvs = _of_corners(grid)
    if layer is not None:
        there = layer.vertices[layer.faces.corners - len(positions)]
        uvs = _with(uvs, grid.uvs[there].reshape(-1, 8))
    uv_map.data.foreach_set("vector", uvs.ravel())
    _add(mesh, RAY, "FLOAT_VECTOR", "POINT", _with(grid.rays, grid.rays[behind]))
    _add(mesh, DEPTH, "FLOAT", "POINT", grid.d if layer is None else _with(grid.d, layer.d))
    if grid.uncertainty is not None:
        values = _with(grid.uncertainty, np.zeros(len(behind), dtype=np.float32))
        _add(mesh, UNCERTAINTY, "FLOAT", "POINT", values)
    none = np.zeros(len(corners) - len(faces.corners), dtype=np.float32)
    _add(mesh, NEAREST, "FLOAT", "FACE", _with(grid.nearest, none))
    _add(mesh, FURTHEST, "FLOAT", "FACE", _with(grid.furthest, none))
    if layer is not None:
        first = np.zeros(len(faces.corners), dtype=np.float32)
        _add(mesh, BACKGROUND, "FLOAT", "FACE", _with(first, layer.reach))
        slots = np.concatenate([first.astype(np.int32), ~layer.torn])
        mesh.polygons.foreach_set("material_index", slots.astype(np.int32))
    mesh.update()
    return mesh


def _with(values: np.ndarray, more: np.ndarray) -> np.ndarray:
    return np.concatenate([values, more]) if len(more) else values


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
