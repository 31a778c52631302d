"""A farthest depth that counts, and variants of each picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data.augment import (
    Variants,
    Within,
    blurred,
    blurred_and_jittered,
    compressed,
    jittered,
    moved,
    noisy,
    photographed,
    vignetted,
)
from data.registry import open_dataset
from data_builders import rendered_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe import read_recipe

from marigold_core.errors import MarigoldError


def test_what_lies_beyond_the_farthest_metre_is_like_the_sky(tmp_path):
    spec = f"folder:{rendered_folder(tmp_path, 3)}"
    whole = open_dataset(spec, "all")[0]
    middle = float(whole.depth[whole.valid].median())
    near = open_dataset(spec, "all", farthest=middle)[0]
    assert torch.equal(near.valid, whole.valid & (whole.depth <= middle))
    assert torch.equal(near.depth, whole.depth)  # far, as the sky is, and out of the loss
    assert torch.equal(near.image, whole.image)


def test_the_first_variant_is_the_sample_and_the_others_are_crops_of_it(tmp_path):
    spec = f"folder:{rendered_folder(tmp_path, 2)}"
    plain = open_dataset(spec, "all", 32)
    dataset = open_dataset(spec, "all", 32, variants=3)
    assert isinstance(dataset, Variants) and len(dataset) == 3 * len(plain)
    for number in range(len(plain)):
        first, *others = (dataset[3 * number + j] for j in range(3))
        assert torch.equal(first.image, plain[number].image)
        assert torch.equal(first.depth, plain[number].depth)
        assert first.name == plain[number].name
        stored = set(open_dataset(spec, "all")[number].depth.unique().tolist())
        for j, other in enumerate(others, start=1):
            assert other.depth.shape == first.depth.shape
            # A crop shows depths of the scene, and of no other; the picture has changed.
            assert set(other.depth.unique().tolist()) <= stored
            assert not torch.equal(other.image, first.image)
            assert other.name == dataset.name(3 * number + j) != first.name


def test_a_variant_is_the_same_every_time(tmp_path):
    spec = f"folder:{rendered_folder(tmp_path, 2)}"
    once, again = (open_dataset(spec, "all", 32, variants=4)[6] for _ in range(2))
    assert torch.equal(once.image, again.image)
    assert torch.equal(once.depth, again.depth)


def test_views_stack(tmp_path):
    spec = f"folder:{rendered_folder(tmp_path, 2)}"
    dataset = open_dataset(spec, "all", 32, farthest=2.0, variants=2)
    assert isinstance(dataset, Variants) and isinstance(dataset.dataset, Within)
    samples = [dataset[i] for i in range(len(dataset))]
    assert max(float(sample.depth[sample.valid].max()) for sample in samples) <= 2.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_another_camera_keeps_pictures_in_range(seed, level):
    picture = torch.rand(3, 9, 13, generator=torch.Generator().manual_seed(seed)) * level
    changed = photographed(picture, np.random.default_rng(seed))
    assert changed.shape == picture.shape and changed.dtype == torch.float32
    assert 0 <= changed.min() and changed.max() <= 1


def test_blur_keeps_a_flat_picture_and_spreads_a_point():
    flat = torch.full((3, 12, 12), 0.25)
    assert torch.allclose(blurred(flat, 1.0), flat)
    point = torch.zeros(3, 13, 13)
    point[:, 6, 6] = 1
    spread = blurred(point, 1.0)
    assert torch.allclose(spread.sum((1, 2)), torch.ones(3), atol=1e-4)
    assert spread[0, 6, 6] < 0.2
    assert torch.allclose(spread[0], spread[0].T, atol=1e-7)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--variants", "2", "3"], "--variants has 2 numbers for 1 data sets"),
        (["--variants", "0"], "--variants is below 1"),
        (["--farthest", "0"], "--farthest must be above 0"),
    ],
)
def test_flags_that_make_no_sense_are_named(flags, words):

    with pytest.raises(MarigoldError, match=words):
        read_recipe("", ["--base", "b", "--output", "o", *flags])


def test_noise_grows_with_light_as_a_sensor_has_it():
    """Variance: shot x light, and the reading out's (4 x shot)^2."""
    for level in (0.0, 0.5):
        flat, found = torch.full((3, 200, 200), level), []
        for seed in range(8):
            found.append(float(noisy(flat, 4e-3, np.random.default_rng(seed)).var()))
        # Coarse noise is interpolated, and weaker; the finest of the draws is not.
        assert max(found) == pytest.approx(4e-3 * level + (4 * 4e-3) ** 2, rel=0.03)


def test_a_vignette_darkens_corners_by_its_strength_and_leaves_the_middle():
    shaded = vignetted(torch.ones(3, 11, 15), 0.4)
    assert torch.allclose(shaded[:, 5, 7], torch.ones(3))
    assert torch.allclose(shaded[:, 0, 0], torch.full((3,), 0.6))


def test_jpeg_keeps_the_picture_and_loses_more_at_lower_quality():
    ramp = torch.linspace(0, 1, 32).expand(3, 32, 32)
    texture = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    picture = (ramp * 0.7 + texture).clamp(0, 1)
    low, high = (
        (compressed(picture, quality) - picture).square().mean().sqrt() for quality in (20, 95)
    )
    assert high < 0.02 < low < 0.15


def test_the_released_augmentation_of_normals_moves_nothing_and_keeps_grey_grey():
    """A picture that shifted against its normals would teach wrong ones."""
    random = np.random.default_rng(0)
    grey = torch.full((3, 96, 128), 0.4)
    grey[:, 30:60, 40:80] = 0.7
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    changed = 0
    for _ in range(40):
        found = blurred_and_jittered(grey, random)
        assert found.shape == grey.shape and 0 <= float(found.min()) <= float(found.max()) <= 1
        assert float((found - found.mean(0)).abs().max()) < 1e-3
        changed += not torch.equal(found, grey)
        weight = (found[0] - found[0, 0, 0]).abs()
        for place, expected in ((y, 44.5), (x, 59.5)):
            centre = float((place * weight).sum() / weight.sum().clamp(min=1e-6))
            assert centre == pytest.approx(expected, abs=0.3) or float(weight.sum()) < 1
    assert 15 < changed < 40  # each of three with a chance of 0.3


def test_a_turned_hue_is_another_colour_of_the_same_lightness():
    red = torch.tensor([0.6, 0.3, 0.3])[:, None, None].expand(3, 8, 8)
    found = [jittered(red, np.random.default_rng(seed))[:, 0, 0] for seed in range(20)]
    assert len({tuple(c.tolist()) for c in found}) == 20
    assert max(float(c[1] - c[2]) for c in found) > 0.05  # towards yellow
    assert min(float(c[1] - c[2]) for c in found) < -0.05  # towards magenta


def test_motion_blur_is_as_long_as_it_says():
    dot = torch.zeros(3, 21, 21)
    dot[:, 10, 10] = 1
    found = moved(dot, 7, 0.0)[0]
    assert float(found.sum()) == pytest.approx(1, abs=1e-3)
    assert int((found.sum(0) > 0.02).sum()) == 7 and int((found.sum(1) > 0.02).sum()) == 1
