"""Metrics on arrays small enough to check by hand, against formulas written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics import (
    FITS,
    Score,
    boundary_f1,
    fitted,
    mean_score,
    score,
    vertical_ramp,
)

from marigold_core.errors import MarigoldError


def random_truth(seed: int, shape: tuple[int, int] = (7, 9)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 10, shape).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 50), st.floats(-5, 5), st.integers(0, 2**32 - 1))
def test_an_affine_copy_of_the_truth_is_perfect(scale, shift, seed):
    truth = random_truth(seed)
    valid = np.ones_like(truth, bool)
    result = score((truth - shift) / scale, truth, valid)
    assert result.abs_rel == pytest.approx(0, abs=1e-4)
    assert result.delta1 == 1
    assert result.boundary_f1 == pytest.approx(1, abs=1e-2)


def test_values_by_hand():
    truth = np.array([[1.0, 2.0, 4.0, 4.0]])
    # The best constant is the mean, 2.75: errors 1.75, 0.75, 1.25, 1.25.
    result = score(np.zeros_like(truth), truth, np.ones_like(truth, bool))
    assert result.abs_rel == pytest.approx((1.75 / 1 + 0.75 / 2 + 1.25 / 4 + 1.25 / 4) / 4)
    assert result.delta1 == 0
    assert result.boundary_f1 == 0


def test_the_truth_of_a_picture_does_not_bound_its_prediction():
    truth, valid = np.array([[2.0, 3.0, 4.0]]), np.ones((1, 3), bool)
    result = score(np.array([[2.0, 3.0, 40.0]]), truth, valid, fit="none")
    assert result.abs_rel == pytest.approx((36 / 4) / 3)
    within = score(np.array([[2.0, 3.0, 40.0]]), truth, valid, fit="none", depth_range=(1e-5, 10))
    assert within.abs_rel == pytest.approx((6 / 4) / 3)
    assert np.isfinite(score(-truth, truth, valid, fit="none")).all()


@pytest.mark.parametrize("seed", range(4))
def test_every_metric_against_its_formula(seed):
    truth = random_truth(seed)
    prediction = (truth * np.random.default_rng(seed + 50).uniform(0.5, 1.6, truth.shape)).astype(
        np.float32
    )
    valid = np.random.default_rng(seed + 99).random(truth.shape) < 0.7
    result = score(prediction, truth, valid, fit="none", depth_range=(2.0, 9.0))
    pairs = [
        (min(max(float(p), 2.0), 9.0), float(g))
        for p, g in zip(prediction[valid], truth[valid], strict=True)
    ]
    n = len(pairs)
    logs = [math.log(p) - math.log(g) for p, g in pairs]
    mean_log = sum(logs) / n
    expected = {
        "abs_rel": sum(abs(p - g) / g for p, g in pairs) / n,
        "sq_rel": sum((p - g) ** 2 / g for p, g in pairs) / n,
        "rmse": math.sqrt(sum((p - g) ** 2 for p, g in pairs) / n),
        "rmse_log": math.sqrt(sum(d * d for d in logs) / n),
        "irmse": math.sqrt(sum((1 / p - 1 / g) ** 2 for p, g in pairs) / n),
        "log10": sum(abs(math.log10(p / g)) for p, g in pairs) / n,
        "silog": 100 * math.sqrt(sum(d * d for d in logs) / n - mean_log**2),
        **{f"delta{k}": sum(max(p / g, g / p) < 1.25**k for p, g in pairs) / n for k in (1, 2, 3)},
    }
    for name, value in expected.items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-6), name


def test_invalid_pixels_count_for_nothing():
    truth = np.array([[1.0, 2.0, 3.0, 1e9]])
    prediction = np.array([[0.1, 0.2, 0.3, -7.0]])
    valid = np.array([[True, True, True, False]])
    assert score(prediction, truth, valid).abs_rel == pytest.approx(0, abs=1e-12)
    assert fitted(prediction, truth, valid)[0, :3] == pytest.approx([1, 2, 3])
    prediction[0, 3] = np.nan
    assert score(prediction, truth, valid).abs_rel == pytest.approx(0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 20), st.floats(-3, 3), st.integers(0, 2**32 - 1))
def test_the_fits_recover_what_they_are_for(scale, shift, seed):
    truth = random_truth(seed).astype(np.float64)
    valid = np.ones_like(truth, bool)
    for fit, prediction in {
        "least_squares": (truth - shift) / scale,
        "median": (truth - shift) / scale,
        "scale": truth / scale,
        "none": truth,
        "disparity": (1 / truth + 0.01) * scale,
    }.items():
        np.testing.assert_allclose(fitted(prediction, truth, valid, fit), truth, rtol=1e-6)
    assert {*FITS} == {"least_squares", "median", "scale", "none", "disparity"}


def test_least_squares_is_numpys():
    truth, prediction = random_truth(1).astype(np.float64), random_truth(2).astype(np.float64)
    valid = random_truth(3) > 4
    design = np.stack([prediction[valid], np.ones(valid.sum())], 1)
    solution = np.linalg.lstsq(design, truth[valid], rcond=None)[0]
    expected = prediction * solution[0] + solution[1]
    np.testing.assert_allclose(fitted(prediction, truth, valid), expected, rtol=1e-9)


def test_wild_pixels_move_the_median_fit_less():
    truth = np.linspace(1, 5, 400).reshape(20, 20)
    wild = truth * 0.1 + 2
    wild[0, :3] = 40
    valid = np.ones_like(truth, bool)
    robust = abs(fitted(wild, truth, valid, "median") - truth)
    plain = abs(fitted(wild, truth, valid) - truth)
    assert np.median(robust) < 0.8 * np.median(plain)


def test_eth3d_is_fitted_on_every_sixth_column():
    truth, prediction = random_truth(1, (5, 6048)), random_truth(2, (5, 6048))
    valid = np.ones_like(truth, bool)
    columns = (np.arange(1024) * (6048 / 1024)).astype(int)
    design = np.stack([prediction[:, columns].ravel(), np.ones(5 * 1024)], 1)
    solution = np.linalg.lstsq(design, truth[:, columns].ravel(), rcond=None)[0]
    np.testing.assert_allclose(
        fitted(prediction, truth, valid, fit_columns=1024),
        prediction * solution[0] + solution[1],
        rtol=1e-4,
    )


def depth_pro_f1(depth: np.ndarray, truth: np.ndarray) -> float:
    """Bochkovskii et al. 2024, on dense maps, pixel by pixel."""
    height, width = truth.shape
    thresholds = [1.05 + 0.2 * k / 9 for k in range(10)]
    total = 0.0
    for t in thresholds:
        recall = precision = 0.0
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            both = real = found = 0
            for y in range(height):
                for x in range(width):
                    y2, x2 = y + dy, x + dx
                    if not (0 <= y2 < height and 0 <= x2 < width):
                        continue
                    true = truth[y2, x2] / truth[y, x] > t
                    guess = depth[y2, x2] / depth[y, x] > t
                    both, real, found = both + (true and guess), real + true, found + guess
            recall += both / max(real, 1) / 4
            precision += both / max(found, 1) / 4
        if recall + precision:
            total += t * 2 * recall * precision / (recall + precision)
    return total / sum(thresholds)


@pytest.mark.parametrize("seed", range(3))
def test_boundary_f1_is_depth_pros(seed):
    truth = random_truth(seed).astype(np.float64)
    depth = truth * np.random.default_rng(seed).uniform(0.7, 1.4, truth.shape)
    valid = np.ones_like(truth, bool)
    assert boundary_f1(depth, truth, valid) == pytest.approx(depth_pro_f1(depth, truth))
    assert boundary_f1(depth * 7, truth, valid) == pytest.approx(depth_pro_f1(depth, truth))


def test_boundary_f1_wants_the_edge_in_its_place():
    truth = np.where(np.arange(40) < 20, 2.0, 6.0)[None].repeat(30, 0)
    valid = np.ones_like(truth, bool)
    moved = np.where(np.arange(40) < 21, 2.0, 6.0)[None].repeat(30, 0)
    blurred = np.interp(np.arange(40), [10, 30], [2, 6])[None].repeat(30, 0)
    assert boundary_f1(moved, truth, valid) == 0
    # Of four directions one has boundaries: even a perfect map reaches 1/4 in each of the means.
    perfect = boundary_f1(truth, truth, valid)
    assert perfect == pytest.approx(0.25)
    assert boundary_f1(blurred, truth, valid) < 0.1 * perfect
    valid[:, 19] = False  # the pair of pixels that the edge runs through
    assert math.isnan(boundary_f1(truth, truth, valid))
    assert math.isnan(boundary_f1(moved, np.full_like(truth, 3.0), np.ones_like(valid)))


def test_the_mean_leaves_out_what_has_no_boundary():
    one = Score(*[1.0] * 10, math.nan)
    two = Score(*[3.0] * 10, 0.5)
    assert mean_score([one, two]) == Score(*[2.0] * 10, 0.5)
    assert math.isnan(mean_score([one]).boundary_f1)


def test_what_cannot_be_scored_is_said():
    truth = np.ones((3, 3))
    with pytest.raises(MarigoldError, match="valid"):
        score(truth, truth, np.zeros_like(truth, bool))
    with pytest.raises(MarigoldError, match="NaN"):
        score(truth * np.nan, truth, np.ones_like(truth, bool))
    with pytest.raises(MarigoldError, match="least_squares"):
        score(truth, truth, np.ones_like(truth, bool), fit="magic")


def test_ramp_is_far_at_the_top():
    ramp = vertical_ramp(5, 3)
    assert ramp.shape == (5, 3)
    assert ramp[0, 0] == 1
    assert ramp[-1, 0] == 0
