"""Sharp depth edges and the layer behind them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.geometry.fill import CORNERS, background_layer, sharpen_edges, torn_quads

RATIO = 1.05


def boxes(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A slanted wall with boxes before it, some over others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    z = 5 + 0.004 * x - 0.003 * y
    for _ in range(rng.integers(1, 5)):
        top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
        bottom, right = top + rng.integers(2, 24), left + rng.integers(2, 24)
        z[top:bottom, left:right] = rng.uniform(1, 4)
    return z.astype(np.float32)


def faces(values: np.ndarray) -> np.ndarray:
    return np.stack([values[corner] for corner in CORNERS])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_layer_covers_every_tear_and_is_never_in_front(seed):
    z = boxes(seed)
    layer = background_layer(z, RATIO)
    assert (layer.torn == torn_quads(z, RATIO)).all() and (layer.quads[layer.torn]).all()
    used = np.isfinite(faces(layer.distance)).all(axis=0)
    assert used[layer.quads].all(), "a face of the layer has a corner without a distance"
    there = np.isfinite(layer.distance)
    assert (layer.distance[there] >= z[there] * (1 - 1e-6)).all()
    # Across a tear the layer meets the far side, and stays behind the near side.
    near = faces(layer.distance).min(axis=0)[layer.torn]
    assert (near > faces(z).min(axis=0)[layer.torn] * RATIO * (1 - 1e-6)).all()
    assert ((layer.reach >= 0) & (layer.reach <= 1)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_seen_keeps_its_colours(seed):
    rng = np.random.default_rng(seed)
    z, colours = boxes(seed), rng.integers(0, 256, (40, 56, 3)).astype(np.uint8)
    layer = background_layer(z, RATIO, colours)
    outside = layer.reach == 0
    assert (layer.colours[outside] == colours[outside]).all()
    assert layer.colours.dtype == np.uint8 and layer.colours.shape == colours.shape


def test_depth_and_colour_continue_from_the_far_side():
    z = np.full((60, 80), 4.0, dtype=np.float32)
    z[20:40, 30:50] = 1.0
    colours = np.zeros((60, 80, 3), dtype=np.uint8)
    colours[..., 2] = 200  # a blue wall, a red box
    colours[20:40, 30:50] = (200, 0, 0)
    layer = background_layer(z, RATIO, colours)
    behind = layer.reach > 0
    assert behind[20:40, 30:50].mean() > 0.9 and not behind[:18].any()
    assert np.allclose(layer.distance[behind], 4, atol=1e-4)
    assert (layer.colours[behind] == (0, 0, 200)).all()


def test_a_small_step_has_a_short_layer():
    z = np.full((60, 200), 4.0, dtype=np.float32)
    reach = []
    for front in (3.6, 2.0):
        z[:, 100:] = front
        reach.append(np.isfinite(background_layer(z, RATIO).distance[30, 100:]).sum())
    assert 2 <= reach[0] < reach[1]


def test_where_there_is_no_tear_there_is_no_layer():
    y, x = np.mgrid[0:30, 0:40].astype(np.float32)
    z = 3 + 0.01 * x + 0.02 * y
    assert (sharpen_edges(z, RATIO) == z).all()
    layer = background_layer(z, RATIO)
    assert not layer.quads.any() and np.isnan(layer.distance).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_true_depth_is_left_as_it_is(seed):
    z = boxes(seed)
    sharp = sharpen_edges(z, RATIO)
    around = [np.roll(z, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    like_it = sum(np.abs(other / z - 1) < RATIO - 1 for other in around) - 1
    changed = sharp != z
    assert not changed[1:-1, 1:-1][like_it[1:-1, 1:-1] > 2].any()
    assert changed.mean() < 0.02  # where boxes overlap in a line of one pixel


@pytest.mark.parametrize("ramp", [2, 3, 4])
def test_a_soft_edge_becomes_one_pixel_wide(ramp):
    z = np.full((30, 60), 4.0, dtype=np.float32)
    z[:, 30:] = 2.0
    kernel = np.ones(ramp) / ramp
    soft = np.apply_along_axis(lambda row: np.convolve(row, kernel, "same"), 1, z)
    soft = np.pad(soft[:, 5:-5], ((0, 0), (5, 5)), mode="edge").astype(np.float32)
    sharp = sharpen_edges(soft, RATIO)
    assert torn_quads(soft, RATIO).sum(axis=1).max() >= ramp
    assert (torn_quads(sharp, RATIO).sum(axis=1) == 1).all()
    assert np.allclose(np.unique(sharp.round(2)), [2, 4])


@pytest.mark.parametrize("slope", [0.3, 0.5, 1.0])
def test_a_soft_slanted_edge_has_no_comb_teeth(slope):
    """Each row is torn in one place, by a pixel more than the edge advances from row to row."""
    y, x = np.mgrid[0:40, 0:80]
    z = (4 - 2 * ((x - 20 - slope * y) / 3).clip(0, 1)).astype(np.float32)
    torn = torn_quads(sharpen_edges(z, RATIO), RATIO)[4:-4]
    assert torn_quads(z, RATIO)[4:-4].sum(axis=1).min() >= 3
    for row in torn:
        columns = np.flatnonzero(row)
        assert 1 <= len(columns) <= 3
        assert np.ptp(columns) == len(columns) - 1


def test_the_picture_decides_where_the_depth_is_undecided():
    z = np.full((20, 40), 4.0, dtype=np.float32)
    z[:, 20:] = 2.0
    z[:, 19] = 3.0
    colours = np.zeros((20, 40, 3), dtype=np.uint8)
    for first in (19, 20):
        colours[:], colours[:, first:] = 20, 220
        assert np.allclose(sharpen_edges(z, RATIO, colours)[:, 19], 2 if first == 19 else 4)


def test_holes_stay_holes():
    z = boxes(3)
    z[10:14, 5:50] = np.nan
    sharp = sharpen_edges(z, RATIO)
    assert (np.isnan(sharp) == np.isnan(z)).all()
    layer = background_layer(sharp, RATIO)
    assert not faces(np.isnan(z)).any(axis=0)[layer.quads].any()
