"""Metrics on arrays small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics import align_least_squares, score, vertical_ramp


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 50), st.floats(-5, 5), st.integers(0, 2**32 - 1))
def test_an_affine_copy_of_the_truth_is_perfect(scale, shift, seed):
    truth = np.random.default_rng(seed).uniform(1, 10, (7, 9)).astype(np.float32)
    valid = np.ones_like(truth, bool)
    result = score((truth - shift) / scale, truth, valid)
    assert result.abs_rel == pytest.approx(0, abs=1e-4)
    assert result.delta1 == 1


def test_values_by_hand():
    truth = np.array([[1.0, 2.0, 4.0, 4.0]])
    # The best constant is the mean, 2.75: errors 1.75, 0.75, 1.25, 1.25.
    result = score(np.zeros_like(truth), truth, np.ones_like(truth, bool))
    assert result.abs_rel == pytest.approx((1.75 / 1 + 0.75 / 2 + 1.25 / 4 + 1.25 / 4) / 4)
    assert result.delta1 == 0


def test_invalid_pixels_count_for_nothing():
    truth = np.array([[1.0, 2.0, 3.0, 1e9]])
    prediction = np.array([[0.1, 0.2, 0.3, -7.0]])
    valid = np.array([[True, True, True, False]])
    assert score(prediction, truth, valid).abs_rel == pytest.approx(0, abs=1e-12)
    assert align_least_squares(prediction, truth, valid)[0, :3] == pytest.approx([1, 2, 3])


def test_ramp_is_far_at_the_top():
    ramp = vertical_ramp(5, 3)
    assert ramp.shape == (5, 3)
    assert ramp[0, 0] == 1
    assert ramp[-1, 0] == 0
