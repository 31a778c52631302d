"""What a map in metres becomes: meshes without near and far, point clouds, files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from marigold_core.depth import DepthMap, read_depth
from marigold_core.errors import MarigoldError
from marigold_core.geometry.points import depth_to_points, project
from marigold_core.metric.fit import fit_metric
from marigold_core.metric.hint_files import read_known_depths
from marigold_core.metric.hints import KnownDepths

trimesh = pytest.importorskip("trimesh")
SIZE = (20, 30)
RAMP = np.linspace(0, 1, 600, dtype=np.float32).reshape(SIZE)
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def metres() -> DepthMap:
    """2 to 6 m."""
    known = KnownDepths([(0, 0), (29, 19), (15, 10)], 2 + 4 * RAMP[[0, 19, 10], [0, 29, 15]])
    return fit_metric(DepthMap(RAMP), known)


def test_a_mesh_in_metres_needs_no_near_and_far(metres):
    mesh = metres.mesh(PICTURE, fov_degrees=60)
    assert mesh.vertices[:, 2].min() == pytest.approx(2, rel=1e-5)
    assert mesh.vertices[:, 2].max() == pytest.approx(6, rel=1e-5)
    same = DepthMap(RAMP).mesh(PICTURE, fov_degrees=60, near=2, far=6)
    np.testing.assert_allclose(mesh.vertices, same.vertices, rtol=1e-5)
    with pytest.raises(MarigoldError, match="near and far are not needed"):
        metres.mesh(near=1, far=3)


def test_points_are_the_used_pixels_in_their_places(metres, tmp_path):
    mask = np.ones(SIZE, bool)
    mask[3] = False
    cloud = DepthMap(metres.depth, mask=mask, scale_invariant=False, shift_invariant=False).points(
        PICTURE, fov_degrees=60
    )
    assert len(cloud.points) == mask.sum()
    places = project(cloud.points, *SIZE, fov_degrees=60)
    rows, columns = np.nonzero(mask)
    np.testing.assert_allclose(places, np.column_stack([columns, rows]) + 0.5, atol=1e-3)
    np.testing.assert_array_equal(cloud.colors, PICTURE[mask])
    cloud.save(tmp_path / "cloud.ply")
    read = trimesh.load(tmp_path / "cloud.ply")
    np.testing.assert_array_equal(read.vertices, cloud.points)
    np.testing.assert_array_equal(np.asarray(read.colors)[:, :3], cloud.colors)
    with pytest.raises(MarigoldError, match="saved as .ply"):
        cloud.save(tmp_path / "cloud.obj")


def test_a_saved_cloud_is_known_depths_of_the_same_camera(metres, tmp_path):
    metres.points(fov_degrees=60).save(tmp_path / "cloud.ply")
    known = read_known_depths(tmp_path / "cloud.ply", SIZE, fov_degrees=60)
    again = fit_metric(DepthMap(RAMP), known)
    np.testing.assert_allclose(again.depth, metres.depth, rtol=1e-4)


def test_points_without_a_pixel_or_of_another_picture_are_refused():
    with pytest.raises(MarigoldError, match="No point is left"):
        depth_to_points(RAMP, mask=np.zeros(SIZE, bool))
    with pytest.raises(MarigoldError, match="do not belong together"):
        depth_to_points(RAMP, image=PICTURE[:, :9])


def test_sixteen_bits_hold_millimetres_and_zero_outside_the_mask(metres, tmp_path):
    mask = RAMP < 0.9
    masked = DepthMap(metres.depth, mask=mask, scale_invariant=False, shift_invariant=False)
    masked.save(tmp_path / "depth.png")
    with Image.open(tmp_path / "depth.png") as image:
        grey = np.asarray(image)
    np.testing.assert_allclose(grey[mask] / 1000, metres.depth[mask], atol=5.1e-4)
    assert not grey[~mask].any()
    far = DepthMap(metres.depth * 11, scale_invariant=False, shift_invariant=False)
    with pytest.raises(MarigoldError, match="65.535 m"):
        far.save(tmp_path / "far.png")
    far.save(tmp_path / "far.exr")
    np.testing.assert_array_equal(read_depth(tmp_path / "far.exr").depth, far.depth)


def test_normalised_depth_is_metric_no_more(metres):
    relative = metres.normalize()
    assert relative.fit is None
    assert not relative.is_metric
    np.testing.assert_allclose(relative.depth, RAMP, atol=1e-5)
