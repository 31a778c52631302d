# SPDX-License-Identifier: GPL-3.0-or-later
"""A depth map and its picture as an object in the scene: mesh, live shape, material, camera."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Vector
from numpy.typing import NDArray

from ..backend.engine_parts import FAR, FOV_DEGREES, NEAR
from .depth_grid import HOLE, VERTEX_BUDGET, DepthGrid, depth_grid
from .grid_mesh import grid_mesh
from .matched_camera import matched_camera
from .picture import background_image, image_pixels
from .picture_material import picture_material, take_over
from .shape_inputs import add_shape, get_input, is_panorama, set_inputs

# Custom properties of the object that later operators read.
ROWS, COLUMNS, SIZE, SECONDS, SOURCES, TEAR_RATIO = (
    "marigold_rows", "marigold_columns", "marigold_size", "marigold_build_seconds",
    "marigold_sources",  # the paths of the picture and of the depth file
    "marigold_tear_ratio",  # the first value of the slider
)  # fmt: skip


# Where the camera of Blender's startup file stands.
NEW_FILE_CAMERA = (7.3589, -6.9258, 4.9583)


@dataclass(frozen=True)
class ShapeOptions:
    """The first values of the sliders."""

    near: float = NEAR
    far: float = FAR
    fov: float = math.radians(FOV_DEGREES)
    flat: bool = False
    solid: bool = False
    max_vertices: int = VERTEX_BUDGET
    camera: bool = True
    background: bool = True
    panorama: bool = False


def depth_object(
    name: str,
    depth: NDArray[np.floating[Any]],
    image: bpy.types.Image | None,
    collection: bpy.types.Collection,
    options: ShapeOptions,
    *,
    uncertainty: NDArray[np.floating[Any]] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> bpy.types.Object:
    """A new object in `collection` that stands upright before its camera, which looks along +y.

    depth, uncertainty, mask: as in `depth_grid`. Raises MarigoldError; nothing is added then.
    """
    started = time.perf_counter()
    grid, mesh = _grid_and_mesh(name, depth, image, options, uncertainty, mask)
    obj = bpy.data.objects.new(name, mesh)
    collection.objects.link(obj)
    obj.rotation_euler = (math.pi / 2, 0.0, 0.0)
    add_shape(
        obj,
        near=options.near,
        far=options.far,
        field_of_view=options.fov,
        flat_displacement=options.flat,
        solid=options.solid,
        panorama=options.panorama,
        material=mesh.materials[0],
    )
    _describe(obj, grid)
    if options.camera:
        matched_camera(obj, collection)
    obj[SECONDS] = time.perf_counter() - started
    return obj


def update_depth(
    obj: bpy.types.Object,
    depth: NDArray[np.floating[Any]],
    image: bpy.types.Image | None,
    options: ShapeOptions,
    *,
    span: tuple[float, float] | None = None,
    uncertainty: NDArray[np.floating[Any]] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> None:
    """Give a depth mesh another depth map of the same picture. Its place, sliders, camera, and
    materials stay. span: the distances of depth 0 and 1, where the depth itself has them; None
    keeps the sliders'. Raises MarigoldError; nothing is changed then."""
    started = time.perf_counter()
    near, far = span or (get_input(obj, "Near"), get_input(obj, "Far"))
    fov, panorama = get_input(obj, "Field of View"), is_panorama(obj)
    options = replace(options, near=near, far=far, fov=fov, panorama=panorama)
    tear_ratio, own = get_input(obj, "Tear Ratio"), obj.get(TEAR_RATIO)
    grid, mesh = _grid_and_mesh(obj.name, depth, image, options, uncertainty, mask)
    before = obj.data
    for slot, kept in enumerate(before.materials):
        if kept is None or slot == len(mesh.materials):
            break
        new = mesh.materials[slot]
        take_over(kept, new, _uncertainty_scale(grid))
        mesh.materials[slot] = kept
        bpy.data.materials.remove(new)
    obj.data = mesh
    name = before.name
    if not before.users:
        bpy.data.meshes.remove(before)
    mesh.name = name
    _describe(obj, grid)
    set_inputs(obj, near=near, far=far)
    if own is not None and abs(tear_ratio - own) > 1e-6:
        set_inputs(obj, tear_ratio=tear_ratio)  # the user's
    obj[SECONDS] = time.perf_counter() - started


def _grid_and_mesh(
    name: str,
    depth: NDArray[np.floating[Any]],
    image: bpy.types.Image | None,
    options: ShapeOptions,
    uncertainty: NDArray[np.floating[Any]] | None,
    mask: NDArray[np.bool_] | None,
) -> tuple[DepthGrid, bpy.types.Mesh]:
    """The grid, and a mesh of it with the picture's material and the background's."""
    # Each frame of a clip has another background.
    still = image is None or image.source != "SEQUENCE"
    layered = options.background and still and not options.panorama
    grid = depth_grid(
        depth, uncertainty=uncertainty, mask=mask, max_vertices=options.max_vertices,
        picture=image_pixels(image) if layered and image is not None else None,
        near=options.near, far=options.far, fov_degrees=math.degrees(options.fov),
        background=layered, panorama=options.panorama,
    )  # fmt: skip
    mesh = grid_mesh(name, grid)
    scale = _uncertainty_scale(grid)
    mesh.materials.append(picture_material(name, image, scale))
    if grid.background is not None:
        filled = background_image(f"{name} Background", grid.background.colours)
        mesh.materials.append(picture_material(f"{name} Background", filled, scale))
    return grid, mesh


def _describe(obj: bpy.types.Object, grid: DepthGrid) -> None:
    obj[ROWS], obj[COLUMNS], obj[SIZE] = grid.rows, grid.columns, grid.size
    obj[TEAR_RATIO] = grid.tear_ratio
    set_inputs(obj, rows=grid.rows, columns=grid.columns, tear_ratio=grid.tear_ratio)


def depth_mesh_above(obj: bpy.types.Object | None) -> bpy.types.Object | None:
    """The depth mesh that an object is, or that it is a child of: its cameras are."""
    while obj is not None and SIZE not in obj:
        obj = obj.parent
    return obj


def is_untouched(scene: bpy.types.Scene) -> bool:
    """The scene's camera and render size are those of a new file, or this add-on's."""
    camera, render = scene.camera, scene.render
    if camera is None or depth_mesh_above(camera) is not None:
        return True
    moved = (camera.location - Vector(NEW_FILE_CAMERA)).length > 1e-3
    size = (render.resolution_x, render.resolution_y, render.resolution_percentage)
    return not moved and size == (1920, 1080, 100)


def frame_scene(scene: bpy.types.Scene, camera: bpy.types.Object, size: tuple[int, int]) -> None:
    """Make `camera` the scene's, render in the proportions of a picture of (height, width), and in
    its colours: AgX, the view transform of a new file, would show white as grey."""
    scene.camera = camera
    if camera.data.type == "PANO":
        scene.render.engine = "CYCLES"  # the only one that sees all around
    if scene.view_settings.view_transform == "AgX":
        scene.view_settings.view_transform = "Standard"
    scene.render.resolution_y, scene.render.resolution_x = size
    scene.render.resolution_percentage = 100
    scene.render.pixel_aspect_x = scene.render.pixel_aspect_y = 1.0


def object_name(path: str) -> str:
    return Path(path).stem or "Depth Mesh"  # an image's name has a suffix too


def _uncertainty_scale(grid: DepthGrid) -> float | None:
    """As in `DepthMap.save_uncertainty`, so that a few torn edges do not darken the rest."""
    if grid.uncertainty is None:
        return None
    used = grid.uncertainty[grid.d < HOLE / 2]
    return float(np.percentile(used, 98) or used.max() or 1.0) if used.size else 1.0
