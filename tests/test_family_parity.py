"""The engine against diffusers' pipelines for normals and intrinsic images: same weights and noise.

Members start from given latents, as the noise that diffusers draws depends on its batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_builders import (
    APPEARANCE,
    DDIM,
    FAMILIES,
    LIGHTING,
    TEXT_WIDTH,
    for_inference,
    tiny_unet,
    tiny_vae,
)
from diffusers import (
    DDIMScheduler,
    LCMScheduler,
    MarigoldIntrinsicsPipeline,
    MarigoldNormalsPipeline,
)
from diffusers.utils import logging
from PIL import Image

from marigold_core import IntrinsicImages, Marigold, NormalMap
from marigold_core.checkpoints.families import maps_of
from marigold_core.targets import Target, intrinsics_target, normals_target

torch.set_num_threads(1)
TOLERANCE = 1e-4
FLAT = 0.05  # a reference below this standard deviation proves nothing
DECOMPOSITIONS = {"iid-appearance": APPEARANCE, "iid-lighting": LIGHTING}
NORMALS = ("normals-v1-1", "normals-v0-1", "normals-lcm", "normals-half-z")
SIZES = [(97, 61), (64, 96), (33, 120)]


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Any:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(verbosity)


def latents_of(family: str) -> int:
    return len(DECOMPOSITIONS[family]["target_names"]) if family in DECOMPOSITIONS else 1


@pytest.fixture(scope="module")
def parts() -> dict[int, dict[str, Any]]:
    """By the number of latents."""
    made = {}
    for latents in (1, 2, 3):
        with torch.random.fork_rng():
            torch.manual_seed(latents)
            made[latents] = {
                "unet": tiny_unet(4 * (latents + 1), 4 * latents).eval(),
                "vae": tiny_vae().eval(),
                "embedding": torch.randn(1, 2, TEXT_WIDTH),
            }
    # Towards the viewer, as normals are: the direction of a vector near zero is all rounding.
    made[1]["vae"].decoder.conv_out.bias.data[2] += 0.7
    return made


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    fine = rng.integers(-40, 40, (height, width, 3))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + fine
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def target(family: str) -> Target:
    if family in DECOMPOSITIONS:
        return intrinsics_target(maps_of({"target_properties": DECOMPOSITIONS[family]}))
    return normals_target(FAMILIES[family][0].get("use_full_z_range", True))


def engine(parts: dict[int, dict], family: str, schedule: str | None = None) -> Marigold:
    """schedule: the family whose scheduler it has; None is its own."""
    networks, config = parts[latents_of(family)], scheduler_of(schedule or family)
    prompt = networks["embedding"]
    unet, vae = (for_inference(networks[part], prompt) for part in ("unet", "vae"))
    return Marigold(
        unet, vae, config, prompt, target=target(family),
        family="lcm" if config["_class_name"] == "LCMScheduler" else "ddim",
        num_inference_steps=1, processing_resolution=64,
    )  # fmt: skip


def reference(parts: dict[int, dict], family: str, schedule: str | None = None) -> Any:
    networks, config = parts[latents_of(family)], scheduler_of(schedule or family)
    scheduler = LCMScheduler if config["_class_name"] == "LCMScheduler" else DDIMScheduler
    arguments = {
        "unet": networks["unet"], "vae": networks["vae"],
        "scheduler": scheduler.from_config(config), "text_encoder": None, "tokenizer": None,
        "default_denoising_steps": 1, "default_processing_resolution": 64,
    }  # fmt: skip
    if family in DECOMPOSITIONS:
        pipeline: Any = MarigoldIntrinsicsPipeline(
            prediction_type="intrinsics", target_properties=DECOMPOSITIONS[family], **arguments
        )
    else:
        full = FAMILIES[family][0].get("use_full_z_range", True)
        pipeline = MarigoldNormalsPipeline(
            prediction_type="normals", use_full_z_range=full, **arguments
        )
    pipeline.empty_text_embedding = networks["embedding"]
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def scheduler_of(family: str) -> dict[str, Any]:
    config = FAMILIES[family][1]
    # One leading step of a DDIM starts at t = 1 and returns noise, in diffusers too.
    is_lcm = config["_class_name"] == "LCMScheduler"
    return config if is_lcm else config | {"timestep_spacing": "trailing"}


def noise(marigold: Marigold, size: tuple[int, int], members: int, **options: Any) -> torch.Tensor:
    width, height = size
    shape = marigold.latent_shape(height, width, ensemble_size=members, **options)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def arrays(result: NormalMap | IntrinsicImages, properties: dict[str, Any] | None) -> np.ndarray:
    """The result as diffusers lays it out: (T, H, W, 3)."""
    if isinstance(result, NormalMap):
        return result.normals[None]
    assert properties is not None
    stacked = []
    for name in properties["target_names"]:
        parts = properties[name].get("sub_target_names")
        if parts is None:
            stacked.append(result.maps[name])
        else:
            stacked.append(np.stack([result.maps[part] for part in parts if part], axis=-1))
    return np.concatenate([one.reshape(*one.shape[:2], -1) for one in stacked], axis=-1)


def expected_arrays(prediction: np.ndarray, properties: dict[str, Any] | None) -> np.ndarray:
    if properties is None:
        return prediction
    kept = []
    for name, one in zip(properties["target_names"], prediction, strict=True):
        names = properties[name].get("sub_target_names", ["r", "g", "b"])
        kept += [one[..., [i for i, part in enumerate(names) if part]]]
    return np.concatenate(kept, axis=-1)


def check(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert expected.std() > FLAT
    assert (np.abs(expected) < 1).mean() > 0.3, "clipped values hide differences"
    assert np.abs(got - expected).max() <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(
    ("family", "schedule"),
    [
        *((family, family) for family in (*NORMALS, *DECOMPOSITIONS)),
        # Not published, but trained by whoever distils one or continues from v1-0.
        *((family, other) for family in DECOMPOSITIONS for other in ("lcm", "v1-0")),
    ],
)
def test_schedulers_and_steps(parts, family, schedule, steps):
    marigold, properties = engine(parts, family, schedule), DECOMPOSITIONS.get(family)
    size = (97, 61)
    results = [
        run(
            picture(*size),
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(7),
        )
        for run in (reference(parts, family, schedule), marigold)
    ]
    expected, got = results
    check(arrays(got, properties), expected_arrays(expected.prediction, properties))
    assert got.uncertainty is None


@pytest.mark.parametrize("match_input_resolution", [True, False])
@pytest.mark.parametrize("resolution", [0, 40, 128])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("family", ["normals-v1-1", *DECOMPOSITIONS])
def test_sizes(parts, family, size, resolution, match_input_resolution):
    marigold, properties = engine(parts, family), DECOMPOSITIONS.get(family)
    options = {
        "num_inference_steps": 2,
        "processing_resolution": resolution,
        "match_input_resolution": match_input_resolution,
        "latents": noise(marigold, size, 1, processing_resolution=resolution),
    }
    expected = reference(parts, family)(picture(*size), **options).prediction
    got = arrays(marigold(picture(*size), **options), properties)
    check(got, expected_arrays(expected, properties))


@pytest.mark.parametrize("reduction", ["closest", "mean"])
def test_an_ensemble_of_normals(parts, reduction):
    marigold, size = engine(parts, "normals-v1-1"), (97, 61)
    options = {"num_inference_steps": 2, "latents": noise(marigold, size, 4)}
    expected = reference(parts, "normals-v1-1")(
        picture(*size), ensemble_size=4, output_uncertainty=True, match_input_resolution=False,
        ensembling_kwargs={"reduction": reduction}, **options,
    )  # fmt: skip
    got = marigold(
        picture(*size), reduction=reduction, match_input_resolution=False, batch_size=3, **options
    )
    # Where two members are equally near, rounding chooses another; it differs in few pixels.
    different = np.abs(got.normals - expected.prediction[0]).max(axis=-1) > TOLERANCE
    assert different.mean() < 0.001
    check(got.normals[~different], expected.prediction[0][~different])
    # diffusers' angle is the arc cosine in float32, which knows no angle below 0.02 degrees.
    angle = expected.uncertainty[0, ..., 0] * np.pi
    assert np.abs(got.uncertainty - angle).max() <= 1e-3
    assert got.uncertainty.mean() > 0.05


@pytest.mark.parametrize("family", DECOMPOSITIONS)
@pytest.mark.parametrize("reduction", ["median", "mean"])
def test_an_ensemble_of_intrinsic_images(parts, family, reduction):
    marigold, properties, size = engine(parts, family), DECOMPOSITIONS[family], (97, 61)
    options = {"num_inference_steps": 2, "latents": noise(marigold, size, 3)}
    expected = reference(parts, family)(
        picture(*size), ensemble_size=3, output_uncertainty=True,
        ensembling_kwargs={"reduction": reduction}, **options,
    )  # fmt: skip
    got = marigold(picture(*size), reduction=reduction, batch_size=2, **options)
    for number, name in enumerate(properties["target_names"]):
        # diffusers does not align what is known up to a scale; see `ensemble_intrinsics`.
        if name in got.maps and name not in got.up_to_scale:
            check(got.maps[name], expected.prediction[number])
            assert np.abs(got.uncertainty[name] - expected.uncertainty[number]).max() <= TOLERANCE
    shapes = {name: values.shape for name, values in got.uncertainty.items()}
    assert shapes == {name: values.shape for name, values in got.maps.items()}


def test_end_to_end_normals_start_from_zeros_in_one_step(parts):
    config = DDIM | {"timestep_spacing": "trailing", "rescale_betas_zero_snr": False}
    networks, size = parts[1], (97, 61)
    marigold = Marigold(
        networks["unet"], networks["vae"], config, networks["embedding"], family="e2e",
        num_inference_steps=1, processing_resolution=64, target=normals_target(),
    )  # fmt: skip
    pipeline = reference(parts, "normals-v1-1")
    pipeline.scheduler = DDIMScheduler.from_config(config)
    zeros = torch.zeros(marigold.latent_shape(61, 97))
    expected = pipeline(picture(*size), latents=zeros, num_inference_steps=1).prediction
    check(marigold(picture(*size)).normals, expected[0])


def test_another_order_of_latents_breaks_parity(parts):
    marigold, size = engine(parts, "iid-lighting"), (64, 48)
    options = {"num_inference_steps": 1, "latents": noise(marigold, size, 1)}
    expected = reference(parts, "iid-lighting")(picture(*size), **options).prediction
    turned = {**LIGHTING, "target_names": ["shading", "albedo", "residual"]}
    marigold.target = intrinsics_target(maps_of({"target_properties": turned}))
    got = arrays(marigold(picture(*size), **options), LIGHTING)
    with pytest.raises(AssertionError):
        check(got, expected_arrays(expected, LIGHTING))
