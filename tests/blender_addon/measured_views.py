"""Renders of depth meshes of photographs, measured; `test_views.py` runs these and has the limits.

`views.json` in the folder is a list of {name, picture, depth, near, far, degrees}: a picture file,
a .npy file with depth in [0, 1], the distances of 0 and 1, and how far to orbit. Each scenario
writes its numbers into `measured.json`, by name, and leaves its renders in the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from addon_in_blender import depth_mesh, part, scenario
from mathutils import Matrix


@scenario
def matched_views_in_cycles(folder: Path, python: str) -> None:
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising = 16, False
    _matched_views(folder)


@scenario
def matched_views_in_eevee(folder: Path, python: str) -> None:
    render, eevee = bpy.context.scene.render, bpy.context.scene.eevee
    engines = render.bl_rna.properties["engine"].enum_items
    render.engine = "BLENDER_EEVEE" if "BLENDER_EEVEE" in engines else "BLENDER_EEVEE_NEXT"
    eevee.taa_render_samples = 4  # seconds each without a GPU
    eevee.use_shadows = False  # an emission has none, and a software OpenGL compiles for long
    _matched_views(folder)


def _matched_views(folder: Path) -> None:
    """Mean absolute differences to the picture, in levels of 255, of the mesh and of a flat plane,
    and the pixels of the mesh's render that show more of the background than the plane's (whose
    outermost pixels are filtered with what lies outside the frame)."""
    planes: dict[str, np.ndarray] = {}
    measured = {}
    for view in json.loads((folder / "views.json").read_text("utf-8")):
        picture = _pixels(folder / view["picture"])[..., :3]
        if view["picture"] not in planes:
            height, width = picture.shape[:2]
            np.save(folder / "plane.npy", np.full((height, width), 0.5, dtype=np.float32))
            flat = dict(view, depth="plane.npy")
            obj = _mesh(folder, flat, background=False)
            planes[view["picture"]] = _rendered(obj, folder / "plane.png")
        plane = planes[view["picture"]]
        seen = _rendered(_mesh(folder, view, background=True), folder / f"{view['name']}.png")
        measured[view["name"]] = {
            "mesh": float(np.abs(seen[..., :3] - picture).mean()),
            "plane": float(np.abs(plane[..., :3] - picture).mean()),
            "open": int((seen[..., 3] < plane[..., 3] - 4).sum()),
        }
    (folder / "measured.json").write_text(json.dumps(measured), "utf-8")


@scenario
def holes_after_an_orbit(folder: Path, python: str) -> None:
    """Pixels without a surface after an orbit to each side, around the point at the median distance
    on the camera's axis, where the untorn mesh has one: of the torn mesh, and of the mesh with its
    background layer."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising = 1, False
    scene.cycles.pixel_filter_type = "BOX"
    scene.cycles.filter_width = 0.01  # the ray through the pixel's middle
    measured = {}
    for view in json.loads((folder / "views.json").read_text("utf-8")):
        near, far = view["near"], view["far"]
        pivot = near + (far - near) * float(np.median(np.load(folder / view["depth"])))
        counts = {"torn": 0, "filled": 0, "frame": 0}
        for side in (-1, 1):
            seen = {}
            for name, background, inputs in (
                ("whole", False, {"tear": False}), ("torn", False, {}), ("filled", True, {}),
            ):  # fmt: skip
                obj = _mesh(folder, view, background=background)
                part("mesh.shape_inputs").set_inputs(obj, **inputs)
                camera = scene.camera
                turn = Matrix.Rotation(np.radians(side * view["degrees"]), 4, "Y")
                there, back = (Matrix.Translation((0, 0, s * pivot)) for s in (-1, 1))
                camera.matrix_basis = there @ turn @ back
                path = folder / f"{view['name']}_{name}_{side + 1}.png"
                seen[name] = _rendered(obj, path)[..., 3] > 127
            counts["frame"] += seen["whole"].size
            for name in ("torn", "filled"):
                counts[name] += int((seen["whole"] & ~seen[name]).sum())
        measured[view["name"]] = counts
    (folder / "measured.json").write_text(json.dumps(measured), "utf-8")


def _mesh(folder: Path, view: dict[str, Any], background: bool) -> bpy.types.Object:
    for obj in list(bpy.data.objects):
        bpy.data.objects.remove(obj)
    return depth_mesh(
        folder,
        filepath=str(folder / view["picture"]),
        depth_filepath=str(folder / view["depth"]),
        near=view["near"],
        far=view["far"],
        background=background,
    )


def _rendered(obj: bpy.types.Object, path: Path) -> np.ndarray:
    """(H, W, 4), 0 to 255, as the scene's camera sees it, in the colours of the picture."""
    scene = bpy.context.scene
    assert scene.camera is not None and scene.camera.parent == obj
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Standard"
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    return _pixels(path)


def _pixels(path: Path) -> np.ndarray:
    image = bpy.data.images.load(str(path), check_existing=False)
    pixels = np.empty(len(image.pixels), dtype=np.float32)
    image.pixels.foreach_get(pixels)
    shape = (image.size[1], image.size[0], image.channels)
    bpy.data.images.remove(image)
    return pixels.reshape(shape)[::-1] * 255
