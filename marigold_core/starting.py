"""What a run starts from: the sampler's steps, the size, and the noise."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .diffusion import Generator, SamplerTable, checked_generator, draw_noise, lcm_table
from .errors import MarigoldError, MarigoldWarning
from .options import Options
from .resize import processing_size

if TYPE_CHECKING:
    from .engine import Marigold


class Start(NamedTuple):
    """table: the sampler's steps. size: (h, w) that the picture is processed at. latents: the
    members' noise, float32 (N, C, h, w) of `Marigold.latent_shape`. step_noise: of an LCM, more of
    that shape, for every step but the last."""

    table: SamplerTable
    size: tuple[int, int]
    latents: Tensor
    step_noise: list[Tensor]


def start_of(marigold: Marigold, size: tuple[int, ...], options: Options) -> Start:
    """What a run on a picture of `size` (H, W) starts from.

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


def sampler(marigold: Marigold, options: Options) -> SamplerTable:
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
            f"num_inference_steps is {steps}, but this checkpoint was fine-tuned end to end "
            "for a single step; leave it out."
        )
    return marigold.schedule.ddim(steps, spacing)


def initial_latents(
    marigold: Marigold, size: tuple[int, int], options: Options, generator: Generator | None
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
            "ensemble are the same; use ensemble_size=1.",
            MarigoldWarning,
            stacklevel=5,
        )
    return torch.zeros(shape, device=marigold.device)
