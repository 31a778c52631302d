"""Pictures without depth: windows of photographs and views of environment maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from data.pictures import Pictures, cut, perspective
from data.sample import DataError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from render.exr_png import write_exr


class Fixed:
    """Stands in for a random generator: always the middle of what is asked for."""

    def uniform(self, low, high):
        return (low + high) / 2

    def normal(self, mean, spread):
        return mean + 0 * np.asarray(spread)

    def integers(self, high):
        return (high - 1) // 2


def test_a_perspective_view_sees_what_lies_in_its_direction():
    # Colours are the direction itself: azimuth as sine and cosine, and elevation.
    height, width = 256, 512
    azimuth = (torch.arange(width) + 0.5) / width * 2 * math.pi
    elevation = math.pi / 2 - (torch.arange(height) + 0.5) / height * math.pi
    elevation, azimuth = torch.meshgrid(elevation, azimuth, indexing="ij")
    environment = torch.stack([azimuth.sin(), azimuth.cos(), elevation], 2)
    side = 65
    view = perspective(environment, side, Fixed())
    focal = width / (2 * math.pi) * math.sqrt(0.6 * 1.3)
    middle = view[:, 32, 32]
    assert torch.allclose(middle, torch.tensor([0.0, -1.0, 0.0]), atol=0.02)
    # The ray through the pixel at the edge of the middle row is atan(32 / focal) further right.
    turned = math.pi + math.atan(32 / focal)
    edge = torch.tensor([math.sin(turned), math.cos(turned), 0.0])
    assert torch.allclose(view[:, 32, 64], edge, atol=0.02)
    assert view[2, 0, 32] == pytest.approx(math.atan(32 / focal), abs=0.02)


def test_a_view_across_the_seam_of_a_map_is_whole():
    environment = torch.full((16, 32, 3), 0.5)
    for seed in range(20):
        view = perspective(environment, 24, np.random.default_rng(seed))
        assert torch.allclose(view, torch.full((3, 24, 24), 0.5), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 1000))
def test_a_window_is_a_square_of_any_picture(height, width, seed):
    picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    window = cut(picture, 16, np.random.default_rng(seed))
    assert window.shape == (3, 16, 16)
    assert 0 <= window.min() and window.max() <= 1


def test_folders_of_both_kinds_give_windows_and_an_infinite_sun_no_hole(tmp_path):
    maps, photographs = tmp_path / "maps", tmp_path / "photographs"
    maps.mkdir()
    photographs.mkdir()
    light = np.full((16, 32), 0.3, np.float16)
    light[4, 8] = np.inf
    write_exr(maps / "sun.exr", dict.fromkeys("RGB", light))
    clear = np.zeros((20, 30, 4), np.uint8)
    Image.fromarray(clear).save(photographs / "clear.png")
    pictures = Pictures([maps, photographs])
    random = np.random.default_rng(0)
    for _ in range(20):
        window = pictures.window(16, random)
        assert window.shape == (3, 16, 16) and torch.isfinite(window).all()
        assert 0 <= window.min() and window.max() <= 1
        # Neither the clear picture, shown as grey, nor the map is black anywhere.
        assert window.amax() > 0.05


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no picture"):
        Pictures([tmp_path])
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        Pictures([tmp_path])
