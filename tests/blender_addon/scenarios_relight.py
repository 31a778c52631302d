"""Relightable surfaces: what the scene's lamps make of the maps."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import bpy
import numpy as np
from addon_in_blender import ADDON, depth_mesh, meshes, part, scenario, use_engine
from mathutils import Vector

LEFT, RIGHT = (-0.8, 0.2, 0.6), (0.8, 0.2, 0.6)  # towards the lamp, in the camera's axes
ALBEDO = 0.6


def sun(obj: bpy.types.Object, towards: Sequence[float], shadows: bool = True) -> None:
    """The one lamp, of strength pi, in a direction of the mesh's (and its camera's) axes."""
    for other in [one for one in bpy.data.objects if one.type == "LIGHT"]:
        bpy.data.objects.remove(other)
    data = bpy.data.lights.new("Sun", "SUN")
    data.energy, data.angle, data.use_shadow = np.pi, 0.0, shadows
    lamp = bpy.data.objects.new("Sun", data)
    bpy.context.scene.collection.objects.link(lamp)
    lamp.rotation_mode = "QUATERNION"
    direction = obj.matrix_world.to_3x3() @ Vector(towards)
    lamp.rotation_quaternion = direction.to_track_quat("Z", "Y")


def rendered(path: Path, bounces: int = 0, samples: int = 4) -> np.ndarray:
    """What the scene's camera sees in Cycles, linear light (H, W, 3)."""
    scene = bpy.context.scene
    scene.render.engine, scene.cycles.samples = "CYCLES", samples
    scene.cycles.use_denoising, scene.cycles.max_bounces = False, bounces
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BLACKMAN_HARRIS", 0.01
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):  # Blender 5
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_depth = "OPEN_EXR", "32"
    settings.exr_codec, settings.color_mode = "NONE", "RGB"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(path), check_existing=False)
    pixels = np.empty(len(image.pixels), dtype=np.float32)
    image.pixels.foreach_get(pixels)
    pixels = pixels.reshape(image.size[1], image.size[0], image.channels)
    bpy.data.images.remove(image)
    return pixels[::-1, :, :3].astype(np.float64)


def save(path: Path, values: np.ndarray) -> None:
    """An EXR picture of (H, W, 3) or (H, W), linear."""
    rgba = np.ones((*values.shape[:2], 4), dtype=np.float32)
    rgba[..., :3] = (values if values.ndim == 3 else values[..., None])[::-1]
    image = bpy.data.images.new(
        "map", rgba.shape[1], rgba.shape[0], float_buffer=True, is_data=True
    )
    image.pixels.foreach_set(rgba.ravel())
    path.parent.mkdir(exist_ok=True)
    image.filepath_raw, image.file_format = str(path), "OPEN_EXR"
    image.save()
    bpy.data.images.remove(image)


def bulges(height: int = 48, width: int = 64) -> np.ndarray:
    """Unit normals that have nothing to do with any depth."""
    y, x = np.mgrid[0:height, 0:width]
    n = np.stack([0.5 * np.sin(x / 7), 0.4 * np.cos(y / 6), np.ones((height, width))], axis=2)
    return n / np.linalg.norm(n, axis=2, keepdims=True)


def relightable(folder: Path, **settings) -> bpy.types.Object:
    obj = depth_mesh(folder, surface="RELIGHTABLE", **settings)
    material = obj.active_material
    assert part("mesh.picture_material").shown(material) == "Relightable"
    return obj


def without_gloss(obj: bpy.types.Object) -> None:
    for node in obj.active_material.node_tree.nodes:
        if node.type == "BSDF_PRINCIPLED":
            node.inputs["Specular IOR Level"].default_value = 0.0


@scenario
def each_lamp_lights_the_normals_of_the_map(folder: Path, python: str) -> None:
    from marigold_core.geometry.points import depth_to_normals

    # Whatever the shape of the mesh: Lambert's law with the normals that the file has.
    normals = bulges()
    save(folder / "maps" / "room_normals.exr", normals)
    save(folder / "maps" / "room_albedo.exr", np.full((48, 64, 3), ALBEDO))
    own = depth_to_normals(np.load(folder / "waves.npy"), near=3.0, far=4.0)
    for background in (False, True):
        obj = relightable(
            folder,
            depth_filepath=str(folder / "waves.npy"),
            surface_folder=str(folder / "maps"),
            near=3.0,
            far=4.0,
            background=background,
        )
        without_gloss(obj)
        for towards in (LEFT, RIGHT):
            sun(obj, towards, shadows=False)
            light = np.array(towards) / np.linalg.norm(towards)
            wanted = ALBEDO * (normals @ light).clip(0)
            seen = rendered(folder / "seen.exr")[..., 1]
            # Cycles darkens a mapped normal that a lamp reaches over the mesh's own horizon.
            lit = own @ light > 1.05 * np.sum(own * normals, axis=2) * (normals @ light)
            lit[:2] = lit[-2:] = lit[:, :2] = lit[:, -2:] = False  # next to the frame
            error = np.abs(seen - wanted)[lit]
            print(f"{lit.mean():.2f}: {error.mean():.4f}, 95 % {np.quantile(error, 0.95):.4f}")
            assert lit.mean() > 0.3
            assert error.mean() < 0.01 and np.quantile(error, 0.95) < 0.03


@scenario
def the_surface_follows_the_lamp(folder: Path, python: str) -> None:
    # A ridge down the middle: its left flank faces left. Without maps: the picture, by relief.
    x = np.abs(np.arange(64) - 31.5) / 32
    np.save(folder / "ridge.npy", np.repeat(x[None].astype(np.float32), 48, axis=0))
    obj = relightable(
        folder,
        filepath=str(folder / "white.png"),
        depth_filepath=str(folder / "ridge.npy"),
        near=2.0,
        far=3.0,
    )
    means = []
    for towards in (LEFT, RIGHT):
        sun(obj, towards)
        seen = rendered(folder / "seen.exr")[4:-4, :, 1]
        means.append((seen[:, 8:28].mean(), seen[:, 36:56].mean()))
    assert means[0][0] > 3 * means[0][1] and means[1][1] > 3 * means[1][0], means
    # The picture as it was taken does not care.
    assert bpy.ops.marigold.show(view="Unlit") == {"FINISHED"}
    unlit = []
    for towards in (LEFT, RIGHT):
        sun(obj, towards)
        unlit.append(rendered(folder / "seen.exr"))
    assert np.abs(unlit[0] - unlit[1])[4:-4, 4:-4].max() < 1e-3


@scenario
def maps_of_files_are_in_the_material(folder: Path, python: str) -> None:
    maps = folder / "maps"
    for name in ("albedo", "roughness", "metallic", "shading"):
        save(maps / f"a_{name}.exr", np.full((24, 32, 3), 0.25))
    save(maps / "a_albedo_uncertainty.exr", np.zeros((24, 32)))
    obj = relightable(folder, surface_folder=str(maps), background=True)
    for slot, names in zip(
        obj.material_slots,
        (("Albedo", "Roughness", "Metallic", "Normals", "Shading"), ("Albedo",)),
        strict=True,
    ):
        nodes = slot.material.node_tree.nodes
        for name in names:
            image = nodes[name].image
            is_data = image.colorspace_settings.name == "Non-Color"
            assert is_data == (name != "Albedo"), name
            before = np.array(image.pixels)
            image.reload()  # from the packed file, as a saved scene does
            assert np.abs(np.array(image.pixels) - before).max() < 1e-3, name
    nodes = obj.active_material.node_tree.nodes
    assert not nodes["Shading"].outputs["Color"].is_linked
    assert abs(nodes["Shading"].image.pixels[0] - 0.25) < 1e-3
    assert abs(nodes["Albedo"].image.pixels[0] - 0.5371) < 0.003  # sRGB of 0.25
    assert part("mesh.picture_material").picture_of(obj).name.startswith("picture")

    # The same mesh again: one set of maps, and the picture's own views stay.
    count = len(bpy.data.images)
    again = relightable(folder, surface_folder=str(maps), background=True, update=True)
    assert again == obj and len(bpy.data.images) == count
    assert set(part("mesh.picture_material").views(obj.active_material)) >= {"Unlit", "Lit"}

    for wrong in ("none", "two"):
        (folder / wrong).mkdir()
        if wrong == "two":
            save(folder / "two" / "albedo.exr", np.zeros((4, 4, 3)))
            save(folder / "two" / "base_color.exr", np.zeros((4, 4, 3)))
        before = len(bpy.data.objects)
        try:
            depth_mesh(folder, surface="RELIGHTABLE", surface_folder=str(folder / wrong))
        except RuntimeError as error:
            assert "Traceback" not in str(error) and wrong in str(error)
        else:
            raise AssertionError(wrong)
        assert len(bpy.data.objects) == before
    # No engine is chosen: the folder's error comes before that of the run.
    settings = dict(surface="RELIGHTABLE", surface_folder=str(folder / "none"))
    for run in (
        lambda: depth_mesh(folder, depth_filepath="", **settings),
        lambda: bpy.ops.marigold.batch(directory=str(folder), **settings),
    ):
        try:
            run()
        except RuntimeError as error:
            assert "maps" in str(error) or "none has no picture" in str(error), error
        else:
            raise AssertionError("a run with a wrong folder of maps")


@scenario
def glb_carries_the_maps(folder: Path, python: str) -> None:
    maps = folder / "maps"
    for name, value in (("albedo", 0.25), ("roughness", 0.5), ("metallic", 0.75)):
        save(maps / f"a_{name}.exr", np.full((24, 32, 3), value))
    obj = relightable(folder, surface_folder=str(maps))
    for other in bpy.data.objects:
        other.select_set(other == obj)
    bpy.ops.export_scene.gltf(
        filepath=str(folder / "mesh.glb"), use_selection=True, export_apply=True
    )
    with open(folder / "mesh.glb", "rb") as file:
        (length,) = struct.unpack("<12xI4x", file.read(20))
        (material,) = json.loads(file.read(length))["materials"]
    assert "KHR_materials_unlit" not in material.get("extensions", {})
    assert "normalTexture" in material
    assert {"baseColorTexture", "metallicRoughnessTexture"} <= set(material["pbrMetallicRoughness"])


@scenario
def relightable_by_checkpoints(folder: Path, python: str) -> None:
    use_engine(python)
    chosen = bpy.context.preferences.addons[ADDON].preferences
    settings = dict(depth_filepath="", num_inference_steps=1, processing_resolution=64)
    chosen.normals_checkpoint = str(folder / "normals-v1-1")
    chosen.appearance_checkpoint = str(folder / "iid-appearance")
    chosen.lighting_checkpoint = str(folder / "iid-lighting")
    obj = relightable(folder, **settings)
    nodes = obj.active_material.node_tree.nodes
    for name in ("Albedo", "Roughness", "Metallic", "Normals", "Shading"):
        assert tuple(nodes[name].image.size) == (64, 48), name
    engine = part("backend.engine_session").running_engine()
    assert engine.state == "ready"
    # A checkpoint for something else, found after the depth: that is kept, as a plain mesh.
    chosen.normals_checkpoint = str(folder / "iid-appearance")
    before = len(meshes())
    obj = depth_mesh(folder, surface="RELIGHTABLE", **settings)
    assert len(meshes()) == before + 1
    material = part("mesh.picture_material")
    assert material.shown(obj.active_material) == "Unlit"
    assert "Relightable" not in material.views(obj.active_material)
    assert bpy.ops.marigold.unload() == {"FINISHED"}
