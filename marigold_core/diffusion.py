"""The noise process: what training adds and inference removes. No networks here.

Notation of the papers: `abar` is the cumulative product of 1 - beta, `x0` the clean latent, `eps`
the noise, and x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps (DDPM, eq. 4). `v` is the velocity of
Salimans & Ho 2022 (arXiv 2202.00512, eq. 10). DDIM is Song et al. 2021 (arXiv 2010.02502, eq. 12)
with eta = 0. The zero terminal SNR rescaling and the trailing timesteps are Lin et al. 2024
(arXiv 2305.08891, algorithm 1 and table 2). The latent consistency sampler (LCM) is Luo et al. 2023
(arXiv 2310.04378, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import MarigoldError
from .options import SPACINGS, Options

Generator = torch.Generator | list[torch.Generator]
PREDICTION_TYPES = ("v_prediction", "epsilon", "sample")
MOST_TIMESTEPS = 100_000  # diffusion models have a thousand; a damaged file may have any number


@dataclass(frozen=True)
class SamplerTable:
    """A sampler of S steps as numbers.

    A DDIM step with eta = 0, and an LCM step up to its fresh noise, are linear in the latent and
    the model's output, so each is two pairs of coefficients. They are computed once in float64 and
    live on the device: the loop multiplies, and the host never waits.

    timesteps: (S,) int64, descending. previous, x0: (S, 2) float32. noise: (S,) float32, for LCM
    alone, 0 in the last step; None for DDIM.
        x_prev = previous[i, 0] * x_t + previous[i, 1] * output + noise[i] * z,  z ~ N(0, 1)
        x0     =       x0[i, 0] * x_t +       x0[i, 1] * output
    """

    timesteps: Tensor
    previous: Tensor
    x0: Tensor
    noise: Tensor | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device | str) -> SamplerTable:
        return SamplerTable(
            self.timesteps.to(device),
            self.previous.to(device),
            self.x0.to(device),
            None if self.noise is None else self.noise.to(device),
        )


@dataclass(frozen=True)
class NoiseSchedule:
    """A variance-preserving noise schedule over T discrete timesteps.

    alphas_cumprod: (T,) float64 on the CPU. final_alpha_cumprod: the value used "before" timestep
    0; Stable Diffusion's is abar[0], not 1, which is why a one-step sample keeps about 3 % of its
    noise.
    """

    alphas_cumprod: Tensor
    prediction_type: str
    timestep_spacing: str = "trailing"
    steps_offset: int = 1
    final_alpha_cumprod: float = 1.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read a diffusers `scheduler_config.json`.

        An absent `clip_sample` counts as false: diffusers' own default is true, made for pixels,
        and would cut latents off at 1. Raises MarigoldError for what this sampler does not do, or
        what has no meaning.
        """
        prediction_type = config.get("prediction_type", "epsilon")
        if prediction_type not in PREDICTION_TYPES:
            raise MarigoldError(
                f"The scheduler's prediction_type is {prediction_type!r}; "
                f"Marigold checkpoints use one of {', '.join(PREDICTION_TYPES)}."
            )
        rescale = bool(config.get("rescale_betas_zero_snr", False))
        if rescale and prediction_type == "epsilon":
            raise MarigoldError(
                "The scheduler combines prediction_type 'epsilon' with rescale_betas_zero_snr: "
                "at zero signal-to-noise ratio the noise says nothing about the depth, so the "
                "result is undefined; set prediction_type to 'v_prediction' or retrain."
            )
        for option in ("clip_sample", "thresholding"):
            if config.get(option, False):
                raise MarigoldError(
                    f"The scheduler sets {option}, which Marigold's latents must not have; "
                    f"set it to false in scheduler_config.json."
                )
        spacing = config.get("timestep_spacing", "leading")
        if spacing not in SPACINGS:
            raise MarigoldError(
                f"The scheduler's timestep_spacing is {spacing!r}; use one of {SPACINGS}."
            )
        abar = alphas_cumprod(
            int(config.get("num_train_timesteps", 1000)),
            float(config.get("beta_start", 0.0001)),
            float(config.get("beta_end", 0.02)),
            str(config.get("beta_schedule", "linear")),
        )
        if rescale:
            abar = rescale_zero_terminal_snr(abar)
        return cls(
            abar,
            prediction_type,
            spacing,
            int(config.get("steps_offset", 0)),
            1.0 if config.get("set_alpha_to_one", True) else float(abar[0]),
        )

    def to(self, device: torch.device | str) -> NoiseSchedule:
        """The same for training there: its table in float32 on that device, where every step reads
        it. (Copied from the CPU each time, it would make the host wait for the device.)"""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device, torch.float32))

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def signal_and_noise(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t) for (B,) timesteps, shaped to broadcast over `like`."""
        abar = self.alphas_cumprod.to(timesteps.device, torch.float32)[timesteps]
        abar = abar.reshape(-1, *(1,) * (like.ndim - 1))
        return abar.sqrt().to(like.dtype), (1 - abar).sqrt().to(like.dtype)

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t for clean latents (B, ...), noise (B, ...) and (B,) int64 timesteps."""
        signal, sigma = self.signal_and_noise(timesteps, x0)
        return signal * x0 + sigma * noise

    def training_target(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network is asked for: v = sqrt(abar) eps - sqrt(1 - abar) x0, eps, or x0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x0
        signal, sigma = self.signal_and_noise(timesteps, x0)
        return signal * noise - sigma * x0

    def predict_x0(self, output: Tensor, sample: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latent that a model output at (B,) timesteps implies."""
        if self.prediction_type == "sample":
            return output
        signal, sigma = self.signal_and_noise(timesteps, sample)
        if self.prediction_type == "epsilon":
            return (sample - sigma * output) / signal
        return signal * sample - sigma * output

    def ddim(self, num_inference_steps: int, spacing: str | None = None) -> SamplerTable:
        """The sampler for 1 to T steps.

        spacing None means "trailing" whatever the checkpoint's file says: with "leading" a single
        step starts at t = 1 and returns noise (the bug that arXiv 2409.11355 found).
        """
        timesteps = torch.from_numpy(
            ddim_timesteps(
                num_inference_steps,
                spacing or "trailing",
                self.num_train_timesteps,
                self.steps_offset,
            )
        )
        before = timesteps - self.num_train_timesteps // num_inference_steps
        final = self.alphas_cumprod.new_tensor(self.final_alpha_cumprod)
        then = torch.where(before >= 0, self.alphas_cumprod[before.clamp(min=0)], final)
        x0, eps = self._x0_and_eps(timesteps)
        previous = then.sqrt()[:, None] * x0 + (1 - then).sqrt()[:, None] * eps
        return SamplerTable(timesteps, previous.float(), x0.float())

    def _x0_and_eps(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """What (x_t, output) contribute to x0 and to eps: two (S, 2) float64."""
        abar = self.alphas_cumprod[timesteps]
        a, b = abar.sqrt(), (1 - abar).sqrt()
        one, zero = torch.ones_like(a), torch.zeros_like(a)
        if self.prediction_type == "v_prediction":
            return torch.stack([a, -b], 1), torch.stack([b, a], 1)
        if self.prediction_type == "epsilon":
            return torch.stack([1 / a, -b / a], 1), torch.stack([zero, one], 1)
        return torch.stack([zero, one], 1), torch.stack([1 / b, -a / b], 1)


def lcm_table(config: Mapping[str, Any], num_inference_steps: int) -> SamplerTable:
    """The latent consistency sampler for 1 to `original_inference_steps` (50) steps.

    config: a `scheduler_config.json`. The network's x0 is blended with its input so that the
    boundary condition at t = 0 holds, then fresh noise takes it to the next timestep. Timesteps and
    boundary scalings are those of diffusers' `LCMScheduler`; its own `step` draws the noise in the
    shape of the batch at hand, here a member's noise does not depend on its batch.
    """
    from diffusers import LCMScheduler

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
    denoised = out[:, None] * schedule._x0_and_eps(timesteps)[0]
    denoised[:, 0] += skip
    # The last step returns the denoised latent itself: signal 1, noise 0.
    then = torch.cat([schedule.alphas_cumprod[timesteps[1:]], torch.ones(1, dtype=torch.float64)])
    return SamplerTable(
        timesteps,
        (then.sqrt()[:, None] * denoised).float(),
        denoised.float(),
        (1 - then).sqrt().float(),
    )


def alphas_cumprod(timesteps: int, beta_start: float, beta_end: float, schedule: str) -> Tensor:
    """abar (T,) float64 for diffusers' "scaled_linear" (Stable Diffusion's) or "linear" betas."""
    if not 1 <= timesteps <= MOST_TIMESTEPS:
        raise MarigoldError(
            f"The scheduler's num_train_timesteps is {timesteps:g}; use 1 to {MOST_TIMESTEPS}."
        )
    for name, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
        if not 0 < beta < 1:
            raise MarigoldError(f"The scheduler's {name} is {beta:g}; it lies between 0 and 1.")
    if schedule == "scaled_linear":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64) ** 2
    elif schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    else:
        raise MarigoldError(
            f"The scheduler's beta_schedule is {schedule!r}; use 'scaled_linear' or 'linear'."
        )
    return torch.cumprod(1 - betas, 0)


def rescale_zero_terminal_snr(abar: Tensor) -> Tensor:
    """Shift and scale sqrt(abar) so that the last one is 0 and the first unchanged.

    arXiv 2305.08891, algorithm 1.
    """
    root = abar.sqrt()
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2


def ddim_timesteps(steps: int, spacing: str, total: int = 1000, offset: int = 1) -> np.ndarray:
    """(steps,) int64 descending timesteps, as diffusers' DDIMScheduler counts them.

    trailing: round(total - i * total / steps) - 1; leading: i * (total // steps) + offset;
    linspace: evenly from 0 to total - 1.
    """
    if not 1 <= steps <= total:
        raise MarigoldError(f"The number of steps is {steps}; it must be from 1 to {total}.")
    if spacing == "trailing":
        return np.round(np.arange(total, 0, -total / steps)).astype(np.int64)[:steps] - 1
    if spacing == "leading":
        # With steps = total the offset would point one past the table.
        leading = np.arange(steps, dtype=np.int64)[::-1] * (total // steps) + offset
        return np.minimum(leading, total - 1)
    if spacing == "linspace":
        return np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
    raise MarigoldError(f"The timestep spacing is {spacing!r}; use one of {SPACINGS}.")


def checked_generator(options: Options, device: torch.device) -> Generator | None:
    """The generator that options ask for. Raises MarigoldError where drawing from it would fail."""
    if options.seed is not None:
        return torch.Generator().manual_seed(options.seed)
    generator = options.generator
    each = generator if isinstance(generator, list) else [generator]
    if generator is None:
        return None
    if not all(isinstance(one, torch.Generator) for one in each):
        raise MarigoldError(
            "generator is a torch.Generator, such as torch.Generator().manual_seed(2024), "
            "or a list of them."
        )
    if any(one.device.type not in ("cpu", device.type) for one in each):
        raise MarigoldError(
            f"The generator is on {each[0].device} and the networks are on {device}; "
            "use a generator of the same device or of the CPU."
        )
    return generator


def draw_noise(shape: tuple[int, ...], generator: Generator | None, device: torch.device) -> Tensor:
    """Standard normal numbers, float32, as diffusers' `randn_tensor` draws them.

    A generator of the CPU draws there, the same for every device; of several, each a member.
    """
    if isinstance(generator, list):
        return torch.cat([draw_noise((1, *shape[1:]), one, device) for one in generator])
    place = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=place).to(device)
