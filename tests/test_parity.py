"""The engine against diffusers' own MarigoldDepthPipeline: same weights, same noise, same depth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_builders import DDIM, LCM, TEXT_WIDTH, ZERO_SNR, for_inference, tiny_unet, tiny_vae
from diffusers import AutoencoderTiny, DDIMScheduler, LCMScheduler, MarigoldDepthPipeline
from diffusers.utils import logging
from PIL import Image

from marigold_core import Marigold

TOLERANCE = 1e-4
FLAT = 0.05  # a reference below this standard deviation proves nothing
NANO = Path(__file__).parents[1] / "marigold_core" / "assets" / "nano"

V1_0 = DDIM | {"timestep_spacing": "leading", "rescale_betas_zero_snr": False}
SCHEDULERS = {
    "v1-1": DDIM | ZERO_SNR,
    "v1-0 leading": V1_0,
    "v1-0 trailing": V1_0 | {"timestep_spacing": "trailing"},
    "epsilon": V1_0 | {"timestep_spacing": "trailing", "prediction_type": "epsilon"},
    "sample": V1_0 | {"timestep_spacing": "trailing", "prediction_type": "sample"},
    "lcm": LCM,
}


@pytest.fixture(autouse=True, scope="module")
def _quiet_on_one_thread() -> Iterator[None]:
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    yield
    torch.set_num_threads(threads)
    logging.set_verbosity(verbosity)


@pytest.fixture(scope="module")
def parts() -> dict:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "unet": tiny_unet().eval(),
            "vae": tiny_vae().eval(),
            "embedding": torch.randn(1, 2, TEXT_WIDTH),
        }


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Large and small shapes, so that resizing matters but does not average it all away."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    fine = rng.integers(-40, 40, (height, width, 3))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + fine
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def reference(parts: dict, config: dict) -> MarigoldDepthPipeline:
    scheduler = LCMScheduler if config["_class_name"] == "LCMScheduler" else DDIMScheduler
    pipeline = MarigoldDepthPipeline(
        unet=parts["unet"],
        vae=parts["vae"],
        scheduler=scheduler.from_config(config),
        text_encoder=None,
        tokenizer=None,
        prediction_type="depth",
        default_denoising_steps=1,
        default_processing_resolution=64,
    )
    pipeline.empty_text_embedding = parts["embedding"]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def engine(parts: dict, config: dict) -> Marigold:
    family = "lcm" if config["_class_name"] == "LCMScheduler" else "ddim"
    prompt = parts["embedding"]
    return Marigold(
        for_inference(parts["unet"], prompt),
        for_inference(parts["vae"], prompt),
        config,
        prompt,
        family=family,
        num_inference_steps=1,
        processing_resolution=64,
    )


def spacing(config: dict) -> str | None:
    return None if config["_class_name"] == "LCMScheduler" else config["timestep_spacing"]


def members(pipeline: MarigoldDepthPipeline, image: Image.Image, **options) -> torch.Tensor:
    """diffusers' predictions before its ensembling, (N, h, w)."""
    found: list[torch.Tensor] = []

    def keep(prediction: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor, None]:
        found.append(prediction)
        return prediction[:1], None

    pipeline.ensemble_depth = keep
    pipeline(image, output_type="pt", match_input_resolution=False, **options)
    return found[0][:, 0]


def whole(pipeline: MarigoldDepthPipeline, image: Image.Image, **options) -> np.ndarray:
    return pipeline(image, ensemble_size=1, **options).prediction[0, ..., 0]


def check(got: torch.Tensor | np.ndarray, expected: torch.Tensor | np.ndarray) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    assert expected.std() > FLAT
    assert ((expected > 0) & (expected < 1)).mean() > 0.3, "clipped values hide differences"
    assert np.abs(got - expected).max() <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 4, 10])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_and_steps(parts, name, steps):
    config = SCHEDULERS[name]
    image = picture(97, 61)
    # A single batch of diffusers draws LCM's later noise for all members at once, as this does.
    expected = members(
        reference(parts, config),
        image,
        num_inference_steps=steps,
        ensemble_size=3,
        batch_size=3,
        generator=torch.Generator().manual_seed(7),
    )
    for batch_size in (1, 3):
        got = engine(parts, config).predict(
            image,
            num_inference_steps=steps,
            ensemble_size=3,
            batch_size=batch_size,
            generator=torch.Generator().manual_seed(7),
            timestep_spacing=spacing(config),
        )
        check(got, expected)


@pytest.mark.parametrize("match_input_resolution", [True, False])
@pytest.mark.parametrize("resolution", [0, 40, 64, 128])
@pytest.mark.parametrize("size", [(97, 61), (64, 96), (33, 120)])
def test_sizes_of_a_whole_call(parts, size, resolution, match_input_resolution):
    config = SCHEDULERS["v1-1"]
    marigold = engine(parts, config)
    image = picture(*size)
    width, height = size
    latents = torch.randn(
        marigold.latent_shape(height, width, processing_resolution=resolution),
        generator=torch.Generator().manual_seed(1),
    )
    options = {
        "num_inference_steps": 2,
        "processing_resolution": resolution,
        "match_input_resolution": match_input_resolution,
        "latents": latents,
    }
    check(marigold(image, **options).depth, whole(reference(parts, config), image, **options))


def test_an_ensemble_from_given_latents(parts):
    config = SCHEDULERS["v1-1"]
    marigold, pipeline = engine(parts, config), reference(parts, config)
    image = picture(64, 96)
    shape = marigold.latent_shape(96, 64, ensemble_size=3)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    got = marigold.predict(image, latents=latents, num_inference_steps=4, batch_size=2)
    for member, latent in zip(got, latents, strict=True):
        options = {"latents": latent[None], "num_inference_steps": 4}
        check(member, whole(pipeline, image, match_input_resolution=False, **options))


def test_a_tiny_autoencoder(parts):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        ).eval()
        torch.nn.init.normal_(vae.decoder.layers[-1].weight, std=2)
        torch.nn.init.constant_(vae.decoder.layers[-1].bias, 0.5)  # its decoder returns 2 x - 1
    tiny = parts | {"vae": vae}
    config = SCHEDULERS["v1-1"]
    marigold = engine(tiny, config)
    latents = torch.randn(marigold.latent_shape(61, 97), generator=torch.Generator().manual_seed(1))
    image = picture(97, 61)
    check(
        marigold(image, latents=latents).depth,
        whole(reference(tiny, config), image, latents=latents),
    )


@pytest.mark.parametrize(
    "perturbed",
    [
        "unet.conv_in.weight",
        "unet.time_embedding.linear_1.weight",
        "embedding",
        "vae.encoder.conv_in.weight",
        "vae.decoder.conv_out.weight",
    ],
)
def test_one_changed_weight_breaks_parity(parts, perturbed):
    config = SCHEDULERS["v1-1"]
    image = picture(64, 48)
    options = {
        "num_inference_steps": 2,
        "latents": torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(1)),
    }
    expected = whole(reference(parts, config), image, **options)
    check(engine(parts, config)(image, **options).depth, expected)
    part, _, name = perturbed.partition(".")
    weight = parts[part].get_parameter(name).data if name else parts[part]
    kept = weight.flatten()[0].item()
    try:
        weight.view(-1)[0] += 0.5
        with pytest.raises(AssertionError):
            check(engine(parts, config)(image, **options).depth, expected)
    finally:
        weight.view(-1)[0] = kept


@pytest.mark.skipif(not NANO.is_dir(), reason="the bundled checkpoint is not there")
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("resolution", [96, 160])
def test_the_bundled_checkpoint(steps, resolution):
    marigold = Marigold.from_pretrained("nano", dtype=torch.float32, device="cpu")
    pipeline = MarigoldDepthPipeline.from_pretrained(NANO, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = picture(97, 61)
    options = {"num_inference_steps": steps, "processing_resolution": resolution}
    latents = torch.randn(
        marigold.latent_shape(61, 97, processing_resolution=resolution, ensemble_size=2),
        generator=torch.Generator().manual_seed(1),
    )
    got = marigold.predict(image, latents=latents, **options)
    for member, latent in zip(got, latents, strict=True):
        single = {"latents": latent[None], "match_input_resolution": False, **options}
        check(member, whole(pipeline, image, **single))
    options["latents"] = latents[:1]
    check(marigold(image, **options).depth, whole(pipeline, image, **options))
