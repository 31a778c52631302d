"""The add-on with its worker and the bundled checkpoint."""

from __future__ import annotations

import os
import sys
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
    use_engine,
)


@scenario
def the_worker_makes_the_depth(folder: Path, python: str) -> None:
    from marigold_core.geometry.grid import depth_to_mesh

    use_engine(python)
    settings = dict(ensemble_size=2, num_inference_steps=1, near=2.0, far=6.0)
    obj = depth_mesh(folder, depth_filepath="", **settings)
    d = np.empty(48 * 64, dtype=np.float32)
    obj.data.attributes["d"].data.foreach_get("value", d)
    assert np.isfinite(d).all() and 0 <= d.min() < d.max() <= 1
    reference = depth_to_mesh(d.reshape(48, 64), near=2.0, far=6.0, border=True)
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

    engine = part("backend.engine_session").running_engine()
    assert engine.state == "ready"
    assert bpy.ops.marigold.unload() == {"FINISHED"} and engine.state == "stopped"


@scenario
def the_preferences_test_a_python(folder: Path, python: str) -> None:
    setup = part("ui.operators.background").setup
    use_engine(python)
    assert bpy.ops.marigold.test_python() == {"FINISHED"}
    assert "torch" in setup.message and "cpu" in setup.message and not setup.running
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
def an_environment_made_of_wheels_runs_the_engine(folder: Path, python: str) -> None:
    chosen = bpy.context.preferences.addons[ADDON].preferences
    chosen.python_source, chosen.device = "MADE", "CPU"
    chosen.wheel_folder = str(folder / "wheels")
    assert bpy.ops.marigold.make_environment() == {"FINISHED"}
    made = part("backend.engine_session").chosen_python()
    assert made.startswith(str(folder / "blender")) and made != python
    depth_mesh(folder, depth_filepath="", num_inference_steps=1, ensemble_size=1)
    assert bpy.ops.marigold.unload() == {"FINISHED"}
    assert bpy.ops.marigold.remove_environment() == {"FINISHED"}
    assert not os.path.exists(made)


@scenario
def a_killed_worker_is_an_error_message(folder: Path, python: str) -> None:
    import signal

    use_engine(python)
    session = part("backend.engine_session")
    job = session.submit("depth", {"model": session.model(), "image": str(folder / "picture.png")})
    session.submit("status").wait()
    os.kill(session.running_engine().pid, signal.SIGKILL)
    job.wait()
    assert job.state == "failed" and len(job.error.splitlines()) == 1, job
    depth_mesh(folder, depth_filepath="", num_inference_steps=1)
    assert len(meshes()) == 1


@scenario
def another_estimate_keeps_the_mesh(folder: Path, python: str) -> None:
    use_engine(python)
    quick = dict(depth_filepath="", num_inference_steps=1, background=True)
    obj = depth_mesh(folder, **quick)
    obj.location, obj.rotation_euler = (3, 1, 2), (1, 0, 1)
    part("mesh.shape_inputs").set_inputs(obj, near=2.0, far=9.0, tear=False)
    material, camera = obj.active_material, obj.children[0]
    name = obj.data.name
    before = [value.value for value in obj.data.attributes["d"].data]
    again = depth_mesh(folder, seed=5, update=True, **quick)
    assert again == obj and meshes() == [obj] and obj.data.name == name
    assert [value.value for value in obj.data.attributes["d"].data] != before
    assert tuple(obj.location) == (3, 1, 2) and obj.children[0] == camera
    assert obj.active_material == material and len(bpy.data.meshes) == 1
    get = part("mesh.shape_inputs").get_input
    assert (get(obj, "Near"), get(obj, "Far"), get(obj, "Tear")) == (2.0, 9.0, False)

    # A painted mask leaves out what is black.
    mask = bpy.data.images.new("painted", 32, 24)
    pixels = np.ones((24, 32, 4), dtype=np.float32)
    pixels[12:, :16, :3] = 0  # rows from the bottom up: the upper left quarter
    mask.pixels.foreach_set(pixels.ravel())
    masked = depth_mesh(folder, mask="painted", **{**quick, "background": False})
    d = np.empty(48 * 64, dtype=np.float32)
    masked.data.attributes["d"].data.foreach_get("value", d)
    left_out = d.reshape(48, 64) > 1e30
    assert left_out[:24, :32].all() and left_out.sum() == 24 * 32


@scenario
def pressing_again_updates_in_place(folder: Path, python: str) -> None:
    use_engine(python)
    quick = dict(depth_filepath="", num_inference_steps=1, background=True, update=True)
    inputs = part("mesh.shape_inputs")
    obj = depth_mesh(folder, **quick)
    assert bpy.ops.marigold.show(view="Depth") == {"FINISHED"}
    inputs.set_inputs(obj, tear_ratio=1.4)
    materials = [slot.material for slot in obj.material_slots]
    images = len(bpy.data.images)
    again = depth_mesh(folder, ensemble_size=2, seed=3, **quick)
    assert again == obj and meshes() == [obj], "a second mesh of the same picture"
    assert [slot.material for slot in obj.material_slots][: len(materials)] == materials
    assert len(bpy.data.images) == images and len(bpy.data.materials) == len(obj.material_slots)
    of_material = part("mesh.picture_material")
    assert {of_material.shown(slot.material) for slot in obj.material_slots} == {"Depth"}
    assert all("Uncertainty" in of_material.views(slot.material) for slot in obj.material_slots)
    assert np.isclose(inputs.get_input(obj, "Tear Ratio"), 1.4)
    depth_mesh(folder, **quick)
    assert not any("Uncertainty" in of_material.views(s.material) for s in obj.material_slots)
    # With a depth file it is another source; metres come with their distances.
    of_file = depth_mesh(folder, update=True)
    assert of_file != obj and len(meshes()) == 2
    again = depth_mesh(folder, update=True)
    assert again == of_file and len(meshes()) == 2
    assert bpy.ops.marigold.bake() == {"FINISHED"}
    assert depth_mesh(folder, update=True) != of_file, "baked geometry is the user's own"


@scenario
def a_mesh_goes_into_the_scene_where_it_was_started(folder: Path, python: str) -> None:
    first = bpy.context.scene
    collection = bpy.data.collections.new("sets")
    first.collection.children.link(collection)
    layer = bpy.context.view_layer.layer_collection.children["sets"]
    bpy.context.view_layer.active_layer_collection = layer
    other = bpy.data.scenes.new("other")
    use_engine(python)
    run = part("ui.operators.background").run
    advance = type(run).advance

    def switch_then_advance(activity):
        bpy.context.window.scene = other
        return advance(activity)

    type(run).advance = switch_then_advance
    try:
        assert bpy.ops.marigold.depth_mesh(
            filepath=str(folder / "picture.png"), num_inference_steps=1
        ) == {"FINISHED"}
    finally:
        type(run).advance = advance
    assert bpy.context.window.scene == other, "the test switched"
    (obj,) = meshes()
    assert obj.name in collection.objects and not other.collection.all_objects
    assert first.camera == obj.children[0] and other.camera is None
    assert (other.render.resolution_x, other.render.resolution_y) == (1920, 1080)


@scenario
def the_example_can_be_run_again(folder: Path, python: str) -> None:
    use_engine(python)
    example = str(part("backend.engine_session").EXAMPLE)
    assert bpy.ops.marigold.depth_mesh(filepath=example) == {"FINISHED"}
    settings = bpy.context.scene.marigold
    assert settings.picture == example
    settings.quality = "DRAFT"
    again = dict(filepath=settings.picture, update=True)  # as the button does
    assert bpy.ops.marigold.depth_mesh(**again) == {"FINISHED"} and len(meshes()) == 1


@scenario
def qualities_and_the_engines_python(folder: Path, python: str) -> None:
    settings = bpy.context.scene.marigold
    chosen = bpy.context.preferences.addons[ADDON].preferences
    names = ("num_inference_steps", "ensemble_size", "processing_resolution")
    assert settings.quality == "GOOD"
    for checkpoint, quality, values in (
        ("v1-1", "DRAFT", (1, 1, 384)),
        ("v1-1", "BEST", (0, 10, 0)),
        ("nano", "BEST", (4, 10, 0)),
        ("nano", "GOOD", (0, 0, 0)),
    ):
        chosen.checkpoint = checkpoint
        settings.quality = quality
        assert tuple(getattr(settings, name) for name in names) == values
        assert settings.quality == quality
    settings.num_inference_steps = 7
    assert settings.quality == "CUSTOM"

    session = part("backend.engine_session")
    assert "no Python" in session.engine_problem()
    made = folder / "made" / "bin"
    made.mkdir(parents=True)
    (made / "python").write_text("")
    chosen.python = str(folder / "made")  # its folder
    assert session.chosen_python() == str(made / "python") and not session.engine_problem()
    chosen.python = str(folder / "gone")
    assert "no Python at" in session.engine_problem()
    chosen.python_source = "MADE"
    assert "Make" in session.engine_problem()
    suggested = part("ui.preferences")._names("depth")(chosen, bpy.context, "")
    assert suggested == ["nano", "v1-1", "v1-0", "lcm", "e2e"]


def iter_of(task):
    yield task


@scenario
def a_run_ends_with_its_file_and_with_the_add_on(folder: Path, python: str) -> None:
    import time

    import addon_utils

    use_engine(python)
    session = part("backend.engine_session")
    params = {"model": session.model(), "image": str(folder / "picture.png")}
    run = part("ui.operators.background").run
    job = session.submit("depth", {**params, "ensemble_size": 20})
    run.begin(iter_of(job))
    empty_scene()
    assert job.state == "cancelled" and not run.running
    job = session.submit("depth", params)
    job.wait()
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
    read = part("mesh.depth_file").read_depth_file
    depth_folder = Path(bpy.utils.user_resource("DATAFILES")) / "marigold_depth" / "clip"
    assert sorted(path.name for path in frames.iterdir()) == [f"shot_00{k}.png" for k in (7, 8, 9)]
    part("mesh.shape_inputs").set_inputs(obj, tear=False)
    for k in (1, 2, 3):
        bpy.context.scene.frame_set(k)
        depth = read(str(depth_folder / f"depth_{k:04d}.exr")).depth
        _, points, _ = evaluated(obj)
        assert np.allclose(-points[:, 2], 1 + 2 * depth.ravel(), rtol=1e-5), k
    assert bpy.context.scene.frame_end == 3
    texture = next(n for n in obj.active_material.node_tree.nodes if n.type == "TEX_IMAGE")
    assert texture.image.source == "SEQUENCE" and texture.image_user.frame_offset == 6
