"""The paper's training objective: annealed multi-resolution noise and the v-prediction loss.

Section 3.2 of "Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation"
(arXiv 2312.02145) and the authors' released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from marigold_core.diffusion import NoiseSchedule


def multi_resolution_noise(
    shape: Sequence[int],
    timesteps: Tensor,
    *,
    strength: float = 0.9,
    num_train_timesteps: int = 1000,
    generator: torch.Generator,
) -> Tensor:
    """Annealed multi-resolution noise, (B, C, h, w) float32 on the generator's device.

    A pyramid of ever coarser Gaussian fields is added to Gaussian noise, level i weighted by
    (strength * t / T)^i for each sample, and the sum is scaled to unit variance over the whole
    batch. At t = 0 the noise is exactly Gaussian; towards t = T it is smooth, like depth itself.
    The level sizes divide the already reduced size by r^i with r ~ U[2, 4), as the authors' code
    does.
    """
    batch, channels, height, width = shape
    device = generator.device
    weight = (strength * timesteps.to(device) / num_train_timesteps).reshape(-1, 1, 1, 1)
    noise = torch.randn(shape, generator=generator, device=device)
    h, w = height, width
    for level in range(10):
        r = float(torch.rand((), generator=generator, device=device)) * 2 + 2
        h, w = max(1, int(h / r**level)), max(1, int(w / r**level))
        field = torch.randn(batch, channels, h, w, generator=generator, device=device)
        field = F.interpolate(field, (height, width), mode="bilinear", align_corners=False)
        noise += field * weight**level
        if h == 1 or w == 1:
            break
    return noise / noise.std()


def sample_timesteps(
    batch: int, schedule: NoiseSchedule, terminal_share: float, generator: torch.Generator
) -> Tensor:
    """(batch,) int64 timesteps: uniform over the schedule, as in the paper.

    `terminal_share` of them are moved to the last timestep. The paper's value is 0; a small model
    that starts from nothing learns the layout, which the last timestep decides, sooner with more.
    """
    device = generator.device
    total = schedule.num_train_timesteps
    t = torch.randint(0, total, (batch,), generator=generator, device=device)
    terminal = torch.rand(batch, generator=generator, device=device) < terminal_share
    return torch.where(terminal, total - 1, t)


def denoising_loss(
    unet: torch.nn.Module,
    image_latent: Tensor,
    depth_latent: Tensor,
    text_embedding: Tensor,
    schedule: NoiseSchedule,
    *,
    noise_strength: float = 0.9,
    terminal_share: float = 0.0,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error between the network's output and its target (eq. 3; here v, eps or x0).

    image_latent, depth_latent: (B, 4, h, w) scaled latents. text_embedding: (1, L, D).
    """
    batch = len(depth_latent)
    timesteps = sample_timesteps(batch, schedule, terminal_share, generator)
    noise = multi_resolution_noise(
        depth_latent.shape,
        timesteps,
        strength=noise_strength,
        num_train_timesteps=schedule.num_train_timesteps,
        generator=generator,
    )
    noisy = schedule.add_noise(depth_latent, noise, timesteps)
    target = schedule.training_target(depth_latent, noise, timesteps)
    output = unet(
        torch.cat([image_latent, noisy], 1), timesteps, text_embedding.expand(batch, -1, -1)
    ).sample
    return F.mse_loss(output.float(), target)
