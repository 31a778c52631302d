"""Frames of a clip aligned to one another; one map in the units of another."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from depth_maps import affine, noisy, seed, truth

from marigold_core.ensemble.sequence import align_sequence, fit, follow
from marigold_core.errors import EnsembleWarning, MarigoldError

torch.set_num_threads(1)


def jittered(clip: torch.Tensor, number: int = 5) -> torch.Tensor:
    g = seed(number)
    scale = 0.4 + 0.6 * torch.rand(len(clip), 1, 1, generator=g)
    return clip * scale + (1 - scale) * torch.rand(len(clip), 1, 1, generator=g)


def test_a_still_noisy_clip_neither_flickers_nor_drifts():
    """Deviation in time 0.11 before; after, 0.018 is what noise of 0.02 leaves in this range."""
    depth = truth(48, 64)
    clip = jittered(depth + 0.02 * torch.randn(100, 48, 64, generator=seed(2)))
    aligned = align_sequence(clip)
    assert aligned.shape == clip.shape
    assert aligned.min() == 0
    assert aligned.max() == pytest.approx(1)
    assert aligned.std(0).mean() < 0.2 * clip.std(0).mean()
    contrast = aligned.std((1, 2))
    assert contrast.max() / contrast.min() < 1.02
    assert (aligned.mean((1, 2)) - aligned.mean()).abs().max() < 0.005


def test_a_moving_object_does_not_pull_the_still_ground():
    depth = 0.5 + 0.5 * truth(48, 64)
    clip = depth.repeat(30, 1, 1)
    for k in range(30):
        clip[k, 15:35, 2 * k : 2 * k + 18] = 0.1
    still = torch.ones(48, 64, dtype=torch.bool)
    still[15:35] = False
    clip += 0.005 * torch.randn(clip.shape, generator=seed(2))
    clip[:3, 15:35] = depth[15:35]  # the object enters: levels and contrast jump
    aligned = align_sequence(jittered(clip))
    assert aligned.std(0)[still].mean() < 0.01
    ground = aligned[:, still].mean(1)
    assert (ground[-1] - ground[0]).abs() < 0.01


def test_frames_that_follow_one_another_need_no_clip_in_memory():
    """Frame by frame, with two in memory, as all at once."""
    clip = jittered(truth(24, 32) + 0.02 * torch.randn(30, 24, 32, generator=seed(2)))
    held: list[int] = []

    def frames():
        alive: list[weakref.ref[torch.Tensor]] = []
        for frame in clip:
            one = frame.clone()
            alive = [other for other in alive if other() is not None] + [weakref.ref(one)]
            held.append(len(alive))
            yield one, torch.ones_like(one, dtype=torch.bool)

    followed = torch.stack(list(follow(frames())))
    assert max(held) <= 2
    low, high = followed.aminmax()
    torch.testing.assert_close((followed - low) / (high - low), align_sequence(clip))


def test_a_clip_of_exact_affine_frames_becomes_one_picture():
    depth = truth()
    clip = affine(depth, *[(0.2 + 0.1 * (k % 7), 0.03 * (k % 5)) for k in range(40)])
    aligned = align_sequence(clip.numpy())
    assert isinstance(aligned, np.ndarray)
    np.testing.assert_allclose(aligned, depth.expand(40, -1, -1).numpy(), atol=1e-4)
    scaled = align_sequence(affine(0.2 + 0.8 * depth, (0.3, 0), (0.9, 0)), shift_invariant=False)
    torch.testing.assert_close(scaled[0], scaled[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled[0], 0.2 + 0.8 * depth, atol=1e-5, rtol=0)


def test_it_runs_where_comfyui_runs_nodes():
    """ComfyUI calls nodes under torch.inference_mode(), with tensors that were made there."""
    expected = align_sequence(jittered(noisy(4, 0.02)))
    with torch.inference_mode():
        assert torch.equal(align_sequence(jittered(noisy(4, 0.02))), expected)


def test_clips_that_need_no_alignment_come_back_as_they_are():
    clip = noisy(3, 0.02)
    assert torch.equal(align_sequence(clip[:1]), clip[:1])
    assert torch.equal(align_sequence(clip, scale_invariant=False, shift_invariant=False), clip)


def test_a_black_frame_and_a_cut_are_reported_and_do_not_break_the_clip():
    depth = truth()
    clip = affine(depth, (0.5, 0.1), (0.7, 0.2), (0.3, 0.4), (0.6, 0.0))
    clip[1] = 0.4
    with pytest.warns(EnsembleWarning, match="Frames 2 of 4: are constant"):
        aligned = align_sequence(clip)
    torch.testing.assert_close(aligned[2], aligned[0], atol=1e-5, rtol=0)
    clip[1] = clip[0]
    clip[2:] = 1 - clip[2:]
    with pytest.warns(EnsembleWarning, match="3 of 4: do not continue the one before"):
        aligned = align_sequence(clip)
    assert aligned[2].std() == pytest.approx(float(aligned[0].std()), rel=1e-3)
    clip[3, 0, 0] = torch.nan
    with pytest.raises(MarigoldError, match="Frame 4 holds NaN"):
        align_sequence(clip)


def test_masks_of_a_clip_may_differ_by_frame():
    depth = truth()
    clip = affine(depth, (0.5, 0.1), (0.7, 0.2), (0.3, 0.4))
    mask = torch.ones(3, 24, 36, dtype=torch.bool)
    mask[1, :10] = False
    clip[1, :10] = 7
    clip[1, 0] = torch.nan
    aligned = align_sequence(clip, mask=mask)
    torch.testing.assert_close(aligned[1, 10:], aligned[0, 10:], atol=1e-5, rtol=0)
    torch.testing.assert_close(aligned[2], depth, atol=1e-5, rtol=0)
    with pytest.raises(MarigoldError, match="Frames 1 and 2 share no pixel"):
        mask[0], mask[1, 10:] = False, False
        mask[0, -1], mask[1, 0] = True, True
        clip[1] = depth
        align_sequence(clip, mask=mask)


def test_something_else_in_the_way_does_not_move_the_fit():
    depth = truth()
    prediction = 0.4 * depth + 0.1
    prediction[:5, :9] = 0.9
    scale, shift, _ = fit(prediction.flatten(), (3 * depth + 2).flatten(), True)
    assert scale == pytest.approx(7.5, rel=1e-3)
    assert shift == pytest.approx(1.25, abs=1e-3)
    scale, shift, _ = fit(0.2 * depth.flatten(), depth.flatten(), False)
    assert (scale, shift) == (pytest.approx(5), 0)


def test_noise_does_not_shrink_what_is_aligned():
    """A regression's slope would be 0.9 of this one: over a hundred frames nothing is left."""
    depth = truth(96, 128)
    a, b = (depth + 0.1 * torch.randn(depth.shape, generator=seed(k)) for k in (1, 2))
    scale, _, _ = fit(a.flatten(), b.flatten(), True)
    assert scale * a.std() == pytest.approx(float(b.std()), rel=0.02)
