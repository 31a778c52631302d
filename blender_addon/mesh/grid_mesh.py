# SPDX-License-Identifier: GPL-3.0-or-later
"""A DepthGrid as a Blender mesh, written straight into its attributes.

`Mesh.from_pydata` turns every number into a Python object and `calc_edges` hashes every edge of a
grid whose edges are known beforehand; `benchmarks/blender_mesh.py` has the figures.
"""

from __future__ import annotations

import bpy
import numpy as np

from .depth_grid import HOLE, DepthGrid

UV_MAP = "UVMap"
DEPTH = "d"
RAY = "ray"
NEAREST = "d_nearest"
FURTHEST = "d_furthest"
UNCERTAINTY = "uncertainty"
BACKGROUND = "background"
PIXEL = "pixel"
SEAM, SEAM_NEAREST, SEAM_FURTHEST = "seam", "seam_nearest", "seam_furthest"
DISTANCE = "depth"  # what the live shape makes of d, in scene units


def grid_mesh(name: str, grid: DepthGrid) -> bpy.types.Mesh:
    """A new mesh datablock with quads, UVs and these attributes.

    Points: `d` (0 = near, 1 = far; HOLE = left out), `ray`, and `uncertainty` where there is
    one. Faces: `d_nearest`, `d_furthest`, over their corners. With a background layer, whose parts
    follow those of the grid, also on faces `background`, which is 0 on the grid and above on the
    layer (ACROSS between the two sides of an edge); on points `pixel`, the vertex of the grid that
    each is or lies behind; `seam`, of a face across an edge, and there `seam_nearest`, the d of the
    grid, and `seam_furthest`, the greatest d of the grid over those faces.
    """
    faces, layer = grid.faces(), grid.background
    positions, uvs = grid.positions(), grid.uvs
    behind = np.empty(0, dtype=np.int64) if layer is None else layer.vertices
    corners, ends, edges = faces.corners, faces.ends, faces.edges
    if layer is not None:
        corners = np.concatenate([corners, layer.faces.corners + np.int32(len(positions))])
        edges = np.concatenate([edges, layer.faces.edges + np.int32(len(ends))])
        ends = np.concatenate([ends, layer.faces.ends + np.int32(len(positions))])
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

    pairs = _with(uvs, uvs[behind]).view(np.float64).ravel()  # each taken as one number
    of_corners = np.empty(corners.shape)
    for k in range(4):
        of_corners[:, k] = pairs[corners[:, k]]
    uv_map = attributes.new(UV_MAP, "FLOAT2", "CORNER")
    uv_map.data.foreach_set("vector", of_corners.view(np.float32).ravel())
    _add(mesh, RAY, "FLOAT_VECTOR", "POINT", _with(grid.rays, grid.rays[behind]))
    _add(mesh, DEPTH, "FLOAT", "POINT", grid.d if layer is None else _with(grid.d, layer.d))
    if grid.uncertainty is not None:
        values = _with(grid.uncertainty, np.zeros(len(behind), dtype=np.float32))
        _add(mesh, UNCERTAINTY, "FLOAT", "POINT", values)
    nearest, furthest = grid.nearest, grid.furthest
    if layer is not None:
        nearest = np.concatenate([nearest[~grid.cut], layer.nearest])
        furthest = np.concatenate([furthest[~grid.cut], layer.furthest])
    _add(mesh, NEAREST, "FLOAT", "FACE", nearest)
    _add(mesh, FURTHEST, "FLOAT", "FACE", furthest)
    if layer is not None:
        pixels = np.concatenate([np.arange(len(positions)), behind]).astype(np.int32)
        _internal(mesh, PIXEL, "INT", "POINT").data.foreach_set("value", pixels)
        across = layer.faces.corners[layer.torn]
        furthest = np.full(len(pixels), -HOLE, dtype=np.float32)
        for there in (across + len(positions), layer.vertices[across]):
            np.maximum.at(furthest, there, layer.furthest[layer.torn, None])
        seam = furthest > -HOLE
        _internal(mesh, SEAM, "BOOLEAN", "POINT").data.foreach_set("value", seam)
        _add(mesh, SEAM_NEAREST, "FLOAT", "POINT", np.where(seam, grid.d[pixels], 0))
        _add(mesh, SEAM_FURTHEST, "FLOAT", "POINT", np.where(seam, furthest, 0))
        first = np.zeros(len(faces.corners), dtype=np.float32)
        _add(mesh, BACKGROUND, "FLOAT", "FACE", _with(first, layer.reach))
        # Not polygons.foreach_set, which calls a setter for each face: 0.15 s for a megapixel.
        slots = np.concatenate([first.astype(np.int32), ~layer.torn]).astype(np.int32)
        _internal(mesh, "material_index", "INT", "FACE").data.foreach_set("value", slots)
    mesh.update()
    return mesh


def _with(values: np.ndarray, more: np.ndarray) -> np.ndarray:
    return np.concatenate([values, more]) if len(more) else values


def _internal(mesh: bpy.types.Mesh, name: str, kind: str, domain: str) -> bpy.types.Attribute:
    return mesh.attributes.get(name) or mesh.attributes.new(name, kind, domain)


def _add(mesh: bpy.types.Mesh, name: str, kind: str, domain: str, values: np.ndarray) -> None:
    attribute = mesh.attributes.new(name, kind, domain)
    field = "vector" if kind == "FLOAT_VECTOR" else "value"
    attribute.data.foreach_set(field, np.ascontiguousarray(values, dtype=np.float32).ravel())
