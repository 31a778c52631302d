"""Merging aligned members, and the moments that align them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from depth_maps import seed
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.ensemble.merging import CPU_PIXELS, SAMPLE, median, merge, moments, sample

torch.set_num_threads(1)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 33), number=st.integers(0, 999), levels=st.sampled_from([2, 5, 1000]))
def test_the_median_is_the_true_one_for_odd_and_even_numbers(n, number, levels):
    rows = torch.randint(levels, (n, 50), generator=seed(number)).float()
    expected = np.median(rows.numpy(), axis=0)
    np.testing.assert_array_equal(median(list(rows.clone())).numpy(), expected)


def test_merging_by_chunks_is_merging_at_once():
    maps = torch.rand(4, 2 * CPU_PIXELS + 77, generator=seed())
    rows, scale, shift = [3, 0, 2, 1], torch.tensor([1, 2, 3, 0.5]), torch.tensor([0, 0.1, -1, 0.5])
    aligned = (maps[rows] * scale[:, None] + shift[:, None]).numpy()
    depth, spread = merge(maps, rows, scale, shift, "median")
    np.testing.assert_allclose(depth.numpy(), np.median(aligned, 0), atol=1e-6)
    deviation = np.median(np.abs(aligned - np.median(aligned, 0)), 0)
    np.testing.assert_allclose(spread.numpy(), deviation, atol=1e-6)
    depth, spread = merge(maps, rows, scale, shift, "mean")
    np.testing.assert_allclose(depth.numpy(), aligned.mean(0), atol=1e-6)
    np.testing.assert_allclose(spread.numpy(), aligned.std(0, ddof=1), atol=1e-6)


def test_moments_do_not_cancel_in_float32():
    maps = 1000 + 0.01 * torch.rand(3, CPU_PIXELS + 5, generator=seed())
    mean, covariance = moments(maps)
    np.testing.assert_allclose(mean.numpy(), maps.double().mean(1).numpy(), rtol=1e-12)
    expected = np.cov(maps.double().numpy(), ddof=0)
    np.testing.assert_allclose(covariance.numpy(), expected, atol=1e-9 * expected.max())


@pytest.mark.parametrize("size", [(1, 9000), (9000, 1), (128, 512), (512, 128), (100, 101)])
def test_a_sample_is_spread_evenly(size):
    height, width = size
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    maps = torch.stack([y, x]).reshape(2, -1)
    pixels = sample(maps)
    assert pixels.shape == (2, SAMPLE)
    for sampled, all_of_them in zip(pixels, maps.double(), strict=True):
        for share in (0.1, 0.5, 0.9):
            expected = pytest.approx(float(all_of_them.quantile(share)), abs=0.02)
            assert float(sampled.quantile(share)) == expected
