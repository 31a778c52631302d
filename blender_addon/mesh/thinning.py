# SPDX-License-Identifier: GPL-3.0-or-later
"""A baked depth mesh with fewer faces, whose borders and depth edges stay as they are.

Blender's Decimate modifier does it, in the picture's own space: x and y in pixels, and the
logarithm of the distance in units of the focal length. There a slanted plane is curved, so that it
keeps as many faces as its texture needs: textures are interpolated along the surface, and on a
large slanted face that is not what the camera sees.
"""

from __future__ import annotations

import math

import bpy
import numpy as np
from numpy.typing import NDArray

from .depth_object import SIZE
from .grid_mesh import UV_MAP
from .shape_inputs import get_input, is_panorama

KEPT = "kept"


def thinned(obj: bpy.types.Object, mesh: bpy.types.Mesh, share: float) -> bpy.types.Mesh:
    """A new mesh of about `share` of the faces of `mesh`, which is that of the live `obj` baked.

    The vertices at borders, the tears among them, and of faces that are steeper than the tear ratio
    keep their places. Every vertex lies where the picture has its texture coordinates.
    """
    height, width = obj[SIZE]
    around = is_panorama(obj)
    tangent = math.tan(get_input(obj, "Field of View") / 2)
    focal = width / (2 * math.pi) if around else max(height, width) / 2 / tangent
    positions, corners = _positions(mesh), _corners(mesh)
    distances = np.linalg.norm(positions, axis=1) if around else -positions[:, 2]
    uv = np.empty((len(corners), 2), dtype=np.float32)
    mesh.uv_layers[UV_MAP].uv.foreach_get("vector", uv.ravel())
    place = np.zeros((len(positions), 3))
    place[corners, :2] = uv * (width, height)
    place[:, 2] = np.log(np.maximum(distances, 1e-6)) * focal
    free = np.ones(len(positions), dtype=bool)
    free[_at_borders(mesh)] = False
    free[_at_steps(mesh, place[:, 2], focal * math.log(get_input(obj, "Tear Ratio")))] = False

    result = _decimated(mesh, place, free, share)
    place = _positions(result)
    pixels, z = place[:, :2], np.exp(place[:, 2] / focal)
    angles = (pixels - (width / 2, height / 2)) / focal
    if around:
        level = np.cos(angles[:, 1])
        rays = [level * np.sin(angles[:, 0]), np.sin(angles[:, 1]), -level * np.cos(angles[:, 0])]
        positions = np.stack(rays, axis=1) * z[:, None]
    else:
        flat = get_input(obj, "Flat Displacement")
        spread = angles * (get_input(obj, "Far") if flat else z[:, None])
        positions = np.column_stack([spread, -z])
    result.vertices.foreach_set("co", positions.astype(np.float32).ravel())
    uv = (pixels / (width, height)).astype(np.float32)[_corners(result)]
    result.uv_layers[UV_MAP].uv.foreach_set("vector", uv.ravel())
    result.update()
    return result


def _decimated(
    mesh: bpy.types.Mesh, places: NDArray[np.float64], free: NDArray[np.bool_], share: float
) -> bpy.types.Mesh:
    """A decimated copy with its vertices at `places`, of which only the `free` ones may move."""
    copy = mesh.copy()
    copy.vertices.foreach_set("co", places.astype(np.float32).ravel())
    obj = bpy.data.objects.new(copy.name, copy)
    bpy.context.scene.collection.objects.link(obj)
    try:
        group = obj.vertex_groups.new(name=KEPT)
        group.add(np.flatnonzero(free).tolist(), 1.0, "REPLACE")
        modifier = obj.modifiers.new("Thin", "DECIMATE")
        # A vertex of weight 0 is never moved or removed.
        modifier.ratio, modifier.vertex_group = share, group.name
        graph = bpy.context.evaluated_depsgraph_get()
        graph.update()
        result = bpy.data.meshes.new_from_object(
            obj.evaluated_get(graph), preserve_all_data_layers=True, depsgraph=graph
        )
    finally:
        bpy.data.objects.remove(obj)
        bpy.data.meshes.remove(copy)
    return result


def _positions(mesh: bpy.types.Mesh) -> NDArray[np.float32]:
    values = np.empty((len(mesh.vertices), 3), dtype=np.float32)
    mesh.vertices.foreach_get("co", values.ravel())
    return values


def _corners(mesh: bpy.types.Mesh) -> NDArray[np.int32]:
    values = np.empty(len(mesh.loops), dtype=np.int32)
    mesh.loops.foreach_get("vertex_index", values)
    return values


def _at_borders(mesh: bpy.types.Mesh) -> NDArray[np.int32]:
    """The vertices of edges of a single face."""
    of_corners = np.empty(len(mesh.loops), dtype=np.int32)
    mesh.loops.foreach_get("edge_index", of_corners)
    ends = np.empty((len(mesh.edges), 2), dtype=np.int32)
    mesh.edges.foreach_get("vertices", ends.ravel())
    return ends[np.bincount(of_corners, minlength=len(ends)) == 1].ravel()


def _at_steps(mesh: bpy.types.Mesh, heights: NDArray[np.float64], step: float) -> NDArray[np.int32]:
    """The vertices of faces whose corners differ in height by more than `step`."""
    corners, starts = _corners(mesh), np.empty(len(mesh.polygons), dtype=np.int32)
    mesh.polygons.foreach_get("loop_start", starts)
    of_corners = heights[corners]
    extent = np.maximum.reduceat(of_corners, starts) - np.minimum.reduceat(of_corners, starts)
    counts = np.diff(np.append(starts, len(corners)))
    return corners[np.repeat(extent > step, counts)]
