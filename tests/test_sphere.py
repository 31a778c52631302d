"""A panorama's mesh."""

from __future__ import annotations

import numpy as np
import pytest

from marigold_core.errors import MarigoldError
from marigold_core.geometry.sphere import panorama_to_mesh


def test_a_room_is_closed_and_looks_inwards():
    depth = np.random.default_rng(0).uniform(0, 0.01, (24, 48)).astype(np.float32)
    mesh = panorama_to_mesh(depth, image=np.zeros((24, 48, 3), dtype=np.uint8))
    triangles = mesh.triangles
    # Vertices at one place are one: the seam's and the poles'.
    _, same = np.unique(mesh.vertices.round(4), axis=0, return_inverse=True)
    joined = same.ravel()[triangles]
    joined = joined[[len(set(t)) == 3 for t in joined.tolist()]]
    edges = np.sort(joined[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    a, b, c = np.moveaxis(mesh.vertices[triangles].astype(np.float64), 1, 0)
    facing = np.einsum("ij,ij->i", np.cross(b - a, c - a), -(a + b + c))
    assert (facing > -1e-6).all() and (facing > 1e-6).mean() > 0.9


def test_the_middle_column_is_ahead_and_the_first_behind():
    depth = np.tile(np.linspace(0, 1, 40, dtype=np.float32), (20, 1))
    mesh = panorama_to_mesh(depth, near=1, far=3, tear_ratio=np.inf)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    level = np.abs(mesh.vertices[:, 1]) < 0.2
    ahead = level & (np.abs(mesh.uvs[:, 0] - 0.5125) < 1e-6)
    assert ahead.any() and (mesh.vertices[ahead, 2] > 0.98 * radius[ahead]).all()
    assert np.allclose(radius[ahead], 1 + 2 * 20 / 39, atol=1e-4)
    ends = level & np.isin(mesh.uvs[:, 0], (0, 1))
    assert (mesh.vertices[ends, 2] < -0.98).all() and np.allclose(radius[ends], 1, atol=1e-5)


def test_an_object_tears_across_the_seam_as_elsewhere():
    across, elsewhere = np.full((2, 40, 80), 0.9, dtype=np.float32)
    across[15:25, :5] = across[15:25, -5:] = 0.1
    elsewhere[15:25, 35:45] = 0.1
    torn = [len(panorama_to_mesh(depth).faces) for depth in (across, elsewhere)]
    assert torn[0] == torn[1] < len(panorama_to_mesh(np.full((40, 80), 0.9, np.float32)).faces)


def test_another_shape_is_refused():
    with pytest.raises(MarigoldError, match="twice as wide"):
        panorama_to_mesh(np.zeros((30, 40), np.float32))
