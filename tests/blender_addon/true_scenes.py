"""True scenes, and what lamps beside the camera make of them; run by test_relight.py in a Python
that has bpy, with training/ on its path. Writes one .npz file a scene into the folder.

    BLENDER_PYTHON true_scenes.py FOLDER SIZE KIND:SEED ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector
from render.blender_cameras import FreeSpace
from render.blender_render import render_exr, stack
from render.blender_settings import Settings
from render.blender_worker import Renderer

# Of the median depth: how far to the sides and up the lamps are from the camera.
ASIDE, UP = 0.6, 0.25
WATTS, RADIUS = 100.0, 0.02


def lamps(scene: bpy.types.Scene, depth: np.ndarray) -> list[tuple[float, float, float]]:
    """Two places in the camera's axes (x right, y up, z back) that it could walk straight to."""
    reach = float(np.median(depth[np.isfinite(depth)]))
    matrix, space, places = scene.camera.matrix_world, FreeSpace(scene, 0.0), []
    for side in (-1, 1):
        way = Vector((side * ASIDE * reach, UP * reach, 0.0))
        free = space.cast(matrix.translation, matrix.to_3x3() @ way)[0]
        places.append(tuple(way * min(1.0, 0.8 * free)))
    return places


def darken(scene: bpy.types.Scene) -> None:
    """No light from lamps, sky and surfaces."""
    for lamp in [one for one in scene.objects if one.type == "LIGHT"]:
        bpy.data.objects.remove(lamp)
    scene.world = bpy.data.worlds.new("dark")
    if scene.world.node_tree is not None:
        scene.world.node_tree.nodes.clear()
    scene.world.color = (0, 0, 0)
    for material in bpy.data.materials:
        for node in material.node_tree.nodes if material.node_tree is not None else ():
            for name in ("Emission Strength", "Strength"):
                if node.type in ("BSDF_PRINCIPLED", "EMISSION") and name in node.inputs:
                    for link in list(node.inputs[name].links):
                        material.node_tree.links.remove(link)
                    node.inputs[name].default_value = 0.0


def lit(scene: bpy.types.Scene, place: tuple[float, float, float]) -> np.ndarray:
    """The scene by one lamp, its direct light alone."""
    data = bpy.data.lights.new("Lamp", "POINT")
    data.energy, data.shadow_soft_size = WATTS, RADIUS
    lamp = bpy.data.objects.new("Lamp", data)
    scene.collection.objects.link(lamp)
    lamp.location = scene.camera.matrix_world @ Vector(place)
    scene.cycles.samples, scene.cycles.max_bounces = 16, 0
    scene.cycles.use_denoising = False
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BLACKMAN_HARRIS", 0.01
    light = stack(render_exr(scene), "Combined", "RGB")
    bpy.data.objects.remove(lamp)
    return light


def main(folder: str, size: str, *scenes: str) -> None:
    for name in scenes:
        kind, seed = name.split(":")
        settings = Settings(
            seed=int(seed), scenes=[], worlds=[kind], views_per_scene=1, focal=(24, 40),
            aspects=[4 / 3], size=int(size), samples=8, bounces=2, light_stops=0.0,
            exposure_stops=0.0, random_frames=False, passes=True,
        )  # fmt: skip
        sample = Renderer(settings, 1).render(0)
        scene = bpy.context.scene
        places = lamps(scene, sample.depth)
        darken(scene)
        truth = [lit(scene, place) for place in places]
        np.savez(
            Path(folder) / f"{kind}_{seed}.npz", image=sample.image, depth=sample.depth,
            normals=sample.normals, focal=sample.facts["intrinsics"][0], lamps=places,
            truth=truth, **sample.maps,
        )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
