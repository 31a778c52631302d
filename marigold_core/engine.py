"""Marigold: a picture in; its depth, normals or intrinsic images out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from .checkpoints.loading import Checkpoint, checked_device, load_checkpoint
from .denoising import decode, denoise, encode, start_of, vae_factor
from .diffusion import NoiseSchedule
from .errors import MarigoldError
from .images import read_samples
from .memory import in_batches, release_memory, unet_batch, vae_batch
from .options import Options
from .progress import Callback, Reporter, timed
from .resize import checked_mask, processing_size, to_pixels
from .targets import WORDS, Target, depth_target, synchronize, target_of

# Latent pixels. With nano on a CPU a preview takes 31 ms, at 24 it took 66: every step pays it.
PREVIEW_SIDE = 16


class Marigold:
    """A loaded checkpoint, ready to run: `marigold(image)`.

    Made by `from_pretrained`, or around loaded networks, this engine's or diffusers'. unet: as
    UNet2DConditionModel; vae: as AutoencoderKL or AutoencoderTiny; they are used where they are and
    as they are. scheduler_config: a `scheduler_config.json`. text_embedding: (1, L, D) of the empty
    prompt.
    family: "ddim", "lcm", or "e2e", which starts from zeros instead of noise and takes one step.
    num_inference_steps, processing_resolution (pixels of the longer side), ensemble_size: what
    None means in a call. target: what is estimated, None is depth. device: where the tensors
    between the networks are made; None is the U-Net's. low_memory: keep the U-Net on the CPU, and
    on the device only while it denoises: there the VAE then never needs room beside it.
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
        processing_resolution: int = 768,
        ensemble_size: int = 1,
        target: Target | None = None,
        device: torch.device | str | None = None,
        low_memory: bool = False,
    ) -> None:
        # diffusers' model classes type their call and config too loosely to be of use here.
        self.unet: Any = unet.eval()
        self.vae: Any = vae.eval()
        self.scheduler_config = dict(scheduler_config)
        self.schedule = NoiseSchedule.from_config(self.scheduler_config)
        self.text_embedding = text_embedding
        self.family = family
        self.num_inference_steps = num_inference_steps
        self.processing_resolution = processing_resolution
        self.ensemble_size = ensemble_size
        self.target = target or depth_target()
        self.device = torch.device(device or next(unet.parameters()).device)
        self.low_memory = low_memory
        if low_memory:
            self.unet.to("cpu")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        variant: str | None = None,
        revision: str | None = None,
        device: torch.device | str | None = None,
        vae: str | os.PathLike[str] | nn.Module | None = None,
        base: str | os.PathLike[str] | None = None,
        low_memory: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Marigold:
        """Load a bundled or published name ("nano"), a folder, or a hub id.

        dtype (torch_dtype in older diffusers): a torch.dtype or its name; None is float32 on the
        CPU, or bfloat16 for a large U-Net where that is faster, and float16 elsewhere.
        device: None is CUDA, else MPS, else the CPU. low_memory: as in the class; for a card of
        3 GB. The rest as in `load_checkpoint`. Raises
        CheckpointError that names the file and the reason, MarigoldError for a device that is not
        here.
        """
        checkpoint = load_checkpoint(
            name_or_path,
            dtype=torch_dtype if dtype is None else dtype,
            variant=variant,
            revision=revision,
            device=checked_device(device),
            vae=vae,
            base=base,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls.from_checkpoint(checkpoint, low_memory=low_memory)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, *, low_memory: bool = False) -> Marigold:
        """Around networks that are loaded already."""
        info = checkpoint.info
        return cls(
            checkpoint.unet,
            checkpoint.vae,
            checkpoint.scheduler_config,
            checkpoint.text_embedding,
            family=info.family,
            num_inference_steps=info.num_inference_steps,
            processing_resolution=info.processing_resolution,
            ensemble_size=info.ensemble_size,
            target=target_of(info),
            low_memory=low_memory,
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Marigold:
        """Move the networks, in place; None leaves the device or the dtype."""
        self.unet.to(device=None if self.low_memory else device, dtype=dtype)
        self.vae.to(device=device, dtype=dtype)
        self.device = torch.device(device or self.device)
        return self

    @contextmanager
    def unet_on_device(self) -> Iterator[None]:
        """The U-Net is on the device within the block, and with `low_memory` only there."""
        if not self.low_memory:
            yield
            return
        try:
            self.unet.to(self.device)
            yield
        finally:
            self.unet.to("cpu")
            release_memory()

    @property
    def dtype(self) -> torch.dtype:
        """The U-Net's."""
        return next(self.unet.parameters()).dtype

    @property
    def scale_invariant(self) -> bool:
        """Depth is known up to a scale; see `DepthMap`."""
        return self.target.scale_invariant

    @property
    def shift_invariant(self) -> bool:
        """Depth is known up to a shift; see `DepthMap`."""
        return self.target.shift_invariant

    def expect(self, *targets: str) -> None:
        """Raise MarigoldError unless the checkpoint estimates one of these: "depth", ..."""
        if self.target.name not in targets:
            raise MarigoldError(
                f"This checkpoint estimates {WORDS[self.target.name]}, and a checkpoint for "
                f"{' or '.join(WORDS[name] for name in targets)} is needed here; choose another."
            )

    def latent_shape(
        self,
        height: int,
        width: int,
        *,
        processing_resolution: int | None = None,
        ensemble_size: int = 1,
    ) -> tuple[int, int, int, int]:
        """The (N, C, h, w) of `latents` for a picture of that size."""
        if processing_resolution is None:
            processing_resolution = self.processing_resolution
        h, w = processing_size(height, width, processing_resolution)
        factor = vae_factor(self.vae)
        channels = self.target.latents * self.vae.config.latent_channels
        return ensemble_size, channels, -(-h // factor), -(-w // factor)

    def __call__(
        self,
        image: Any,
        options: Options | None = None,
        *,
        mask: Any = None,
        callback: Callback | None = None,
        **changes: Any,
    ) -> Any:
        """What the checkpoint estimates of one picture, at the picture's size.

        A `DepthMap` (float32 (H, W), 0 = near, 1 = far), a `NormalMap` or `IntrinsicImages`, by
        the checkpoint's target. `predict` followed by the target's merge; image, options, callback
        and changes as there. mask: bool (H, W) at the picture's size, True = use this pixel; the
        other pixels are ignored when members are aligned, and the mask is part of the result.

        The result's `seconds` hold encode, denoise, decode, ensemble and resize; the device is
        waited for between these stages only. Raises MarigoldError as `predict` does.
        """
        options = replace(options or Options(), **changes)
        picture = read_samples(image)
        size = picture.shape[0], picture.shape[1]
        used = None if mask is None else checked_mask(mask, size)
        reduction = self.target.reduction(options.reduction)
        seconds: dict[str, float] = {}
        predictions = self.predict(picture, options, callback=callback, seconds=seconds)
        return self.target.merge(
            predictions,
            size,
            mask=used,
            match_input_resolution=options.match_input_resolution,
            ensemble_method=options.ensemble_method,
            reduction=reduction,
            seconds=seconds,
        )

    def predict(
        self,
        image: Any,
        options: Options | None = None,
        *,
        callback: Callback | None = None,
        seconds: dict[str, float] | None = None,
        **changes: Any,
    ) -> Tensor:
        """The ensemble's members, not yet aligned, float32 on the device.

        Depth is (N, h, w) in [0, 1], normals are unit vectors (N, 3, h, w), intrinsic images
        (N, T, 3, h, w) in [0, 1], a picture for each of the T latents.

        image: what `read_image` takes. options: the settings of the run; changes: fields of
        `Options` by name (num_inference_steps=4, ensemble_size=5, seed=0, ...), which take
        precedence. seconds: receives the time of encode, denoise and decode.

        callback: called with a `Progress` after each step and each decoded member. It cancels the
        run by raising `Cancelled`, or any other exception, which is passed on unchanged.

        Raises MarigoldError for bad input and a result that is not finite, OutOfMemory where one
        member does not fit.
        """
        (predictions,) = self.predict_frames(
            [image], options, callback=callback, seconds=seconds, **changes
        )
        return predictions

    def predict_frames(
        self,
        frames: Sequence[Any],
        options: Options | None = None,
        *,
        callback: Callback | None = None,
        seconds: dict[str, float] | None = None,
        **changes: Any,
    ) -> Iterator[Tensor]:
        """Each frame's members in turn, as `predict` returns them, up to rounding.

        frames: pictures of one size, as `predict` takes them. As many as fit share the networks'
        batches, and only these are read and held, so that a clip takes the memory of a few frames.
        Every frame starts from the same noise: what rests in the picture rests in the result, and
        with a seed no frame's result depends on the others. options, callback, seconds, changes,
        errors: as in `predict`, for the whole clip. MarigoldError names a frame of another size.
        """
        options = replace(options or Options(), **changes)
        seconds = {} if seconds is None else seconds
        wait = partial(synchronize, self.device)
        if not len(frames):
            raise MarigoldError("There are no frames; give at least one.")
        first = read_samples(frames[0])
        table, size, latents, step_noise = start_of(self, first.shape[:2], options)
        members = len(latents)
        work = members * (len(table) + 1)  # of a frame: a step of each member, and its decoding
        report = Reporter(callback, len(frames) * work, self.device) if callback else None
        at_once = self._frames_at_once(latents, len(frames), options)

        for start in range(0, len(frames), at_once):
            numbers = range(start, min(start + at_once, len(frames)))
            with timed(seconds, "encode", wait):
                encoded = [
                    self.encode(same_size(frames[number], first, number) if number else first, size)
                    for number in numbers
                ]
            copies = (len(numbers), 1, 1, 1)
            with timed(seconds, "denoise", wait), self.unet_on_device():
                clean = denoise(
                    self.unet,
                    table,
                    self.text_embedding,
                    torch.cat(encoded),
                    latents.repeat(copies),
                    step_noise=[one.repeat(copies) for one in step_noise],
                    batch_size=options.batch_size,
                    device=self.device,
                    step_done=self._step_done(report, start * work) if report else None,
                )
            with timed(seconds, "decode", wait):
                done = start * work + len(clean) * len(table)
                maps = self._decode(clean, done, report)[..., : size[0], : size[1]]
                # Tensors made in inference mode could not be changed in place by their owner.
                results = [part.clone() for part in maps.split(members)]
            yield from results

    def encode(self, picture: NDArray[Any], size: tuple[int, int]) -> Tensor:
        """The latent (1, 4, h, w) of a picture (H, W, 3), resized to `size` and padded."""
        return encode(self.vae, to_pixels(picture, size, vae_factor(self.vae)), self.device)

    def _frames_at_once(self, latents: Tensor, count: int, options: Options) -> int:
        """How many of `count` frames to denoise together, each from these latents; at least 1."""
        members = len(latents)
        if self.low_memory and options.batch_size is None:
            return 1
        fit = options.batch_size or unet_batch(
            self.unet, latents[0, 0].numel(), members * count, self.device
        )
        return max(1, fit // members)

    @torch.inference_mode()
    def _maps(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w) -> the target's maps (N, ..., H, W), still padded."""
        parts = self.target.latents
        single = rearrange(latents, "n (t c) h w -> (n t) c h w", t=parts)
        at_once = vae_batch(self._decoded_pixels(latents), self.device)
        # Each latent is a picture of its own to the decoder, and takes as much memory as depth.
        decoded = in_batches(
            lambda part: decode(self.vae, single[part], self.device), len(single), at_once
        )
        return self.target.from_decoded(rearrange(decoded, "(n t) c h w -> n t c h w", t=parts))

    def _decoded_pixels(self, latents: Tensor) -> int:
        return latents[0, 0].numel() * vae_factor(self.vae) ** 2

    def _decode(self, latents: Tensor, steps_done: int, report: Reporter | None) -> Tensor:
        finite: list[Tensor] = []

        def run(part: slice) -> Tensor:
            maps = self._maps(latents[part])
            finite.append(maps.isfinite().all())
            if report:
                report("decode", steps_done + part.stop, lambda: self._shown(maps[-1]))
            return maps

        pixels = self._decoded_pixels(latents) * self.target.latents
        predictions = in_batches(run, len(latents), vae_batch(pixels, self.device))
        if not torch.stack(finite).all():
            narrow = torch.float16 in (self.dtype, next(self.vae.parameters()).dtype)
            raise MarigoldError(
                "The result is not finite: "
                + (
                    "the networks overflow in float16; use bfloat16 or float32."
                    if narrow
                    else "the checkpoint's weights are damaged; download or train it again."
                )
            )
        return predictions

    def _step_done(self, report: Reporter, before: int) -> Any:
        def step_done(done: int, first_x0: Any) -> None:
            report("denoise", before + done, lambda: self.preview(first_x0()))

        return step_done

    def preview(self, latent: Tensor) -> NDArray[np.float32]:
        """What a latent (1, C, h, w) is decoded to, small: see `Progress`."""
        # Nearest: averaged latents are weaker than any that the decoder has seen.
        shrink = max(1.0, max(latent.shape[-2:]) / PREVIEW_SIDE)
        small = [max(1, round(side / shrink)) for side in latent.shape[-2:]]
        return self._shown(self._maps(F.interpolate(latent, small, mode="nearest"))[0])

    def _shown(self, maps: Tensor) -> NDArray[np.float32]:
        """One member's maps -> numpy (h, w) or (h, w, 3), at most PREVIEW_SIDE latent pixels."""
        shown = self.target.preview(maps)
        shrink = max(shown.shape[-2:]) / (8 * PREVIEW_SIDE)
        if shrink > 1:
            size = [max(1, round(side / shrink)) for side in shown.shape[-2:]]
            shown = F.interpolate(rearrange(shown, "... h w -> 1 (...) h w"), size, mode="area")[0]
            shown = shown if maps.ndim > 2 else shown[0]
        shown = shown if shown.ndim == 2 else rearrange(shown, "c h w -> h w c")
        return shown.float().cpu().numpy()


def same_size(frame: Any, first: NDArray[Any], number: int) -> NDArray[Any]:
    """Read a frame of a clip, the `number`th after the first. Raises MarigoldError unless it has
    the first one's size."""
    picture = read_samples(frame)
    if picture.shape != first.shape:
        sizes = [f"{width} x {height}" for height, width, _ in (picture.shape, first.shape)]
        raise MarigoldError(
            f"Frame {number + 1} has {sizes[0]} pixels and frame 1 has {sizes[1]}; frames of a "
            "clip have one size."
        )
    return picture
