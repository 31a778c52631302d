"""What a run starts from, and the three stages of a latent diffusion model, on tensors: encode,
denoise, decode.

Ke et al. 2024 (arXiv 2312.02145), section 3: what is estimated is the latent of a diffusion model
that sees the picture's latent beside it. The picture is encoded once; each ensemble member is
denoised from noise of its own. Nothing here knows of pictures or targets.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .diffusion import Generator, SamplerTable, checked_generator, draw_noise, lcm_table
from .errors import MarigoldError, MarigoldWarning, is_out_of_memory
from .memory import in_batches, too_little_memory, unet_batch
from .options import Options
from .resize import processing_size

# Called after each step of a batch: how many of (members x steps) are done, and what gives the
# clean latent (1, C, h, w) that the batch's first member is estimated to have.
StepDone = Callable[[int, Callable[[], Tensor]], None]


class Start(NamedTuple):
    """table: the sampler's steps. size: (h, w) that the picture is processed at. latents: the
    members' noise, float32 (N, C, h, w) of `Marigold.latent_shape`. step_noise: of an LCM, more of
    that shape, for every step but the last."""

    table: SamplerTable
    size: tuple[int, int]
    latents: Tensor
    step_noise: list[Tensor]


def start_of(marigold: Any, size: tuple[int, ...], options: Options) -> Start:
    """What a run of `marigold`, the engine, on a picture of `size` (H, W) starts from.

    Raises MarigoldError for options that do not fit the checkpoint or the picture.
    """
    table = sampler(marigold, options)
    resolution = options.processing_resolution
    if resolution is None:
        resolution = marigold.processing_resolution
    processed = processing_size(size[0], size[1], resolution)
    generator = checked_generator(options, marigold.device)
    latents = initial_latents(marigold, processed, options, generator)
    # An LCM draws again after every step but the last, for all members at once as in a single
    # batch of diffusers', so that no member's noise depends on the batches.
    draws = 0 if table.noise is None else len(table) - 1
    shape = tuple(latents.shape)
    step_noise = [draw_noise(shape, generator, marigold.device) for _ in range(draws)]
    return Start(table, processed, latents, step_noise)


def sampler(marigold: Any, options: Options) -> SamplerTable:
    """The steps of the checkpoint's family. Raises MarigoldError for those that it has not."""
    steps = options.num_inference_steps or marigold.num_inference_steps
    spacing = options.timestep_spacing
    if marigold.family == "lcm":
        if spacing not in (None, "trailing"):
            raise MarigoldError(
                f"timestep_spacing is {spacing!r}, but an LCM checkpoint has timesteps of its "
                "own; leave it out."
            )
        return lcm_table(marigold.scheduler_config, steps)
    if marigold.family == "e2e" and steps != 1:
        raise MarigoldError(
            f"The number of steps is {steps}, but this checkpoint was fine-tuned end to end for a "
            "single step; leave it at the default."
        )
    return marigold.schedule.ddim(steps, spacing)


def initial_latents(
    marigold: Any, size: tuple[int, int], options: Options, generator: Generator | None
) -> Tensor:
    """The latents to start from, float32 (N, C, h, w): the caller's, noise, or zeros for e2e."""
    latents, members = options.latents, options.ensemble_size
    if latents is not None and not isinstance(latents, Tensor):
        raise MarigoldError(f"latents are a torch tensor, not {type(latents).__name__}.")
    if members is None:
        members = marigold.ensemble_size if latents is None else len(latents)
    if isinstance(generator, list) and len(generator) != members:
        raise MarigoldError(f"There are {len(generator)} generators for {members} members.")
    shape = marigold.latent_shape(*size, processing_resolution=0, ensemble_size=members)
    if latents is not None:
        if tuple(latents.shape) != shape:
            raise MarigoldError(
                f"latents have the shape {tuple(latents.shape)}; this picture, resolution and "
                f"ensemble size need {shape}."
            )
        return latents
    if marigold.family != "e2e":
        return draw_noise(shape, generator, marigold.device)
    if members > 1:
        warnings.warn(
            "This checkpoint starts from zeros instead of noise, so that all members of its "
            "ensemble are the same; one is enough.",
            MarigoldWarning,
            stacklevel=5,
        )
    return torch.zeros(shape, device=marigold.device)


def vae_factor(vae: Any) -> int:
    """Picture pixels per latent pixel, along a side."""
    # AutoencoderTiny has two such lists, and only newer diffusers add the common name.
    config = vae.config
    widths = getattr(config, "block_out_channels", None) or config.decoder_block_out_channels
    return 2 ** (len(widths) - 1)


@torch.inference_mode()
def encode(vae: Any, pixels: Tensor, device: torch.device | None = None) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> float32 latents (B, 4, h, w).

    The sides are multiples of `vae_factor(vae)`. device: None is the pixels'. Raises OutOfMemory.
    """
    try:
        encoded = vae.encode(pixels.to(device, _dtype(vae)))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise too_little_memory() from error
        raise
    # The posterior's mode, never a sample (paper, section 3.2); AutoencoderTiny has no spread.
    posterior = getattr(encoded, "latent_dist", None)
    latent = encoded.latents if posterior is None else posterior.mode()
    return latent.float() * vae.config.scaling_factor


@torch.inference_mode()
def denoise(
    unet: Any,
    table: SamplerTable,
    prompt: Tensor,
    image_latent: Tensor,
    latents: Tensor,
    *,
    step_noise: Sequence[Tensor] = (),
    batch_size: int | None = None,
    device: torch.device | None = None,
    step_done: StepDone | None = None,
) -> Tensor:
    """Noise (N, C, h, w) -> float32 latents (N, C, h, w) of what the U-Net estimates.

    prompt: (1, L, D), the empty prompt's embedding. image_latent: (F, 4, h, w), from `encode`, of
    F pictures that have N / F members each, one picture's after the other's.
    step_noise: for an LCM table, fresh noise (N, C, h, w) after every step but the last.
    batch_size: members at once, None is what fits; halved where memory runs out. device: None is
    the latents'. Raises OutOfMemory when a single member does not fit.
    """
    device = latents.device if device is None else device
    members, channels, *size = latents.shape
    seen = image_latent.shape[1]
    if batch_size is None:
        batch_size = unet_batch(unet, size[0] * size[1], members, device)
    table = table.to(device)
    dtype = _dtype(unet)
    prompt = prompt.to(device, dtype)
    image_of = torch.arange(members, device=device) // (members // len(image_latent))

    def run(part: slice) -> Tensor:
        x = latents[part].to(device, torch.float32)
        both = x.new_empty((len(x), seen + channels, *size), dtype=dtype)
        both[:, :seen] = image_latent[image_of[part]]  # the picture comes first: so it was trained
        text = prompt.expand(len(x), -1, -1)
        for i, timestep in enumerate(table.timesteps):
            both[:, seen:] = x
            output = unet(both, timestep, encoder_hidden_states=text).sample.float()
            before, x = x, table.previous[i, 0] * x + table.previous[i, 1] * output
            if table.noise is not None and i < len(step_noise):
                x += table.noise[i] * step_noise[i][part].to(device)
            if step_done is not None:
                done = part.start * len(table) + (i + 1) * len(x)
                step_done(done, _first_x0(table.x0[i], before, output))
        return x

    return in_batches(run, members, batch_size)


def _first_x0(coefficients: Tensor, x: Tensor, output: Tensor) -> Callable[[], Tensor]:
    return lambda: coefficients[0] * x[:1] + coefficients[1] * output[:1]


@torch.inference_mode()
def decode(vae: Any, latents: Tensor, device: torch.device | None = None) -> Tensor:
    """Latents (N, 4, h, w) -> float32 pictures (N, 3, H, W), about [-1, 1], all at once."""
    scaled = latents.to(device) / vae.config.scaling_factor
    return vae.decode(scaled.to(_dtype(vae)), return_dict=False)[0].float()


def _dtype(network: Any) -> torch.dtype:
    return next(network.parameters()).dtype
