"""Sizes and padding: what the network sees of a picture, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.errors import MarigoldError
from marigold_core.resize import processing_size, resize_map, resize_mask, to_pixels

side = st.integers(1, 40)


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((480, 640), 768, (576, 768)),
        ((375, 1242), 768, (231, 768)),
        ((3000, 2000), 768, (768, 512)),
        ((97, 61), 0, (97, 61)),
        ((1, 1), 768, (768, 768)),
        ((1, 5000), 768, (1, 768)),
    ],
)
def test_the_longer_side_becomes_the_resolution(size, resolution, expected):
    assert processing_size(*size, resolution) == expected


def test_negative_resolution_is_refused():
    with pytest.raises(MarigoldError, match="-1"):
        processing_size(10, 10, -1)


@settings(max_examples=40, deadline=None)
@given(side, side, st.sampled_from([0, 1, 7, 8, 24, 50]))
def test_any_picture_becomes_pixels_of_padded_size_in_range(height, width, resolution):
    rng = np.random.default_rng(height * 100 + width)
    image = rng.random((height, width, 3), dtype=np.float32)
    kept = image.copy()
    size = processing_size(height, width, resolution)
    pixels = to_pixels(image, size, 8)
    assert pixels.dtype == torch.float32
    assert pixels.shape[:2] == (1, 3)
    for padded, wanted in zip(pixels.shape[2:], size, strict=True):
        assert padded % 8 == 0
        assert 0 <= padded - wanted < 8
    assert pixels.abs().max() <= 1 + 1e-6
    # The padding repeats the last row and column.
    assert torch.equal(pixels[..., size[0] :, :], pixels[..., size[0] - 1 : size[0], :].expand_as(
        pixels[..., size[0] :, :]))  # fmt: skip
    assert np.array_equal(image, kept), "the caller's picture was changed"
    if size == (height, width):
        expected = torch.from_numpy(image).permute(2, 0, 1) * 2 - 1
        assert torch.equal(pixels[0, :, :height, :width], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_are_resized_as_their_floats(dtype):
    full = np.iinfo(dtype).max
    stored = np.random.default_rng(0).integers(0, full, (37, 53, 3), dtype, endpoint=True)
    expected = to_pixels((stored / full).astype(np.float32), (16, 23), 8)
    torch.testing.assert_close(to_pixels(stored, (16, 23), 8), expected, rtol=0, atol=1e-6)


def test_shrinking_averages_instead_of_picking():
    stripes = np.zeros((64, 64, 3), np.float32)
    stripes[:, ::2] = 1
    assert to_pixels(stripes, (8, 8), 8).abs().max() < 0.1


@settings(max_examples=25, deadline=None)
@given(side, side, side, side)
def test_maps_keep_their_range_and_masks_something_to_use(height, width, new_height, new_width):
    values = torch.rand(height, width, generator=torch.Generator().manual_seed(0))
    resized = resize_map(values, (new_height, new_width))
    assert resized.shape == (new_height, new_width)
    assert values.min() - 1e-6 <= resized.min()
    assert resized.max() <= values.max() + 1e-6
    sparse = np.zeros((height, width), bool)
    sparse[height // 2, width // 2] = True
    assert resize_mask(sparse, (new_height, new_width)).any()


def test_a_cell_of_the_small_mask_counts_by_majority():
    mask = np.zeros((8, 8), bool)
    mask[:, :5] = True
    assert resize_mask(mask, (2, 2)).tolist() == [[True, False], [True, False]]
