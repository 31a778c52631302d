"""Facts about rendered samples that only Blender can tell; run by test_render_dataset.py in a
Python that has bpy, with training/ on its path. Prints one JSON object."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector
from render.blender_cameras import FreeSpace, View, look
from render.blender_lights import add_light
from render.blender_materials import glass, mirror, surface
from render.blender_render import Quality, render_data, render_sample
from render.blender_settings import Settings
from render.blender_solids import Stage
from render.blender_worker import Renderer
from render.blender_worlds import KINDS

QUALITY = Quality(1, 1, 1)


def rays(facts: dict, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) camera points of depth 1 at the pixels' centres, by the manifest alone."""
    fx, fy, cx, cy = facts["intrinsics"]
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.stack([(x - cx) / fx, (y - cy) / fy, np.ones(shape)], axis=2)


def against_ray_casts(sample, pixels: int = 600) -> dict[str, float]:
    to_world = np.array(sample.facts["camera_to_world"])
    directions = rays(sample.facts, sample.depth.shape) @ to_world[:3, :3].T
    space = FreeSpace(bpy.context.scene, 0.01)
    origin = Vector(to_world[:3, 3])
    rng, errors, sky = np.random.default_rng(0), [], []
    for y, x in zip(*(rng.integers(0, n, pixels) for n in sample.depth.shape), strict=True):
        cast = space.cast(origin, Vector(directions[y, x]))[0]
        if np.isfinite(cast) and np.isfinite(sample.depth[y, x]):
            errors.append(abs(sample.depth[y, x] - cast) / cast)
        sky.append(np.isfinite(cast) == np.isfinite(sample.depth[y, x]))
    facing = np.sum(sample.normals * rays(sample.facts, sample.depth.shape), axis=2)
    valid = np.isfinite(sample.depth)
    return {
        "median": float(np.median(errors)),
        "share": float(np.mean(np.array(errors) < 1e-3)),
        "sky_agrees": float(np.mean(sky)),
        "facing": float(np.mean(facing[valid] < 0)),
        "unit": float(np.abs(np.linalg.norm(sample.normals[valid], axis=1) - 1).max()),
        "fits": space.fits(origin),
    }


def unprojected(sample) -> float:
    """The median distance, relative to depth, of unprojected pixels to Cycles' positions."""
    bpy.context.view_layer.use_pass_position = True
    data = render_data(bpy.context.scene)
    position = np.stack([data[f"Position.{axis}"] for axis in "XYZ"], axis=2)
    valid = np.isfinite(sample.depth)
    depth = np.where(valid, sample.depth, 1)[..., None]
    to_world = np.array(sample.facts["camera_to_world"])
    points = rays(sample.facts, valid.shape) * depth @ to_world[:3, :3].T + to_world[:3, 3]
    return float(np.median((np.linalg.norm(points - position, axis=2) / depth[..., 0])[valid]))


def panes() -> dict[str, list[float]]:
    """A glass pane 2 m ahead on the left, a mirror 3 m ahead on the right, a wall 5 m ahead, half
    as high as the picture. The scene is in centimetres."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.scene.unit_settings.scale_length = 0.01
    rng = np.random.default_rng(0)
    stage = Stage(rng)
    stage.box(glass(rng), (-50, 205, 0), (60, 10, 60))
    stage.box(mirror(rng), (70, 305, 0), (80, 10, 80))
    stage.box(surface(rng), (0, 505, -300), (3000, 10, 600))
    add_light("SUN", (0, 0, 0), (0.5, 0, 0), 3.0, (1, 1, 1))
    view = View(look(Vector((0, 0, 0)), Vector((0, 1, 0)), 0.0), 24.0, 96, 64)
    sample = render_sample(bpy.context.scene, view, QUALITY, 0.0, rng)
    return {"row": sample.depth[32].tolist(), "top": sample.depth[2].tolist()}


def volumes() -> dict[str, float]:
    """Signed volumes of the solids: a closed one whose faces look outward has a positive one."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    stage = Stage(np.random.default_rng(0))
    stage.rock(surface(stage.rng), (0, 0, 0), (1, 1, 1))
    found = {}
    for name in ("box", "ball", "cylinder", "cone", "taper", "rock 0"):
        mesh = stage.meshes.get(name) or stage.shared(name)
        mesh.calc_loop_triangles()
        corners = [[mesh.vertices[v].co for v in t.vertices] for t in mesh.loop_triangles]
        found[name] = sum(a.dot(b.cross(c)) for a, b, c in corners) / 6
    return found


def worlds(folder: Path) -> dict[str, dict[str, float]]:
    found = {}
    for kind in KINDS:
        settings = Settings(7, [], [kind], 1, (20, 40), [1.5], 96, 1, 1, 0.3, 0.3, False)
        sample = Renderer(settings, 1).render(0)
        found[kind] = {**against_ray_casts(sample), "unprojected": unprojected(sample)}
        if kind == "room":
            bpy.ops.wm.save_as_mainfile(filepath=str(folder / "room.blend"))
    return found


if __name__ == "__main__":
    output = Path(sys.argv[1])
    facts = {"worlds": worlds(output), "panes": panes(), "volumes": volumes()}
    (output / "facts.json").write_text(json.dumps(facts))
