"""Training objectives: the paper's noise prediction, and end-to-end fine-tuning of one step.

Section 3.2 of "Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation"
(arXiv 2312.02145) and the authors' released code; end to end: "Fine-Tuning Image-Conditional
Diffusion Models is Easier than You Think" (arXiv 2409.11355), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from marigold_core.diffusion import NoiseSchedule

# (decoded (B, 3, H, W), truth, valid (B, H, W)) -> the error that an end-to-end run minimises.
EndToEndError = Callable[[Tensor, Tensor, Tensor], Tensor]


def learning_rate_factor(step: int, warmup: int, length: int, final: float = 0.01) -> float:
    """The released schedule: linear warm-up, then exponential decay to `final` at `length`.

    The very first step, 0, has the factor 0, as the authors' has.
    """
    if step < warmup:
        return step / warmup
    if step >= length:
        return final
    return math.exp((step - warmup) / (length - warmup) * math.log(final))


def multi_resolution_noise(
    shape: Sequence[int],
    timesteps: Tensor,
    *,
    strength: float = 0.9,
    annealed: bool = True,
    num_train_timesteps: int = 1000,
    generator: torch.Generator,
) -> Tensor:
    """Annealed multi-resolution noise, (B, C, h, w) float32 on the generator's device.

    A pyramid of ever coarser Gaussian fields is added to Gaussian noise, level i weighted by
    (strength * t / T)^i for each sample (strength^i where it is not annealed), and the sum is
    scaled to unit variance over the whole batch. At t = 0 the noise is exactly Gaussian; towards
    t = T it is smooth, like depth itself. strength 0 is Gaussian noise at every timestep. The
    level sizes divide the already reduced size by r^i with r ~ U[2, 4), as the authors' code does.
    r decides shapes, so the host has to know it: with a generator on another device it is drawn
    by one on the CPU of the same seed, and nothing waits for the device.
    """
    batch, channels, height, width = shape
    device = generator.device
    on_host = generator
    if device.type != "cpu":
        on_host = torch.Generator().manual_seed(generator.initial_seed())
    share = timesteps.to(device) / num_train_timesteps
    weight = strength * (share if annealed else torch.ones_like(share))
    weight = rearrange(weight, "b -> b 1 1 1")
    noise = torch.randn(shape, generator=generator, device=device)
    h, w = height, width
    for level in range(10):
        r = float(torch.rand((), generator=on_host)) * 2 + 2
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


def masked_mean_square(output: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the elements (B, C, h, w) that the mask (B, 1, h, w) keeps, all with one weight."""
    error = (output.float() - target).square()
    if mask is None:
        return error.mean()
    return (error * mask).sum() / (mask.sum() * error.shape[1])


def denoising_loss(
    unet: Any,
    image_latent: Tensor,
    target_latent: Tensor,
    text_embedding: Tensor,
    schedule: NoiseSchedule,
    *,
    mask: Tensor | None = None,
    noise_strength: float = 0.9,
    noise_annealed: bool = True,
    terminal_share: float = 0.0,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error between the network's output and its target (eq. 3; here v, eps or x0).

    image_latent: (B, 4, h, w) scaled latents; target_latent: (B, 4 T, h, w), of T targets one
    after another. text_embedding: (1, L, D). mask: (B, 1, h, w) bool from
    `data.latents.latent_mask`; None = every cell counts. NaN where the mask is empty.
    """
    batch = len(target_latent)
    timesteps = sample_timesteps(batch, schedule, terminal_share, generator)
    noise = multi_resolution_noise(
        target_latent.shape,
        timesteps,
        strength=noise_strength,
        annealed=noise_annealed,
        num_train_timesteps=schedule.num_train_timesteps,
        generator=generator,
    )
    noisy = schedule.add_noise(target_latent, noise, timesteps)
    target = schedule.training_target(target_latent, noise, timesteps)
    output = unet(
        torch.cat([image_latent, noisy], 1), timesteps, text_embedding.expand(batch, -1, -1)
    ).sample
    return masked_mean_square(output, target, mask)


def fit_scale_and_shift(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The prediction (B, H, W) after the scale and shift that fit it best to each valid target.

    Least squares in closed form, from centred moments; gradients go through the fit.
    """
    weight = valid.float()
    count = weight.sum((1, 2), keepdim=True).clamp(min=1)
    p = prediction - (prediction * weight).sum((1, 2), keepdim=True) / count
    mean = (target * weight).sum((1, 2), keepdim=True) / count
    covariance = (p * (target - mean) * weight).sum((1, 2), keepdim=True)
    variance = (p.square() * weight).sum((1, 2), keepdim=True)
    return p * (covariance / variance.clamp(min=1e-6)) + mean


def affine_error(decoded: Tensor, depth: Tensor, valid: Tensor) -> Tensor:
    """L1 between decoded and true depth (B, H, W), after the affine fit of each picture."""
    depth = torch.where(valid, depth, 0)
    prediction = decoded.mean(1).clamp(-1, 1)
    error = (fit_scale_and_shift(prediction, depth, valid) - depth).abs()
    return (error * valid).sum() / valid.sum()


def angular_error(decoded: Tensor, normals: Tensor, valid: Tensor) -> Tensor:
    """The mean angle in radians between decoded and true unit normals (B, 3, H, W)."""
    prediction = F.normalize(decoded.clamp(-1, 1), dim=1, eps=1e-6)
    # The slope of the arc cosine is infinite at 1 and -1.
    cosine = (prediction * normals).sum(1).clamp(-1 + 1e-6, 1 - 1e-6)
    return (torch.acos(cosine) * valid).sum() / valid.sum()


def end_to_end_loss(
    unet: Any,
    decode: Callable[[Tensor], Tensor],
    image_latent: Tensor,
    truth: Tensor,
    valid: Tensor,
    text_embedding: Tensor,
    schedule: NoiseSchedule,
    error: EndToEndError = affine_error,
) -> Tensor:
    """The error of what one step gives from zeros against the truth.

    decode: scaled latents (B, 4, h, w) -> (B, 3, 8h, 8w), with gradients. truth: (B, H, W) metres,
    clamped to each map's 2 % and 98 % quantiles, or what else `error` takes; valid: (B, H, W) bool.
    H <= 8h and W <= 8w: the rest is padding.
    """
    batch, (height, width) = len(image_latent), valid.shape[1:]
    last = torch.full((batch,), schedule.num_train_timesteps - 1, device=image_latent.device)
    zeros = torch.zeros_like(image_latent)
    output = unet(
        torch.cat([image_latent, zeros], 1), last, text_embedding.expand(batch, -1, -1)
    ).sample
    clean = schedule.predict_x0(output.float(), zeros, last)
    return error(decode(clean).float()[..., :height, :width], truth, valid)
