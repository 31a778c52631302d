"""The fit: what two points fix, what wrong ones cannot spoil, and what it says of itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from marigold_core.depth import DepthMap
from marigold_core.errors import MarigoldError
from marigold_core.metric.fit import fit_depth, fit_metric
from marigold_core.metric.hints import KnownDepths

SIZE = (40, 60)
RAMP = np.linspace(0, 1, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)


def at(pixels, metres, **others) -> KnownDepths:
    """Known depths at (row, column) pixels."""
    positions = [(column + 0.5, row + 0.5) for row, column in pixels]
    return KnownDepths(positions, metres, size=SIZE, **others)


def sampled(truth: np.ndarray, count: int, seed: int = 0, wrong: int = 0) -> KnownDepths:
    """`count` random points of the true depth, the first `wrong` of them three times too far."""
    rng = np.random.default_rng(seed)
    places = rng.choice(truth.size, count, replace=False)
    pixels = np.column_stack(np.unravel_index(places, truth.shape))
    metres = truth.ravel()[places].astype(float)
    metres[:wrong] *= 3
    return at(pixels, metres)


@given(
    a=st.floats(0.05, 100),
    b=st.floats(0.1, 50),
    pixels=st.lists(
        st.tuples(st.integers(0, 39), st.integers(0, 59)), min_size=2, max_size=30, unique=True
    ),
)
def test_any_true_affine_map_is_recovered(a, b, pixels):
    truth = a * RAMP.astype(float) + b
    known = at(pixels, [truth[pixel] for pixel in pixels])
    spread = np.ptp([RAMP[pixel] for pixel in pixels])
    assume(spread > 0.01)
    result = fit_metric(DepthMap(RAMP), known, inverse=False)
    inside = np.clip(truth, *result.fit.limits)
    np.testing.assert_allclose(result.depth, inside, rtol=1e-4)
    assert (result.scale_invariant, result.shift_invariant) == (False, False)
    assert not len(result.fit.outliers)


@given(st.floats(0.01, 100), st.floats(0.1, 10), st.floats(-3, 3), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_units_and_the_maps_own_range_do_not_matter(unit, gain, offset, seed):
    rng = np.random.default_rng(seed)
    truth = 1 + 4 * RAMP.astype(float)
    depth = (RAMP + 0.03 * rng.normal(size=SIZE)).astype(np.float32)
    known = sampled(truth, 12, seed, wrong=1)
    plain = fit_metric(DepthMap(depth), known)
    other = fit_metric(DepthMap(gain * depth + offset), known.scaled(unit))
    np.testing.assert_allclose(other.depth, plain.depth * unit, rtol=2e-3)


def test_a_disparity_map_is_fitted_in_inverse_depth():
    truth = 1 / (0.9 - 0.8 * RAMP.astype(float))  # 1.1 to 10 m, what 1 - disparity is affine in
    result = fit_metric(DepthMap(RAMP), sampled(truth, 8))
    assert result.fit.inverse
    np.testing.assert_allclose(result.depth, truth, rtol=1e-4)
    straight = fit_metric(DepthMap(RAMP), sampled(1 + 4 * RAMP.astype(float), 8))
    assert not straight.fit.inverse


@pytest.mark.parametrize(("count", "wrong"), [(10, 2), (30, 9), (100, 35)])
def test_wrong_hints_are_named_and_change_nothing(count, wrong):
    truth = 1 + 4 * RAMP.astype(float)
    noisy = RAMP + 0.005 * np.random.default_rng(3).normal(size=SIZE).astype(np.float32)
    result = fit_metric(DepthMap(noisy), sampled(truth, count, 1, wrong))
    # A point three times too far may be right by luck of its place; none here is.
    assert set(range(wrong)) <= set(result.fit.outliers.tolist())
    assert len(result.fit.outliers) <= wrong + 0.05 * count
    assert np.abs(result.depth / truth - 1).mean() < 0.02


def test_one_hint_fixes_the_scale_alone():
    result = fit_metric(DepthMap(RAMP), at([(20, 30)], [6.0]))
    assert result.depth[20, 30] == pytest.approx(6)
    assert result.depth.max() / result.depth.min() == pytest.approx(5)
    assert not result.fit.shift_fitted
    assert result.fit.relative_error is None
    assert result.uncertainty is None


def test_two_points_that_agree_say_nothing_of_the_error():
    """Two lie on a line always; a third that the fit leaves out does not change that."""
    truth = 1 + 4 * RAMP.astype(float)
    known = at([(2, 3), (20, 30), (38, 50)], [truth[2, 3], truth[20, 30], 1.5 * truth[38, 50]])
    fit = fit_metric(DepthMap(RAMP), known).fit
    assert len(fit.outliers) == 1
    assert fit.relative_error is None and fit.error_range is None


def test_points_at_one_depth_fix_the_scale_alone_and_say_so():
    flat = np.where(np.arange(60) < 30, 0.2, 0.8)[None].repeat(40, 0).astype(np.float32)
    result = fit_metric(DepthMap(flat), at([(3, 4), (9, 9), (20, 11)], [2.0, 2.02, 1.98]))
    assert not result.fit.shift_fitted
    assert result.depth[3, 4] == pytest.approx(2, rel=0.01)
    assert "same depth" in result.fit.notes[0]


def test_a_map_with_a_known_shift_is_only_scaled():
    depth = DepthMap(1 + RAMP, shift_invariant=False)
    result = fit_metric(depth, at([(0, 0), (39, 59)], [3.0, 6.0]))
    np.testing.assert_allclose(result.depth, 3 * (1 + RAMP), rtol=1e-5)
    assert result.is_metric
    both = fit_metric(depth, at([(0, 0), (39, 59)], [3.0, 9.0]), fit_shift=True)
    np.testing.assert_allclose(both.depth, 3 + 6 * RAMP, rtol=1e-5)


def test_hints_where_the_ensemble_disagrees_count_less():
    truth = 1 + 4 * RAMP.astype(float)
    uncertainty = np.where(np.arange(40) < 20, 0.01, 0.3)[:, None].repeat(60, 1)
    gains = []
    for seed in range(20):
        noise = uncertainty * np.random.default_rng(seed).normal(size=SIZE)
        depth = (RAMP + noise).astype(np.float32)
        known = sampled(truth, 40, seed)
        trusted = fit_metric(DepthMap(depth, uncertainty=uncertainty.astype(np.float32)), known)
        blind = fit_metric(DepthMap(depth), known)
        gains.append(
            np.abs(trusted.fit.depth(RAMP) / truth - 1).mean()
            / np.abs(blind.fit.depth(RAMP) / truth - 1).mean()
        )
    assert np.median(gains) < 0.7


@pytest.mark.parametrize("known_scale", [1.0, 0.02])
def test_distances_stay_positive_and_within_reach(known_scale):
    # Two close points in the far part put the near part behind the camera.
    known = at([(38, 0), (39, 59)], [3 * known_scale, 9 * known_scale])
    result = fit_metric(DepthMap(RAMP), known)
    assert result.depth.min() == pytest.approx(3 * known_scale / 20)


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (at([(0, 5), (39, 5)], [5.0, 1.0]), "contradict"),
        (at([(0, 5), (20, 9), (39, 5), (30, 3)], [5.0, 3.0, 1.0, 2.0]), "contradict"),
        (at([(0, 5), (39, 5)], [2.0, 2.0]), "All known points have the distance 2"),
        (KnownDepths([], []), "no known depth, length or camera height"),
        (KnownDepths([(70, 3)], [1.0]), "outside the picture"),
        (at([(2, 2)], [1.0]), "mask leaves"),
    ],
)
def test_bad_hints_are_one_clear_message(known, words):
    mask = np.ones(SIZE, bool)
    mask[2, 2] = False
    with pytest.raises(MarigoldError, match=words) as caught:
        fit_metric(DepthMap(RAMP, mask=mask), known)
    assert "\n" not in str(caught.value)


def test_feet_for_metres_are_said():
    truth = 1 + 4 * RAMP.astype(float)
    metric = DepthMap(truth.astype(np.float32), scale_invariant=False, shift_invariant=False)
    feet = fit_metric(metric, sampled(truth / 0.3048, 9))
    assert "3.28 times" in feet.fit.notes[0]
    assert "in feet?" in feet.fit.notes[0]
    mixed = sampled(truth, 20)
    metres = mixed.metres.copy()
    metres[:4] /= 0.3048
    fit = fit_metric(DepthMap(RAMP), KnownDepths(mixed.positions, metres, size=SIZE)).fit
    assert sorted(fit.outliers.tolist()) == [0, 1, 2, 3]
    assert "4 of the 4 outliers fit if they are in feet" in fit.notes[0]
    assert not fit_metric(metric, sampled(truth, 9)).fit.notes


def test_the_error_estimate_is_honest():
    """The estimate covers the true error, over scenes with smooth bias, noise and wrong hints."""
    covered, ratios = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = 1 + 4 * RAMP.astype(float)
        waves = np.sin(np.arange(60) / 9 + seed) * np.cos(np.arange(40) / 11 - seed)[:, None]
        depth = RAMP + 0.03 * waves + 0.01 * rng.normal(size=SIZE)
        result = fit_metric(DepthMap(depth.astype(np.float32)), sampled(truth, 30, seed, wrong=2))
        error = np.abs(result.depth / truth - 1).mean()
        ratios.append(result.fit.relative_error / error)
        low, high = result.fit.error_range
        covered += low <= error <= high
    assert 0.85 < np.median(ratios) < 1.2
    assert covered >= 0.8 * 60


def test_the_uncertainty_is_wide_where_no_hint_is():
    noise = 0.01 * np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    known = sampled((1 + 4 * RAMP.astype(float))[:10], 6)  # in the nearest quarter alone
    result = fit_metric(DepthMap(RAMP + noise), known)
    relative = result.uncertainty / result.depth
    assert relative[39].mean() > 1.5 * relative[5].mean()
    assert math.isfinite(relative.max())


def test_many_points_are_as_good_as_all_of_them():
    truth = 1 + 4 * RAMP.astype(float)
    rows, columns = np.divmod(np.arange(RAMP.size), 60)
    positions = np.column_stack([columns, rows]).repeat(30, 0)
    result = fit_metric(DepthMap(RAMP), KnownDepths(positions, truth.ravel().repeat(30)))
    np.testing.assert_allclose(result.depth, truth, rtol=1e-5)
    assert result.fit.fitted == 5000


def test_the_fit_alone_is_the_same_without_a_depth_map():
    known = sampled(1 + 4 * RAMP.astype(float), 9, wrong=1)
    fit = fit_depth(RAMP, known)
    whole = fit_metric(DepthMap(RAMP), known)
    np.testing.assert_allclose(fit.depth(RAMP), whole.depth, rtol=1e-6)
    assert fit.outliers.tolist() == whole.fit.outliers.tolist() == [0]
