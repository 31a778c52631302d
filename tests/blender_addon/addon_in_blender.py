"""The installed add-on, seen from inside Blender: what the scenarios share."""

from __future__ import annotations

import importlib
from pathlib import Path

import bpy
import numpy as np

ADDON = "bl_ext.user_default.marigold_kit"
SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


def install(archive: Path) -> None:
    result = bpy.ops.extensions.package_install_files(
        filepath=str(archive), repo="user_default", enable_on_install=True
    )
    assert result == {"FINISHED"}, result
    assert ADDON in bpy.context.preferences.addons, "the add-on is not enabled"


def part(name: str):
    """A module of the installed add-on."""
    return importlib.import_module(f"{ADDON}.{name}")


def empty_scene() -> None:
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)


def evaluated(obj: bpy.types.Object):
    """The live mesh: its datablock, points (V, 3) and quads' corners, flat."""
    graph = bpy.context.evaluated_depsgraph_get()
    graph.update()
    mesh = obj.evaluated_get(graph).data
    points = np.empty((len(mesh.vertices), 3), dtype=np.float32)
    mesh.vertices.foreach_get("co", points.ravel())
    corners = np.empty(len(mesh.loops), dtype=np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    return mesh, points, corners


def meshes() -> list[bpy.types.Object]:
    return [obj for obj in bpy.data.objects if obj.type == "MESH"]


def depth_mesh(folder: Path, **settings) -> bpy.types.Object:
    """background=False unless asked for: then the mesh is the engine's `depth_to_mesh`."""
    settings = {"filepath": str(folder / "picture.png"), "background": False, **settings}
    if "depth_filepath" not in settings:
        settings["depth_filepath"] = str(folder / "depth.npy")
    assert bpy.ops.marigold.depth_mesh(**settings) == {"FINISHED"}
    return bpy.context.active_object


def expected(folder: Path, **settings):
    from marigold_core.geometry.grid import depth_to_mesh

    depth = np.load(folder / "depth.npy")
    return depth_to_mesh(depth, mask=np.isfinite(depth), border=True, **settings)


def use_engine(python: str) -> None:
    chosen = bpy.context.preferences.addons[ADDON].preferences
    chosen.python, chosen.device = python, "CPU"
