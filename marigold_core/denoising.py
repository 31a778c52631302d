"""The three stages of a latent diffusion model, on tensors: encode, denoise, decode.

Ke et al. 2024 (arXiv 2312.02145), section 3: what is estimated is the latent of a diffusion model
that sees the picture's latent beside it. The picture is encoded once; each ensemble member is
denoised from noise of its own. Nothing here knows of picture files, sizes or targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .diffusion import SamplerTable
from .errors import is_out_of_memory
from .memory import in_batches, too_little_memory, unet_batch

# Called after each step of a batch: how many of (members x steps) are done, and what gives the
# clean latent (1, C, h, w) that the batch's first member is estimated to have.
StepDone = Callable[[int, Callable[[], Tensor]], None]


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
