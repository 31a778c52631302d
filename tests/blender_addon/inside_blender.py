"""What is tried inside a real Blender; `test_in_blender.py` starts it as a program.

    BLENDER_USER_RESOURCES=EMPTY BLENDER_PYTHON inside_blender.py SCENARIO ZIP FOLDER ENGINE_PYTHON

FOLDER holds the pictures and depth files that the test made. A scenario that fails raises.
"""

from __future__ import annotations

import os
import sys
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
    import importlib

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
    settings = {"filepath": str(folder / "picture.png"), **settings}
    if "depth_filepath" not in settings:
        settings["depth_filepath"] = str(folder / "depth.npy")
    assert bpy.ops.marigold.depth_mesh(**settings) == {"FINISHED"}
    return bpy.context.active_object


def expected(folder: Path, **settings):
    from marigold_core.geometry import depth_to_mesh

    depth = np.load(folder / "depth.npy")
    return depth_to_mesh(depth, mask=np.isfinite(depth), **settings)


@scenario
def live_shape_is_the_engines_geometry(folder: Path, python: str) -> None:
    from marigold_core.geometry import default_tear_ratio

    set_inputs = part("shape_inputs").set_inputs
    obj = depth_mesh(folder)
    default = expected(folder)
    cases = [
        ({}, {}),
        (dict(near=2.0, far=30.0), dict(near=2.0, far=30.0)),
        (dict(field_of_view=np.radians(80.0)), dict(fov_degrees=80.0)),
        (dict(tear_ratio=1.3), dict(tear_ratio=1.3)),
        (dict(tear=False), dict(tear_ratio=np.inf)),
        # The relief scales the span from near to far.
        (dict(tear=True, relief=0.5), dict(far=16.0, tear_ratio=1.3)),
    ]
    given = {"tear_ratio": default_tear_ratio(48, 64)}  # it stays as the field of view changes
    for inputs, settings in cases:
        set_inputs(obj, **inputs)
        given = {**given, **settings}
        mesh, points, corners = evaluated(obj)
        reference = expected(folder, **{"near": 1.0, **given})
        wanted = reference.vertices * np.array([1, -1, -1], dtype=np.float32)
        assert points.shape == wanted.shape, (inputs, points.shape, wanted.shape)
        assert np.allclose(points, wanted, rtol=1e-6, atol=1e-6), inputs
        assert (corners.reshape(-1, 4) == reference.faces).all(), inputs
    assert len(default.vertices) < 48 * 64, "the test's depth map has a hole"
    uv = np.empty(len(corners) * 2, dtype=np.float32)
    mesh.attributes["UVMap"].data.foreach_get("vector", uv)
    assert np.allclose(uv.reshape(-1, 2), reference.uvs[corners], atol=1e-6)
    for name, values in (("d", np.load(folder / "depth.npy").ravel()[reference.pixels]),
                         ("depth", reference.vertices[:, 2])):  # fmt: skip
        stored = np.empty(len(points), dtype=np.float32)
        mesh.attributes[name].data.foreach_get("value", stored)
        assert np.allclose(stored, values, rtol=1e-6), name


@scenario
def base_mesh_is_valid(folder: Path, python: str) -> None:
    obj = depth_mesh(folder)
    assert not obj.data.validate(verbose=True), "Blender had to mend the mesh"
    assert len(obj.data.polygons) == 47 * 63
    assert len(obj.data.edges) == 48 * 63 + 47 * 64
    budget = depth_mesh(folder, vertex_budget=500)
    assert 350 < len(budget.data.vertices) <= 500


@scenario
def resolution_picks_rows_and_columns(folder: Path, python: str) -> None:
    obj = depth_mesh(folder)
    part("shape_inputs").set_inputs(obj, resolution=50.0, tear=False)
    mesh, points, corners = evaluated(obj)
    rows = np.floor(np.linspace(0, 47, 24) + 0.5).astype(int)
    columns = np.floor(np.linspace(0, 63, 32) + 0.5).astype(int)
    reference = expected(folder, tear_ratio=np.inf)
    where = {int(pixel): k for k, pixel in enumerate(reference.pixels)}
    pixels = [r * 64 + c for c in columns for r in rows[::-1] if r * 64 + c in where]
    wanted = reference.vertices[[where[p] for p in pixels]] * np.array([1, -1, -1], np.float32)
    assert len(points) == len(wanted), (len(points), len(wanted))
    assert np.allclose(points, wanted, rtol=1e-5, atol=1e-5)
    assert "UVMap" in mesh.attributes and mesh.polygons[0].normal.z > 0


@scenario
def smoothing_stays_on_its_side_of_a_tear(folder: Path, python: str) -> None:
    depth = np.full((40, 60), 0.8, dtype=np.float32)
    depth[:, 30:] = 0.1
    np.save(folder / "step.npy", depth + 1e-3 * np.random.default_rng(0).random(depth.shape))
    obj = depth_mesh(folder, filepath="", depth_filepath=str(folder / "step.npy"))
    rough = evaluated(obj)[1][:, 2]
    part("shape_inputs").set_inputs(obj, smoothing=20)
    smooth = evaluated(obj)[1][:, 2]
    assert len(rough) == len(smooth) == 40 * 60
    side = smooth < -3
    assert smooth[side].std() < 0.5 * rough[side].std()
    assert smooth[side].max() < -4.1 and smooth[~side].min() > -1.5


@scenario
def flat_displacement(folder: Path, python: str) -> None:
    obj = depth_mesh(folder, flat=True, near=1.0, far=3.0)
    _, points, _ = evaluated(obj)
    reference = expected(folder, near=1.0, far=3.0)
    # The picture lies as large as the view is at the distance far, each pixel pushed by its depth.
    flat = reference.vertices / reference.vertices[:, 2:] * 3.0
    assert np.allclose(points[:, :2], flat[:, :2] * [1, -1], atol=1e-5)
    assert np.allclose(points[:, 2], -reference.vertices[:, 2], rtol=1e-6)
    camera = obj.children[0].evaluated_get(bpy.context.evaluated_depsgraph_get()).data
    assert camera.type == "ORTHO"
    assert np.isclose(camera.ortho_scale, 2 * 3.0 * np.tan(np.radians(25)), rtol=1e-5)


@scenario
def solid_is_closed(folder: Path, python: str) -> None:
    import bmesh

    obj = depth_mesh(folder, solid=True)
    mesh, points, _ = evaluated(obj)
    body = bmesh.new()
    body.from_mesh(mesh)
    assert not [e for e in body.edges if len(e.link_faces) % 2], "the body has an open border"
    assert body.calc_volume(signed=True) > 0, "its faces look inwards"
    assert np.isclose(points[:, 2].min(), -5.2, rtol=1e-5)


def render_depth(obj: bpy.types.Object, size: tuple[int, int], path: Path) -> None:
    scene = bpy.context.scene
    assert scene.camera is not None and scene.camera.parent == obj
    assert (scene.render.resolution_x, scene.render.resolution_y) == size
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 1
    scene.cycles.pixel_filter_type = "BOX"
    scene.cycles.filter_width = 0.01  # the ray through the pixel's middle
    scene.cycles.use_denoising = False
    scene.view_layers[0].use_pass_z = True
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format = "OPEN_EXR_MULTILAYER"
    settings.color_depth = "32"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)


@scenario
def rendered_depth_is_the_source(folder: Path, python: str) -> None:
    waves = np.load(folder / "waves.npy")
    np.save(folder / "upright_waves.npy", np.ascontiguousarray(waves.T))
    settings = dict(fov=np.radians(62.0), near=1.5, far=9.0)
    obj = depth_mesh(folder, depth_filepath=str(folder / "waves.npy"), **settings)
    part("shape_inputs").set_inputs(obj, tear=False)
    # Whoever moves the mesh moves its camera.
    obj.location, obj.rotation_euler = (3, -2, 1), (1.2, 0.3, 2.0)
    render_depth(obj, (64, 48), folder / "rendered.exr")
    obj.hide_render = True
    portrait = depth_mesh(
        folder, filepath="", depth_filepath=str(folder / "upright_waves.npy"), **settings
    )
    part("shape_inputs").set_inputs(portrait, tear=False)
    render_depth(portrait, (48, 64), folder / "rendered_upright.exr")


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
def bake_keeps_the_shape(folder: Path, python: str) -> None:
    obj = depth_mesh(folder)
    part("shape_inputs").set_inputs(obj, near=3.0, far=8.0)
    wanted = evaluated(obj)[1]
    lens = obj.children[0].evaluated_get(bpy.context.evaluated_depsgraph_get()).data.lens
    assert bpy.ops.marigold.bake() == {"FINISHED"}
    assert not obj.modifiers and not obj.children[0].data.animation_data.drivers
    assert (evaluated(obj)[1] == wanted).all() and obj.active_material is not None
    assert np.isclose(obj.children[0].data.lens, lens)
    assert not bpy.ops.marigold.bake.poll()


@scenario
def depth_files_of_every_kind(folder: Path, python: str) -> None:
    depth = np.load(folder / "plain.npy")
    for name in ("plain.png", "plain.exr", "plain.tif", "plain.npy"):
        read = part("depth_file").read_depth_file(str(folder / name))
        assert abs(read.depth - depth).max() < 1e-5, name
    metres = part("depth_file").read_depth_file(str(folder / "metres.npy"))
    assert np.isclose([metres.near, metres.far], [2 + 3 * depth.min(), 2 + 3 * depth.max()]).all()
    obj = depth_mesh(folder, depth_filepath=str(folder / "metres.npy"))
    assert np.allclose(evaluated(obj)[1][:, 2].min(), -(2 + 3 * depth.max()), rtol=1e-5)


@scenario
def mistakes_are_one_sentence(folder: Path, python: str) -> None:
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
        dict(filepath=picture, depth_filepath=str(folder / "z_alone.exr")),
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
def two_distances_set_near_and_far(folder: Path, python: str) -> None:
    obj = depth_mesh(folder, near=2.0, far=10.0)
    _, points, _ = evaluated(obj)
    height, width = obj["marigold_size"]
    # Two pixels whose distances from the camera are known from the mesh itself.
    reference = expected(folder, near=2.0, far=10.0)
    spots, distances = [], []
    for pixel in (5 * width + 5, 24 * width + 30):
        k = int(np.flatnonzero(reference.pixels == pixel)[0])
        spots.append(tuple(float(x) for x in reference.uvs[k]))
        distances.append(float(np.linalg.norm(reference.vertices[k])))
    part("shape_inputs").set_inputs(obj, near=1.0, far=3.0)
    assert bpy.ops.marigold.calibrate(
        point_1=spots[0], distance_1=distances[0], point_2=spots[1], distance_2=distances[1]
    ) == {"FINISHED"}
    get = part("shape_inputs").get_input
    assert np.isclose([get(obj, "Near"), get(obj, "Far")], [2, 10], rtol=1e-4).all()


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
    spots = [(0.1, 0.1), (0.9, 0.1), (0.5, 0.9)]
    assert bpy.ops.marigold.align_ground(point_1=spots[0], point_2=spots[1], point_3=spots[2]) == {
        "FINISHED"
    }
    bpy.context.view_layer.update()
    _, points, _ = evaluated(obj)
    world = points @ np.array(obj.matrix_world.to_3x3()).T + np.array(obj.matrix_world.translation)
    assert abs(world[:, 2]).max() < 0.02, "the floor is the ground"
    assert np.isclose(obj.matrix_world.translation.z, 1.0, atol=0.02), "the camera stands above it"


@scenario
def photographs_stand_upright(folder: Path, python: str) -> None:
    upright = np.load(folder / "upright.npy")
    for k in range(1, 9):
        image = part("picture").load_picture(str(folder / f"turned_{k}.jpg"), pack=True)
        pixels = np.empty(len(image.pixels), dtype=np.float32)
        image.pixels.foreach_get(pixels)
        seen = pixels.reshape(image.size[1], image.size[0], -1)[::-1, :, :3]
        assert seen.shape == upright.shape, k
        assert abs(seen - upright).mean() < 0.05, k


@scenario
def views_and_asset(folder: Path, python: str) -> None:
    obj = depth_mesh(folder)
    outputs = [n for n in obj.active_material.node_tree.nodes if n.type == "OUTPUT_MATERIAL"]
    assert {n.name for n in outputs} == {"Picture", "Unlit", "Depth"}
    assert bpy.ops.marigold.show(view="Depth") == {"FINISHED"}
    assert [n.name for n in outputs if n.is_active_output] == ["Depth"]
    assert bpy.ops.marigold.mark_asset() == {"FINISHED"}
    assert obj.asset_data is not None and tuple(obj.preview.image_size) == (256, 256)
    assert any(obj.preview.image_pixels_float)


def use_engine(python: str) -> None:
    chosen = bpy.context.preferences.addons[ADDON].preferences
    chosen.python, chosen.device = python, "CPU"


@scenario
def the_worker_makes_the_depth(folder: Path, python: str) -> None:
    from marigold_core.geometry import depth_to_mesh

    use_engine(python)
    settings = dict(ensemble_size=2, num_inference_steps=1, near=2.0, far=6.0)
    obj = depth_mesh(folder, depth_filepath="", **settings)
    d = np.empty(48 * 64, dtype=np.float32)
    obj.data.attributes["d"].data.foreach_get("value", d)
    assert np.isfinite(d).all() and 0 <= d.min() < d.max() <= 1
    reference = depth_to_mesh(d.reshape(48, 64), near=2.0, far=6.0)
    _, points, corners = evaluated(obj)
    assert (corners.reshape(-1, 4) == reference.faces).all()
    assert np.allclose(points, reference.vertices * [1, -1, -1], rtol=1e-6, atol=1e-6)
    spread = np.empty(48 * 64, dtype=np.float32)
    obj.data.attributes["uncertainty"].data.foreach_get("value", spread)
    assert spread.max() > 0
    assert bpy.ops.marigold.show(view="Uncertainty") == {"FINISHED"}

    # The same seed is the same depth; a picture in memory goes the same way as a file.
    image = bpy.data.images.load(str(folder / "picture.png"))
    again = depth_mesh(folder, filepath="", depth_filepath="", image=image.name, **settings)
    other = np.empty(48 * 64, dtype=np.float32)
    again.data.attributes["d"].data.foreach_get("value", other)
    assert np.allclose(d, other, atol=1e-5)

    engine = part("engine_session").running_engine()
    assert engine.state == "ready"
    assert bpy.ops.marigold.unload() == {"FINISHED"} and engine.state == "stopped"


@scenario
def the_preferences_test_a_python(folder: Path, python: str) -> None:
    setup = part("operators.environment").setup
    use_engine(python)
    assert bpy.ops.marigold.test_python() == {"FINISHED"}
    assert "torch" in setup.words and "cpu" in setup.words and not setup.running
    for path in (sys.executable, str(folder / "no" / "python")):
        use_engine(path)
        try:
            bpy.ops.marigold.test_python()
        except RuntimeError as error:
            assert "Traceback" not in str(error)
        else:
            raise AssertionError(f"{path} passed")
    chosen = bpy.context.preferences.addons[ADDON].preferences
    chosen.python_source = "MADE"
    assert not bpy.ops.marigold.remove_environment.poll()
    # Nothing downloads while Blender is offline; from wheels on disk it may be made.
    assert bpy.app.online_access is False and not bpy.ops.marigold.make_environment.poll()
    chosen.wheel_folder = str(folder)
    assert bpy.ops.marigold.make_environment.poll()
    chosen.checkpoint = "v1-1"
    assert not bpy.ops.marigold.download_checkpoint.poll()


@scenario
def a_killed_worker_is_a_sentence(folder: Path, python: str) -> None:
    import signal

    use_engine(python)
    session = part("engine_session")
    job = session.submit("depth", {"model": session.model(), "image": str(folder / "picture.png")})
    session.engine().wait(session.submit("status"))
    os.kill(session.running_engine().pid, signal.SIGKILL)
    session.engine().wait(job)
    assert job.state == "failed" and len(job.error.splitlines()) == 1, job
    depth_mesh(folder, depth_filepath="", num_inference_steps=1)
    assert len(meshes()) == 1


@scenario
def a_run_ends_with_its_file_and_with_the_add_on(folder: Path, python: str) -> None:
    import time

    import addon_utils

    use_engine(python)
    session = part("engine_session")
    params = {"model": session.model(), "image": str(folder / "picture.png")}
    job = session.submit("depth", {**params, "ensemble_size": 20})
    session.activity.begin("Depth Mesh", 1)
    empty_scene()
    assert job.state == "cancelled" and not session.activity.running
    job = session.submit("depth", params)
    session.engine().wait(job)
    assert job.state == "done", job.error
    session.submit("depth", {**params, "ensemble_size": 20})
    process = session.running_engine().pid
    addon_utils.disable(ADDON)
    assert session.running_engine() is None
    end = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{process}/cwd").exists(), "the worker outlived the add-on"


@scenario
def a_folder_becomes_a_collection(folder: Path, python: str) -> None:
    use_engine(python)
    pictures = folder / "Bilder äöü 絵"
    pictures.mkdir()
    for name in ("one.png", "two.png"):
        (pictures / name).write_bytes((folder / "picture.png").read_bytes())
    (pictures / "broken.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no picture either")
    assert bpy.ops.marigold.batch(directory=str(pictures), num_inference_steps=1) == {"FINISHED"}
    collection = bpy.data.collections[pictures.name]
    assert [o.name for o in collection.objects if o.type == "MESH"] == ["one", "two"]
    one, two = (bpy.data.objects[name] for name in ("one", "two"))
    assert two.location.x > one.location.x + 1


@scenario
def a_sequence_is_one_animated_mesh(folder: Path, python: str) -> None:
    use_engine(python)
    frames = folder / "clip"
    frames.mkdir()
    for k in (7, 8, 9):
        (frames / f"shot_{k:03d}.png").write_bytes((folder / f"frame_{k}.png").read_bytes())
    assert bpy.ops.marigold.sequence(
        directory=str(frames), num_inference_steps=1, near=1.0, far=3.0
    ) == {"FINISHED"}
    (obj,) = meshes()
    read = part("depth_file").read_depth_file
    part("shape_inputs").set_inputs(obj, tear=False)
    for k in (1, 2, 3):
        bpy.context.scene.frame_set(k)
        depth = read(str(frames / "marigold_depth" / f"depth_{k:04d}.exr")).depth
        _, points, _ = evaluated(obj)
        assert np.allclose(-points[:, 2], 1 + 2 * depth.ravel(), rtol=1e-5), k
    assert bpy.context.scene.frame_end == 3
    texture = next(n for n in obj.active_material.node_tree.nodes if n.type == "TEX_IMAGE")
    assert texture.image.source == "SEQUENCE" and texture.image_user.frame_offset == 6


def main() -> None:
    name, archive, folder, python = sys.argv[1:5]
    install(Path(archive))
    empty_scene()
    bpy.context.preferences.filepaths.file_preview_type = "NONE"
    SCENARIOS[name](Path(folder), python)
    session = sys.modules.get(f"{ADDON}.engine_session")
    if session is not None:
        session.stop_engine()
    print("PASSED", name, flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # bpy as a module can crash while Python takes itself down (4.2, after glTF)
