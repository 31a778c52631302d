"""The camera found in depth: exact for rooms, silent for what has no planes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from marigold_core.depth import DepthMap
from marigold_core.geometry.camera_estimate import estimate_camera
from marigold_core.geometry.points import intrinsics
from marigold_core.metric.fit import fit_metric
from marigold_core.metric.hints import KnownDepths


def room(fov: float, height: int = 120, width: int = 160) -> np.ndarray:
    """Metres along the axis into the corner of a room, seen downwards and from the side."""
    k = intrinsics(height, width, fov)
    v, u = np.mgrid[0:height, 0:width] + 0.5
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[0, 0], np.ones_like(u)], -1)
    down, side = math.radians(25), math.radians(35)
    tilt = np.array([[1, 0, 0], [0, math.cos(down), math.sin(down)],
                     [0, -math.sin(down), math.cos(down)]])  # fmt: skip
    turn = np.array([[math.cos(side), 0, math.sin(side)], [0, 1, 0],
                     [-math.sin(side), 0, math.cos(side)]])  # fmt: skip
    world = rays @ (turn @ tilt).T
    walls = [(np.array([0, 1, 0]), 1.6), (np.array([1, 0, 0]), 2.5), (np.array([0, 0, 1]), 3.5)]
    along = [np.where(world @ n > 1e-6, d / np.maximum(world @ n, 1e-6), np.inf) for n, d in walls]
    return np.minimum.reduce(along)


def affine_invariant(depth: np.ndarray) -> np.ndarray:
    return ((depth - depth.min()) / np.ptp(depth)).astype(np.float32)


@pytest.mark.parametrize("fov", [45.0, 60.0, 75.0])
@pytest.mark.parametrize("upright", [False, True])
def test_a_room_tells_its_relief_and_its_camera(fov, upright):
    depth = room(fov)
    depth = depth.T if upright else depth
    found = estimate_camera(affine_invariant(depth))
    assert found.relief == pytest.approx(depth.max() / depth.min(), rel=0.1)
    assert found.fov_degrees == pytest.approx(fov, abs=4)
    near, far = found.near_far
    assert near == 1
    assert far == pytest.approx(found.relief)


def test_scale_and_shift_do_not_matter():
    d = affine_invariant(room(60))
    one, other = estimate_camera(d), estimate_camera(d * 0.5 + 0.2)
    # Depth 0 to 1 is another range of distances now, of the same camera.
    assert other.fov_degrees == one.fov_degrees
    z = d + 1 / (one.relief - 1)
    nearest, farthest = z.min() - 0.4 * np.ptp(z), z.max() + 0.6 * np.ptp(z)
    if nearest > 0:
        assert other.relief == pytest.approx(farthest / nearest, rel=0.05)


def test_it_keeps_still_where_nothing_tells():
    y, x = np.mgrid[0:96, 0:128] / 96.0
    hills = 0.5 + 0.25 * np.sin(9 * x) * np.cos(8 * y) + 0.1 * np.sin(23 * x + 17 * y)
    rng = np.random.default_rng(0)
    for depth in (hills, rng.random((96, 128)), np.full((96, 128), 0.5), 0.2 + 0.5 * x):
        found = estimate_camera(depth.astype(np.float32))
        assert found.fov_degrees is None
    assert estimate_camera(hills.astype(np.float32)).near_far == (1, 5)


def test_a_mask_leaves_out_what_is_no_room():
    depth = affine_invariant(room(60))
    mask = np.ones(depth.shape, bool)
    mask[:40] = False
    spoiled = np.where(mask, depth, np.random.default_rng(0).random(depth.shape))
    found = estimate_camera(spoiled.astype(np.float32), mask)
    assert found.relief == pytest.approx(room(60).max() / room(60).min(), rel=0.15)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        elements=st.floats(-2, 2, width=32) | st.just(np.float32(np.nan)),
    )
)
def test_any_map_gives_a_camera_or_none(depth):
    found = estimate_camera(depth)
    assert found.relief is None or 1 < found.relief < 1e6
    assert found.fov_degrees is None or 25 <= found.fov_degrees <= 110


def test_one_known_depth_takes_the_relief_of_the_room():
    depth = room(60)
    known = KnownDepths([(80.5, 60.5)], [depth[60, 80]], size=depth.shape)
    fitted = fit_metric(DepthMap(affine_invariant(depth)), known)
    np.testing.assert_allclose(fitted.depth, depth, rtol=0.1)


def test_a_length_without_a_field_of_view_is_measured_with_the_rooms():
    depth = room(60)
    k = intrinsics(*depth.shape, 60)
    ends = [(20.5, 100.5), (120.5, 90.5)]
    points = [
        depth[int(y), int(x)] * np.array([(x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[0, 0], 1])
        for x, y in ends
    ]
    length = np.linalg.norm(points[0] - points[1])
    known = KnownDepths([], [], size=depth.shape, lengths=[(*ends[0], *ends[1], length)])
    fitted = fit_metric(DepthMap(affine_invariant(depth)), known)
    assert "an estimate of" in fitted.fit.notes[0]
    np.testing.assert_allclose(fitted.depth, depth, rtol=0.1)
