"""Furniture and other models from files: read at their real size and stood on the ground.

A folder may have a `models.json` that says what each file is, as training/fetch_assets.py writes
it; without one every OBJ, glTF and PLY file in it is a thing of its own size, in metres, z or y up
as its format has it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix, Vector

from .blender_assets import files_in
from .blender_cameras import FreeSpace
from .blender_solids import Point, World

SUFFIXES = (".obj", ".glb", ".gltf", ".ply")
# Reading a larger one takes longer than rendering the picture.
LARGEST_FILE = 3_000_000


class Model(NamedTuple):
    """size: width, depth and height in metres, zeros: as stored; elevation: where it hangs, 0 on
    the ground; on_top: the height of its surface that things stand on, 0 for none. rotation: nine
    numbers, a matrix by rows in the file's axes (x right, y up, z to its front)."""

    file: str
    category: str = ""
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    elevation: float = 0.0
    on_top: float = 0.0
    rotation: tuple[float, ...] = ()


def read_models(folder: str) -> list[Model]:
    """The models of a folder; none for "". Raises ValueError where it has none."""
    if not folder:
        return []
    index = Path(folder) / "models.json"
    if not index.is_file():
        return [Model(str(file)) for file in files_in(folder, SUFFIXES)]
    found = []
    for line in json.loads(index.read_text()):
        file = Path(folder) / line["file"]
        if file.is_file() and file.stat().st_size <= LARGEST_FILE:
            rotation = tuple(line.get("rotation", ()))
            size, on_top = tuple(line["size"]), line["on_top"]
            found.append(
                Model(str(file), line["category"], size, line["elevation"], on_top, rotation)
            )
    if not found:
        raise ValueError(f"{index} names no file that is there")
    return found


def import_mesh(file: str) -> bpy.types.Object:
    """What the file has, as one object in the scene."""
    before = set(bpy.context.scene.objects)
    bpy.ops.object.select_all(action="DESELECT")
    suffix = Path(file).suffix.lower()
    if suffix == ".obj":
        bpy.ops.wm.obj_import(filepath=file, use_split_objects=False, use_split_groups=False)
    elif suffix == ".ply":
        bpy.ops.wm.ply_import(filepath=file)
    else:
        bpy.ops.import_scene.gltf(filepath=file)
    new = [o for o in bpy.context.scene.objects if o not in before]
    meshes = [o for o in new if o.type == "MESH" and o.data.polygons]
    if not meshes:
        raise ValueError(f"{file} has no surface")
    bpy.ops.object.select_all(action="DESELECT")
    for mesh in meshes:
        mesh.select_set(True)
    bpy.context.view_layer.objects.active = meshes[0]
    bpy.ops.object.parent_clear(type="CLEAR_KEEP_TRANSFORM")
    if len(meshes) > 1:
        bpy.ops.object.join()
    for other in new:
        if other not in meshes:
            bpy.data.objects.remove(other)
    return meshes[0]


def stand(model: Model, foot: Point, angle: float, metre: float = 1.0) -> bpy.types.Object:
    """The model with the middle of its foot at a point of the scene, its front towards y, then
    turned about z. metre: the scene's units in one. Raises ValueError for an empty file."""
    thing = import_mesh(model.file)
    turn = Matrix.Rotation(np.pi, 4, "Z")
    if model.rotation:
        # From the file's axes (y up) to Blender's: x stays, y is the file's -z, z its y.
        axes = Matrix(((1, 0, 0), (0, 0, -1), (0, 1, 0)))
        rows = [model.rotation[k : k + 3] for k in (0, 3, 6)]
        turn = turn @ (axes @ Matrix(rows) @ axes.transposed()).to_4x4()
    thing.data.transform(turn @ thing.matrix_world)
    points = np.empty(3 * len(thing.data.vertices))
    thing.data.vertices.foreach_get("co", points)
    low, high = points.reshape(-1, 3).min(0), points.reshape(-1, 3).max(0)
    extent = np.maximum(high - low, 1e-6)
    scale = np.array(model.size) / extent if any(model.size) else np.ones(3)
    middle = Vector(((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]))
    thing.matrix_world = (
        Matrix.Translation(foot)
        @ Matrix.Rotation(angle, 4, "Z")
        @ Matrix.Diagonal((*(scale * metre), 1))
        @ Matrix.Translation(-middle)
    )
    return thing


def remove(thing: bpy.types.Object) -> None:
    """Take a model out of the scene and of memory: hundreds may come and go in one opened file."""
    mesh = thing.data
    materials = [material for material in mesh.materials if material]
    bpy.data.objects.remove(thing)
    bpy.data.meshes.remove(mesh)
    for material in materials:
        if material.users == 0:
            bpy.data.materials.remove(material)


def drop_models(
    space: FreeSpace, world: World, models: list[Model], count: int, rng: np.random.Generator
) -> list[bpy.types.Object]:
    """Up to `count` models stood on level surfaces in the box where cameras may stand."""
    metre = 1 / space.scene.unit_settings.scale_length
    low, high = Vector(world.low), Vector(world.high)
    standing = [m for m in models if m.elevation == 0 and max(m.size) < 2.5]
    placed: list[bpy.types.Object] = []
    for _ in range(8 * count):
        if len(placed) == count or not standing:
            break
        over = Vector([rng.uniform(a, b) for a, b in zip(low, high, strict=True)])
        depth, back, _ = space.cast(over, Vector((0, 0, -1)))
        corners = [Vector((x, y, 0)) * 0.1 * metre for x in (-1, 1) for y in (-1, 1)]
        around = [space.cast(over + corner, Vector((0, 0, -1)))[0] for corner in corners]
        level = np.ptp([depth, *around]) < 0.02 * metre
        if back or not np.isfinite(depth) or not level:
            continue
        model = standing[rng.integers(len(standing))]
        foot = over - Vector((0, 0, depth))
        placed.append(stand(model, foot, rng.uniform(0, 2 * np.pi), metre))
    return placed
