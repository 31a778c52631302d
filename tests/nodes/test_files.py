"""Files: depth with its full precision, and meshes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from marigold_core import read_depth


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
    output = run("DepthToMesh", depth=depth, image=image, near=1.0, far=3.0, tear=100.0)
    mesh, model_file, geometry = output.args
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
    # In pixels, the principal point in the middle.
    assert geometry["intrinsics"][0, :2, 2].tolist() == [3, 2]


def test_where_the_core_has_textures_they_are_filled_in(run, depth, monkeypatch):
    from comfy_api.latest import Types

    class NewerMesh:
        def __init__(self, vertices, faces, uvs=None, texture=None):
            self.vertices, self.faces, self.uvs, self.texture = vertices, faces, uvs, texture

    monkeypatch.setattr(Types, "MESH", NewerMesh)
    image = torch.rand(1, 4, 6, 3)
    mesh = run("DepthToMesh", depth=depth, image=image, tear=100.0)[0]
    assert mesh.uvs.shape == (1, 24, 2)
    assert mesh.uvs[0, 0].tolist() == pytest.approx([0.5 / 6, 0.5 / 4])  # glTF's v runs down
    assert torch.allclose(mesh.texture, image, atol=0.5 / 255 + 1e-6)


def test_ply(run, depth, comfy):
    model_file = run(
        "DepthToMesh", depth=depth, image=torch.rand(1, 4, 6, 3), file_format="ply", tear=100.0
    )[1]
    assert len(trimesh.load(comfy.root / "output" / model_file, process=False).vertices) == 24


def test_one_of_a_batch(run, comfy):
    grey = torch.rand(2, 4, 6, 3)
    depth = run("DepthFromImage", image=grey)[0]
    second = run("DepthToMesh", depth=depth, image=grey, image_index=1, tear=100.0)[2]
    assert torch.equal(second["image"][0], grey[1])
