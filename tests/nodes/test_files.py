"""Files: depth with its full precision, and meshes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from marigold_core import read_depth

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("format", ["16-bit PNG", "32-bit EXR", "32-bit TIFF", "NPY"])
def test_saved_depth_is_the_depth(run, depth, comfy, format):
    if "EXR" in format:
        pytest.importorskip("OpenEXR")
    for number in (1, 2):  # a second run overwrites nothing
        output = run("SaveDepth", depth=depth + depth, format=format, filename_prefix="a/depth")
        files = sorted((comfy.root / "output" / "a").iterdir())
        assert len(files) == 2 * number
    read = read_depth(files[0]).depth
    assert abs(read - depth[0].depth).max() <= (0.5 / 65535 if "PNG" in format else 0)
    assert len(output.ui.as_dict()["images"]) == 2


def test_raw_depth_keeps_its_values(run, comfy):
    # Not 0 to 1, and finer than 8 bits.
    grey = torch.linspace(0.3, 0.31, 64).expand(4, 64)[None, ..., None].repeat(1, 1, 1, 3)
    depth = run("DepthFromImage", image=grey, near_is_white=False)[0]
    run("SaveDepth", depth=depth, format="NPY", filename_prefix="raw")
    assert np.array_equal(np.load(comfy.root / "output" / "raw_00001_.npy"), depth[0].depth)
    assert len(np.unique(depth[0].depth)) == 64


def test_a_constant_map_can_be_saved(run, comfy):
    flat = run("DepthFromImage", image=torch.full((1, 4, 4, 3), 0.5))[0]
    run("SaveDepth", depth=flat, format="16-bit PNG", filename_prefix="flat")
    assert (comfy.root / "output" / "flat_00001_.png").is_file()


def test_the_mesh_in_gltfs_axes(run, depth, comfy):
    image = torch.rand(1, 4, 6, 3)
    output = run("DepthToMesh", depth=depth, image=image, near=1.0, far=3.0, tear=100.0, fill=False)
    mesh, model_file, geometry, *_ = output.args
    vertices, faces = mesh.vertices[0], mesh.faces[0]
    assert vertices.shape == (24, 3) and faces.shape == (2 * 3 * 5, 3)
    # Y up, camera looks along -Z: the far right is at -3, the top row above the bottom one.
    assert vertices[:, 2].max() == -1 and vertices[:, 2].min() == -3
    assert vertices[0, 1] > 0 > vertices[-1, 1] and vertices[0, 0] < 0 < vertices[-1, 0]
    corners = vertices[faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normals * corners.mean(1)).sum(1) < 0).all()  # towards the camera

    written = trimesh.load(comfy.root / "output" / model_file, force="mesh", process=False)
    assert np.allclose(np.asarray(written.vertices), vertices.numpy(), atol=1e-6)
    assert written.visual.uv is not None and len(written.faces) == len(faces)
    (saved,) = output.ui["3d"]
    assert f"{saved['subfolder']}/{saved['filename']}" == model_file

    assert torch.allclose(geometry["depth"][0, 0], torch.linspace(1, 3, 6), atol=1e-6)
    assert torch.equal(geometry["image"], image) and geometry["mask"].all()
    # As ComfyUI's own nodes have it: one view, in pixels whose centers are whole numbers.
    assert geometry["intrinsics"].shape == (1, 1, 3, 3)
    assert geometry["intrinsics"][0, 0, :2, 2].tolist() == [2.5, 1.5]
    assert not geometry["sky"].any()


def test_where_the_core_has_textures_they_are_filled_in(run, depth, monkeypatch):
    from comfy_api.latest import Types

    class NewerMesh:
        def __init__(self, vertices, faces, uvs=None, texture=None):
            self.vertices, self.faces, self.uvs, self.texture = vertices, faces, uvs, texture

    monkeypatch.setattr(Types, "MESH", NewerMesh)
    image = torch.rand(1, 4, 6, 3)
    mesh = run("DepthToMesh", depth=depth, image=image, tear=100.0, fill=False)[0]
    assert mesh.uvs.shape == (1, 24, 2)
    assert mesh.uvs[0, 0].tolist() == pytest.approx([0.5 / 6, 0.5 / 4])  # glTF's v runs down
    assert torch.allclose(mesh.texture, image, atol=0.5 / 255 + 1e-6)


def test_depth_up_to_a_scale_has_its_own_near_and_far(run, depth):
    distances = replace(depth[0], depth=2 + depth[0].depth, shift_invariant=False)
    picture = torch.rand(1, *distances.depth.shape, 3)
    mesh = run("DepthToMesh", depth=[distances], image=picture, tear=100.0, fill=False)[0]
    z = -mesh.vertices[0, :, 2].numpy()
    assert z.min() == pytest.approx(distances.depth.min(), rel=1e-4)
    assert z.max() == pytest.approx(distances.depth.max(), rel=1e-4)


@pytest.mark.parametrize("version", ["1.43.18", "1.44.19"])
@pytest.mark.parametrize("size", [(4, 6), (6, 4)])
def test_the_viewer_sees_what_the_camera_saw(run, monkeypatch, pack, version, size):
    module = sys.modules[f"{pack.__name__}.nodes.depth_to_mesh"]
    monkeypatch.setattr(module, "version", lambda name: version)
    ramp = torch.linspace(0, 1, size[1]).expand(1, *size)[..., None].repeat(1, 1, 1, 3)
    depth = run("DepthFromImage", image=ramp)[0]
    mesh, _, _, camera, _ = run(
        "DepthToMesh", depth=depth, image=ramp, tear=100.0, near=2.0, fill=False
    ).args
    vertices = mesh.vertices[0].numpy()
    if version == "1.43.18":  # this frontend fits models to its viewer: 5 wide, on the floor
        low, high = vertices.min(0), vertices.max(0)
        scale = 5 / (high - low).max()
        vertices = vertices * scale
        low, high = vertices.min(0), vertices.max(0)
        vertices = vertices - [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]
    eye, target = (
        np.array([camera[key][axis] for axis in "xyz"]) for key in ("position", "target")
    )
    assert np.allclose((target - eye)[:2], 0) and (target - eye)[2] < 0  # along -Z
    # three.js: the vertical angle, and zoom as a factor on the focal length.
    focal = camera["zoom"] / np.tan(np.radians(camera["fov"]) / 2)
    seen = (vertices - eye)[:, 1] / -(vertices - eye)[:, 2] * focal
    rows = np.repeat(np.arange(size[0]) + 0.5, size[1])
    assert np.allclose(seen, 1 - 2 * rows / size[0], atol=1e-5)


def test_metres_are_the_meshs_units(run):
    z = torch.linspace(2, 30, 6).expand(1, 4, 6)[..., None].repeat(1, 1, 1, 3)
    depth = run("DepthFromImage", image=z, kind="distance")[0]
    mesh, _, geometry, *_ = run(
        "DepthToMesh", depth=depth, image=torch.rand(1, 4, 6, 3), tear=100.0, fill=False
    ).args
    assert torch.allclose(-mesh.vertices[0, :6, 2], z[0, 0, :, 0], atol=1e-4)
    assert torch.allclose(geometry["depth"], z[..., 0], atol=1e-4)


def test_masked_pixels_are_the_geometrys_sky(run):
    grey = torch.rand(1, 8, 8, 3)
    mask = torch.ones(1, 8, 8)
    mask[:, :3] = 0
    depth = run("DepthFromImage", image=grey, mask=mask)[0]
    geometry = run("DepthToMesh", depth=depth, image=grey, tear=100.0)[2]
    assert torch.equal(geometry["sky"], 1 - mask)


def test_ply(run, depth, comfy):
    model_file = run(  # fmt: skip
        "DepthToMesh",
        depth=depth,
        image=torch.rand(1, 4, 6, 3),
        file_format="ply",
        tear=100.0,
        fill=False,
    )[1]
    assert len(trimesh.load(comfy.root / "output" / model_file, process=False).vertices) == 24


def test_a_filled_mesh_has_a_background_behind_its_objects(run, depth):
    step = torch.zeros(1, 24, 32, 3)
    step[:, 8:16, 10:20] = 1  # a near square in front of a far wall
    depth = run("DepthFromImage", image=step)[0]
    torn, filled = (
        run("DepthToMesh", depth=depth, image=step, fill=fill)[0].vertices[0]
        for fill in (False, True)
    )
    wall, square = 24 * 32 - 80, 80
    assert (torn[:, 2] < -4.9).sum() <= wall
    assert (filled[:, 2] < -4.9).sum() > wall + square / 4


def test_points_as_a_file_of_the_viewers_axes(run, depth, comfy):
    image = torch.rand(1, 4, 6, 3)
    _, camera = run("DepthToPoints", depth=depth, image=image, near=1.0, far=3.0).args
    cloud = trimesh.load(comfy.root / "output" / "points" / "Marigold_00001_.ply")
    points = np.asarray(cloud.vertices)
    assert points.shape == (24, 3)
    assert points[:, 2].max() == -1 and points[:, 2].min() == -3  # along -Z
    assert points[0, 1] > 0 > points[-1, 1] and points[0, 0] < 0 < points[-1, 0]  # Y up
    colors = np.asarray(cloud.colors)[:, :3]
    assert abs(colors / 255 - image.reshape(-1, 3).numpy()).max() <= 0.5 / 255 + 1e-6
    assert camera["target"]["z"] < camera["position"]["z"]


@pytest.mark.parametrize("motion", ["sway", "circle", "push in"])
def test_a_camera_path_is_a_loop_of_the_asked_size(run, motion):
    camera = {
        "position": {"x": 1.0, "y": 2.0, "z": 0.5},
        "target": {"x": 1.0, "y": 2.0, "z": -3.5},  # 4 away
        "zoom": 2.0,
        "fov": 35.0,
        "cameraType": "perspective",
    }
    path = run(
        "CameraPath", camera_info=camera, motion=motion, amount=0.1, frames=8, crop=0.5
    )[0]  # fmt: skip
    assert len(path) == 8
    moves = np.array([[one["position"][axis] for axis in "xyz"] for one in path]) - [1, 2, 0.5]
    assert np.linalg.norm(moves, axis=1).max() == pytest.approx(0.4)
    # Along the line of sight, or across it.
    assert np.allclose(moves[:, :2], 0) if motion == "push in" else np.allclose(moves[:, 2], 0)
    steps = np.linalg.norm(np.diff(moves, axis=0, append=moves[:1]), axis=1)
    assert steps[-1] <= steps.max() + 1e-9  # from the last frame to the first as from any other
    assert all(one["target"] == camera["target"] and one["zoom"] == 3.0 for one in path)
    assert camera["zoom"] == 2.0


def test_one_of_a_batch(run, comfy):
    grey = torch.rand(2, 4, 6, 3)
    depth = run("DepthFromImage", image=grey)[0]
    second = run("DepthToMesh", depth=depth, image=grey, image_index=1, tear=100.0)[2]
    assert torch.equal(second["image"][0], grey[1])


@pytest.fixture
def workflow(nodes, monkeypatch):
    """Run nodes of a saved workflow, as the frontend does."""
    hidden = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": []}})
    for node in nodes.values():
        monkeypatch.setattr(node, "hidden", hidden)
    return {"prompt": '{"1": {}}', "workflow": '{"nodes": []}'}


def test_files_carry_the_workflow(run, depth, comfy, workflow, monkeypatch):
    run("SaveDepth", depth=depth, format="16-bit PNG", filename_prefix="w")
    with Image.open(comfy.root / "output" / "w_00001_.png") as picture:
        assert picture.text == workflow
    model_file = run("DepthToMesh", depth=depth, image=torch.rand(1, 4, 6, 3))[1]
    content = (comfy.root / "output" / model_file).read_bytes()
    length = int.from_bytes(content[12:16], "little")
    assert json.loads(content[20 : 20 + length])["asset"]["extras"] == workflow
    monkeypatch.setattr(comfy.args, "disable_metadata", True)
    run("SaveDepth", depth=depth, format="16-bit PNG", filename_prefix="without")
    with Image.open(comfy.root / "output" / "without_00001_.png") as picture:
        assert not picture.text


def test_exr_files_carry_the_workflow(run, depth, comfy, workflow):
    openexr = pytest.importorskip("OpenEXR")
    run("SaveDepth", depth=depth, format="32-bit EXR", filename_prefix="w")
    header = openexr.File(str(comfy.root / "output" / "w_00001_.exr")).header()
    assert workflow.items() <= header.items()


@pytest.mark.parametrize("format", ["16-bit PNG", "32-bit EXR", "32-bit TIFF", "NPY"])
def test_saved_depth_can_be_loaded(nodes, run, depth, format):
    if "EXR" in format:
        pytest.importorskip("OpenEXR")
    run("SaveDepth", depth=depth, format=format, filename_prefix="depth/saved")
    (file,) = nodes["LoadDepth"].GET_SCHEMA().inputs[0].options["options"]
    assert file.startswith("depth/saved_00001_.") and file.endswith(" [output]")
    (loaded,) = run("LoadDepth", file=file)[0]
    tolerance = 0.5 / 65535 if "PNG" in format else 0
    assert abs(loaded.depth - depth[0].depth).max() <= tolerance


def test_distances_in_a_file_are_kept(run, comfy, error):
    z = np.linspace(1, 40, 24, dtype=np.float32).reshape(4, 6)
    (comfy.root / "input").mkdir(exist_ok=True)
    np.save(comfy.root / "input" / "lidar.npy", z)
    (loaded,) = run("LoadDepth", file="lidar.npy", kind="distance")[0]
    assert np.array_equal(loaded.depth, z) and not loaded.scale_invariant
    with pytest.raises(error, match="set kind to distance"):
        run("LoadDepth", file="lidar.npy")


@pytest.mark.parametrize("format", ["16-bit PNG", "32-bit TIFF"])
def test_metres_are_saved_and_loaded(nodes, run, format):
    z = torch.linspace(0.5, 40, 24).reshape(1, 4, 6, 1).repeat(1, 1, 1, 3)
    depth = run("DepthFromImage", image=z, kind="distance")[0]
    run("SaveDepth", depth=depth, format=format, filename_prefix="room")
    (file,) = nodes["LoadDepth"].GET_SCHEMA().inputs[0].options["options"]
    (loaded,) = run("LoadDepth", file=file, kind="distance")[0]
    assert abs(loaded.depth - depth[0].depth).max() <= 0.0006
    assert not loaded.scale_invariant


def test_a_depth_file_that_is_gone(nodes):
    assert "'gone.exr'" in nodes["LoadDepth"].validate_inputs(file="gone.exr")


def test_the_templates_open_a_picture_that_the_pack_places(nodes, comfy):
    for file in (ROOT / "example_workflows").glob("*.json"):
        for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]:
            if node["type"] == "LoadImage":
                assert (comfy.root / "input" / node["widgets_values"][0]).is_file()
