"""The mesh with its background layer, as cameras see it."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from rasteriser import nearest_faces, orbit

from marigold_core.depth import DepthMap
from marigold_core.geometry.fill import parallax
from marigold_core.geometry.grid import depth_to_mesh

FOV = 50.0


def room(height: int = 72, width: int = 96) -> np.ndarray:
    """Distances of a floor, a wall, a box, a post before both, a soft edge."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    z = np.minimum(5, 0.8 * height / np.maximum(y - height * 0.45, 1))
    z[height // 4 : height * 3 // 4, width // 5 : width // 2] = 2.5 + 0.003 * x[0, : width // 2][-1]
    z[:, width * 3 // 5 : width * 3 // 5 + 5] = 2.6
    z[5:20, width - 30] = (z[5:20, width - 30] + 2) / 2
    z[5:20, width - 29 : width - 18] = 2
    return z.astype(np.float32)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def metric(z: np.ndarray, mask: np.ndarray | None = None) -> DepthMap:
    return DepthMap(z, mask=mask, scale_invariant=False, shift_invariant=False)


def seen(mesh, camera=None) -> np.ndarray:
    return nearest_faces(mesh.vertices, mesh.triangles, mesh.size, mesh.fov_degrees, camera)


@pytest.mark.parametrize("turned", [False, True])
def test_the_pictures_own_camera_sees_the_picture_and_no_hole(turned):
    z = room().T if turned else room()
    image = picture(*z.shape)
    assert len(metric(z).mesh(image).faces) < 0.97 * 71 * 95, "the test has no tear"
    mesh = metric(z).mesh(image, fill=True)
    faces = seen(mesh)
    assert (faces >= 0).all()
    # At a pixel's centre the texture is that pixel's: its vertex has it, in the faces there.
    corners = mesh.triangles[faces]
    pixels = np.arange(z.size).reshape(z.shape)
    own = mesh.pixels[corners] == pixels[..., None]
    inner = np.s_[1:-1, 1:-1]
    assert own[inner].any(axis=-1).all()
    vertex = np.take_along_axis(corners, own.argmax(axis=-1)[..., None], axis=-1)[..., 0][inner]
    assert (colours_of(mesh)[vertex] == image[inner]).all()


def colours_of(mesh) -> np.ndarray:
    height, width = mesh.texture.shape[:2]
    column = (mesh.uvs[:, 0].astype(np.float64) * width).astype(int).clip(0, width - 1)
    row = ((1 - mesh.uvs[:, 1].astype(np.float64)) * height).astype(int).clip(0, height - 1)
    return mesh.texture[row, column]


def test_the_layer_has_the_filled_colours_in_the_other_half_of_the_texture():
    z = np.full((60, 80), 4, dtype=np.float32)
    z[20:40, 30:50] = 1
    image = np.zeros((120, 160, 3), dtype=np.uint8)
    image[..., 2] = 200  # a blue wall, a red box; twice the size of the map
    image[40:80, 60:100] = (200, 0, 0)
    mesh = metric(z).mesh(image, fill=True)
    assert mesh.texture.shape[0] >= 240 and (mesh.texture[:120] == image).all()
    front = len(metric(z).mesh(image).faces)
    layer = mesh.faces[front:]
    assert len(layer) > 0.9 * 20 * 20
    filled = np.unique(layer[(mesh.uvs[layer, 1] < 0.5).all(axis=1)])
    assert (colours_of(mesh)[filled] == (0, 0, 200)).all()
    assert np.allclose(mesh.vertices[filled, 2], 4, atol=1e-3)
    assert ((mesh.uvs >= 0) & (mesh.uvs <= 1)).all()


@pytest.mark.parametrize("turn", [(15, 0), (-15, 0), (0, 15)])
def test_an_orbit_by_15_degrees_shows_a_tenth_of_the_holes(turn):
    z = room()
    camera = orbit(float(np.median(z)), *turn)
    flat, torn = (depth_to_mesh(z, near=None, far=None, border=True, tear_ratio=r)
                  for r in (np.inf, None))  # fmt: skip
    whole, before = seen(flat, camera) >= 0, seen(torn, camera) >= 0
    after = seen(metric(z).mesh(fill=True), camera) >= 0
    assert (whole & ~before).sum() > 60
    assert (whole & ~after).sum() <= 0.1 * (whole & ~before).sum()


@pytest.mark.parametrize("pivot", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("near", [1.5, 2.5])
def test_parallax_is_what_an_orbit_uncovers(near, pivot):
    """The ray of the turned camera through the edge, followed to the far side."""
    camera = orbit(pivot, 15.0)
    eye, edge = camera[:3, 3], np.array([0, 0, near])
    there = eye + (edge - eye) * (5 - eye[2]) / (edge[2] - eye[2])
    assert parallax(near, 5.0, pivot, 15.0) == pytest.approx(abs(there[0] / there[2]))


def test_without_a_tear_the_mesh_is_the_plain_one():
    z = np.full((20, 30), 2, dtype=np.float32)
    image = picture(20, 30)
    plain, filled = (
        depth_to_mesh(z / 5, image=image, border=True),
        depth_to_mesh(z / 5, image=image, fill=True),
    )
    assert (plain.faces == filled.faces).all() and (plain.uvs == filled.uvs).all()
    assert filled.texture.shape == image.shape


def test_masked_pixels_stay_out_of_the_filled_mesh():
    z = room()
    mask = np.ones(z.shape, dtype=bool)
    mask[30:50, 10:40] = False
    mesh = metric(z, mask).mesh(fill=True)
    assert mesh.texture is None
    assert mask.ravel()[mesh.pixels].all()
    assert (seen(mesh)[32:48, 12:38] < 0).all()


@pytest.mark.parametrize("suffix", ["glb", "ply", "obj"])
def test_every_format_holds_both_layers(tmp_path, suffix):
    mesh = metric(room()).mesh(picture(72, 96), fill=True)
    mesh.save(tmp_path / f"room.{suffix}")
    read = trimesh.load(tmp_path / f"room.{suffix}", force="mesh", process=False)
    assert len(read.faces) == len(mesh.triangles)
    assert np.allclose(
        np.sort(-np.asarray(read.vertices)[:, 2]), np.sort(mesh.vertices[:, 2]), atol=1e-4
    )
