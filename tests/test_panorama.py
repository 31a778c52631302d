"""Panoramas: views of a known room are brought to one scale, and the distances come back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core import Cancelled, Marigold, MarigoldError, Options
from marigold_core.panorama import (
    VIEW_DEGREES,
    View,
    align_views,
    cube_rotations,
    merge_views,
    panorama_depth,
    perspective,
    sphere_rays,
    view_side,
)

SIDE = 96


def room(rays):
    """Distances (...) from a point in a room of 4 x 2.4 x 6, beside a ball, along unit rays."""
    walls = torch.where(rays > 0, torch.tensor([2.5, 1.4, 3.5]), torch.tensor([1.5, 1.0, 2.5]))
    distance = (walls / rays.abs().clamp(min=1e-6)).amin(-1)
    centre, radius = torch.tensor([0.8, 0.5, 1.5]), 0.5
    along = rays @ centre
    inside = along**2 - centre @ centre + radius**2
    ball = along - inside.clamp(min=0).sqrt()
    return torch.where((inside > 0) & (along > 0), torch.minimum(distance, ball), distance)


def view_of(rotation, scale, shift, noise=0.0):
    """What an affine-invariant checkpoint sees: the depth along the axis, scaled and shifted."""
    reach = math.tan(math.radians(VIEW_DEGREES) / 2)
    steps = ((torch.arange(SIDE) + 0.5) / SIDE * 2 - 1) * reach
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    local = torch.nn.functional.normalize(torch.stack([x, y, torch.ones_like(x)], -1), dim=-1)
    depth = room(local @ rotation.T) * local[..., 2]
    depth = depth + noise * depth.std() * torch.randn(SIDE, SIDE)
    return View(rotation, (depth - shift) / scale)


def merged(scales, shifts, noise=0.0):
    views = [view_of(*args, noise) for args in zip(cube_rotations(), scales, shifts, strict=True)]
    return merge_views(views, *align_views(views), (128, 256)).depth


def error(depth, truth):
    """Largest common part: the median error after the best scale and shift, in truth's spread."""
    design = np.stack([depth.ravel(), np.ones(depth.size)], 1)
    best, *_ = np.linalg.lstsq(design, truth.ravel(), rcond=None)
    return np.median(abs(design @ best - truth.ravel())) / truth.std()


TRUTH = room(sphere_rays(128, 256, slice(None))[0]).numpy()


@settings(max_examples=5, deadline=None)
@given(
    st.lists(st.floats(0.3, 3.0), min_size=6, max_size=6),
    st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6),
)
def test_any_scales_and_shifts_are_undone(scales, shifts):
    assert error(merged(scales, shifts), TRUTH) < 0.02


def test_noise_moves_the_result_little():
    torch.manual_seed(0)
    scales, shifts = [0.5, 1, 2, 0.7, 1.5, 1], [0.3, -0.2, 0.5, 0, -0.5, 0.1]
    assert error(merged(scales, shifts, noise=0.1), TRUTH) < 0.08


def test_the_seam_is_not_seen():
    depth = merged([1, 2, 0.5, 1, 1, 1], [0, 0.2, 0.1, 0, 0, 0])
    seam = abs(depth[:, 0] - depth[:, -1])
    elsewhere = abs(depth[:, 100] - depth[:, 101])
    assert np.median(seam) <= 2 * np.median(elsewhere) + 1e-3


def test_every_ray_is_seen_and_most_by_one_view():
    views = [view_of(rotation, 1, 0) for rotation in cube_rotations()]
    depth = merge_views(views, torch.ones(6), torch.zeros(6), (64, 128))
    assert np.isfinite(depth.depth).all()
    truth = room(sphere_rays(64, 128, slice(None))[0]).numpy()
    assert error(depth.depth, truth) < 0.01
    # True views agree, so that the uncertainty is small against the range.
    assert np.median(depth.uncertainty) < 0.01


def test_views_look_where_they_should():
    # A panorama whose colours are the directions.
    rays, _ = sphere_rays(256, 512, slice(None))
    for rotation in cube_rotations():
        face = perspective(rays, rotation, 65)
        assert torch.allclose(face[32, 32], rotation[:, 2], atol=0.02)
    front = perspective(rays, cube_rotations()[0], 65)
    assert front[32, 60, 0] > 0.5 and front[60, 32, 1] > 0.5  # right is +x, down is +y


@pytest.fixture(scope="module")
def nano():
    return Marigold.from_pretrained("nano", device="cpu")


def test_a_picture_of_any_size_and_its_progress(nano):
    reports = []
    depth = panorama_depth(
        nano, np.random.default_rng(0).random((60, 120, 3), np.float32), seed=1,
        num_inference_steps=1, processing_resolution=48, ensemble_size=2, callback=reports.append,
    )  # fmt: skip
    assert depth.depth.shape == (60, 120) and depth.uncertainty.shape == (60, 120)
    assert depth.depth.min() == 0 and depth.depth.max() == 1
    steps = [report.step for report in reports]
    assert steps == sorted(steps) and steps[-1] == reports[-1].total


def test_the_views_go_through_the_networks_together_as_one_by_one(nano, monkeypatch):
    picture = np.random.default_rng(0).random((60, 120, 3), np.float32)
    settings = Options(seed=1, num_inference_steps=1, processing_resolution=48)
    whole = replace(settings, match_input_resolution=False)
    faces = [
        perspective(torch.from_numpy(picture), rotation, view_side(120)).numpy()
        for rotation in cube_rotations()
    ]
    views = [
        View(rotation, torch.from_numpy(nano(face, whole).depth))
        for rotation, face in zip(cube_rotations(), faces, strict=True)
    ]
    expected = merge_views(views, *align_views(views), (60, 120)).depth
    batches = []
    run = nano.unet.forward
    monkeypatch.setattr(
        nano.unet,
        "forward",
        lambda x, *rest, **more: batches.append(len(x)) or run(x, *rest, **more),
    )
    depth = panorama_depth(nano, picture, settings).depth
    assert np.abs(depth - expected).max() < 1e-4
    assert batches == [6]


def test_a_run_is_cancelled(nano):
    def cancel(_):
        raise Cancelled

    with pytest.raises(Cancelled):
        panorama_depth(
            nano, np.zeros((60, 120, 3), np.float32), seed=1, num_inference_steps=1,
            processing_resolution=48, callback=cancel,
        )  # fmt: skip


def test_a_picture_that_is_no_panorama(nano):
    with pytest.raises(MarigoldError, match="twice as wide as high"):
        panorama_depth(nano, np.zeros((60, 80, 3), np.float32))
