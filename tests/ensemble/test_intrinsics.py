"""Members of intrinsic images, merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from depth_maps import seed, truth

from marigold_core import MarigoldError, ensemble_intrinsics
from marigold_core.ensemble.intrinsics import common_scale
from marigold_core.errors import EnsembleWarning

torch.set_num_threads(1)
REDUCTIONS = ("median", "mean")
LIGHTING = (False, True, True)  # albedo, shading, residual
SIZE = 24, 36


def layers():
    """Albedo, shading and a dark residual with a few highlights: (3, 3, h, w)."""
    channels = [torch.stack([truth(*SIZE, number=3 * k + c) for c in range(3)]) for k in range(3)]
    albedo, shading, residual = channels
    return torch.stack([albedo, 0.1 + 0.9 * shading, residual**6])


def members_of(n, sigma=0.02, gain=0.3, number=0):
    """Members (N, 3, 3, h, w) with noise, shading and residual at a scale of their own each."""
    g = seed(number)
    factors = torch.ones(n, 3, 1, 1, 1)
    factors[:, 1:] = (gain * torch.randn(n, 2, 1, 1, 1, generator=g)).exp()
    return factors * (layers() + sigma * torch.randn(n, 3, 3, *SIZE, generator=g))


def scaled_error(image, reference):
    """Root mean square error after the best factor, as the authors measure shading."""
    factor = (image * reference).sum() / image.square().sum()
    return float((factor * image - reference).square().mean().sqrt())


@pytest.mark.parametrize(("reduction", "members"), [("median", 5), ("mean", 4), ("mean", 5)])
def test_what_is_not_aligned_is_diffusers(reduction, members):
    pytest.importorskip("diffusers")
    from diffusers.pipelines.marigold import pipeline_marigold_intrinsics as theirs

    maps = members_of(members)
    expected = theirs.MarigoldIntrinsicsPipeline.ensemble_intrinsics(maps, True, reduction)
    found = ensemble_intrinsics(maps, reduction=reduction)
    for ours, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("members", [3, 5, 10])
def test_alignment_lowers_the_error_of_shading_and_residual(reduction, members):
    reference = layers()
    errors = np.zeros((2, 2))
    for number in range(5):
        maps = members_of(members, number=number)
        plain, plain_spread = ensemble_intrinsics(maps, reduction=reduction)
        aligned, spread = ensemble_intrinsics(maps, reduction=reduction, up_to_scale=LIGHTING)
        assert torch.equal(aligned[0], plain[0])  # albedo has a scale of its own
        assert spread[1].mean() < 0.6 * plain_spread[1].mean()
        for row, images in enumerate((aligned, plain)):
            for column in (0, 1):
                errors[row, column] += scaled_error(images[1 + column], reference[1 + column])
    # A median of members at different scales picks the middle one everywhere: 30 to 40 % more error
    # in shading. A mean suffers less.
    most = (0.75, 0.95) if reduction == "median" else (0.97, 0.995)
    assert (errors[0] < most * errors[1]).all(), errors


def test_members_of_one_scale_lose_nothing():
    reference = layers()
    maps = members_of(5, gain=0)
    plain, _ = ensemble_intrinsics(maps)
    aligned, _ = ensemble_intrinsics(maps, up_to_scale=LIGHTING)
    for target in (1, 2):
        before, after = (
            scaled_error(images[target], reference[target]) for images in (plain, aligned)
        )
        assert after < 1.01 * before


def test_exact_multiples_become_one_picture_at_the_middle_scale():
    reference = layers()
    factors = torch.tensor([0.5, 1, 0.8])[:, None, None, None, None]
    aligned, spread = ensemble_intrinsics(factors * reference, up_to_scale=(True, True, True))
    torch.testing.assert_close(aligned, 0.8 * reference, atol=1e-5, rtol=0)
    assert spread.max() < 1e-5


def test_a_highlight_of_one_member_does_not_move_its_scale():
    maps = members_of(5, sigma=0.002, gain=0)
    maps[0, 1, :, :8, :12] = 1.5
    aligned, _ = ensemble_intrinsics(maps, up_to_scale=LIGHTING)
    scale = common_scale(maps[:, 1].flatten(1))
    assert (scale - 1).abs().max() < 0.01


def test_masked_pixels_do_not_touch_the_scale():
    maps = members_of(4)
    mask = torch.ones(SIZE, dtype=torch.bool)
    mask[:6] = False
    expected, _ = ensemble_intrinsics(maps[..., 6:, :], up_to_scale=LIGHTING)
    maps[..., :6, :] = 5 * torch.rand(4, 3, 3, 6, SIZE[1], generator=seed(7))
    found, _ = ensemble_intrinsics(maps, up_to_scale=LIGHTING, mask=mask.numpy())
    torch.testing.assert_close(found[..., 6:, :], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("black", [1, 3, 4])
def test_black_members_have_no_scale(black):
    """No residual at all is an answer, and counts."""
    maps = members_of(4)
    maps[:black, 2] = 0
    found, spread = ensemble_intrinsics(maps, up_to_scale=LIGHTING)
    assert found.isfinite().all()
    assert spread.isfinite().all()
    if black >= 3:
        assert not found[2].any()


def test_one_member_is_returned_as_it_is():
    maps = members_of(1)
    found, uncertainty = ensemble_intrinsics(maps.numpy(), up_to_scale=LIGHTING)
    assert np.array_equal(found, maps[0].numpy())
    assert uncertainty is None


def test_numpy_and_half_precision():
    maps = members_of(3)
    expected, spread = ensemble_intrinsics(maps, up_to_scale=LIGHTING)
    found, uncertainty = ensemble_intrinsics(maps.double().numpy(), up_to_scale=LIGHTING)
    assert found.dtype == uncertainty.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(uncertainty, spread.numpy(), atol=1e-6)
    half, _ = ensemble_intrinsics(maps.half(), up_to_scale=LIGHTING)
    torch.testing.assert_close(half, expected, atol=5e-3, rtol=0)


def test_it_runs_where_comfyui_runs_nodes():
    """ComfyUI calls nodes under torch.inference_mode(), with tensors that were made there."""
    expected, spread = ensemble_intrinsics(members_of(3), up_to_scale=LIGHTING)
    with torch.inference_mode():
        found, uncertainty = ensemble_intrinsics(members_of(3), up_to_scale=LIGHTING)
    assert torch.equal(found, expected)
    assert torch.equal(uncertainty, spread)


def test_a_member_that_is_not_finite_is_left_out_and_named():
    maps = members_of(4)
    expected, _ = ensemble_intrinsics(maps[1:], up_to_scale=LIGHTING)
    maps[0, 1, 0, 2, 2] = torch.inf
    with pytest.warns(EnsembleWarning, match="members 1 of 4: hold NaN or infinity") as caught:
        found, _ = ensemble_intrinsics(maps, up_to_scale=LIGHTING)
    assert caught[0].filename == __file__
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"predictions": torch.ones(3, 3, 4, 4)}, r"give \(N, T, 3, h, w\)"),
        ({"predictions": torch.ones(2, 3, 1, 4, 4)}, r"give \(N, T, 3, h, w\)"),
        ({"reduction": "closest"}, '"median" or "mean"'),
        ({"up_to_scale": (True,)}, "1 entries for 3 targets"),
        ({"mask": torch.zeros(SIZE, dtype=torch.bool)}, "no pixel"),
    ],
)
def test_wrong_arguments_are_one_clear_error(changes, words):
    with pytest.raises(MarigoldError, match=words):
        ensemble_intrinsics(**{"predictions": members_of(2), **changes})
