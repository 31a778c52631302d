"""Members of surface normals, merged."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from depth_maps import seed
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core import MarigoldError, ensemble_normals
from marigold_core.errors import EnsembleWarning

torch.set_num_threads(1)
REDUCTIONS = ("closest", "mean")


def facets(height=20, width=30, number=0):
    """Unit normals (3, h, w) that face the viewer."""
    normals = torch.randn(3, height, width, generator=seed(number))
    normals[2] = normals[2].abs() + 0.2
    return F.normalize(normals, dim=0)


def tilted(n, sigma, number=1):
    return F.normalize(facets() + sigma * torch.randn(n, 3, 20, 30, generator=seed(number)), dim=1)


def angle(a, b):
    return (a.double() * b.double()).sum(0).clamp(-1, 1).arccos()


@pytest.mark.parametrize(
    ("reduction", "members"),
    # Of two members both are as near: rounding would choose.
    [("closest", 3), ("closest", 10), ("mean", 2), ("mean", 3), ("mean", 10)],
)
def test_the_result_is_diffusers(reduction, members):
    pytest.importorskip("diffusers")
    from diffusers.pipelines.marigold.pipeline_marigold_normals import MarigoldNormalsPipeline

    normals = tilted(members, 0.3)
    expected, spread = MarigoldNormalsPipeline.ensemble_normals(normals.clone(), True, reduction)
    found, uncertainty = ensemble_normals(normals, reduction=reduction)
    torch.testing.assert_close(found, expected[0], atol=1e-5, rtol=0)
    # Theirs is divided by pi, and an arc cosine in float32.
    torch.testing.assert_close(uncertainty, math.pi * spread[0, 0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_merged_normal_is_nearer_the_truth_than_a_member(reduction):
    members = tilted(10, 0.2)
    merged, _ = ensemble_normals(members, reduction=reduction)
    assert angle(merged, facets()).mean() < 0.7 * angle(members[0], facets()).mean()


def test_closest_is_one_of_the_members():
    members = tilted(5, 0.3)
    merged, _ = ensemble_normals(members)
    assert ((members - merged).abs().amax(1) < 1e-6).any(0).all()


def test_uncertainty_is_the_mean_angle_in_radians():
    """Two members at 10 degrees to either side of the mean; equal members: exactly 0."""
    tilt = math.radians(10)
    members = torch.zeros(2, 3, 2, 2)
    members[:, 2] = math.cos(tilt)
    members[0, 0], members[1, 0] = math.sin(tilt), -math.sin(tilt)
    _, uncertainty = ensemble_normals(members)
    torch.testing.assert_close(uncertainty, torch.full((2, 2), tilt))
    _, none = ensemble_normals(members[:1].repeat(3, 1, 1, 1))
    assert none.max() < 1e-6


def test_small_angles_are_not_rounded_away():
    members = torch.tensor([[1e-4, 0, 1], [-1e-4, 0, 1]])[:, :, None, None]
    _, uncertainty = ensemble_normals(members)
    assert float(uncertainty) == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_opposite_members_give_the_one_that_faces_the_viewer(reduction):
    normal = facets()
    for members in (torch.stack([normal, -normal]), torch.stack([-normal, normal])):
        merged, uncertainty = ensemble_normals(members, reduction=reduction)
        torch.testing.assert_close(merged, normal)
        torch.testing.assert_close(uncertainty, torch.full_like(uncertainty, math.pi / 2))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    number=st.integers(0, 999),
    levels=st.sampled_from([1, 2, 40]),
    length=st.sampled_from([1e-3, 1, 1e3]),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_any_finite_members_give_unit_normals(n, number, levels, length, reduction):
    members = torch.randint(-levels, levels + 1, (n, 3, 3, 4), generator=seed(number)).float()
    members *= length
    merged, uncertainty = ensemble_normals(members, reduction=reduction)
    torch.testing.assert_close(merged.norm(dim=0), torch.ones(3, 4))
    assert (uncertainty is None) == (n == 1)
    assert n == 1 or ((uncertainty >= 0).all() and uncertainty.max() <= math.pi + 1e-6)


def test_half_precision_and_numpy():
    members = tilted(4, 0.2)
    expected, spread = ensemble_normals(members, reduction="mean")
    half, _ = ensemble_normals(members.half(), reduction="mean")
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, atol=2e-3, rtol=0)
    normals, uncertainty = ensemble_normals(members.double().numpy(), reduction="mean")
    assert normals.dtype == uncertainty.dtype == np.float32
    np.testing.assert_allclose(normals, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(uncertainty, spread.numpy(), atol=1e-6)


def test_the_input_is_left_alone():
    members = 2 * tilted(3, 0.2)
    before = members.clone()
    ensemble_normals(members)[0].zero_()
    ensemble_normals(members[:1])[0].zero_()
    assert torch.equal(members, before)


def test_it_runs_where_comfyui_runs_nodes():
    """ComfyUI calls nodes under torch.inference_mode(), with tensors that were made there."""
    expected, spread = ensemble_normals(tilted(3, 0.2))
    with torch.inference_mode():
        found, uncertainty = ensemble_normals(tilted(3, 0.2))
    assert torch.equal(found, expected)
    assert torch.equal(uncertainty, spread)


def test_a_member_that_is_not_finite_is_left_out_and_named():
    members = tilted(4, 0.2)
    expected, _ = ensemble_normals(members[[0, 1, 3]])
    members[2, 1, 3, 3] = torch.nan
    with pytest.warns(EnsembleWarning, match="members 3 of 4: hold NaN") as caught:
        found, uncertainty = ensemble_normals(members)
    assert caught[0].filename == __file__
    assert torch.equal(found, expected)
    assert uncertainty.isfinite().all()
    with pytest.raises(MarigoldError, match="NaN or infinity"):
        ensemble_normals(torch.full((2, 3, 4, 4), torch.nan))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"predictions": torch.ones(3, 4, 4)}, r"\(3, 4, 4\); give \(N, 3, h, w\)"),
        ({"predictions": torch.ones(2, 1, 4, 4)}, r"give \(N, 3, h, w\)"),
        ({"predictions": torch.ones(2, 3, 4, 4, dtype=torch.uint8)}, "floating-point"),
        ({"reduction": "median"}, '"closest" or "mean"'),
    ],
)
def test_wrong_arguments_are_one_clear_error(changes, words):
    with pytest.raises(MarigoldError, match=words):
        ensemble_normals(**{"predictions": tilted(2, 0.1), **changes})
