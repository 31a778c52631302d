"""Depth meshes under lamps, beside the true scene under them; `test_relight.py` has the limits.

`scenes.json` in the folder is a list of {name, picture, depth, maps, fov, lamps, truth}: files and
a folder of maps, degrees, places of lamps in the camera's axes, and a .npy file (lamps, H, W, 3) of
linear light. The scenario writes errors into `measured.json`, and what it saw beside the truth.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import bpy
import numpy as np
from addon_in_blender import depth_mesh, scenario
from mathutils import Vector
from scenarios_relight import rendered

# As in `true_scenes.py`.
WATTS, RADIUS = 100.0, 0.02


@scenario
def relit_as_the_true_scene(folder: Path, python: str) -> None:
    """Mean absolute errors under all lamps as shares of the truth's mean, after the best factor:
    of the picture as the base colour and of the true maps. `all` is over every pixel with a depth;
    `lit` over those that neither the mesh nor the truth has in a shadow, since what casts shadows
    from outside the picture is in no mesh."""
    measured = {}
    for view in json.loads((folder / "scenes.json").read_text("utf-8")):
        truth = np.load(folder / view["truth"])
        valid = np.isfinite(np.load(folder / view["depth"]))
        valid[:2] = valid[-2:] = valid[:, :2] = valid[:, -2:] = False  # next to the frame
        views = {}
        for other in list(bpy.data.objects):
            bpy.data.objects.remove(other)
        obj = depth_mesh(
            folder,
            filepath=str(folder / view["picture"]),
            depth_filepath=str(folder / view["depth"]),
            depth_unit="METRES",
            fov=math.radians(view["fov"]),
            background=True,
            surface="RELIGHTABLE",
            surface_folder=str(folder / view["maps"]),
        )
        for name, shown in (("picture", "Lit"), ("relightable", "Relightable")):
            assert bpy.ops.marigold.show(view=shown) == {"FINISHED"}
            seen = np.stack([under_lamp(obj, place, folder) for place in view["lamps"]])
            np.save(folder / f"{view['name']} {name}.npy", seen)
            views[name] = seen
        everywhere = np.stack([valid] * len(truth))
        lit = np.logical_and.reduce([one.max(3) > 1e-4 for one in (truth, *views.values())])
        measured[view["name"]] = {
            f"{name}, {word}": error(seen[where], truth[where])
            for word, where in (("all", everywhere), ("lit", everywhere & lit))
            for name, seen in views.items()
        }
    (folder / "measured.json").write_text(json.dumps(measured), "utf-8")


def error(seen: np.ndarray, truth: np.ndarray) -> float:
    factor = (seen * truth).sum() / (seen * seen).sum()
    return float(np.abs(factor * seen - truth).mean() / truth.mean())


def under_lamp(obj: bpy.types.Object, place: list[float], folder: Path) -> np.ndarray:
    data = bpy.data.lights.new("Lamp", "POINT")
    data.energy, data.shadow_soft_size = WATTS, RADIUS
    lamp = bpy.data.objects.new("Lamp", data)
    bpy.context.scene.collection.objects.link(lamp)
    bpy.context.view_layer.update()
    lamp.location = obj.matrix_world @ Vector(place)
    seen = rendered(folder / "seen.exr", samples=16)
    bpy.data.objects.remove(lamp)
    return seen
