"""What the nodes give, on the bundled checkpoint, against the engine and by known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marigold_core import Marigold, ensemble_depth, normalize_depth

SIDE = 64


def grey(*maps):
    """Maps (H, W) -> IMAGE."""
    stacked = torch.from_numpy(np.stack(maps).astype(np.float32))
    return stacked[..., None].repeat(1, 1, 1, 3)


def estimate(run, model, image, **given):
    return run("EstimateDepth", model=model, image=image, resolution=SIDE, **given)


def test_the_predictions_are_the_engines(run, model, image):
    batch, preview = estimate(run, model, image, steps=2, predictions=2, seed=9).args
    # Weights made in inference mode take other kernels, which round differently.
    with torch.inference_mode():
        wanted = Marigold.from_pretrained("nano", device="cpu").predict(
            image[0].numpy(),
            num_inference_steps=2,
            ensemble_size=2,
            processing_resolution=SIDE,
            generator=torch.Generator().manual_seed(9),
        )
    assert torch.equal(batch[0].members, wanted)
    assert batch[0].size == (48, 64)
    assert preview.shape == (1, *wanted.shape[1:], 3)


def test_a_picture_is_the_same_in_any_batch(run, model, image):
    alone = estimate(run, model, image, seed=5)[0][0].members
    both = estimate(run, model, torch.cat([image.flip(2), image]), seed=5)[0]
    torch.testing.assert_close(both[1].members, alone, rtol=0, atol=1e-5)
    other = estimate(run, model, image, seed=6)[0][0].members
    assert (other - alone).abs().max() > 0.01


def test_frames_share_the_networks_batch(run, model, image):
    batches = []
    hook = model.marigold.unet.register_forward_pre_hook(lambda _, given: batches.append(given[0]))
    try:
        estimate(run, model, image.expand(3, -1, -1, -1), steps=1, predictions=2)
    finally:
        hook.remove()
    assert [len(one) for one in batches] == [6]


def test_a_checkpoint_for_normals_is_refused_before_it_is_loaded(
    run, model, image, error, monkeypatch
):
    monkeypatch.setattr(model.marigold, "target", replace(model.marigold.target, name="normals"))
    monkeypatch.setattr(type(model), "load", None)
    with pytest.raises(error, match="estimates normals, and a checkpoint for depth is needed"):
        estimate(run, model, image)


def test_the_global_seed_is_left_alone(run, model, image):
    state = torch.get_rng_state()
    estimate(run, model, image, seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_alpha_and_half_precision_images(run, model, image):
    wanted = estimate(run, model, image.half().float())[0][0].members
    with_alpha = torch.cat([image, torch.rand(1, 48, 64, 1)], dim=3).half()
    assert torch.equal(estimate(run, model, with_alpha)[0][0].members, wanted)


def test_steps_0_is_the_checkpoints_own(run, model, image, comfy):
    counted = []
    comfy.utils.PROGRESS_BAR_HOOK = lambda value, total, preview, node_id=None: counted.append(
        (value, total)
    )
    own = model.marigold.num_inference_steps
    estimate(run, model, torch.cat([image, image]), steps=0, predictions=3)
    # Each picture: every step of each member, and each member decoded; one bar for both.
    total = 2 * 3 * (own + 1)
    assert counted[-1] == (total, total)
    assert [value for value, _ in counted] == sorted(value for value, _ in counted)


@pytest.mark.parametrize("method", ["none", "auto"])
def test_previews_where_they_are_asked_for(run, model, image, comfy, method, monkeypatch):
    from comfy.cli_args import LatentPreviewMethod

    monkeypatch.setattr(comfy.args, "preview_method", LatentPreviewMethod(method))
    shown = []
    comfy.utils.PROGRESS_BAR_HOOK = lambda value, total, preview, node_id=None: shown.append(
        preview
    )
    estimate(run, model, image, steps=3)
    pictures = [one for one in shown if one is not None]
    if method == "none":
        assert not pictures
    else:
        assert len(pictures) == 3
        kind, picture, size = pictures[0]
        assert kind == "JPEG" and picture.mode == "RGB" and size <= 512


def test_cancel_stops_within_a_step_and_leaves_the_model_whole(run, model, image, comfy):
    wanted = estimate(run, model, image, steps=10)[0][0].members
    reached = []

    def cancel_at_2(value, total, preview, node_id=None):
        reached.append(value)
        if value == 2:
            comfy.model_management.interrupt_current_processing()

    comfy.utils.PROGRESS_BAR_HOOK = cancel_at_2
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        estimate(run, model, image, steps=10)
    assert reached == [1, 2]
    comfy.utils.PROGRESS_BAR_HOOK = None
    assert torch.equal(estimate(run, model, image, steps=10)[0][0].members, wanted)


def test_cancel_stops_within_one_network_call(run, model, image, comfy):
    done = []

    def cancel(*_):
        comfy.model_management.interrupt_current_processing()

    unet = model.marigold.unet
    hooks = [
        unet.down_blocks[0].resnets[0].register_forward_pre_hook(cancel),
        unet.mid_block.register_forward_pre_hook(lambda *_: done.append("middle")),
    ]
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            estimate(run, model, image, predictions=4)
    finally:
        for hook in hooks:
            hook.remove()
    assert not done
    # And nothing of it is left on the networks.
    assert not any(module._forward_pre_hooks for module in model.patcher.model.modules())


def test_a_panorama_is_the_engines(run, model):
    from marigold_core import panorama_depth

    picture = torch.rand(1, 32, 64, 3)
    depth, shown = run(
        "EstimatePanorama", model=model, image=picture, steps=1, resolution=32, seed=3
    ).args
    with torch.inference_mode():
        wanted = panorama_depth(
            Marigold.from_pretrained("nano", device="cpu"), picture[0].numpy(),
            num_inference_steps=1, processing_resolution=32, seed=3,
        )  # fmt: skip
    assert np.allclose(depth[0].depth, wanted.depth, atol=1e-5)
    assert shown.shape == (1, 32, 64, 3)


def test_comfyui_places_the_networks_before_each_run(run, model, image, comfy):
    assert not comfy.model_management.loaded  # loading a checkpoint takes main memory alone
    estimate(run, model, image)
    assert comfy.model_management.loaded == [[model.patcher]]
    managed = {id(one) for one in model.patcher.model.parameters()}
    used = [*model.marigold.unet.parameters(), *model.marigold.vae.parameters()]
    assert {id(one) for one in used} == managed  # nothing beside what the manager counts


@pytest.mark.parametrize("method", ["closed form", "paper"])
@pytest.mark.parametrize("reduction", ["median", "mean"])
def test_ensemble_is_the_engines(run, model, image, method, reduction):
    predictions = estimate(run, model, image, steps=1, predictions=3)[0]
    depth, shown, mask = run(
        "Ensemble", predictions=predictions, method=method, reduction=reduction
    ).args
    wanted, spread = ensemble_depth(
        predictions[0].members, method=method.replace(" ", "_"), reduction=reduction
    )
    assert depth[0].depth.shape == (48, 64)  # the image's size, whatever the resolution
    assert np.allclose(depth[0].depth, wanted.numpy(), atol=1e-6)
    assert np.allclose(depth[0].uncertainty, spread.numpy(), atol=1e-6)
    # White is a tenth of the depth range, so that it can be seen.
    assert torch.allclose(mask[0], (spread / 0.1).clamp(0, 1), atol=1e-5)
    assert torch.equal(shown[0, ..., 0], mask[0])
    assert mask.max() > 0.1


def test_one_prediction_is_not_stretched_and_has_no_uncertainty(run, model, image):
    predictions = estimate(run, model, image)[0]
    depth, _, mask = run("Ensemble", predictions=predictions).args
    assert np.array_equal(depth[0].depth, predictions[0].members[0].numpy())
    assert depth[0].uncertainty is None and not mask.any()


def test_a_mask_of_what_to_leave_out_is_the_other_mask_inverted(run, model, image):
    mask = torch.zeros(1, 48, 64)
    mask[:, :, :32] = 1
    settings = {"steps": 1, "predictions": 1}
    (used,) = estimate(run, model, image, mask=mask, **settings)[0]
    (left_out,) = estimate(run, model, image, mask=1 - mask, invert_mask=True, **settings)[0]
    assert (used.mask == left_out.mask).all() and used.mask[:, :32].all()
    depth = run("DepthFromImage", image=image, mask=mask, invert_mask=True)[0][0]
    assert (depth.mask != used.mask).all()


def test_a_mask_has_no_say_elsewhere(run, model, image):
    mask = torch.zeros(1, 48, 64)
    mask[:, :, :32] = 1
    predictions = estimate(run, model, image, steps=1, predictions=2, mask=mask)[0]
    depth = run("Ensemble", predictions=predictions)[0][0]
    assert depth.mask is not None and depth.mask[:, :32].all() and not depth.mask[:, 32:].any()
    inside = run("Normalize", depth=[depth], near_is_white=False)[1][0].numpy()[:, :32]
    assert inside.min() == 0 and inside.max() == 1


@pytest.mark.parametrize(
    ("mode", "engine"),
    [
        ("min-max", {"mode": "minmax"}),
        ("percentile", {"mode": "percentile", "percentiles": (2.0, 98.0)}),
        ("fixed near/far", {"mode": "fixed", "near": 0.0, "far": 1.0}),
        ("inverse depth (ControlNet)", {"mode": "inverse", "near": 1.0, "far": 5.0}),
    ],
)
@pytest.mark.parametrize("near_is_white", [True, False])
def test_normalize_is_the_engines(run, depth, mode, engine, near_is_white):
    shown, mask = run("Normalize", depth=depth, mode=mode, near_is_white=near_is_white).args
    # Disparity is large where it is near.
    invert = near_is_white != (engine["mode"] == "inverse")
    wanted = normalize_depth(depth[0].depth, invert=invert, **engine)
    assert np.allclose(mask[0].numpy(), wanted, atol=1e-6)
    assert torch.equal(shown[..., 0], mask) and shown.shape == (1, 4, 6, 3)


@pytest.mark.parametrize("mode", ["min-max", "fixed near/far", "inverse depth (ControlNet)"])
def test_near_is_white_in_every_mode(run, depth, mode):
    # depth rises to the right, so that the near side is the left one.
    white = run("Normalize", depth=depth, mode=mode, near_is_white=True)[1][0]
    black = run("Normalize", depth=depth, mode=mode, near_is_white=False)[1][0]
    assert white[0, 0] == 1 and white[0, -1] == 0
    assert torch.allclose(black, 1 - white, atol=1e-6)


def test_inverse_depth_is_disparity(run, depth):
    shown = run("Normalize", depth=depth, mode="inverse depth (ControlNet)", far_to_near=4.0)[1][
        0, 0
    ]
    z = 2 + torch.linspace(0, 1, 6) * 6
    assert torch.allclose(shown, (1 / z - 1 / 8) / (1 / 2 - 1 / 8), atol=1e-6)


def distances(run, *maps):
    """MARIGOLD_DEPTH in metres."""
    return run("DepthFromImage", image=grey(*maps), kind="distance")[0]


def test_inverse_depth_of_metres_has_their_own_ends(run):
    z = np.tile(np.linspace(2, 8, 6), (4, 1))
    shown = run("Normalize", depth=distances(run, z), mode="inverse depth (ControlNet)")[1][0]
    assert np.allclose(shown, (1 / z - 1 / 8) / (1 / 2 - 1 / 8), atol=1e-5)


def test_distances_are_kept(run):
    z = np.tile(np.linspace(0.5, 40, 6, dtype=np.float32), (4, 1))
    (depth,) = distances(run, z)
    assert np.array_equal(depth.depth, z)
    assert not depth.scale_invariant and not depth.shift_invariant
    shown = run(
        "Normalize", depth=[depth], mode="fixed near/far", near_value=0.0, far_value=50.0,
        near_is_white=False,
    )[1][0]  # fmt: skip
    assert np.allclose(shown, z / 50, atol=1e-6)
    colored = run("Colorize", depth=[depth], colormap="gray")[0][0, ..., 0]
    assert colored.min() == 0 and colored.max() == 1


@pytest.mark.parametrize("kind", ["depth", "disparity"])
def test_relative_values_of_any_range_are_scaled_and_not_clipped(run, kind):
    ramp = np.tile(np.linspace(0, 1, 6), (4, 1))
    within = run("DepthFromImage", image=grey(ramp, ramp / 2), kind=kind)[0]
    beyond = run("DepthFromImage", image=grey(4 * ramp - 1, 2 * ramp - 1), kind=kind)[0]
    for one, other in zip(within, beyond, strict=True):
        assert np.allclose(one.depth, other.depth, atol=1e-5)


def test_range_per_image_and_of_the_whole_batch(run):
    ramp = np.tile(np.linspace(0, 1, 6), (4, 1))
    maps = run("DepthFromImage", image=grey(ramp * 0.5, ramp), near_is_white=False)[0]
    each = run("Normalize", depth=maps, near_is_white=False)[1]
    whole = run("Normalize", depth=maps, near_is_white=False, range="whole batch")[1]
    assert each[0].max() == each[1].max() == 1
    assert whole[0].max() == pytest.approx(0.5) and whole[1].max() == 1


def test_a_static_noisy_clip_does_not_flicker(run):
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64] / 64
    scene = 0.5 + 0.3 * np.sin(5 * columns) * np.cos(4 * rows)
    frames = [
        scene * random.uniform(0.6, 1.0) + random.uniform(0, 0.2) + random.normal(0, 0.01, (48, 64))
        for _ in range(8)
    ]
    maps = run("DepthFromImage", image=grey(*np.clip(frames, 0, 1.3)), near_is_white=False)[0]
    flicker = {
        sequence: run("Normalize", depth=maps, sequence=sequence)[1].mean((1, 2)).std().item()
        for sequence in (False, True)
    }
    assert flicker[True] < 0.002 < flicker[False] / 2


@pytest.mark.parametrize("near_is_white", [True, False])
@pytest.mark.parametrize("kind", ["depth", "disparity"])
def test_depth_from_image_undoes_normalize(run, depth, kind, near_is_white):
    # Both place the depth between 1 and 5.
    mode = "inverse depth (ControlNet)" if kind == "disparity" else "min-max"
    shown = run("Normalize", depth=depth, mode=mode, near_is_white=near_is_white)[0]
    back = run("DepthFromImage", image=shown, kind=kind, near_is_white=near_is_white)[0]
    assert np.allclose(back[0].depth, depth[0].depth, atol=1e-5)


def test_a_batch_of_predictions_is_merged(run):
    ramp = np.tile(np.linspace(0, 1, 6), (4, 1))
    depth, predictions = run(
        "DepthFromImage", image=grey(ramp, 0.5 * ramp + 0.2, 0.8 * ramp), near_is_white=False,
        batch="predictions of one picture",
    ).args  # fmt: skip
    assert len(depth) == len(predictions) == 1
    assert np.allclose(depth[0].depth, ramp, atol=1e-5)
    assert depth[0].uncertainty.max() < 1e-5
    assert np.allclose(run("Ensemble", predictions=predictions)[0][0].depth, ramp, atol=1e-5)


def test_maps_of_different_models_are_merged(run):
    ramp = np.tile(np.linspace(0, 1, 6), (4, 1))
    first = run("DepthFromImage", image=grey(ramp), near_is_white=False)[0]
    second = run("DepthFromImage", image=grey(0.5 * ramp + 0.1), near_is_white=False)[0]
    third = distances(run, ramp + 1)
    predictions = run("CombineDepth", depth_1=first, depth_2=second, depth_3=third)[0]
    (merged,) = run("Ensemble", predictions=predictions)[0]
    assert np.allclose(merged.depth, ramp, atol=1e-4)
    assert merged.uncertainty.max() < 1e-4


@pytest.mark.parametrize("unit", ["metres", "relative"])
def test_geometry_of_the_core_is_taken_with_its_sky_and_mask(run, unit):
    z = torch.linspace(1, 6, 6).expand(1, 4, 6).clone()
    z[0, 0, 0] = torch.inf
    sky = torch.zeros(1, 4, 6)
    sky[:, :, 5] = 1
    image = torch.rand(1, 4, 6, 3)
    maps, shown = run(
        "DepthFromGeometry", geometry={"depth": z, "sky": sky, "image": image}, unit=unit
    ).args
    (depth,) = maps
    assert not depth.mask[0, 0] and not depth.mask[:, 5].any() and depth.mask[1, :5].all()
    wanted = np.arange(1, 6) if unit == "metres" else np.arange(5) / 4
    assert np.allclose(depth.depth[1, :5], wanted, atol=1e-6)
    assert depth.scale_invariant == (unit == "relative")
    assert np.isfinite(depth.depth).all() and torch.allclose(shown, image)


def test_colours(run, depth):
    from marigold_core import colorize

    shown = run("Colorize", depth=depth)[0]
    assert np.allclose(shown[0].numpy() * 255, colorize(depth[0].depth, "Spectral"), atol=1e-3)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), batch=st.integers(1, 3),
    channels=st.integers(1, 4),
)  # fmt: skip
def test_any_image_gives_depth_of_its_size(run, model, height, width, batch, channels):
    image = torch.rand(batch, height, width, channels)
    predictions = run("EstimateDepth", model=model, image=image, steps=1, resolution=24)[0]
    depth = run("Ensemble", predictions=predictions)[0]
    assert [one.depth.shape for one in depth] == [(height, width)] * batch
