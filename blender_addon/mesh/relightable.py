# SPDX-License-Identifier: GPL-3.0-or-later
"""Relightable depth meshes: intrinsic images and normals of a picture in the mesh's material.

Normals come in the camera's axes, which are the object's: x right, y up, z towards the viewer. The
material has them as a tangent-space map of the mesh as it is, so that they follow its sliders and
every exporter understands them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import (
    MarigoldError,
    at_lines,
    background_layer,
    depth_to_normals,
    grid_coordinates,
)
from .depth_file import file_pixels
from .depth_grid import BACKGROUND_FROM, HOLE
from .depth_object import COLUMNS, ROWS, SIZE, TEAR_RATIO
from .grid_mesh import BACKGROUND, DEPTH, UV_MAP
from .picture import display_encoded, packed_image
from .picture_material import (
    ALBEDO,
    METALLIC,
    NORMALS,
    ROUGHNESS,
    SHADING,
    set_relightable,
)
from .shape_inputs import get_input

SUFFIXES = (".png", ".exr", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")
# A word of a file's name -> the field; as this project's command and texture libraries name them.
WORDS = {
    "albedo": r"albedo|base_?colou?r|diffuse",
    "roughness": r"rough",
    "metallic": r"metal",
    "normals": r"normal|nrm",
    "shading": r"shading",
}
# The cosine to the mesh's normal below which no tangent-space map is of use.
STEEPEST = 0.05

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class SurfaceMaps:
    """What the picture's surfaces are made of; None = not known. Each may have a size of its own.

    albedo: (h, w, 3) in [0, 1], display-encoded. roughness, metallic: (h, w) in [0, 1]. normals:
    (h, w, 3), unit vectors, x right, y up, z towards the viewer; 0 where there is none. shading:
    (h, w, 3), linear light, up to a factor.
    """

    albedo: Floats | None = None
    roughness: Floats | None = None
    metallic: Floats | None = None
    normals: Floats | None = None
    shading: Floats | None = None


def surface_maps_of_arrays(arrays: Mapping[str, Floats]) -> SurfaceMaps:
    """The worker's normals and intrinsic images, in linear light, by the engine's names."""
    given = {name: array for name, array in arrays.items() if array is not None}
    if "metallicity" in given:
        given["metallic"] = given["metallicity"]
    if "albedo" in given:
        given["albedo"] = display_encoded(given["albedo"].clip(0, 1))
    return SurfaceMaps(**{f.name: given.get(f.name) for f in fields(SurfaceMaps)})


def read_surface_maps(folder: str) -> SurfaceMaps:
    """The pictures of a folder whose names say what they are, such as `room_albedo.png`.

    Normals are the camera's, OpenGL: vectors in an EXR file, else colours (n + 1) / 2. An EXR
    file's albedo is linear. Raises MarigoldError where there is none, or two of one kind.
    """
    if not Path(folder).is_dir():
        raise MarigoldError(f"{folder}: there is no such folder of maps.")
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in SUFFIXES or "uncertainty" in path.stem.lower():
            continue
        kinds = [kind for kind, words in WORDS.items() if re.search(words, path.stem.lower())]
        for kind in kinds[:1]:
            if kind in found:
                raise MarigoldError(
                    f"{Path(folder).name} has two pictures of {kind}: {found[kind].name} and"
                    f" {path.name}; keep one of them there."
                )
            found[kind] = path
    if not found:
        raise MarigoldError(
            f"{Path(folder).name} has no picture whose name says albedo, roughness, metallic,"
            " normals or shading."
        )
    return SurfaceMaps(**{kind: _read(kind, path) for kind, path in found.items()})


def relight(obj: bpy.types.Object, maps: SurfaceMaps, depth: Floats) -> None:
    """Show a depth mesh as a relightable surface. Its materials get the view; the other views stay.

    depth: of the mesh, (H, W), whose geometry gives the normals where the maps have none.
    """
    normals = _normals_of_depth(obj, depth) if maps.normals is None else maps.normals
    colours = {ALBEDO: maps.albedo, ROUGHNESS: maps.roughness, METALLIC: maps.metallic}
    images = {
        name: packed_image(f"{obj.name} {name}", values, data=name != ALBEDO)
        for name, values in colours.items()
        if values is not None
    }
    if normals is not None:
        images[NORMALS] = packed_image(
            f"{obj.name} {NORMALS}", (tangent_space(obj, normals) + 1) / 2, data=True, floats=True
        )
    if maps.shading is not None:
        images[SHADING] = packed_image(
            f"{obj.name} {SHADING}", maps.shading, data=True, floats=True
        )
    slots = [slot.material for slot in obj.material_slots if slot.material is not None]
    for material in slots[:1]:
        set_relightable(material, images)
    for material in slots[1:]:  # of the background, which has colours alone
        rough = 0.5 if maps.roughness is None else float(np.median(maps.roughness))
        set_relightable(material, _background(obj, maps.albedo), rough)


def tangent_space(obj: bpy.types.Object, normals: Floats) -> Floats:
    """Normals (h, w, 3) in the object's axes -> the same in the tangent space of its live mesh.

    That is the space of Cycles, EEVEE and glTF (MikkTSpace): n = x T + y B + z N with
    B = N x T, where N and T are interpolated between vertices. A normal that the mesh turns away
    from is brought back to its horizon; one that is 0 or not finite becomes the mesh's own.
    """
    n, t = (_at_pixels(obj, values, normals.shape[:2]) for values in _tangents(obj))
    n /= np.maximum(np.linalg.norm(n, axis=2, keepdims=True), 1e-6)
    b = np.cross(n, t)
    volume = np.sum(t * np.cross(b, n), axis=2, keepdims=True)
    axes = (np.cross(b, n), np.cross(n, t), np.cross(t, b))
    local = np.stack([np.sum(normals * axis, axis=2) for axis in axes], axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        local = local / volume
        local /= np.linalg.norm(local, axis=2, keepdims=True)
    local[~np.isfinite(local).all(axis=2)] = (0, 0, 1)
    local[..., 2] = np.maximum(local[..., 2], STEEPEST)
    return local / np.linalg.norm(local, axis=2, keepdims=True)


def _tangents(obj: bpy.types.Object) -> tuple[Floats, Floats]:
    """Normals and tangents of the live mesh at the vertices of its grid, (rows, columns, 3)."""
    graph = bpy.context.evaluated_depsgraph_get()
    graph.update()
    evaluated = obj.evaluated_get(graph)
    mesh = evaluated.to_mesh()
    try:
        mesh.calc_tangents(uvmap=UV_MAP)
        count = len(mesh.loops)
        vectors = {name: np.empty((count, 3), dtype=np.float32) for name in ("normal", "tangent")}
        for name, values in vectors.items():
            mesh.loops.foreach_get(name, values.ravel())
        uv = np.empty((count, 2), dtype=np.float32)
        mesh.uv_layers[UV_MAP].uv.foreach_get("vector", uv.ravel())
        front = np.ones(count, dtype=bool)
        if BACKGROUND in mesh.attributes:
            behind = np.empty(len(mesh.polygons), dtype=np.float32)
            mesh.attributes[BACKGROUND].data.foreach_get("value", behind)
            totals = np.empty(len(mesh.polygons), dtype=np.int32)
            mesh.polygons.foreach_get("loop_total", totals)
            front = np.repeat(behind, totals) == 0
    finally:
        evaluated.to_mesh_clear()
    rows, columns = obj[ROWS], obj[COLUMNS]
    height, width = obj[SIZE]
    # As in `picked_points`: the grid's lines are evenly spread, first and last kept.
    row = np.rint(((1 - uv[front, 1]) * height - 0.5) / (height - 1) * (rows - 1))
    column = np.rint((uv[front, 0] * width - 0.5) / (width - 1) * (columns - 1))
    place = row.clip(0, rows - 1).astype(int), column.clip(0, columns - 1).astype(int)
    grids = []
    for name, default in (("normal", (0, 0, 1)), ("tangent", (1, 0, 0))):
        grid = np.empty((rows, columns, 3), dtype=np.float32)
        grid[:] = default
        grid[place] = vectors[name][front]
        grids.append(grid)
    return grids[0], grids[1]


def _at_pixels(obj: bpy.types.Object, grid: Floats, size: tuple[int, int]) -> Floats:
    """Values at the grid's vertices, interpolated to the pixels of a picture of (h, w)."""
    for axis, (pixels, length) in enumerate(zip(size, obj[SIZE], strict=True)):
        lines = _lines(obj)[axis]
        ends = grid_coordinates(lines, length, border=True)
        place = np.interp((np.arange(pixels) + 0.5) * length / pixels, ends, np.arange(len(lines)))
        low = place.astype(int).clip(0, len(lines) - 2)
        share = (place - low).astype(np.float32)
        share = share.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first, second = grid.take(low, axis), grid.take(low + 1, axis)
        grid = first + (second - first) * share
    return grid


def _lines(obj: bpy.types.Object) -> tuple[NDArray[Any], NDArray[Any]]:
    height, width = obj[SIZE]
    return tuple(  # type: ignore[return-value]
        np.rint(np.linspace(0, length - 1, count)).astype(int)
        for length, count in ((height, obj[ROWS]), (width, obj[COLUMNS]))
    )


def _normals_of_depth(obj: bpy.types.Object, depth: Floats) -> Floats | None:
    """None where the mesh is no perspective view of the depth: then its own normals are used."""
    near, far = get_input(obj, "Near"), get_input(obj, "Far")
    if get_input(obj, "Flat Displacement"):
        return None
    field_of_view = math.degrees(get_input(obj, "Field of View"))
    furthest = near + get_input(obj, "Relief") * (far - near)
    return depth_to_normals(depth, fov_degrees=field_of_view, near=near, far=furthest)


def _background(obj: bpy.types.Object, albedo: Floats | None) -> dict[str, bpy.types.Image]:
    """The albedo of the background layer, continued behind the tears as its picture is."""
    if albedo is None:
        return {}
    rows, columns = obj[ROWS], obj[COLUMNS]
    d = np.empty(len(obj.data.vertices), dtype=np.float32)
    obj.data.attributes[DEPTH].data.foreach_get("value", d)
    d = d[: rows * columns].reshape(rows, columns)
    near, far = get_input(obj, "Near"), get_input(obj, "Far")
    z = np.where(d < HOLE / 2, near + d * (far - near), np.float32(np.nan)).astype(np.float32)
    colours = at_lines(np.rint(albedo * 255).astype(np.uint8), *_lines(obj), *obj[SIZE])
    ratio = 1 + BACKGROUND_FROM * (obj[TEAR_RATIO] - 1)
    fov = math.degrees(get_input(obj, "Field of View"))
    filled = background_layer(z, ratio, colours, fov_degrees=fov).colours
    name = f"{obj.name} Background {ALBEDO}"
    return {} if filled is None else {ALBEDO: packed_image(name, filled / np.float32(255))}


def _read(kind: str, path: Path) -> Floats:
    """One map of a file, in the form of `SurfaceMaps`."""
    pixels, _ = file_pixels(path)
    linear = path.suffix.lower() == ".exr"
    if kind in ("roughness", "metallic"):
        return pixels[..., 0].clip(0, 1)
    if pixels.shape[2] < 3:
        raise MarigoldError(f"{path.name} is grey, and {kind} has three channels.")
    colours = pixels[..., :3]
    if kind == "normals":
        return colours if linear else colours * 2 - 1
    if kind == "albedo":
        return display_encoded(colours.clip(0, 1)) if linear else colours
    return colours if linear else ((colours + 0.055) / 1.055) ** 2.4
