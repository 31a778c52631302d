from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from depth_maps import affine, noisy, seed, truth
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_core.ensemble.depth import ensemble_depth
from marigold_core.errors import EnsembleWarning, MarigoldError

torch.set_num_threads(1)
METHODS = ("closed_form", "paper")


def quiet(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnsembleWarning)
        return ensemble_depth(*args, **kwargs)


# --- what every user relies on ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reduction", ["median", "mean"])
def test_exact_affine_members_give_back_their_common_shape(method, reduction):
    depth = truth()
    members = affine(depth, (0.3, 0.5), (0.9, 0.02), (0.55, 0.3), (0.4, 0.0))
    found, uncertainty = ensemble_depth(members, method=method, reduction=reduction)
    assert found.dtype == uncertainty.dtype == torch.float32
    assert found.shape == uncertainty.shape == depth.shape
    torch.testing.assert_close(found, depth, atol=1e-5, rtol=0)
    assert uncertainty.max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.floats(1e-3, 10), st.floats(-5, 5)), min_size=2, max_size=7),
    number=st.integers(0, 99),
)
def test_any_positive_scales_and_shifts_are_undone(pairs, number):
    depth = truth(9, 13, number)
    found, _ = ensemble_depth(affine(depth.double(), *pairs).float())
    # float32 members carry the shape to eps * |shift| / scale.
    tolerance = 1e-5 + 4e-7 * max(abs(shift) / scale for scale, shift in pairs)
    torch.testing.assert_close(found, depth, atol=tolerance, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_members_scale_and_shift_do_not_matter(method):
    members = noisy(5, 0.03)
    before, _ = ensemble_depth(members, method=method)
    members[2] = 0.1 * members[2] + 0.6
    after, _ = ensemble_depth(members, method=method)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)), method=st.sampled_from(METHODS))
def test_the_order_of_members_does_not_matter(order, method):
    members = noisy(6, 0.05)
    a, b = ensemble_depth(members, method=method)
    c, d = ensemble_depth(members[list(order)], method=method)
    # Rounding can pick another extreme pixel of the paper's cost, which has kinks there.
    tolerance = 1e-5 if method == "closed_form" else 2e-3
    torch.testing.assert_close(c, a, atol=tolerance, rtol=0)
    torch.testing.assert_close(d, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_float32_alone_is_enough_where_a_device_has_no_float64(method, monkeypatch):
    members = 0.5 + 1e-3 * noisy(5, 0.03, size=(200, 300))
    expected, _ = ensemble_depth(members, method=method)
    monkeypatch.setattr("marigold_core.ensemble.merging.wide_dtype", lambda maps: torch.float32)
    found, _ = ensemble_depth(members, method=method)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_the_result_spans_zero_to_one_and_keeps_near_small():
    depth, uncertainty = ensemble_depth(noisy(4, 0.05))
    assert depth.min() == 0
    assert depth.max() == pytest.approx(1, abs=1e-6)
    assert (uncertainty >= 0).all()
    assert torch.corrcoef(torch.stack([depth.flatten(), truth().flatten()]))[0, 1] > 0.9


def test_more_members_are_nearer_the_truth(benchmark):
    errors = [
        benchmark.error(ensemble_depth(noisy(n, 0.05, size=(60, 80)))[0], truth(60, 80))
        for n in (2, 4, 10)
    ]
    assert errors[0] > 1.2 * errors[1] > 1.2 * 1.2 * errors[2]


def test_uncertainty_is_largest_where_members_disagree():
    members = noisy(8, 0.01)
    members[:, :6, :6] += 0.1 * torch.randn(8, 6, 6, generator=seed(3))
    for reduction in ("median", "mean"):
        _, uncertainty = ensemble_depth(members, reduction=reduction)
        assert uncertainty[:6, :6].mean() > 4 * uncertainty[6:, 6:].mean()


def test_uncertainty_is_in_the_units_of_the_stretched_depth():
    """Deviations of +-0.1 about a shape of range 1, in members of range 1 shrunk to 0.3."""
    depth = truth()
    sign = torch.where(torch.rand(depth.shape, generator=seed(4)) > 0.5, 0.1, -0.1)
    sign[depth < 0.2] = sign[depth > 0.8] = 0
    members = 0.3 * torch.stack([depth + sign, depth, depth - sign]) + 0.2
    _, uncertainty = ensemble_depth(members)
    assert uncertainty[sign != 0].median() == pytest.approx(0.1, abs=0.01)


# --- against diffusers, on the corruptions of the spec's table ---


@pytest.mark.parametrize(
    "corruption",
    [
        "noise",
        "noise + bad pixels",
        "bias",
        "bias + garbage",
        "bias + inverted",
        "noise + noisy member",
        "noise + missing object",
        "noise + patch",
    ],
)
@pytest.mark.parametrize("members", [3, 5, 10])
def test_the_error_is_not_above_diffusers(benchmark, corruption, members):
    pytest.importorskip("scipy")
    ours, theirs = [], []
    for number in range(3 if members == 10 else 6):
        g = seed(1000 * members + number)
        depth = benchmark.scene(48, 64, g)
        maps = benchmark.corrupted(depth, members, corruption, g)
        ours.append(benchmark.error(quiet(maps)[0], depth))
        theirs.append(benchmark.error(benchmark.diffusers_depth(maps)[0], depth))
    assert np.mean(ours) <= np.mean(theirs) + 2e-5


@pytest.mark.parametrize("members", [3, 5, 10])
@pytest.mark.parametrize("kind", ["garbage", "inverted"])
def test_one_bad_member_is_named_and_costs_only_its_own_vote(benchmark, members, kind):
    g = seed(members)
    depth = benchmark.scene(120, 160, g)
    maps = benchmark.corrupted(depth, members, f"noise + {kind}", g)
    with pytest.warns(EnsembleWarning, match=f"members 1 of {members}: contradict the others"):
        found, _ = ensemble_depth(maps)
    torch.testing.assert_close(found, ensemble_depth(maps[1:])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("members", [3, 5, 10])
@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_a_much_noisier_member_is_named_and_costs_only_its_own_vote(benchmark, members, sigma):
    depth = benchmark.scene(96, 128, seed(members))
    maps = depth + 0.02 * torch.randn(members, 96, 128, generator=seed(1))
    maps[0] += sigma * torch.randn(96, 128, generator=seed(2))
    with pytest.warns(EnsembleWarning, match=f"members 1 of {members}: are much noisier"):
        found, _ = ensemble_depth(maps)
    torch.testing.assert_close(found, ensemble_depth(maps[1:])[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize("corruption", ["noise", "bias", "noise + missing object", "noise + patch"])
@pytest.mark.parametrize("members", [3, 5, 10])
@pytest.mark.filterwarnings("error::marigold_core.errors.EnsembleWarning")
def test_members_of_one_quality_are_all_merged(benchmark, corruption, members):
    for number in range(5):
        g = seed(1000 * members + number)
        ensemble_depth(benchmark.corrupted(benchmark.scene(96, 128, g), members, corruption, g))


@pytest.mark.parametrize("members", [3, 5, 10])
def test_an_object_that_some_members_miss_does_not_move_them(benchmark, members):
    """Outside the object, the error is that of members that all see it."""
    for number in range(5):
        g = seed(1000 * members + number)
        depth = benchmark.scene(96, 128, g)
        maps = depth + 0.02 * torch.randn(members, 96, 128, generator=g)
        lacking = benchmark.without_an_object(depth, g) - depth
        expected, _ = ensemble_depth(maps)
        maps[: round(0.4 * members)] += lacking
        found, _ = ensemble_depth(maps)
        same = lacking == 0
        errors = [benchmark.error(one[same], depth[same]) for one in (found, expected)]
        assert errors[0] < 1.02 * errors[1]


# --- degenerate members ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("value", "why"), [(0.5, "constant"), (float("nan"), "NaN"), (float("inf"), "infinity")]
)
def test_a_degenerate_member_is_left_out_and_named(method, value, why):
    members = noisy(5, 0.02)
    expected, _ = ensemble_depth(members[[0, 1, 3, 4]], method=method)
    members[2] = value
    with pytest.warns(EnsembleWarning, match=f"3 of 5: .*{why}"):
        depth, uncertainty = ensemble_depth(members, method=method)
    torch.testing.assert_close(depth, expected, atol=1e-5, rtol=0)
    assert uncertainty.isfinite().all()


def test_a_single_nan_pixel_condemns_its_member():
    members = noisy(4, 0.02)
    members[1, 3, 3] = torch.nan
    with pytest.warns(EnsembleWarning, match="2 of 4: hold NaN"):
        assert ensemble_depth(members)[0].isfinite().all()


def test_all_constant_members_give_their_mean_and_no_uncertainty():
    members = torch.tensor([0.2, 0.4, 0.9])[:, None, None].expand(3, 5, 7)
    with pytest.warns(EnsembleWarning, match="1, 2, 3 of 3: are constant"):
        depth, uncertainty = ensemble_depth(members)
    torch.testing.assert_close(depth, torch.full((5, 7), 0.5))
    assert not uncertainty.any()


def test_no_finite_member_is_an_error():
    with pytest.raises(MarigoldError, match="NaN or infinity"):
        ensemble_depth(torch.full((3, 4, 4), torch.nan))


def test_two_members_that_contradict_each_other_are_both_kept_and_named():
    depth = truth()
    members = torch.stack([0.5 * depth, 0.9 - 0.5 * depth + 0.05 * truth(number=7)])
    with pytest.warns(EnsembleWarning, match="1, 2 of 2: .*no majority"):
        found, uncertainty = ensemble_depth(members)
    assert found.isfinite().all()
    assert uncertainty.isfinite().all()
    assert uncertainty.mean() > 0.3


def test_exact_opposites_do_not_become_a_picture_of_rounding_errors():
    depth = truth()
    found, _ = quiet(torch.stack([depth, 1 - depth]))
    assert found.std() < 0.05


def test_members_that_share_nothing_are_merged_at_one_size():
    left = torch.tensor([[1.0, 0.0, 0.0]])
    members = torch.stack([left, 0.5 * (1 - left)])  # raw correlation 0: no principal direction
    found, _ = quiet(members, shift_invariant=False)
    sizes = members.square().mean((1, 2)).sqrt()
    expected = (members / sizes[:, None, None]).mean(0)
    torch.testing.assert_close(found, expected / expected.max())


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 6),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    number=st.integers(0, 999),
    levels=st.sampled_from([1, 2, 50]),
    method=st.sampled_from(METHODS),
    reduction=st.sampled_from(["median", "mean"]),
    invariance=st.sampled_from([(True, True), (True, False), (False, False)]),
)
def test_any_finite_members_give_a_finite_result(
    n, height, width, number, levels, method, reduction, invariance
):
    members = torch.randint(levels, (n, height, width), generator=seed(number)) / levels
    depth, uncertainty = quiet(
        members,
        method=method,
        reduction=reduction,
        scale_invariant=invariance[0],
        shift_invariant=invariance[1],
    )
    assert depth.shape == (height, width)
    assert depth.isfinite().all()
    assert depth.min() >= 0
    assert depth.max() <= 1 + 1e-5
    assert (uncertainty is None) == (n == 1)
    assert n == 1 or (uncertainty >= 0).all()


# --- numbers ---


def test_one_member_is_returned_as_it_is():
    member = 0.2 + 0.5 * truth()
    depth, uncertainty = ensemble_depth(member[None])
    assert torch.equal(depth, member)
    assert uncertainty is None


def test_two_members_are_averaged():
    depth = truth()
    error = 0.05 * torch.randn(depth.shape, generator=seed(4))
    error[depth < 0.2] = error[depth > 0.8] = 0
    found, _ = ensemble_depth(torch.stack([depth + error, 0.5 * (depth - error)]))
    torch.testing.assert_close(found, depth, atol=0.005, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_nearly_constant_members_keep_their_precision(method):
    depth = truth()
    members = affine(depth, (2e-3, 0.499), (1e-3, 0.5), (3e-3, 0.3))
    found, _ = ensemble_depth(members, method=method)
    torch.testing.assert_close(found, depth, atol=1e-3, rtol=0)  # members: eps 3e-8 / 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_give_float32(dtype):
    members = noisy(4, 0.02)
    depth, uncertainty = ensemble_depth(members.to(dtype))
    assert depth.dtype == uncertainty.dtype == torch.float32
    torch.testing.assert_close(depth, ensemble_depth(members)[0], atol=0.02, rtol=0)


def test_numpy_in_numpy_out_and_a_channel_axis_is_dropped():
    members = noisy(3, 0.02)
    expected = [part.numpy() for part in ensemble_depth(members)]
    for depth, uncertainty in (
        ensemble_depth(members.numpy()),
        ensemble_depth(members[:, None].double().numpy()),
    ):
        assert isinstance(depth, np.ndarray)
        assert depth.dtype == uncertainty.dtype == np.float32
        np.testing.assert_allclose(depth, expected[0], atol=1e-6)
        np.testing.assert_allclose(uncertainty, expected[1], atol=1e-6)


def test_the_input_is_left_alone():
    members = noisy(4, 0.02).requires_grad_()
    before = members.detach().clone()
    for method in METHODS:
        depth, _ = ensemble_depth(members, method=method)
        assert not depth.requires_grad
    single, _ = ensemble_depth(members[:1].detach())
    single.zero_()
    assert torch.equal(members, before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reduction", ["median", "mean"])
@pytest.mark.parametrize("shift_invariant", [True, False])
def test_it_runs_where_comfyui_runs_nodes(method, reduction, shift_invariant):
    """ComfyUI calls nodes under torch.inference_mode(), with tensors that were made there."""
    options = dict(method=method, reduction=reduction, shift_invariant=shift_invariant)
    expected, spread = ensemble_depth(noisy(4, 0.03), **options)
    with torch.inference_mode():
        depth, uncertainty = ensemble_depth(noisy(4, 0.03), **options)
        depth += 1  # the caller continues with the result
    torch.testing.assert_close(depth - 1, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(uncertainty, spread)


# --- masks ---


@pytest.mark.parametrize("method", METHODS)
def test_masked_pixels_do_not_touch_alignment_or_range(method):
    members = noisy(5, 0.02)
    mask = torch.ones(members.shape[1:], dtype=torch.bool)
    mask[:8] = False
    expected, _ = ensemble_depth(members[:, 8:], method=method)
    members[:, :8] = 50 * torch.rand(5, 8, 36, generator=seed()) - 20
    members[1, 0, 0] = torch.nan
    depth, uncertainty = ensemble_depth(members, method=method, mask=mask.numpy())
    torch.testing.assert_close(depth[8:], expected, atol=1e-6, rtol=0)
    assert depth[8:].min() == 0
    assert depth[8:].max() == pytest.approx(1)
    assert uncertainty[8:].isfinite().all()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(24, 36, dtype=torch.bool), "no pixel"),
        (torch.ones(24, 36), "must be bool"),
        (torch.ones(36, 24, dtype=torch.bool), r"must be bool \(24, 36\)"),
    ],
)
def test_a_wrong_mask_is_one_clear_error(mask, words):
    with pytest.raises(MarigoldError, match=words):
        ensemble_depth(noisy(3, 0.02), mask=mask)


# --- scale-only and metric checkpoints ---


@pytest.mark.parametrize("method", METHODS)
def test_scale_only_members_keep_their_zero(method):
    depth = 0.3 + 0.7 * truth()
    members = affine(depth, (0.4, 0), (0.9, 0), (0.6, 0))
    found, uncertainty = ensemble_depth(members, method=method, shift_invariant=False)
    torch.testing.assert_close(found, depth, atol=1e-5, rtol=0)
    assert uncertainty.max() < 1e-5


def test_scale_only_outvotes_a_bad_member_though_raw_correlations_are_high():
    depth = 0.5 + 0.5 * truth()
    members = affine(depth, (0.4, 0), (0.9, 0), (0.6, 0), (0.7, 0))
    members[1] = 0.75 * (1.5 - depth)
    with pytest.warns(EnsembleWarning, match="2 of 4: contradict"):
        found, _ = ensemble_depth(members, shift_invariant=False)
    torch.testing.assert_close(found, depth, atol=1e-5, rtol=0)


def test_a_flat_wall_is_a_legal_scale_only_map():
    members = torch.tensor([0.2, 0.4])[:, None, None].expand(2, 5, 7)
    depth, uncertainty = ensemble_depth(members, shift_invariant=False)
    torch.testing.assert_close(depth, torch.ones(5, 7))
    assert uncertainty.max() < 1e-6


def test_metric_members_are_merged_without_alignment():
    members = torch.tensor([2.0, 5.0, 3.0, 4.0])[:, None, None].expand(4, 3, 3)
    depth, uncertainty = ensemble_depth(members, scale_invariant=False, shift_invariant=False)
    assert (depth == 3.5).all()
    assert (uncertainty == 1).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale_invariant": False}, "shift alone"),
        ({"method": "bfgs"}, '"closed_form" or "paper"'),
        ({"reduction": "mode"}, '"median" or "mean"'),
        ({"predictions": torch.ones(3, 2, 4, 4)}, r"\(3, 2, 4, 4\)"),
        ({"predictions": torch.ones(4, 4)}, r"\(N, h, w\)"),
        ({"predictions": torch.ones(0, 4, 4)}, "N of 1 or more"),
        ({"predictions": torch.ones(3, 4, 4, dtype=torch.uint8)}, "floating-point"),
        ({"predictions": [[0.5]]}, "torch tensor or numpy array"),
    ],
)
def test_wrong_arguments_are_one_clear_error(changes, words):
    with pytest.raises(MarigoldError, match=words):
        ensemble_depth(**{"predictions": noisy(3, 0.02), **changes})
