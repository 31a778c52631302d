# SPDX-License-Identifier: GPL-3.0-or-later
"""A depth map and its picture as an object in the scene: mesh, live shape, material, camera."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import FAR, FOV_DEGREES, NEAR
from .depth_grid import HOLE, VERTEX_BUDGET, DepthGrid, depth_grid
from .grid_mesh import grid_mesh
from .matched_camera import matched_camera
from .picture import background_image, image_pixels
from .picture_material import picture_material
from .shape_inputs import add_shape

# Custom properties of the object that later operators read.
ROWS, COLUMNS, SIZE, SECONDS = (
    "marigold_rows", "marigold_columns", "marigold_size", "marigold_build_seconds",
)  # fmt: skip


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
    grid = depth_grid(
        depth, uncertainty=uncertainty, mask=mask, max_vertices=options.max_vertices,
        picture=None if image is None or not options.background else image_pixels(image),
        near=options.near, far=options.far, background=options.background,
    )  # fmt: skip
    mesh = grid_mesh(name, grid)
    obj = bpy.data.objects.new(name, mesh)
    collection.objects.link(obj)
    obj.rotation_euler = (math.pi / 2, 0.0, 0.0)
    scale = _uncertainty_scale(grid)
    material = picture_material(name, image, scale)
    mesh.materials.append(material)
    if grid.background is not None:
        filled = background_image(f"{name} Background", grid.background.colours)
        mesh.materials.append(picture_material(f"{name} Background", filled, scale))
    add_shape(
        obj,
        near=options.near,
        far=options.far,
        field_of_view=options.fov,
        flat_displacement=options.flat,
        solid=options.solid,
        tear_ratio=grid.tear_ratio,
        rows=grid.rows,
        columns=grid.columns,
        material=material,
    )
    obj[ROWS], obj[COLUMNS], obj[SIZE] = grid.rows, grid.columns, grid.size
    if options.camera:
        matched_camera(obj, collection)
    obj[SECONDS] = time.perf_counter() - started
    return obj


def frame_scene(
    scene: bpy.types.Scene, camera: bpy.types.Object | None, size: tuple[int, int]
) -> None:
    """Look through `camera` in the proportions of a picture of (height, width)."""
    if camera is None:
        return
    scene.camera = camera
    scene.render.resolution_y, scene.render.resolution_x = size
    scene.render.resolution_percentage = 100
    scene.render.pixel_aspect_x = scene.render.pixel_aspect_y = 1.0


def object_name(path: str) -> str:
    return Path(path).stem or "Depth Mesh"


def _uncertainty_scale(grid: DepthGrid) -> float | None:
    """As in `DepthMap.save_uncertainty`, so that a few torn edges do not darken the rest."""
    if grid.uncertainty is None:
        return None
    used = grid.uncertainty[grid.d < HOLE / 2]
    return float(np.percentile(used, 98) or used.max() or 1.0) if used.size else 1.0
