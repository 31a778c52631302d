"""A latent diffusion model's three stages, on tensors: encode, denoise, decode.

Ke et al. 2024 (arXiv 2312.02145), section 3: depth is the latent of a diffusion model that sees
the picture's latent beside it. The picture is encoded once; each ensemble member is denoised from
noise of its own. Nothing here knows of picture files or sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor, nn

from .consistency import ConsistencyTable, consistency_table
from .diffusion import DDIMTable, NoiseSchedule
from .errors import MarigoldError
from .memory import in_batches, is_out_of_memory, too_little_memory, unet_batch, vae_batch
from .progress import Callback, Reporter

if TYPE_CHECKING:
    from typing_extensions import Self

Generator = torch.Generator | list[torch.Generator]
# Latent pixels. With nano on a CPU a preview takes 31 ms, at 24 it took 66: every step pays it.
PREVIEW_SIDE = 16


class LatentDiffusion:
    """A Marigold checkpoint's networks and its sampler.

    unet: diffusers' UNet2DConditionModel, 8 -> 4 channels; vae: AutoencoderKL or AutoencoderTiny.
    scheduler_config: a `scheduler_config.json`. text_embedding: (1, L, D) of the empty prompt.
    family: "ddim", "lcm", or "e2e". The modules are used where they are and as they are; `device`
    (None = the U-Net's) is where the tensors between them are made.
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        scheduler_config: Mapping[str, Any],
        text_embedding: Tensor,
        *,
        family: str = "ddim",
        num_inference_steps: int = 4,
        device: torch.device | str | None = None,
    ) -> None:
        # diffusers' model classes type their call and config too loosely to be of use here.
        self.unet: Any = unet.eval()
        self.vae: Any = vae.eval()
        self.scheduler_config = dict(scheduler_config)
        self.schedule = NoiseSchedule.from_config(self.scheduler_config)
        self.text_embedding = text_embedding
        self.family = family
        self.num_inference_steps = num_inference_steps
        self.device = torch.device(device or next(unet.parameters()).device)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Move the networks, in place; None leaves the device or the dtype."""
        self.unet.to(device=device, dtype=dtype)
        self.vae.to(device=device, dtype=dtype)
        self.device = torch.device(device or self.device)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The U-Net's."""
        return next(self.unet.parameters()).dtype

    @property
    def vae_factor(self) -> int:
        """Picture pixels per latent pixel, along a side."""
        # AutoencoderTiny has two such lists, and only newer diffusers add the common name.
        config = self.vae.config
        widths = getattr(config, "block_out_channels", None) or config.decoder_block_out_channels
        return 2 ** (len(widths) - 1)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """(1, 3, H, W) in [-1, 1], sides multiples of `vae_factor` -> float32 (1, 4, h, w)."""
        vae_dtype = next(self.vae.parameters()).dtype
        try:
            encoded = self.vae.encode(pixels.to(self.device, vae_dtype))
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise too_little_memory() from error
            raise
        # The posterior's mode, never a sample (paper, section 3.2); AutoencoderTiny has no spread.
        posterior = getattr(encoded, "latent_dist", None)
        latent = encoded.latents if posterior is None else posterior.mode()
        return latent.float() * self.vae.config.scaling_factor

    def denoise(
        self,
        image_latent: Tensor,
        latents: Tensor,
        *,
        num_inference_steps: int | None = None,
        generator: Generator | None = None,
        batch_size: int | None = None,
        timestep_spacing: str | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """The picture's (1, 4, h, w) and noise (N, 4, h, w) -> depth latents, float32 (N, 4, h, w).

        The generator is used by multi-step LCM alone. See `predict` for the rest.
        """
        table = self._sampler(num_inference_steps, timestep_spacing)
        total = len(latents) * len(table.timesteps)
        report = Reporter(callback, total, self.device) if callback else None
        return self._denoise(image_latent, latents, table, generator, batch_size, report)

    def decode(self, latents: Tensor) -> Tensor:
        """Depth latents (N, 4, h, w) -> float32 (N, H, W) in [0, 1], still padded."""
        return self._decode(latents, None)

    def _sampler(self, steps: int | None, spacing: str | None) -> DDIMTable:
        steps = self.num_inference_steps if steps is None else steps
        steps = positive("num_inference_steps", steps)
        if self.family != "lcm":
            return self.schedule.ddim(steps, spacing)
        if spacing not in (None, "trailing"):
            raise MarigoldError(
                f"timestep_spacing is {spacing!r}, but an LCM checkpoint has timesteps of its own; "
                "leave it out."
            )
        return consistency_table(self.scheduler_config, steps)

    @torch.inference_mode()
    def _denoise(
        self,
        image_latent: Tensor,
        latents: Tensor,
        table: DDIMTable,
        generator: Generator | None,
        batch_size: int | None,
        report: Reporter | None,
    ) -> Tensor:
        members, channels, *size = latents.shape
        steps = len(table.timesteps)
        if batch_size is None:
            batch_size = unet_batch(self.unet, size[0] * size[1], members, self.device)
        # A consistency model draws again after every step but the last, for all members at once
        # as in a single batch of diffusers', so that no member's noise depends on the batches.
        noise = [
            randn_tensor(latents.shape, generator, self.device, torch.float32)
            for _ in range(steps - 1 if isinstance(table, ConsistencyTable) else 0)
        ]
        table = table.to(self.device)
        text = self.text_embedding.to(self.device, self.dtype)

        def run(part: slice) -> Tensor:
            x = latents[part].to(self.device, torch.float32)
            both = x.new_empty((len(x), 2 * channels, *size), dtype=self.dtype)
            both[:, :channels] = image_latent  # the picture comes first: so it was trained
            prompt = text.expand(len(x), -1, -1)
            for i, timestep in enumerate(table.timesteps):
                both[:, channels:] = x
                output = self.unet(both, timestep, encoder_hidden_states=prompt).sample.float()
                preview = partial(self._preview, x[:1], output[:1], table.x0[i])
                x = table.previous[i, 0] * x + table.previous[i, 1] * output
                if isinstance(table, ConsistencyTable) and i < len(noise):
                    x += table.noise[i] * noise[i][part]
                if report:
                    report("denoise", part.start * steps + (i + 1) * len(x), preview)
            return x

        return in_batches(run, members, positive("batch_size", batch_size))

    @torch.inference_mode()
    def _decode(self, latents: Tensor, report: Reporter | None) -> Tensor:
        finite: list[Tensor] = []

        def run(part: slice) -> Tensor:
            depth = self._decoded(latents[part])
            finite.append(depth.isfinite().all())
            depth = depth.clamp(-1, 1).add(1).div(2)
            if report:
                report("decode", part.stop, lambda: depth[-1].cpu().numpy())
            return depth

        pixels = latents[0, 0].numel() * self.vae_factor**2
        predictions = in_batches(run, len(latents), vae_batch(pixels, self.device))
        if not torch.stack(finite).all():
            narrow = torch.float16 in (self.dtype, next(self.vae.parameters()).dtype)
            raise MarigoldError(
                "The result is not finite: "
                + (
                    "the networks overflow in float16; use dtype bfloat16 or float32."
                    if narrow
                    else "the checkpoint's weights are damaged; download or train it again."
                )
            )
        return predictions

    def _decoded(self, latents: Tensor) -> Tensor:
        """(N, 4, h, w) -> float32 (N, H, W), about [-1, 1]: the mean of the three channels."""
        latents = latents.to(self.device) / self.vae.config.scaling_factor
        vae_dtype = next(self.vae.parameters()).dtype
        return self.vae.decode(latents.to(vae_dtype), return_dict=False)[0].float().mean(1)

    @torch.inference_mode()
    def _preview(self, x: Tensor, output: Tensor, to_x0: Tensor) -> NDArray[np.float32]:
        latent = to_x0[0] * x + to_x0[1] * output
        # Nearest: averaged latents are weaker than any that the decoder has seen.
        shrink = max(1.0, max(latent.shape[-2:]) / PREVIEW_SIDE)
        small = [max(1, round(side / shrink)) for side in latent.shape[-2:]]
        depth = self._decoded(F.interpolate(latent, small, mode="nearest"))[0]
        return depth.clamp(-1, 1).add(1).div(2).cpu().numpy()


def positive(name: str, value: Any) -> int:
    """`value` as an int of at least 1; MarigoldError names it otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise MarigoldError(f"{name} is {value!r}; it must be a whole number of at least 1.")
    return int(value)
