"""The add-on's parts without bpy: grid arrays, calibration, OpenEXR."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blender_addon.mesh.calibration import placed, upright
from blender_addon.mesh.depth_grid import HOLE, budget_in_words, depth_grid
from blender_addon.mesh.exr_file import (
    ExrProblem,
    exr_bytes,
    exr_channels,
    exr_depth_channel,
    read_exr_channel,
)
from marigold_core.errors import MarigoldError
from marigold_core.geometry.grid import depth_to_mesh

ROOT = Path(__file__).parents[2]
sizes = st.integers(2, 40)


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, st.integers(4, 2000), st.integers(0, 2**32 - 1))
def test_the_grid_is_depth_to_mesh_in_blenders_axes(height, width, budget, seed):
    depth = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    grid = depth_grid(depth, max_vertices=budget)
    mesh = depth_to_mesh(depth, tear_ratio=math.inf, max_vertices=budget, border=True)
    assert np.allclose(grid.positions(), mesh.vertices * [1, -1, -1], rtol=1e-5, atol=1e-6)
    assert np.allclose(grid.uvs, mesh.uvs)
    quads = grid.faces().corners
    assert (quads == mesh.faces).all()
    assert (grid.d == depth.ravel()[mesh.pixels]).all()
    corners = grid.d[quads]
    assert (grid.nearest == corners.min(axis=1)).all()
    assert (grid.furthest == corners.max(axis=1)).all()


@settings(max_examples=30, deadline=None)
@given(sizes, sizes)
def test_every_edge_of_a_quad_joins_its_corners(height, width):
    grid = depth_grid(np.zeros((height, width), dtype=np.float32))
    faces = grid.faces()
    quads, edges = faces.corners, faces.ends
    ends = edges[faces.edges]
    corners = np.stack([quads, np.roll(quads, -1, axis=1)], axis=-1)
    assert (np.sort(ends, axis=-1) == np.sort(corners, axis=-1)).all()
    assert len(np.unique(np.sort(edges, axis=1), axis=0)) == len(edges)
    assert set(faces.edges.ravel()) == set(range(len(edges)))


def test_holes_tear_and_stay_finite():
    depth = np.full((4, 5), 0.5, dtype=np.float32)
    depth[0, 0], depth[3, 4] = np.nan, np.inf
    mask = np.ones((4, 5), dtype=bool)
    mask[3, 0] = False
    grid = depth_grid(depth, mask=mask, uncertainty=depth)
    holes = np.flatnonzero(grid.d > HOLE / 2)
    assert holes.tolist() == [0, 15, 19]
    assert (grid.furthest > HOLE / 2).sum() == 3
    for values in (grid.positions(), grid.d, grid.uncertainty):
        assert np.isfinite(values).all()
    with pytest.raises(MarigoldError, match="no usable pixel"):
        depth_grid(depth, mask=np.zeros((4, 5), dtype=bool))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_ground_lies_flat_below_the_camera(seed):
    rng = np.random.default_rng(seed)
    points, camera = rng.normal(size=(3, 3)), rng.normal(size=3)
    normal = np.cross(points[1] - points[0], points[2] - points[0])
    if np.linalg.norm(normal) < 0.1 or abs((camera - points[0]) @ normal) < 0.1:
        return
    transform = upright(points, camera)
    turned = points @ transform[:3, :3].T + transform[:3, 3]
    assert np.allclose(turned[:, 2], 0, atol=1e-9)
    assert (transform[:3, :3] @ camera + transform[:3, 3])[2] > 0
    assert np.allclose(transform[:3, :3] @ transform[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.isclose(np.linalg.det(transform[:3, :3]), 1)


@pytest.mark.parametrize("points, words", [(2, "three points"), (4, "on a line")])
def test_a_floor_needs_a_plane(points, words):
    line = np.outer(np.arange(points), [1.0, 2.0, 0.5])
    with pytest.raises(MarigoldError, match=words):
        upright(line, np.zeros(3))


def test_metric_depth_keeps_its_metres():
    depth = np.array([[2.0, 4.0], [3.0, np.nan]], dtype=np.float32)
    d, near, far = placed(depth, 1, 5, scale_invariant=False, shift_invariant=False)
    assert (near, far) == (2, 4) and np.allclose(d[0], [0, 1]) and np.isnan(d[1, 1])
    _, near, far = placed(depth / 4, 1, 8, shift_invariant=False)
    assert (near, far) == (4, 8)
    assert placed(depth, 1, 5)[1:] == (1, 5)


def test_depth_frames_are_openexr(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    values = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32)
    path = tmp_path / "depth.exr"
    path.write_bytes(exr_bytes(values))
    with openexr.File(str(path)) as file:
        assert (file.channels()["Y"].pixels == values).all()
    assert exr_channels(path) == ["Y"]
    assert (read_exr_channel(path, "Y") == values).all()
    path.write_bytes(b"\x76\x2f\x31\x01channels\0chlist\0")
    assert exr_channels(path) == []


@pytest.mark.parametrize("compression", ["NO_COMPRESSION", "ZIPS_COMPRESSION", "ZIP_COMPRESSION"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (37, 21), (16, 5)])
def test_a_renderers_depth_is_read_to_the_bit(tmp_path, compression, several, shape):
    openexr = pytest.importorskip("OpenEXR")
    rng = np.random.default_rng(0)
    header = {"compression": getattr(openexr, compression), "type": openexr.scanlineimage}
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    depth = 3 + x / 7 + y * y / 9
    colours = {f"Combined.{c}": rng.random(shape).astype(np.float16) for c in "RGBA"}
    normals = {f"ViewLayer.Normal.{c}": rng.random(shape).astype(np.float32) for c in "XYZ"}
    layers = [colours | normals, {"ViewLayer.Depth.Z": depth}]
    if not several:
        layers = [layers[0] | layers[1]]
    path = tmp_path / "render.exr"
    parts = [openexr.Part(dict(header), layer, f"part{k}") for k, layer in enumerate(layers)]
    with openexr.File(parts) as file:
        file.write(str(path))
    assert exr_depth_channel(exr_channels(path)) == "ViewLayer.Depth.Z"
    assert (read_exr_channel(path, "ViewLayer.Depth.Z") == depth).all()
    assert (read_exr_channel(path, "Combined.G") == colours["Combined.G"]).all()
    whole = path.read_bytes()
    for length in range(0, len(whole), max(len(whole) // 40, 1)):
        path.write_bytes(whole[:length])
        with pytest.raises(ExrProblem, match="is broken"):
            read_exr_channel(path, "ViewLayer.Depth.Z")


def test_what_is_not_read_of_openexr_is_named(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    path = tmp_path / "piz.exr"
    header = {"compression": openexr.PIZ_COMPRESSION, "type": openexr.scanlineimage}
    with openexr.File(header, {"Z": np.ones((40, 40), np.float32)}) as file:
        file.write(str(path))
    with pytest.raises(ExrProblem, match="compressed with PIZ"):
        read_exr_channel(path, "Z")


@pytest.mark.parametrize(
    ("names", "depth"),
    [(["Z"], "Z"), (["A", "B", "R", "Z"], "Z"), (["Y"], None),
     (["L.Normal.Z", "L.Depth.V"], "L.Depth.V"),
     (["ViewLayer.Normal.Z"], None), (["depth"], "depth"), (["View.depth.Z"], "View.depth.Z")],
)  # fmt: skip
def test_the_depth_channel_by_its_name(names, depth):
    assert exr_depth_channel(names) == depth


def test_the_budget_in_words():
    assert budget_in_words(1_000_000) == ("1.0 M", "250 MB")
    assert budget_in_words(4_000_000) == ("4.0 M", "1000 MB")


def test_these_parts_need_numpy_alone():
    code = (
        "import sys, blender_addon.mesh.calibration, blender_addon.mesh.exr_file, blender_addon\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"bpy", "torch", "PIL"} & set(run.stdout.split())
