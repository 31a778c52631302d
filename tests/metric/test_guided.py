"""Guided sampling: the published procedure, and what is added to it."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoint_builders import (
    FAMILIES,
    TEXT_WIDTH,
    build_tiny_autoencoder,
    tiny_unet,
    tiny_vae,
)
from diffusers import AutoencoderTiny, DDIMScheduler

from marigold_core import Cancelled, DepthMap, KnownDepths, Marigold, MarigoldError
from marigold_core.metric.fit import fit_metric
from marigold_core.metric.guided import guided_depth

PICTURE = np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)
SIZE = (40, 56)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def marigold() -> Marigold:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet, vae = tiny_unet(), tiny_vae()
        embedding = torch.randn(1, 2, TEXT_WIDTH)
    return Marigold(unet, vae, FAMILIES["v1-1"][1], embedding, processing_resolution=50)


def hints(count: int = 12, seed: int = 0) -> KnownDepths:
    rng = np.random.default_rng(seed)
    places = rng.choice(SIZE[0] * SIZE[1], count, replace=False)
    rows, columns = np.divmod(places, SIZE[1])
    metres = 1 + 3 * rows / SIZE[0] + rng.random(count)
    return KnownDepths(np.column_stack([columns, rows]) + 0.5, metres, size=SIZE)


def published(marigold: Marigold, picture, sparse, noise, steps: int) -> np.ndarray:
    """The authors' loop: diffusers' scheduler, the whole map at the picture's size, one Adam."""
    scheduler = DDIMScheduler.from_config(
        marigold.scheduler_config, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(steps)
    unet, vae = marigold.unet, marigold.vae
    height, width = picture.shape[:2]
    small = [height * 50 // max(height, width), width * 50 // max(height, width)]
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    image = F.interpolate(image, small, mode="bilinear", antialias=True) * 2 - 1
    pad = (0, -small[1] % 8, 0, -small[0] % 8)
    with torch.no_grad():
        latent = vae.encode(F.pad(image, pad, mode="replicate")).latent_dist.mode()
        latent = latent * vae.config.scaling_factor
    target = torch.from_numpy(sparse)[None, None].float()
    known = target > 0
    low = target[known].min().item()
    span = target[known].max().item() - low
    scale, shift = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    x = torch.nn.Parameter(noise.clone())
    adam = torch.optim.Adam([{"params": [scale, shift], "lr": 0.005}, {"params": [x], "lr": 0.05}])

    def to_metres(latents):
        decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        depth = (decoded.mean(1, keepdim=True).clip(-1, 1) + 1) / 2
        metric = scale**2 * span * depth + shift**2 * low
        metric = metric[..., : small[0], : small[1]]
        return F.interpolate(metric, (height, width), mode="bilinear", antialias=False)

    for t in scheduler.timesteps:
        adam.zero_grad()
        output = unet(
            torch.cat([latent, x], 1), t, encoder_hidden_states=marigold.text_embedding
        ).sample
        with torch.no_grad():
            alpha = scheduler.alphas_cumprod[t]
            epsilon = alpha**0.5 * output + (1 - alpha) ** 0.5 * x
        clean = scheduler.step(output, t, x).pred_original_sample
        estimate = to_metres(clean)[known]
        (F.l1_loss(estimate, target[known]) + F.mse_loss(estimate, target[known])).backward()
        with torch.no_grad():
            length = torch.linalg.norm(x.grad).item()
            x.grad *= torch.linalg.norm(epsilon).item() / max(length, 1e-8)
        adam.step()
        with torch.no_grad():
            x.data = scheduler.step(output, t, x).prev_sample
    with torch.no_grad():
        return to_metres(x)[0, 0].numpy()


def test_the_same_depth_as_the_published_procedure(marigold):
    known = hints()
    sparse = np.zeros(SIZE, np.float32)
    rows, columns = known.pixels(SIZE)
    sparse[rows, columns] = known.metres
    noise = torch.randn(marigold.latent_shape(*SIZE), generator=torch.Generator().manual_seed(3))
    want = published(marigold, PICTURE, sparse, noise, 5)
    got = guided_depth(marigold, PICTURE, known, latents=noise, num_inference_steps=5)
    np.testing.assert_allclose(got.depth, want, rtol=2e-3)
    assert got.is_metric


def test_guidance_lowers_the_error_at_the_known_points(marigold):
    known = hints(40)
    rows, columns = known.pixels(SIZE)

    def error(steps: int) -> float:
        depth = guided_depth(marigold, PICTURE, known, seed=1, num_inference_steps=steps).depth
        return float(np.abs(depth[rows, columns] - known.metres).mean())

    # This network was never trained: what follows the points is the guidance.
    assert error(25) < 0.7 * error(1)


def test_checkpointing_changes_nothing_but_the_memory(marigold):
    options = {"seed": 1, "num_inference_steps": 2}
    kept = guided_depth(marigold, PICTURE, hints(), **options)
    twice = guided_depth(marigold, PICTURE, hints(), checkpointing=True, **options)
    np.testing.assert_allclose(twice.depth, kept.depth, rtol=1e-5)
    assert not marigold.unet.is_gradient_checkpointing
    assert all(p.requires_grad for p in marigold.unet.parameters())


def test_checkpointing_keeps_less(marigold):
    def kept(checkpointing: bool) -> int:
        """The most bytes that are kept for gradients."""
        storages = {}

        def pack(tensor):
            if not isinstance(tensor, torch.nn.Parameter):
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            guided_depth(
                marigold, PICTURE, hints(), seed=1, num_inference_steps=1,
                checkpointing=checkpointing,
            )  # fmt: skip
        return sum(storages.values())

    assert kept(True) < 0.6 * kept(False)


@pytest.mark.slow
def test_half_of_a_card_of_eight_gigabytes_is_enough_at_the_full_size():
    """Stable Diffusion 2's networks at 768 x 576; CUDA and cuDNN have the other half."""
    program = Path(__file__).parents[2] / "benchmarks" / "guided_memory.py"
    command = [sys.executable, program, "--dtype", "bfloat16", "--vae", "full"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kept, twice = (float(line.split("|")[4]) for line in table.splitlines()[-2:])
    assert twice < 4 < 7 < kept


def test_where_memory_runs_out_activations_are_computed_twice(marigold):
    tried = []

    def refuse(module, args):
        tried.append(module.is_gradient_checkpointing)
        if not tried[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    hook = marigold.unet.register_forward_pre_hook(refuse)
    try:
        guided_depth(marigold, PICTURE, hints(), seed=1, num_inference_steps=2)
    finally:
        hook.remove()
    assert tried == [False, True, True]


def test_members_are_merged_and_reported(marigold):
    seen = []
    result = guided_depth(
        marigold, PICTURE, hints(), seed=1, num_inference_steps=2, ensemble_size=2,
        callback=lambda progress: seen.append((progress.stage, progress.step, progress.total)),
    )  # fmt: skip
    assert seen == [
        ("denoise", 1, 6), ("denoise", 2, 6), ("decode", 3, 6),
        ("denoise", 4, 6), ("denoise", 5, 6), ("decode", 6, 6),
    ]  # fmt: skip
    assert result.uncertainty is not None
    assert result.uncertainty.max() > 0


def test_a_cancelled_run_leaves_the_engine_usable(marigold):
    def stop(progress):
        assert progress.preview().ndim == 2
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        guided_depth(marigold, PICTURE, hints(), num_inference_steps=4, callback=stop)
    assert all(p.requires_grad for p in marigold.unet.parameters())
    assert marigold(PICTURE, seed=0, num_inference_steps=1).depth.shape == SIZE


def test_a_surely_wrong_point_does_not_guide(marigold):
    known = hints(30)
    metres = known.metres.copy()
    metres[4] *= 30
    spoilt = KnownDepths(known.positions, metres, size=SIZE)
    ramp = np.linspace(0, 1, SIZE[0], dtype=np.float32)[:, None].repeat(SIZE[1], 1)
    before = fit_metric(DepthMap(ramp), spoilt)
    options = {"seed": 1, "num_inference_steps": 3}
    guided = guided_depth(marigold, PICTURE, spoilt, before=before, **options)
    assert guided.fit.outliers.tolist() == [4]
    without = KnownDepths(np.delete(known.positions, 4, 0), np.delete(metres, 4), size=SIZE)
    clean = guided_depth(marigold, PICTURE, without, before=before, **options)
    np.testing.assert_allclose(guided.depth, clean.depth, rtol=1e-5)


def test_scale_and_shift_start_from_the_fit_before(marigold):
    known = hints(30)
    rows, columns = known.pixels(SIZE)
    ramp = np.linspace(0, 1, SIZE[0], dtype=np.float32)[:, None].repeat(SIZE[1], 1)
    before = fit_metric(DepthMap(ramp), known)
    guided = guided_depth(marigold, PICTURE, known, before=before, seed=1, num_inference_steps=1)
    assert guided.fit.scale == pytest.approx(before.fit.scale, rel=0.03)
    assert guided.fit.shift == pytest.approx(before.fit.shift, rel=0.03)


def test_points_where_the_members_before_disagree_count_less(marigold):
    known = hints(30)
    metres = known.metres.copy()
    metres[4] *= 1.3  # too little to be left out
    spoilt = KnownDepths(known.positions, metres, size=SIZE)
    rows, columns = known.pixels(SIZE)
    ramp = np.linspace(0, 1, SIZE[0], dtype=np.float32)[:, None].repeat(SIZE[1], 1)
    spread = np.full(SIZE, 0.01, np.float32)
    spread[rows[4], columns[4]] = 10.0
    options = {"seed": 1, "num_inference_steps": 3}
    unsure = guided_depth(marigold, PICTURE, spoilt, before=DepthMap(ramp, spread), **options)
    # The same fit to start from, with the point left out by hand.
    weights = np.full(30, 1.0)
    weights[4] = 1e-6
    light = KnownDepths(known.positions, metres, weights, size=SIZE)
    fitted = fit_metric(DepthMap(ramp, spread), spoilt)
    wanted = guided_depth(marigold, PICTURE, light, before=fitted, **options)
    equal = guided_depth(marigold, PICTURE, spoilt, before=fitted, **options)
    assert np.abs(unsure.depth - wanted.depth).max() < 0.01 * np.ptp(wanted.depth)
    assert np.abs(equal.depth - wanted.depth).max() > 0.02 * np.ptp(wanted.depth)


def test_hints_that_do_not_steer_are_named(marigold):
    known = replace(hints(), lengths=np.array([[3, 4, 30, 20, 1.5]]), camera_height=1.6)
    options = {"seed": 1, "num_inference_steps": 2}
    (note,) = guided_depth(marigold, PICTURE, known, **options).fit.notes
    assert "known lengths and the camera's height did not" in note
    assert guided_depth(marigold, PICTURE, hints(), **options).fit.notes == ()


def test_a_known_length_gives_the_points_of_a_reconstruction_their_scale(marigold):
    ramp = np.linspace(0, 1, SIZE[0], dtype=np.float32)[:, None].repeat(SIZE[1], 1)
    unscaled = replace(hints(30), in_metres=False, lengths=np.array([[3, 35, 50, 35, 9.0]]))
    before = fit_metric(DepthMap(ramp), unscaled)
    assert before.is_metric
    options = {"seed": 1, "num_inference_steps": 2}
    guided = guided_depth(marigold, PICTURE, unscaled, before=before, **options)
    assert guided.is_metric
    assert np.median(guided.depth) == pytest.approx(np.median(before.depth), rel=0.5)
    alone = guided_depth(marigold, PICTURE, unscaled, **options)
    assert not alone.is_metric and any("no scale" in note for note in alone.fit.notes)


def test_bfloat16_and_a_tiny_vae(marigold, tmp_path):
    options = {"seed": 1, "num_inference_steps": 2}
    full = guided_depth(marigold, PICTURE, hints(), **options).depth
    half = Marigold(
        deepcopy(marigold.unet), deepcopy(marigold.vae), FAMILIES["v1-1"][1],
        marigold.text_embedding, processing_resolution=50,
    ).to(dtype=torch.bfloat16)  # fmt: skip
    rounded = guided_depth(half, PICTURE, hints(), **options).depth
    assert np.abs(rounded - full).mean() < 0.1 * np.ptp(full)
    tiny = Marigold(
        marigold.unet, AutoencoderTiny.from_pretrained(build_tiny_autoencoder(tmp_path)),
        FAMILIES["v1-1"][1], marigold.text_embedding, processing_resolution=50,
    )  # fmt: skip
    twice = guided_depth(tiny, PICTURE, hints(), checkpointing=True, **options)
    assert np.isfinite(twice.depth).all() and twice.depth.shape == SIZE


def test_what_cannot_be_guided_says_why(marigold):
    with pytest.raises(MarigoldError, match="two or more known points"):
        guided_depth(marigold, PICTURE, KnownDepths([(3, 4)], [2.0], size=SIZE))
    with pytest.raises(MarigoldError, match="two or more known points"):
        guided_depth(marigold, PICTURE, KnownDepths([(3, 4), (9, 9)], [2.0, 2.0], size=SIZE))
    with pytest.raises(MarigoldError, match="shapes differ"):
        guided_depth(marigold, PICTURE, KnownDepths([(3, 4), (9, 9)], [2.0, 3.0], size=(9, 50)))
    lcm = Marigold(
        marigold.unet, marigold.vae, FAMILIES["lcm"][1], marigold.text_embedding, family="lcm"
    )
    with pytest.raises(MarigoldError, match="of the family lcm does not take; choose"):
        guided_depth(lcm, PICTURE, hints())
