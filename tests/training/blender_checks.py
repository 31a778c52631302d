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
from render.blender_furnished import KINDS as FURNISHED
from render.blender_lights import add_light
from render.blender_materials import glass, mirror, new_material, surface
from render.blender_models import read_models, stand
from render.blender_render import (
    Quality,
    aim,
    prepare,
    render_data,
    render_radiance,
    render_sample,
)
from render.blender_settings import Settings
from render.blender_solids import Stage
from render.blender_worker import Renderer
from render.blender_worlds import KINDS
from render.exr_png import write_exr, write_png

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


def decomposition() -> dict[str, object]:
    """A checkered wall 5 m ahead under a sun that looks straight at it; before it, 1 m wide and
    high, from the left: metal, a lamp, a sheet that a mixed shader makes fully transparent, and
    paint that is half Diffuse, half Glossy."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    stage = Stage(np.random.default_rng(0))
    wall, shader = new_material("wall")
    shader.inputs["Specular IOR Level"].default_value = 0.0
    shader.inputs["Roughness"].default_value = 0.7
    tree = wall.node_tree
    checker = tree.nodes.new("ShaderNodeTexChecker")
    checker.inputs["Scale"].default_value = 1.0
    checker.inputs["Color1"].default_value = (0.8, 0.4, 0.2, 1)
    checker.inputs["Color2"].default_value = (0.2, 0.4, 0.8, 1)
    place = tree.nodes.new("ShaderNodeNewGeometry")
    half = tree.nodes.new("ShaderNodeVectorMath")
    half.inputs[1].default_value = (0.01, 0.53, 0.01)  # away from the checker's own planes
    tree.links.new(place.outputs["Position"], half.inputs[0])
    tree.links.new(half.outputs[0], checker.inputs["Vector"])
    tree.links.new(checker.outputs["Color"], shader.inputs["Base Color"])
    metal, shader = new_material("metal")
    shader.inputs["Base Color"].default_value = (0.9, 0.6, 0.3, 1)
    shader.inputs["Metallic"].default_value, shader.inputs["Roughness"].default_value = 1.0, 0.3
    lamp, shader = new_material("lamp")
    shader.inputs["Base Color"].default_value = (0, 0, 0, 1)
    shader.inputs["Specular IOR Level"].default_value = 0.0
    shader.inputs["Emission Color"].default_value = (1, 0.5, 0.25, 1)
    shader.inputs["Emission Strength"].default_value = 2.0
    mixed = []
    for name, kinds, share in (
        ("sheet", ("BsdfTransparent", "BsdfDiffuse"), 0.0),
        ("paint", ("BsdfDiffuse", "BsdfAnisotropic"), 0.5),
    ):
        material, shader = new_material(name)
        tree = material.node_tree
        mix = tree.nodes.new("ShaderNodeMixShader")
        mix.inputs[0].default_value = share
        for slot, kind in enumerate(kinds, 1):
            leaf = tree.nodes.new(f"ShaderNode{kind}")
            grey = 1.0 if kind == "BsdfTransparent" else 0.5
            leaf.inputs["Color"].default_value = (grey, grey, grey, 1)
            if kind == "BsdfAnisotropic":
                leaf.inputs["Roughness"].default_value = 0.2
            tree.links.new(leaf.outputs[0], mix.inputs[slot])
        output = next(n for n in tree.nodes if n.type == "OUTPUT_MATERIAL")
        tree.links.new(mix.outputs[0], output.inputs[0])
        mixed.append(material)
    materials = [metal, lamp, *mixed]
    for material, x in zip(materials, (-1.5, -0.5, 0.5, 1.5), strict=True):
        stage.box(material, (x, 4.5, -0.5), (0.9, 0.1, 0.9))
    stage.box(wall, (0, 5.05, 0), (30, 0.1, 20))
    add_light("SUN", (0, 0, 0), (np.pi / 2, 0, 0), 3.0, (1, 1, 1))
    scene, view = (
        bpy.context.scene,
        View(look(Vector((0, 0, 0)), Vector((0, 1, 0)), 0.0), 24, 96, 64),
    )
    aim(scene, view)
    quality = Quality(16, 1, 1)
    prepare(scene, quality)
    alone, _ = render_radiance(scene, quality.samples, 5)
    nodes = [len(m.node_tree.nodes) for m in bpy.data.materials]
    radiance, maps = render_radiance(scene, quality.samples, 5, passes=True)
    after = [len(m.node_tree.nodes) for m in bpy.data.materials]
    maps = {name: values.astype(np.float32) for name, values in maps.items()}
    again = maps["albedo"] * maps["shading"] + maps["residual"]
    # 64 pixels a unit: at 4.45 m the boxes are 14 pixels apart.
    row, columns = 39, {"metal": 26, "lamp": 41, "sheet": 55, "paint": 70}
    return {
        "same": bool((alone == radiance).all()),
        "error": float((np.abs(again - alone) / (1 + np.abs(alone))).max()),
        "nodes": [nodes, after, [a.name for a in bpy.context.view_layer.aovs]],
        "at": {  # the middle of each thing
            name: {kind: values[row, x].tolist() for kind, values in maps.items()}
            for name, x in columns.items()
        },
        "wall": {kind: values[10:16, 20:76].tolist() for kind, values in maps.items()},
    }


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


# A box with a front: its faces at z = 1 are a square with a nose that reaches z = 1.5.
BOX = """
v -1 0 -1
v 1 0 -1
v 1 2 -1
v -1 2 -1
v -1 0 1
v 1 0 1
v 1 2 1
v -1 2 1
v 0 1 1.5
f 4 3 2 1
f 1 2 6 5
f 2 3 7 6
f 3 4 8 7
f 4 1 5 8
f 5 6 9
f 6 7 9
f 7 8 9
f 8 5 9
"""


def assets(folder: Path) -> dict[str, str]:
    """Folders of one environment map, one picture and three models: a table, a cup, a shelf."""
    folders = {kind: folder / kind for kind in ("environments", "textures", "models")}
    for path in folders.values():
        path.mkdir()
    height, width = 32, 64
    sky = np.linspace(2, 0.2, height)[:, None].repeat(width, 1).astype(np.float32)
    write_exr(folders["environments"] / "sky.exr", {"R": sky, "G": sky, "B": sky * 2})
    dots = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    write_png(folders["textures"] / "dots.png", dots)
    (folders["models"] / "box.obj").write_text(BOX)
    lines = [
        {"file": "box.obj", "category": "Office", "size": size, "elevation": 0, "on_top": top}
        for size, top in (([1.2, 0.7, 0.75], 0.75), ([0.1, 0.1, 0.12], 0), ([0.8, 0.4, 1.8], 0))
    ]
    (folders["models"] / "models.json").write_text(json.dumps(lines))
    return {kind: str(path) for kind, path in folders.items()}


def rendered(kind: str, folders: dict[str, str]):
    settings = Settings(7, [], [kind], 1, (20, 40), [1.5], 96, 1, 1, 0.3, 0.3, False, **folders)
    return Renderer(settings, 1).render(0)


def worlds(folder: Path, folders: dict[str, str]) -> dict[str, dict[str, float]]:
    found = {}
    for kind in KINDS:
        sample = rendered(kind, folders if kind in FURNISHED else {})
        found[kind] = {**against_ray_casts(sample), "unprojected": unprojected(sample)}
        if kind == "room":
            bpy.ops.wm.save_as_mainfile(filepath=str(folder / "room.blend"))
    return found


def model_stands(folders: dict[str, str]) -> dict[str, list[float]]:
    """A table stood at (1, 2, 3), its front turned from y to -x."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    thing = stand(read_models(folders["models"])[0], (1, 2, 3), np.pi / 2)
    points = np.array([thing.matrix_world @ vertex.co for vertex in thing.data.vertices])
    nose = thing.matrix_world @ thing.data.vertices[8].co
    return {"low": points.min(0).tolist(), "high": points.max(0).tolist(), "nose": list(nose)}


def decorated_scene(folder: Path, folders: dict[str, str]) -> dict:
    """The saved room with each kind of asset, twice in a row: nothing of a sample stays."""
    file = str(folder / "room.blend")
    settings = Settings(7, [file], [], 1, (20, 40), [1.5], 96, 1, 1, 0.3, 0.3, False, **folders)
    renderer = Renderer(settings, 1)
    first = renderer.render(0)
    found = against_ray_casts(first)
    held = ("objects", "meshes", "materials", "worlds", "images")
    counts = [[len(getattr(bpy.data, name)) for name in held]]
    renderer.render(1)
    again = renderer.render(0)
    counts.append([len(getattr(bpy.data, name)) for name in held])
    return {
        **found,
        "guests": len(renderer.guests),
        "held": counts,
        "same": bool((first.image == again.image).all() and (first.depth == again.depth).all()),
        "maps": [n.image.name for n in bpy.context.scene.world.node_tree.nodes
                 if n.type == "TEX_ENVIRONMENT"],
        "textured": len(renderer.textures.changed),
    }  # fmt: skip


if __name__ == "__main__":
    output = Path(sys.argv[1])
    folders = assets(output)
    facts = {
        "worlds": worlds(output, folders),
        "panes": panes(),
        "decomposition": decomposition(),
        "volumes": volumes(),
        "model": model_stands(folders),
        "decorated": decorated_scene(output, folders),
    }
    (output / "facts.json").write_text(json.dumps(facts))
