"""Files, scenes, undo, picked points: what the add-on does in a Blender file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import bpy
import numpy as np
from addon_in_blender import (
    ADDON,
    depth_mesh,
    empty_scene,
    evaluated,
    meshes,
    part,
    scenario,
)


@scenario
def glb_carries_the_texture(folder: Path, python: str) -> None:
    obj = depth_mesh(folder)
    for other in bpy.data.objects:
        other.select_set(other == obj)
    bpy.ops.export_scene.gltf(
        filepath=str(folder / "mesh.glb"), use_selection=True, export_apply=True
    )
    count = len(evaluated(obj)[1])
    empty_scene()
    bpy.ops.import_scene.gltf(filepath=str(folder / "mesh.glb"))
    (back,) = meshes()
    assert len(back.data.vertices) >= count
    images = [
        node.image
        for node in back.active_material.node_tree.nodes
        if node.type == "TEX_IMAGE" and node.image
    ]
    assert [tuple(image.size) for image in images] == [(64, 48)]
    assert back.data.uv_layers
    with open(folder / "mesh.glb", "rb") as file:
        (length,) = struct.unpack("<12xI4x", file.read(20))
        (material,) = json.loads(file.read(length))["materials"]
    assert "baseColorTexture" in material["pbrMetallicRoughness"], "viewers without the extension"
    assert "KHR_materials_unlit" in material["extensions"]


@scenario
def undo_takes_it_all_back(folder: Path, python: str) -> None:
    bpy.context.preferences.edit.use_global_undo = True
    bpy.ops.ed.undo_push(message="before")
    depth_mesh(folder)
    bpy.ops.ed.undo_push(message="Depth Mesh")
    assert meshes() and bpy.data.cameras
    bpy.ops.ed.undo()
    assert not meshes() and not bpy.data.cameras and not bpy.data.meshes
    depth_mesh(folder)
    assert len(meshes()) == 1


@scenario
def off_and_on_again(folder: Path, python: str) -> None:
    import addon_utils

    for _ in range(2):
        addon_utils.disable(ADDON)
        assert not hasattr(bpy.types.Scene, "marigold")
        assert not hasattr(bpy.types, "MARIGOLD_OT_depth_mesh")
        addon_utils.enable(ADDON)
        depth_mesh(folder)
    assert len(meshes()) == 2
    groups = [g for g in bpy.data.node_groups if "marigold_version" in g]
    assert len(groups) == 1, "every mesh of a file shares the one group"


@scenario
def a_saved_file_needs_no_add_on(folder: Path, python: str) -> None:
    import addon_utils

    obj = depth_mesh(folder, near=2.0, far=7.0)
    wanted = evaluated(obj)[1]
    name = obj.name
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "saved.blend"))
    addon_utils.disable(ADDON, default_set=True)
    (folder / "picture.png").rename(folder / "gone.png")
    bpy.ops.wm.open_mainfile(filepath=str(folder / "saved.blend"))
    assert not hasattr(bpy.ops.marigold, "depth_mesh") or not hasattr(bpy.types.Scene, "marigold")
    assert (evaluated(bpy.data.objects[name])[1] == wanted).all()
    image = bpy.data.images["picture.png"]
    assert image.packed_file and tuple(image.size) == (64, 48) and len(image.pixels)
    camera = bpy.context.scene.camera.evaluated_get(bpy.context.evaluated_depsgraph_get())
    assert np.isclose(camera.data.lens, 18 / np.tan(np.radians(25)), rtol=1e-5)


@scenario
def a_camera_without_its_mesh_is_an_ordinary_one(folder: Path, python: str) -> None:
    obj = depth_mesh(folder)
    camera = obj.children[0]
    bpy.data.objects.remove(obj)
    left = camera.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    assert (left.type, left.lens) == ("PERSP", 50)
    assert all(d.driver.is_simple_expression for d in camera.data.animation_data.drivers)


@scenario
def bake_keeps_the_shape(folder: Path, python: str) -> None:
    obj = depth_mesh(folder)
    part("mesh.shape_inputs").set_inputs(obj, near=3.0, far=8.0)
    wanted = evaluated(obj)[1]
    lens = obj.children[0].evaluated_get(bpy.context.evaluated_depsgraph_get()).data.lens
    assert bpy.ops.marigold.bake() == {"FINISHED"}
    assert not obj.modifiers and not obj.children[0].data.animation_data.drivers
    assert (evaluated(obj)[1] == wanted).all() and obj.active_material is not None
    assert np.isclose(obj.children[0].data.lens, lens)
    assert not bpy.ops.marigold.bake.poll()


@scenario
def a_thinner_bake_keeps_its_edges(folder: Path, python: str) -> None:
    """Vertices of borders and tears stay within 0.01 pixels of where they were; every vertex lies
    within 0.02 pixels of its texture coordinates; and what the camera sees is as far as before: by
    0.5 % in 99 of 100 pixels, with a third of the triangles."""
    y, x = np.mgrid[0:120, 0:160].astype(np.float32)
    depth = 1 - 0.7 * y / 120  # a floor, and a ball and a box that stand on it
    ball = (x - 50) ** 2 + (y - 60) ** 2 < 30**2
    depth[ball] = 0.25 - 0.1 * np.sqrt(1 - ((x - 50) ** 2 + (y - 60) ** 2)[ball] / 30**2)
    depth[40:90, 100:140] = 0.1
    np.save(folder / "things.npy", depth)
    thinning = part("mesh.thinning")
    for inputs in ({}, dict(background=False), dict(tear=False), dict(flat_displacement=True)):
        made = []
        for faces in (100.0, 15.0):
            obj = depth_mesh(folder, depth_filepath=str(folder / "things.npy"), background=True)
            part("mesh.shape_inputs").set_inputs(obj, **inputs)
            focal = 80 / np.tan(part("mesh.shape_inputs").get_input(obj, "Field of View") / 2)
            assert bpy.ops.marigold.bake(faces=faces) == {"FINISHED"}
            made.append(obj)
        seen = [distances_along_rays(obj, focal) for obj in made]
        whole, thin = (obj.data for obj in made)
        assert len(thin.polygons) < 0.35 * 2 * len(whole.polygons), inputs  # those are triangles
        if "flat_displacement" not in inputs:
            off = np.abs(seen[1] / seen[0] - 1)
            assert np.nanpercentile(off, 99) < 0.005, inputs
            assert (np.isnan(seen[0]) == np.isnan(seen[1])).mean() > 0.99, inputs
        borders = [
            mesh_points(mesh)[np.unique(thinning._at_borders(mesh))] for mesh in (whole, thin)
        ]
        near = borders[0][:, None, :] - borders[1]
        lost = np.linalg.norm(near, axis=2).min(axis=1)
        assert lost.max() < 0.01 * 5 / focal, (inputs, lost.max())
        places = projected(thin, focal, flat="flat_displacement" in inputs)
        uv, corners = corner_uvs(thin)
        error = np.abs(uv * (160, 120) - places[corners]).max()
        assert error < 0.02, (inputs, error)


def distances_along_rays(obj, focal):
    """Of the first surface behind every third pixel of a picture of 160x120."""
    bpy.context.evaluated_depsgraph_get().update()
    found = []
    for v in range(1, 119, 3):
        for u in range(1, 159, 3):
            ray = ((u + 0.5 - 80) / focal, (59.5 - v) / focal, -1)
            hit, place, _, _ = obj.ray_cast((0, 0, 0), ray)
            found.append(-place[2] if hit else np.nan)
    return np.array(found)


def mesh_points(mesh):
    points = np.empty((len(mesh.vertices), 3), dtype=np.float32)
    mesh.vertices.foreach_get("co", points.ravel())
    return points


def corner_uvs(mesh):
    uv = np.empty((len(mesh.loops), 2), dtype=np.float32)
    mesh.uv_layers["UVMap"].uv.foreach_get("vector", uv.ravel())
    corners = np.empty(len(mesh.loops), dtype=np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    return uv, corners


def projected(mesh, focal, *, flat):
    """Where the matched camera of a picture of 160x120 sees the vertices, v upwards."""
    points = mesh_points(mesh)
    z = np.full(len(points), 5.0) if flat else -points[:, 2]
    return points[:, :2] / z[:, None] * focal + (80, 60)


@scenario
def depth_files_of_every_kind(folder: Path, python: str) -> None:
    depth = np.load(folder / "plain.npy")
    for name in ("plain.png", "plain.exr", "z_alone.exr", "plain.tif", "plain.npy"):
        read = part("mesh.depth_file").read_depth_file(str(folder / name))
        assert abs(read.depth - depth).max() < 1e-5, name
    white = part("mesh.depth_file").read_depth_file(str(folder / "plain.png"), unit="INVERTED")
    assert abs(white.depth - (1 - depth)).max() < 1e-5
    sensor = part("mesh.depth_file").read_depth_file(str(folder / "kinect.png"))
    assert np.isclose([sensor.near, sensor.far], [0.8, 4.2]).all()
    assert np.isnan(sensor.depth[:4]).all() and np.isfinite(sensor.depth[4:]).all()
    colour = part("mesh.depth_file").read_depth_file(str(folder / "picture.png"))
    assert "colour picture" in colour.warning and not sensor.warning
    metres = part("mesh.depth_file").read_depth_file(str(folder / "metres.npy"))
    assert np.isclose([metres.near, metres.far], [2 + 3 * depth.min(), 2 + 3 * depth.max()]).all()
    obj = depth_mesh(folder, depth_filepath=str(folder / "metres.npy"))
    assert np.allclose(evaluated(obj)[1][:, 2].min(), -(2 + 3 * depth.max()), rtol=1e-5)


@scenario
def mistakes_are_one_message(folder: Path, python: str) -> None:
    (folder / "broken.png").write_bytes(b"no picture at all")
    (folder / "broken.npy").write_bytes(b"no array at all")
    np.save(folder / "tall.npy", np.random.default_rng(0).random((90, 20)).astype(np.float32))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    picture = str(folder / "picture.png")
    bad = [
        dict(filepath=str(folder / "missing.png")),
        dict(filepath=str(folder / "broken.png")),
        dict(filepath=picture, depth_filepath=str(folder / "missing.npy")),
        dict(filepath=picture, depth_filepath=str(folder / "broken.npy")),
        dict(filepath=picture, depth_filepath=str(folder / "objects.npy")),
        dict(filepath=picture, depth_filepath=str(folder / "tall.npy")),
        dict(filepath=picture, depth_filepath=str(folder / "no_depth.exr")),
        dict(filepath=picture, depth_filepath=str(folder / "depth.npy"), near=5.0, far=1.0),
        dict(filepath=picture),  # no Python chosen yet
        dict(),
    ]
    for settings in bad:
        try:
            bpy.ops.marigold.depth_mesh(**settings)
        except RuntimeError as error:
            words = str(error).removeprefix("Error: ").strip()
        else:
            raise AssertionError(f"{settings} went through")
        assert "Traceback" not in words and len(words.splitlines()) == 1, words
        assert not meshes() and not bpy.data.meshes, settings


@scenario
def three_points_lie_on_the_ground(folder: Path, python: str) -> None:
    # A floor one metre below a camera that looks 35 degrees down: z = 1 / (y cos + sin).
    height, width = 60, 80
    y = (np.arange(height) + 0.5 - height / 2) / (width / 2) * np.tan(np.radians(25))
    tilt = np.radians(35)
    z = 1 / (y * np.cos(tilt) + np.sin(tilt))
    depth = np.repeat(((z - z.min()) / (z.max() - z.min()))[:, None], width, axis=1)
    np.save(folder / "floor.npy", depth.astype(np.float32))
    obj = depth_mesh(
        folder, filepath="", depth_filepath=str(folder / "floor.npy"), near=z.min(), far=z.max()
    )
    assert not bpy.ops.marigold.align_ground.poll()
    for spot in [(0.1, 0.1), (0.9, 0.1), (0.5, 0.9), (0.3, 0.5)]:
        obj.marigold_known.floor.add().at = spot
    assert bpy.ops.marigold.align_ground() == {"FINISHED"}
    bpy.context.view_layer.update()
    _, points, _ = evaluated(obj)
    world = points @ np.array(obj.matrix_world.to_3x3()).T + np.array(obj.matrix_world.translation)
    assert abs(world[:, 2]).max() < 0.02, "the floor is the ground"
    assert np.isclose(obj.matrix_world.translation.z, 1.0, atol=0.02), "the camera stands above it"


@scenario
def photographs_stand_upright(folder: Path, python: str) -> None:
    upright = np.load(folder / "upright.npy")
    for k in range(1, 9):
        image = part("mesh.picture").load_picture(str(folder / f"turned_{k}.jpg"), pack=True)
        pixels = np.empty(len(image.pixels), dtype=np.float32)
        image.pixels.foreach_get(pixels)
        seen = pixels.reshape(image.size[1], image.size[0], -1)[::-1, :, :3]
        assert seen.shape == upright.shape, k
        assert abs(seen - upright).mean() < 0.05, k


@scenario
def turned_pictures_of_other_formats(folder: Path, python: str) -> None:
    upright = np.load(folder / "upright.npy")
    for name in ("turned.webp", "turned.png", "turned.tif"):
        image = part("mesh.picture").load_picture(str(folder / name), pack=True)
        seen = part("mesh.picture").image_pixels(image) / 255
        assert seen.shape == upright.shape and abs(seen - upright).mean() < 0.05, name
        assert part("mesh.depth_object").object_name(image.name) == "turned"
        bpy.data.images.remove(image)
    # 28 mm on a 36 x 24 mm frame, whose diagonal is 43.27 mm; the picture is 4 : 3.
    lens = part("mesh.picture").load_picture(str(folder / "lens.jpg"), pack=False)
    fov = part("mesh.picture").field_of_view_of(lens)
    assert np.isclose(fov, 2 * np.arctan(0.5 * 64 / (28 * 80 / 43.2666)), rtol=1e-3)


@scenario
def the_users_scene_stays(folder: Path, python: str) -> None:
    scene = bpy.context.scene
    data = bpy.data.cameras.new("mine")
    mine = bpy.data.objects.new("mine", data)
    scene.collection.objects.link(mine)
    scene.camera = mine
    scene.render.resolution_x, scene.render.resolution_y = 800, 300
    scene.view_settings.view_transform = "AgX"
    obj = depth_mesh(folder)
    assert scene.camera == mine and obj.children[0].type == "CAMERA"
    assert (scene.render.resolution_x, scene.render.resolution_y) == (800, 300)
    assert scene.view_settings.view_transform == "AgX"
    bpy.context.view_layer.objects.active = obj.children[0]
    assert bpy.ops.marigold.bake.poll(), "the panel stays while the camera is selected"
    depth_mesh(folder, replace_camera=True)
    assert scene.camera != mine and scene.render.resolution_x == 64


@scenario
def depth_is_saved_as_distances(folder: Path, python: str) -> None:
    depth_mesh(folder, near=2.0, far=6.0)
    assert bpy.ops.marigold.save_depth(filepath=str(folder / "out.exr")) == {"FINISHED"}
    read = part("mesh.depth_file").read_depth_file(str(folder / "out.exr"))
    depth = np.load(folder / "depth.npy")
    seen = np.isfinite(depth)
    metres = read.near + read.depth * (read.far - read.near)
    assert (np.isnan(metres) == ~seen).all()
    assert np.allclose(metres[seen], 2 + 4 * depth[seen], rtol=1e-5)


@scenario
def objects_stand_in_the_photograph(folder: Path, python: str) -> None:
    """Insert CG: the render is the picture, with a ball on it and its shadow."""
    scene = bpy.context.scene
    bpy.context.preferences.edit.use_global_undo = True
    obj = depth_mesh(folder, filepath=str(folder / "white.png"), background=True,
                     depth_filepath=str(folder / "floor.npy"), near=2.0, far=6.0)  # fmt: skip
    bpy.ops.ed.undo_push(message="mesh")
    assert bpy.ops.marigold.insert_cg() == {"FINISHED"}
    where = part("mesh.picked_points").picture_point(obj, (0.5, 0.35)).position
    bpy.ops.mesh.primitive_uv_sphere_add(radius=0.3, location=obj.matrix_world @ where)
    ball = bpy.context.object
    ball.location.z += 0.3
    scene.cycles.samples, scene.cycles.use_denoising = 32, False
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.image_settings.file_format = "PNG"
    scene.render.filepath = str(folder / "cg.png")
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(folder / "cg.png"))
    pixels = np.empty(len(image.pixels), dtype=np.float32)
    image.pixels.foreach_get(pixels)
    seen = pixels.reshape(48, 64, -1)[::-1, :, :3] * 255
    changed = abs(seen - 200).max(axis=2) > 12
    assert 0.02 < changed.mean() < 0.6, "neither a ball nor a shadow, or no photograph"
    assert abs(seen[~changed] - 200).mean() < 4
    shadow = changed & (seen.max(axis=2) < 188)
    assert shadow.sum() > 10
    camera = scene.camera
    assert camera.data.background_images[0].image.name == "white.png"
    assert scene.render.film_transparent and obj.is_shadow_catcher
    bpy.ops.ed.undo_push(message="cg")
    while scene.render.film_transparent:
        assert bpy.ops.ed.undo() == {"FINISHED"}
        scene = bpy.context.scene
    assert not [o for o in bpy.data.objects if o.type == "LIGHT"]
    assert not meshes()[0].is_shadow_catcher


@scenario
def views_and_asset(folder: Path, python: str) -> None:
    obj = depth_mesh(folder)
    outputs = [n for n in obj.active_material.node_tree.nodes if n.type == "OUTPUT_MATERIAL"]
    assert {n.name for n in outputs} == {"Unlit", "Lit", "Depth"}
    assert [n.name for n in outputs if n.is_active_output] == ["Unlit"]
    assert bpy.ops.marigold.show(view="Depth") == {"FINISHED"}
    assert [n.name for n in outputs if n.is_active_output] == ["Depth"]
    assert bpy.ops.marigold.mark_asset() == {"FINISHED"}
    assert obj.asset_data is not None and tuple(obj.preview.image_size) == (256, 256)
    assert any(obj.preview.image_pixels_float)
