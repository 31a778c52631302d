"""The mesh and its live shape inside Blender, against the engine's geometry."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
from addon_in_blender import (
    depth_mesh,
    evaluated,
    expected,
    part,
    scenario,
)


@scenario
def live_shape_is_the_engines_geometry(folder: Path, python: str) -> None:
    from marigold_core.geometry.points import default_tear_ratio

    set_inputs = part("mesh.shape_inputs").set_inputs
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
    part("mesh.shape_inputs").set_inputs(obj, resolution=50, tear=False)
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
    part("mesh.shape_inputs").set_inputs(obj, smoothing=20)
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
def the_matched_view_is_the_picture(folder: Path, python: str) -> None:
    """No hole and no other colour than on a flat plane, at depth edges as at the border."""
    scene = bpy.context.scene
    obj = depth_mesh(folder, depth_filepath=str(folder / "boxes.npy"), background=True)
    whole = rendered(folder / "whole.png")
    part("mesh.shape_inputs").set_inputs(obj, background=False)
    torn = rendered(folder / "torn.png")
    obj.hide_render = True
    np.save(folder / "flat.npy", np.full((48, 64), 0.5, dtype=np.float32))
    flat = depth_mesh(folder, depth_filepath=str(folder / "flat.npy"))
    plane = rendered(folder / "plane.png")
    assert (torn[..., 3] < 200).mean() > 0.02, "the test has no tear"
    assert (whole[..., 3] >= plane[..., 3] - 1).all(), "a hole shows the background"
    assert abs(whole - plane)[..., :3].mean() < 0.1
    assert whole.shape == (48, 64, 4) and scene.camera.parent == flat
    assert not obj.data.validate(verbose=True), "Blender had to repair the mesh"


@scenario
def the_background_is_behind_and_gives_way(folder: Path, python: str) -> None:
    set_inputs = part("mesh.shape_inputs").set_inputs
    obj = depth_mesh(folder, depth_filepath=str(folder / "boxes.npy"), background=True)

    def faces_behind() -> int:
        return int((face_values(evaluated(obj)[0], "background") > 0).sum())

    whole = faces_behind()
    set_inputs(obj, reach=0.0)
    assert 0 < faces_behind() < whole, "the faces across the tears stay"
    set_inputs(obj, background=False)
    assert not faces_behind()
    # Pressed onto the camera's rays the layer lies behind the front everywhere.
    set_inputs(obj, background=True, reach=1.0)
    mesh, points, corners = evaluated(obj)
    layer = np.unique(corners.reshape(-1, 4)[face_values(mesh, "background") > 0])
    depth = np.load(folder / "boxes.npy")
    at = points[layer]
    half = np.tan(np.radians(25))
    column = (at[:, 0] / -at[:, 2] / half * 32 + 32).clip(0.5, 63.5).astype(int)
    row = (24 - at[:, 1] / -at[:, 2] / half * 32).clip(0.5, 47.5).astype(int)
    assert (-at[:, 2] >= 1 + 4 * depth[row, column] - 1e-4).all()
    assert len({slot.material.name for slot in obj.material_slots}) == 2
    set_inputs(obj, resolution=50)
    assert len(evaluated(obj)[2]) > 0
    assert bpy.ops.marigold.show(view="Depth") == {"FINISHED"}
    shown = part("mesh.picture_material").shown
    assert {shown(slot.material) for slot in obj.material_slots} == {"Depth"}


@scenario
def where_the_layer_meets_the_front_it_shows_the_picture(folder: Path, python: str) -> None:
    """Their faces coincide there: the layer's own colours would be specks in the matched view."""
    depth = np.full((48, 64), 0.3, dtype=np.float32)
    depth[:, 32:] += np.linspace(0, 0.5, 48, dtype=np.float32)[:, None]  # a tear that ends
    np.save(folder / "ends.npy", depth)
    obj = depth_mesh(folder, depth_filepath=str(folder / "ends.npy"), background=True)
    mesh, points, corners = evaluated(obj)
    pixel = np.empty(len(points), dtype=np.int32)
    mesh.attributes["pixel"].data.foreach_get("value", pixel)
    nearest = np.full(depth.size, np.inf)
    np.minimum.at(nearest, pixel, -points[:, 2])
    on_front = (-points[:, 2] <= nearest[pixel] + 1e-6)[corners.reshape(-1, 4)].any(axis=1)
    layer = face_values(mesh, "background") > 2 * part("mesh.depth_grid").ACROSS
    slots = np.empty(len(mesh.polygons), dtype=np.int32)
    mesh.polygons.foreach_get("material_index", slots)
    shown = np.array([material.name for material in mesh.materials])[slots]
    assert (layer & on_front).any() and (layer & ~on_front).any()
    assert set(shown[~layer | on_front]) == {"picture"}
    assert set(shown[layer & ~on_front]) == {"picture Background"}


@scenario
def the_depth_is_seen_in_a_solid_viewport(folder: Path, python: str) -> None:
    """Solid shading draws the picture, whichever output of the material is active."""
    depth_mesh(folder)
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    shading = area.spaces.active.shading
    for before, view, after in (
        ("SOLID", "Unlit", "SOLID"),
        ("SOLID", "Depth", "MATERIAL"),
        ("WIREFRAME", "Lit", "WIREFRAME"),
    ):
        shading.type = before
        with bpy.context.temp_override(window=window, area=area):
            assert bpy.ops.marigold.show(view=view) == {"FINISHED"}
        assert shading.type == after, (before, view, shading.type)


def face_values(mesh: bpy.types.Mesh, name: str) -> np.ndarray:
    values = np.empty(len(mesh.polygons), dtype=np.float32)
    mesh.attributes[name].data.foreach_get("value", values)
    return values


@scenario
def a_tear_that_closes_is_the_front_again(folder: Path, python: str) -> None:
    """The faces across an edge follow the sliders, although the layer has them."""
    set_inputs = part("mesh.shape_inputs").set_inputs
    np.save(folder / "boxes.npy", np.load(folder / "boxes.npy").clip(0.3, 0.8))
    obj = depth_mesh(folder, depth_filepath=str(folder / "boxes.npy"), background=True)
    plain = depth_mesh(folder, depth_filepath=str(folder / "boxes.npy"))
    for inputs in (dict(tear=False), dict(tear=False, smoothing=5), dict(solid=True)):
        for one in (obj, plain):
            set_inputs(one, tear=True, smoothing=0, solid=False)
            set_inputs(one, **inputs)
        (_, ours, _), (_, wanted, _) = evaluated(obj), evaluated(plain)
        assert ours.shape == wanted.shape, inputs
        order = [np.lexsort(np.round(points, 4).T) for points in (ours, wanted)]
        assert np.allclose(ours[order[0]], wanted[order[1]], atol=1e-4), inputs
    # A greater Tear Ratio: the picture's own surface, with the layer's rest behind it.
    set_inputs(obj, solid=False, tear_ratio=4.0)
    mesh, points, corners = evaluated(obj)
    across = corners.reshape(-1, 4)[(0 < (b := face_values(mesh, "background"))) & (b < 2e-6)]
    front = {tuple(p) for p in np.round(points[np.unique(corners.reshape(-1, 4)[b == 0])], 3)}
    assert len(across) > 100
    assert all(tuple(p) in front for p in np.round(points[np.unique(across)], 3))


@scenario
def a_draft_joins_no_objects_and_has_no_hole(folder: Path, python: str) -> None:
    """At 15 % no face of the front spans a tear, and a slope that is whole at 100 % stays whole."""
    set_inputs = part("mesh.shape_inputs").set_inputs
    y, x = np.mgrid[0:48, 0:64]
    depth = 0.3 + 0.009 * y + 0.0 * x
    depth[10:30, 12:30] -= 0.2  # a box that a coarse limit would join to the slope
    depth[20:44, 40:43] = 0.1
    np.save(folder / "slope.npy", depth.astype(np.float32))
    file = str(folder / "slope.npy")
    obj = depth_mesh(folder, depth_filepath=file, background=True)
    full = len(evaluated(obj)[0].polygons)
    for percent in (50, 15):
        set_inputs(obj, resolution=percent)
        mesh, points, corners = evaluated(obj)
        front = corners.reshape(-1, 4)[face_values(mesh, "background") == 0]
        middle = points[front].mean(axis=1)
        half = np.tan(np.radians(25)) / 32
        row = (24 + middle[:, 1] / middle[:, 2] / half).clip(0, 47).astype(int)
        column = (32 - middle[:, 0] / middle[:, 2] / half).clip(0, 63).astype(int)
        assert np.abs((-middle[:, 2] - 1) / 4 - depth[row, column]).max() < 0.04, "joined"
        assert len(mesh.polygons) < full
        seen = rendered(folder / f"draft_{percent}.png")
        assert (seen[1:-1, 1:-1, 3] > 254).all(), "a hole shows the background"


def rendered(path: Path) -> np.ndarray:
    """(H, W, 4), 0 to 255, as the scene's camera sees it, in the colours of the picture."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising = 64, False
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Standard"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(str(path))
    pixels = np.empty(len(image.pixels), dtype=np.float32)
    image.pixels.foreach_get(pixels)
    return pixels.reshape(image.size[1], image.size[0], 4)[::-1] * 255


@scenario
def a_camera_moves_around_the_picture(folder: Path, python: str) -> None:
    scene = bpy.context.scene
    bpy.context.preferences.edit.use_global_undo = True
    obj = depth_mesh(folder, depth_filepath=str(folder / "waves.npy"), near=2.0, far=6.0)
    obj.location, obj.rotation_euler = (1, 2, 3), (1.4, 0, 0.5)
    matched = obj.children[0]
    graph = bpy.context.evaluated_depsgraph_get()
    graph.update()
    home = np.array(matched.evaluated_get(graph).matrix_world)
    middle = 2 + 4 * np.median(np.load(folder / "waves.npy"))
    target = home[:3, 3] - home[:3, 2] * middle
    bpy.ops.ed.undo_push(message="mesh")

    def stands(frame: int) -> np.ndarray:
        scene.frame_set(frame)
        return np.array(scene.camera.evaluated_get(bpy.context.evaluated_depsgraph_get())
                        .matrix_world)  # fmt: skip

    for kind in ("ORBIT", "DOLLY", "PARALLAX"):
        assert bpy.ops.marigold.camera_move(kind=kind, strength=1.0, frames=41) == {"FINISHED"}
        assert (scene.frame_start, scene.frame_end) == (1, 41)
        assert scene.camera != matched and len(bpy.data.cameras) == 2, "it replaces the move"
        for frame in (1, 11, 21, 31, 41):
            world = stands(frame)
            towards = target - world[:3, 3]
            assert -world[:3, 2] @ towards / np.linalg.norm(towards) > 0.9999, (kind, frame)
            if kind != "DOLLY":
                assert np.isclose(np.linalg.norm(towards), middle, rtol=1e-4)
        if kind == "ORBIT":
            between = stands(1)[:3, 2] @ stands(41)[:3, 2]
            assert np.isclose(np.degrees(np.arccos(between)), 30, atol=0.1)
        else:
            assert np.allclose(stands(1), home, atol=1e-4)
        if kind == "PARALLAX":
            assert np.allclose(stands(41), home, atol=1e-4)
            assert not np.allclose(stands(11), home, atol=0.05)
        if kind == "DOLLY":
            assert np.isclose(np.linalg.norm(stands(41)[:3, 3] - home[:3, 3]), 0.7 * 2, atol=1e-3)
    lens = scene.camera.evaluated_get(bpy.context.evaluated_depsgraph_get()).data.lens
    assert np.isclose(lens, 18 / np.tan(np.radians(25)), rtol=1e-4)
    bpy.context.view_layer.objects.active = scene.camera
    assert bpy.ops.marigold.bake.poll(), "the panel stays while the camera is selected"
    bpy.ops.ed.undo_push(message="moves")
    bpy.ops.ed.undo()
    assert len(bpy.data.cameras) == 1 and bpy.context.scene.frame_end == 250


@scenario
def points_are_the_fronts_vertices(folder: Path, python: str) -> None:
    set_inputs = part("mesh.shape_inputs").set_inputs
    obj = depth_mesh(folder, depth_filepath=str(folder / "boxes.npy"), background=True)
    set_inputs(obj, points=True, point_size=1.5)
    graph = bpy.context.evaluated_depsgraph_get()
    graph.update()
    for instance in graph.object_instances:
        if instance.object.type == "POINTCLOUD":
            attributes = instance.object.data.attributes
            points, radius, uv = (
                np.array([getattr(value, field) for value in attributes[name].data])
                for name, field in (
                    ("position", "vector"),
                    ("radius", "value"),
                    ("UVMap", "vector"),
                )
            )
    depth = np.load(folder / "boxes.npy")
    assert 0.98 * depth.size <= len(points) <= depth.size
    assert np.allclose(radius, -points[:, 2] * np.tan(np.radians(25)) / 64 * 1.5, rtol=1e-5)
    row, column = ((1 - uv[:, 1]) * 48 - 0.5).round(), (uv[:, 0] * 64 - 0.5).round()
    at = depth[row.astype(int).clip(0, 47), column.astype(int).clip(0, 63)]
    assert np.allclose(-points[:, 2], 1 + 4 * at, atol=1e-4)
    seen = rendered(folder / "points.png")
    image = bpy.data.images.load(str(folder / "picture.png"))
    pixels = np.empty(len(image.pixels), dtype=np.float32)
    image.pixels.foreach_get(pixels)
    picture = pixels.reshape(48, 64, 4)[::-1] * 255
    covered = seen[..., 3] > 100
    assert covered.mean() > 0.9
    # A sphere covers a pixel and a part of its neighbours: the colours stay correlated.
    same = np.corrcoef(seen[covered][:, :3].ravel(), picture[covered][:, :3].ravel())[0, 1]
    assert same > 0.7, same
    try:
        bpy.ops.marigold.bake()
    except RuntimeError as error:
        assert "Turn Points off" in str(error)
    else:
        raise AssertionError("Bake took a point cloud for a surface")


@scenario
def a_clip_is_rendered_and_the_scenes_output_stays(folder: Path, python: str) -> None:
    scene, render = bpy.context.scene, bpy.context.scene.render
    obj = depth_mesh(folder, depth_filepath=str(folder / "waves.npy"))
    assert not bpy.ops.marigold.render_clip.poll(), "there is no move yet"
    assert bpy.ops.marigold.camera_move(kind="PARALLAX", frames=5) == {"FINISHED"}
    render.engine, scene.cycles.samples = "CYCLES", 1
    frames = folder / "shots"
    frames.mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(frames / "shot.blend"))
    render.filepath, scene.frame_start, scene.frame_end = str(frames / "mine_"), 3, 4
    render.resolution_x, render.resolution_y = 63, 47
    own = part("mesh.matched_camera").camera_of(obj)
    scene.camera = own
    clips = part("ui.operators.render_clip")
    before = clips._values(scene)
    clip, name = frames / "marigold_clips", f"{obj.name}_parallax"
    for made in (f"{name}.mp4", f"{name}_2.mp4"):
        assert bpy.ops.marigold.render_clip() == {"FINISHED"}
        assert (clip / made).stat().st_size > 500 and clips._values(scene) == before
        assert scene.camera == own
    movie = bpy.data.images.load(str(clip / f"{name}.mp4"))
    assert movie.source == "MOVIE" and tuple(movie.size) == (64, 48)
    assert movie.frame_duration == 5
    assert sorted(path.name for path in frames.iterdir()) == ["marigold_clips", "shot.blend"]
    # A Blender without FFmpeg.
    video, clips._writes_video = clips._writes_video, lambda: False
    try:
        assert bpy.ops.marigold.render_clip(directory=str(folder / "png")) == {"FINISHED"}
    finally:
        clips._writes_video = video
    made = sorted(path.name for path in (folder / "png" / name).iterdir())
    assert made == [f"frame_{k:04d}.png" for k in range(1, 6)] and clips._values(scene) == before


@scenario
def a_clip_that_fails_leaves_the_scene_as_it_was(folder: Path, python: str) -> None:
    scene, render = bpy.context.scene, bpy.context.scene.render
    depth_mesh(folder, depth_filepath=str(folder / "waves.npy"))
    assert bpy.ops.marigold.camera_move(frames=2) == {"FINISHED"}
    render.engine, scene.cycles.samples = "CYCLES", 1
    clips = part("ui.operators.render_clip")
    before = clips._values(scene)
    # A file stands where the folder should be.
    assert "picture.png" in refusal(directory=str(folder / "picture.png"))
    assert clips._values(scene) == before
    # Blender cannot write there: as on a full disk, or in a folder of another user.
    nowhere = folder / "nowhere" / "picture_parallax.mp4"
    nowhere.parent.mkdir()
    nowhere.symlink_to(folder / "gone" / "clip.mp4")
    assert refusal(directory=str(nowhere.parent))
    assert clips._values(scene) == before
    # While it renders, the scene cannot be changed or saved with the settings of the clip; a region
    # that is rendered for a test is none of the clip.
    render.use_border = render.use_crop_to_border = True
    render.border_max_x, seen = 0.37, []
    watch = lambda *_: seen.append(render.use_lock_interface)  # noqa: E731
    bpy.app.handlers.render_pre.append(watch)
    try:
        made = bpy.ops.marigold.render_clip(directory=str(folder / "clips"))
    finally:
        bpy.app.handlers.render_pre.remove(watch)
    assert made == {"FINISHED"} and seen == [True, True]
    assert render.use_border and not render.use_lock_interface
    (clip,) = (folder / "clips").iterdir()
    assert tuple(bpy.data.images.load(str(clip)).size) == (64, 48)


def refusal(**settings) -> str:
    try:
        bpy.ops.marigold.render_clip(**settings)
    except RuntimeError as error:
        assert "Traceback" not in str(error), error
        return str(error)
    raise AssertionError("nothing was refused")


@scenario
def solid_is_closed(folder: Path, python: str) -> None:
    import bmesh

    obj = depth_mesh(folder, solid=True)
    mesh, points, _ = evaluated(obj)
    body = bmesh.new()
    body.from_mesh(mesh)
    assert all(len(e.link_faces) == 2 for e in body.edges), "the body has an open border"
    assert body.calc_volume(signed=True) > 0, "its faces look inwards"
    assert np.isclose(points[:, 2].min(), -5.2, rtol=1e-5)


@scenario
def no_edge_of_a_solid_has_more_than_two_faces(folder: Path, python: str) -> None:
    """Where two faces touch at a corner alone, with tears, a layer, and a mask in diagonals."""
    import bmesh

    diagonal = np.load(folder / "boxes.npy")
    diagonal[range(4, 20, 2), range(34, 50, 2)] = np.nan
    diagonal[range(5, 21, 2), range(35, 51, 2)] = np.nan
    diagonal[25, 50] = diagonal[27, 52] = np.nan  # the faces between touch at one vertex
    np.save(folder / "diagonal.npy", diagonal)
    for background in (False, True):
        obj = depth_mesh(
            folder, depth_filepath=str(folder / "diagonal.npy"), solid=True, background=background
        )
        for percent in (100, 40):
            part("mesh.shape_inputs").set_inputs(obj, resolution=percent)
            body = bmesh.new()
            body.from_mesh(evaluated(obj)[0])
            counts = [len(edge.link_faces) for edge in body.edges]
            assert set(counts) == {2}, (background, percent, set(counts))
            assert body.calc_volume(signed=True) > 0


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
    part("mesh.shape_inputs").set_inputs(obj, tear=False)
    # Whoever moves the mesh moves its camera.
    obj.location, obj.rotation_euler = (3, -2, 1), (1.2, 0.3, 2.0)
    render_depth(obj, (64, 48), folder / "rendered.exr")
    obj.hide_render = True
    portrait = depth_mesh(
        folder, filepath="", depth_filepath=str(folder / "upright_waves.npy"), **settings
    )
    part("mesh.shape_inputs").set_inputs(portrait, tear=False)
    render_depth(portrait, (48, 64), folder / "rendered_upright.exr")
