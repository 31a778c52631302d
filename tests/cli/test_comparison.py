"""An estimate beside the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.cli.comparison import mean_relative_error, scale_and_shift, side_by_side
from marigold_core.errors import MarigoldError


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 2**32 - 1))
def test_the_fit_is_the_one_of_least_squares(scale, shift, seed):
    random = np.random.default_rng(seed)
    x = random.random(60).astype(np.float32)
    y = x * scale + shift + random.normal(0, 0.1, 60)
    expected = np.linalg.lstsq(np.stack([x, np.ones(60)], 1).astype(np.float64), y, rcond=None)[0]
    assert scale_and_shift(x, y) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_constant_is_fitted_by_the_mean():
    assert scale_and_shift(np.full(4, 0.3), np.array([1.0, 2, 3, 6])) == (0, 3)


def test_the_error_is_that_of_the_fitted_depth_and_ignores_what_is_unknown():
    truth = np.array([[1.0, 2.0], [4.0, 0.0]])
    valid = truth > 0
    assert mean_relative_error(truth * 0.1 + 3, truth, valid) == pytest.approx(0, abs=1e-12)
    flat = np.ones((2, 2))
    mean = 7 / 3
    expected = np.mean([mean - 1, (mean - 2) / 2, (4 - mean) / 4])
    assert mean_relative_error(flat, truth, valid) == pytest.approx(expected)


def test_panels_stand_beside_each_other():
    rgb = np.full((8, 12, 3), 0.5, np.float32)
    truth = np.tile(np.linspace(1, 5, 12), (8, 1))
    valid = np.ones((8, 12), bool)
    valid[:, :2] = False
    estimate = 0.2 * truth + 1
    estimate[:, 6] += 0.2 * 4 * 0.5  # half the range too far
    unsure = np.zeros((8, 12), np.float32)
    unsure[3, 3] = 0.01
    sheet = side_by_side(rgb, estimate, truth, valid, unsure)
    assert sheet.shape == (8, 60, 3) and sheet.dtype == np.uint8
    picture, true, _guess, error, spread = np.split(sheet, 5, axis=1)
    assert (np.abs(picture.astype(int) - 128) <= 1).all()
    assert not true[:, :2].any() and true[:, 2:].any()
    assert true[0, 2, 0] > true[0, 2, 2] and true[0, -1, 2] > true[0, -1, 0]  # red is near
    assert (error[:, 6] > 200).all() and not error[:, :2].any()
    assert (spread[3, 3] == 255).all() and not spread[0].any()
    assert side_by_side(rgb, estimate, truth, valid).shape == (8, 48, 3)


def test_what_cannot_be_compared_is_said():
    rgb = np.zeros((8, 12, 3), np.float32)
    depth = np.zeros((8, 12))
    with pytest.raises(MarigoldError, match="6x4 and the picture 12x8"):
        side_by_side(rgb, depth, np.ones((4, 6)), np.ones((4, 6), bool))
    with pytest.raises(MarigoldError, match="no value above 0"):
        mean_relative_error(depth, depth, depth > 0)
