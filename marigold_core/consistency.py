"""The latent consistency sampler as numbers, for checkpoints distilled to a few steps.

Luo et al. 2023 (arXiv 2310.04378, algorithm 2): the network's x0 is blended with its input so that
the boundary condition at t = 0 holds, then fresh noise takes it to the next timestep. Timesteps
and boundary scalings are diffusers' `LCMScheduler`'s own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import LCMScheduler
from torch import Tensor

from .diffusion import DDIMTable, NoiseSchedule
from .errors import MarigoldError


@dataclass(frozen=True)
class ConsistencyTable(DDIMTable):
    """A DDIM table with one more column, because every step but the last draws noise.

    noise: (S,) float32; `x_prev = previous[i, 0] * x_t + previous[i, 1] * output + noise[i] * z`.
    The last entry is 0.
    """

    noise: Tensor

    def to(self, device: torch.device | str) -> ConsistencyTable:
        table = super().to(device)
        return ConsistencyTable(table.timesteps, table.previous, table.x0, self.noise.to(device))


def consistency_table(config: Mapping[str, Any], num_inference_steps: int) -> ConsistencyTable:
    """The sampler for 1 to `original_inference_steps` (50) steps, from a `scheduler_config.json`.

    The scheduler's own `step` draws its noise itself, in the shape of the batch at hand; here the
    noise is an argument, so that a member's draws do not depend on the batch that it runs in.
    """
    schedule = NoiseSchedule.from_config(config)
    scheduler = LCMScheduler.from_config(dict(config))
    most = int(scheduler.config["original_inference_steps"])
    if not 1 <= num_inference_steps <= most:
        raise MarigoldError(
            f"The number of steps is {num_inference_steps}; "
            f"this LCM checkpoint was distilled for 1 to {most}."
        )
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps
    skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timesteps.double())
    abar = schedule.alphas_cumprod
    signal, sigma = abar[timesteps].sqrt(), (1 - abar[timesteps]).sqrt()
    if schedule.prediction_type == "v_prediction":
        x0 = torch.stack([signal, -sigma], 1)
    elif schedule.prediction_type == "epsilon":
        x0 = torch.stack([1 / signal, -sigma / signal], 1)
    else:
        x0 = torch.stack([torch.zeros_like(signal), torch.ones_like(signal)], 1)
    denoised = out[:, None] * x0
    denoised[:, 0] += skip
    # The last step returns the denoised latent itself: signal 1, noise 0.
    one = torch.ones(1, dtype=torch.float64)
    then = torch.cat([abar[timesteps[1:]], one])
    return ConsistencyTable(
        timesteps,
        (then.sqrt()[:, None] * denoised).float(),
        denoised.float(),
        (1 - then).sqrt().float(),
    )
