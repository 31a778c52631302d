"""The engine on tiny networks: shapes, seeds, batches, cancelling, bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_builders import FAMILIES, TEXT_WIDTH, build_checkpoint, tiny_unet, tiny_vae
from diffusers import AutoencoderTiny
from hypothesis import given, settings
from hypothesis import strategies as st

import marigold_core
from marigold_core import Cancelled, Marigold, MarigoldError, Options, Progress
from marigold_core.denoising import decode, denoise, encode, vae_factor
from marigold_core.errors import MarigoldWarning
from marigold_core.memory import OutOfMemory
from marigold_core.resize import processing_size
from marigold_core.targets import depth_from_decoded

PICTURE = np.random.default_rng(0).random((40, 56, 3), dtype=np.float32)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(family: str = "v1-1", **options) -> Marigold:
    kind = family if family in ("lcm", "e2e") else "ddim"
    options = {"num_inference_steps": 2, "processing_resolution": 32} | options
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet, vae = tiny_unet(), tiny_vae()
        embedding = torch.randn(1, 2, TEXT_WIDTH)
    return Marigold(unet, vae, FAMILIES[family][1], embedding, family=kind, **options)


def seed(number: int = 2024) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def limit_batches(marigold: Marigold, limit: int) -> list[int]:
    """Let the U-Net run out of memory above `limit` members; returns the batches it was given."""
    batches: list[int] = []

    def refuse(module, args):
        batches.append(len(args[0]))
        if len(args[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    marigold.unet.register_forward_pre_hook(refuse)
    return batches


def test_importing_the_package_loads_no_torch():
    code = (
        "import sys, marigold_core\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules\n"
        "marigold_core.read_image\n"
        "assert 'torch' not in sys.modules\n"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def test_every_public_name_is_there():
    assert sorted(marigold_core._HOMES) == sorted(marigold_core.__all__)
    assert set(marigold_core.__all__) <= set(dir(marigold_core))
    for name in marigold_core.__all__:
        assert getattr(marigold_core, name).__name__ == name
    with pytest.raises(AttributeError, match="Marigolds"):
        _ = marigold_core.Marigolds


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([0, 5, 16, 40]))
def test_any_size_gives_depth_of_the_pictures_size(height, width, resolution):
    marigold = build(num_inference_steps=1)
    picture = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    small = marigold.predict(picture, processing_resolution=resolution, ensemble_size=2)
    assert small.shape == (2, *processing_size(height, width, resolution))
    assert small.dtype == torch.float32
    assert small.min() >= 0
    assert small.max() <= 1
    depth = marigold(picture, processing_resolution=resolution).depth
    assert depth.shape == (height, width)
    assert depth.dtype == np.float32
    assert depth.min() >= 0
    assert depth.max() <= 1


def test_an_extreme_aspect_ratio_keeps_one_pixel():
    strip = np.random.default_rng(0).random((1, 400, 3), dtype=np.float32)
    assert build().predict(strip).shape == (1, 1, 32)
    assert build()(strip).depth.shape == (1, 400)


@pytest.mark.parametrize(("family", "steps"), [("v1-1", 2), ("lcm", 4)])
def test_batch_size_changes_nothing_but_rounding(family, steps):
    marigold = build(family, num_inference_steps=steps)
    whole = marigold.predict(PICTURE, ensemble_size=5, batch_size=5, generator=seed())
    assert whole.std() > 0.05
    assert (whole[0] - whole[1]).abs().max() > 0.01
    for batch_size in (None, 1, 2, 3):
        parts = marigold.predict(PICTURE, ensemble_size=5, batch_size=batch_size, generator=seed())
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    other = marigold.predict(PICTURE, ensemble_size=5, generator=seed(1))
    assert (other - whole).abs().max() > 0.01


def test_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    build("lcm", num_inference_steps=3).predict(PICTURE, generator=seed())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_list_of_generators_has_one_for_each_member():
    marigold = build("lcm", num_inference_steps=2)
    both = marigold.predict(PICTURE, ensemble_size=2, generator=[seed(1), seed(2)])
    second = marigold.predict(PICTURE, generator=seed(2))
    torch.testing.assert_close(both[1:], second, rtol=0, atol=1e-5)


def test_latents_replace_the_noise_and_give_the_ensembles_size():
    marigold = build()
    shape = marigold.latent_shape(40, 56, ensemble_size=3)
    latents = torch.randn(shape, generator=seed())
    kept = latents.clone()
    given = marigold.predict(PICTURE, latents=latents)
    assert len(given) == 3
    torch.testing.assert_close(given, marigold.predict(PICTURE, ensemble_size=3, generator=seed()))
    assert torch.equal(latents, kept)
    # The stages by hand are the whole.
    pixels = torch.from_numpy(PICTURE).permute(2, 0, 1)[None] * 2 - 1
    whole = marigold.predict(PICTURE, latents=torch.ones(1, 4, 5, 7), processing_resolution=0)
    staged = denoise(
        marigold.unet,
        marigold.schedule.ddim(2),
        marigold.text_embedding,
        encode(marigold.vae, pixels),
        torch.ones(1, 4, 5, 7),
    )
    by_hand = depth_from_decoded(decode(marigold.vae, staged)[:, None])
    torch.testing.assert_close(by_hand, whole)


def test_wrong_latents_are_told_the_right_shape():
    with pytest.raises(MarigoldError, match=r"\(2, 4, 5, 7\).*\(3, 4, 3, 4\)"):
        build().predict(PICTURE, ensemble_size=3, latents=torch.zeros(2, 4, 5, 7))


def test_one_step_keeps_the_noise_that_diffusers_keeps():
    # Spec, section 2: x0 = -v, and the final latent is 0.99957490 x0 + 0.02915513 noise.
    marigold = build()
    velocity = torch.full((1, 4, 2, 2), 0.5)
    marigold.unet.register_forward_hook(lambda module, args, output: type(output)(velocity))
    noise = torch.full((1, 4, 2, 2), 2.0)
    table = marigold.schedule.ddim(1)
    latent = denoise(marigold.unet, table, marigold.text_embedding, torch.zeros(1, 4, 2, 2), noise)
    expected = -0.99957490 * velocity + 0.02915513 * noise
    torch.testing.assert_close(latent, expected, rtol=0, atol=1e-6)


def test_trailing_is_the_default_whatever_the_checkpoint_says():
    marigold = build("v1-0", num_inference_steps=1)
    default = marigold.predict(PICTURE, generator=seed())
    trailing = marigold.predict(PICTURE, generator=seed(), timestep_spacing="trailing")
    leading = marigold.predict(PICTURE, generator=seed(), timestep_spacing="leading")
    assert torch.equal(default, trailing)
    assert (default - leading).abs().max() > 0.05


def test_end_to_end_checkpoints_start_from_zeros():
    marigold = build("e2e", num_inference_steps=1)
    one = marigold.predict(PICTURE, generator=seed(1))
    torch.testing.assert_close(one, marigold.predict(PICTURE, generator=seed(2)))
    zeros = torch.zeros(marigold.latent_shape(40, 56))
    torch.testing.assert_close(one, marigold.predict(PICTURE, latents=zeros))
    with pytest.warns(MarigoldWarning, match="one is enough"):
        marigold.predict(PICTURE, ensemble_size=2)


def test_out_of_memory_halves_the_batch_and_changes_no_member():
    marigold = build("lcm", num_inference_steps=2)
    expected = marigold.predict(PICTURE, ensemble_size=5, generator=seed())
    batches = limit_batches(marigold, 2)
    got = marigold.predict(PICTURE, ensemble_size=5, batch_size=5, generator=seed())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert batches == [5, 2, 2, 2, 2, 1, 1]


def test_no_memory_for_one_member_says_what_to_do():
    marigold = build()
    limit_batches(marigold, 0)
    with pytest.raises(OutOfMemory, match="processing resolution") as caught:
        marigold.predict(PICTURE, ensemble_size=2)
    # ComfyUI frees other models on torch's class; a front end shows the message on ours.
    assert isinstance(caught.value, torch.OutOfMemoryError)
    assert isinstance(caught.value, MarigoldError)


def test_progress_counts_to_the_end_and_previews_depth():
    seen: list[Progress] = []
    previews: list[np.ndarray] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        previews.append(progress.preview())

    marigold = build()
    picture = np.random.default_rng(0).random((240, 60, 3), dtype=np.float32)
    marigold(
        picture,
        ensemble_size=3,
        batch_size=2,
        processing_resolution=0,
        callback=note,
        generator=seed(),
    )
    assert [p.step for p in seen] == [2, 4, 5, 6, 7, 8, 9]
    assert {p.total for p in seen} == {9}
    assert [p.stage for p in seen] == ["denoise"] * 4 + ["decode"] * 3
    for preview in previews:
        assert preview.dtype == np.float32
        assert preview.min() >= 0
        assert preview.max() <= 1
    assert previews[0].shape == (16 * 8, 4 * 8)  # 30 x 8 latents, shrunk
    assert previews[-1].shape == (128, 34)  # small, as documented, after decoding too


def test_the_last_preview_is_the_result():
    previews: list[np.ndarray] = []
    marigold = build(processing_resolution=0)
    result = marigold.predict(
        PICTURE, callback=lambda progress: previews.append(progress.preview()), generator=seed()
    )
    np.testing.assert_array_equal(previews[-1], result[0].numpy())
    # The last denoising step's estimate of x0 differs by the noise that DDIM leaves in.
    assert 0 < np.abs(previews[-2] - previews[-1]).max() < 0.2


@pytest.mark.parametrize("error", [Cancelled("stopped"), KeyboardInterrupt(), RuntimeError("no")])
def test_a_callback_cancels_by_raising_and_the_engine_stays_usable(error):
    marigold = build(num_inference_steps=4)
    expected = marigold.predict(PICTURE, generator=seed())
    steps: list[int] = []

    def stop(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 2:
            raise error

    with pytest.raises(type(error)):
        marigold.predict(PICTURE, callback=stop)
    assert steps == [1, 2]
    assert torch.equal(marigold.predict(PICTURE, generator=seed()), expected)


def test_the_result_carries_times_mask_and_uncertainty():
    mask = np.ones((40, 56), bool)
    mask[:, :28] = False
    marigold = build()
    result = marigold(PICTURE, ensemble_size=3, mask=mask, generator=seed())
    assert list(result.seconds) == ["encode", "denoise", "decode", "ensemble", "resize"]
    assert result.depth.shape == result.uncertainty.shape == (40, 56)
    assert np.array_equal(result.mask, mask)
    small = marigold(
        PICTURE, ensemble_size=3, mask=mask, match_input_resolution=False, generator=seed()
    )
    assert small.depth.shape == small.mask.shape == (22, 32)
    assert small.mask[:, 17:].all()
    assert not small.mask[:, :15].any()
    # Without the mask the range comes from the whole picture.
    unmasked = marigold(PICTURE, ensemble_size=3, match_input_resolution=False, generator=seed())
    assert not np.allclose(small.depth, unmasked.depth)
    assert small.depth[small.mask].min() == pytest.approx(0, abs=1e-6)
    assert small.depth[small.mask].max() == pytest.approx(1, abs=1e-6)


def test_one_prediction_is_returned_as_it_was_decoded():
    marigold = build(processing_resolution=0)
    predicted = marigold.predict(PICTURE, generator=seed())
    result = marigold(PICTURE, generator=seed())
    np.testing.assert_array_equal(result.depth, predicted[0].numpy())
    assert result.uncertainty is None


def test_predictions_belong_to_the_caller():
    predictions = build().predict(PICTURE)
    predictions.mul_(0.5)  # a tensor still in inference mode would refuse
    assert predictions.is_contiguous()


@pytest.mark.parametrize("broken", ["unet", "vae"])
def test_a_result_that_is_not_finite_is_an_error(broken):
    marigold = build().to(dtype=torch.bfloat16)
    with torch.no_grad():
        next(getattr(marigold, broken).parameters()).view(-1)[0] = torch.nan
    with pytest.raises(MarigoldError, match="not finite.*damaged"):
        marigold.predict(PICTURE)


def test_float16_overflow_is_told_to_use_a_wider_type():
    marigold = build().to(dtype=torch.float16)
    with torch.no_grad():
        marigold.unet.conv_out.bias.fill_(60000)
    with pytest.raises(MarigoldError, match="float16; use bfloat16 or float32"):
        marigold.predict(PICTURE, num_inference_steps=4)


def test_a_tiny_autoencoder_takes_the_vaes_place():
    marigold = build()
    torch.manual_seed(0)
    marigold.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).eval()
    assert vae_factor(marigold.vae) == 8
    assert marigold.predict(PICTURE, ensemble_size=2).shape == (2, 22, 32)


def test_float16_weights_give_nearly_the_same_depth():
    expected = build().predict(PICTURE, generator=seed())
    half = build().to(dtype=torch.float16)
    got = half.predict(PICTURE, generator=seed())
    assert half.dtype == torch.float16
    assert got.dtype == torch.float32
    assert 0 < (got - expected).abs().max() < 0.05


def test_from_pretrained_takes_the_checkpoints_defaults(tmp_path):
    folder = build_checkpoint(tmp_path / "checkpoint", "v1-0")
    marigold = Marigold.from_pretrained(folder, torch_dtype=torch.bfloat16, device="cpu")
    assert marigold.num_inference_steps == 10
    assert marigold.processing_resolution == 768
    assert marigold.dtype == torch.bfloat16
    assert marigold.text_embedding.abs().max() > 0
    marigold = Marigold.from_pretrained(folder, device="cpu")
    assert marigold.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 1001}, "1 to 1000"),
        ({"ensemble_size": 99_999_999}, "ensemble_size is 99999999.*1 to 1024"),
        ({"processing_resolution": 10**20}, "0 to 16384"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1, "generator": torch.Generator()}, "seed and generator"),
        ({"num_inference_steps": 2.5}, "whole number"),
        ({"ensemble_size": 0}, "ensemble_size is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"processing_resolution": -8}, "-8"),
        ({"timestep_spacing": "middle"}, "middle"),
        ({"generator": 2024}, "manual_seed"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 member"),
        ({"latents": [[0.0]]}, "latents"),
        ({"mask": np.ones((3, 3), bool)}, "3 x 3 pixels and the picture is 56 x 40"),
        ({"mask": np.zeros((40, 56), bool)}, "excludes every pixel"),
        ({"ensemble_method": "vote"}, "vote"),
        ({"reduction": "mode"}, "mode"),
    ],
)
def test_bad_arguments_are_one_line(options, message):
    calls: list[int] = []
    marigold = build()
    marigold.unet.register_forward_pre_hook(lambda module, args: calls.append(1))
    with pytest.raises(MarigoldError, match=message) as caught:
        marigold(PICTURE, **options)
    assert "\n" not in str(caught.value)
    assert not calls, "it was found out only after the work"


def test_an_end_to_end_checkpoint_refuses_more_than_its_one_step():
    with pytest.raises(MarigoldError, match="for a single step"):
        build("e2e", num_inference_steps=1).predict(PICTURE, num_inference_steps=10)


def test_a_seed_is_a_generator_on_the_cpu():
    marigold = build()
    for number in (0, 2**64 - 1):
        expected = marigold.predict(PICTURE, generator=seed(number))
        assert torch.equal(marigold.predict(PICTURE, seed=number), expected)


def test_options_and_keywords_are_one():
    marigold = build()
    options = Options(seed=3, ensemble_size=2, processing_resolution=16)
    expected = marigold.predict(PICTURE, seed=3, ensemble_size=2, processing_resolution=24)
    changed = marigold.predict(PICTURE, options, processing_resolution=24)
    assert torch.equal(changed, expected)
    assert options.processing_resolution == 16


@pytest.mark.parametrize("limit", [1, 2])
def test_progress_never_runs_backwards_when_a_batch_is_halved(limit):
    marigold = build()
    limit_batches(marigold, limit)
    steps = []
    marigold.predict(
        PICTURE, ensemble_size=4, batch_size=4, callback=lambda p: steps.append(p.step)
    )
    assert steps == sorted(steps)
    assert steps[-1] == 4 * 2 + 4


def test_lcm_refuses_a_spacing_that_it_would_ignore():
    with pytest.raises(MarigoldError, match="timesteps of its own"):
        build("lcm").predict(PICTURE, timestep_spacing="leading")


def test_with_low_memory_the_unet_is_on_the_device_only_while_it_denoises(monkeypatch):
    # "cpu:0" is the CPU, too, but tells the device from where the U-Net waits.
    marigold = build(device="cpu:0", low_memory=True)
    expected = build().predict(PICTURE, seed=0, ensemble_size=2)
    events: list[str] = []
    move = marigold.unet.to
    monkeypatch.setattr(marigold.unet, "to", lambda place: events.append(str(place)) or move(place))
    marigold.unet.register_forward_pre_hook(lambda *_: events.append("denoise"))
    for name in ("encode", "decode"):
        run = getattr(marigold.vae, name)
        monkeypatch.setattr(
            marigold.vae,
            name,
            lambda *args, run=run, name=name, **options: (
                events.append(name) or run(*args, **options)
            ),
        )
    got = marigold.predict(PICTURE, seed=0, ensemble_size=2)
    assert events == ["encode", "cpu:0", "denoise", "denoise", "cpu", "decode", "decode"]
    torch.testing.assert_close(got, expected)

    def cancel(_):
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        marigold.predict(PICTURE, seed=0, callback=cancel)
    assert events[-1] == "cpu"
