"""Marigold: a picture in, depth out. Encode, denoise, decode, ensemble, resize."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor, nn

from .checkpoints.loading import Checkpoint, load_checkpoint
from .denoising import Generator, LatentDiffusion, positive
from .depth import DepthMap
from .ensemble.depth import ensemble_depth
from .errors import MarigoldError
from .images import read_image, read_mask
from .progress import Callback, Reporter
from .resize import processing_size, resize_map, resize_mask, to_pixels


class Marigold(LatentDiffusion):
    """A loaded checkpoint, ready to estimate depth: `marigold(image)`.

    Made by `from_pretrained`, or around loaded networks (see `LatentDiffusion`). family "e2e"
    starts from zeros instead of noise. num_inference_steps, processing_resolution (pixels of the
    longer side) and ensemble_size: what None means in a call. scale_invariant, shift_invariant:
    both True: depth up to a scale and a shift; scale alone: up to a scale; both False: metric.
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
        scale_invariant: bool = True,
        shift_invariant: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(
            unet,
            vae,
            scheduler_config,
            text_embedding,
            family=family,
            num_inference_steps=num_inference_steps,
            device=device,
        )
        self.processing_resolution = processing_resolution
        self.ensemble_size = ensemble_size
        self.scale_invariant = scale_invariant
        self.shift_invariant = shift_invariant

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
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Marigold:
        """Load a bundled or published name ("nano"), a folder, or a hub id.

        dtype (or diffusers' torch_dtype): None is float32 on the CPU and float16 elsewhere.
        device: None is CUDA, else MPS, else the CPU. The rest as in `load_checkpoint`. Raises
        CheckpointError that names the file and the fact.
        """
        checkpoint = load_checkpoint(
            name_or_path,
            dtype=torch_dtype if dtype is None else dtype,
            variant=variant,
            revision=revision,
            device=default_device() if device is None else device,
            vae=vae,
            base=base,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls.from_checkpoint(checkpoint)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Marigold:
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
            scale_invariant=info.scale_invariant,
            shift_invariant=info.shift_invariant,
        )

    def latent_shape(
        self,
        height: int,
        width: int,
        *,
        processing_resolution: int | None = None,
        ensemble_size: int = 1,
    ) -> tuple[int, int, int, int]:
        """The (N, 4, h, w) of `latents` for a picture of that size."""
        h, w = processing_size(height, width, self._resolution(processing_resolution))
        factor = self.vae_factor
        return ensemble_size, self.vae.config.latent_channels, -(-h // factor), -(-w // factor)

    def __call__(
        self,
        image: Any,
        *,
        num_inference_steps: int | None = None,
        ensemble_size: int | None = None,
        processing_resolution: int | None = None,
        match_input_resolution: bool = True,
        generator: Generator | None = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        timestep_spacing: str | None = None,
        mask: Any = None,
        ensemble_method: str = "closed_form",
        reduction: str = "median",
        callback: Callback | None = None,
    ) -> DepthMap:
        """Depth of one picture: float32 (H, W), 0 = near, 1 = far, at the picture's size.

        With match_input_resolution False it stays at the processing resolution. mask: bool (H, W)
        at the picture's size, True = use this pixel; the rest has no say in the alignment of the
        members, and the mask goes with the result. ensemble_method, reduction: see
        `ensemble_depth`. The other arguments are those of `predict`.

        The result's `seconds` hold encode, denoise, decode, ensemble and resize; the device is
        waited for between these stages only. Raises MarigoldError as `predict` does.
        """
        picture = read_image(image)
        full_size = picture.shape[:2]
        used = None if mask is None else checked_mask(mask, full_size)
        # A single member is returned at once: this only finds a wrong word before the long work.
        ensemble_depth(torch.zeros(1, 1, 1), method=ensemble_method, reduction=reduction)
        seconds: dict[str, float] = {}
        predictions = self._predictions(
            picture, seconds, num_inference_steps, ensemble_size, processing_resolution,
            generator, latents, batch_size, timestep_spacing, callback,
        )  # fmt: skip
        del picture
        return merge_predictions(
            predictions,
            full_size,
            mask=used,
            match_input_resolution=match_input_resolution,
            ensemble_method=ensemble_method,
            reduction=reduction,
            scale_invariant=self.scale_invariant,
            shift_invariant=self.shift_invariant,
            seconds=seconds,
        )

    def predict(
        self,
        image: Any,
        *,
        num_inference_steps: int | None = None,
        ensemble_size: int | None = None,
        processing_resolution: int | None = None,
        generator: Generator | None = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        timestep_spacing: str | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """The ensemble's members, not yet aligned: float32 (N, h, w) in [0, 1] on the device.

        image: what `read_image` takes. None is the checkpoint's own number of steps, ensemble size
        (with latents: theirs) and resolution. processing_resolution: pixels of the longer side,
        smaller or larger than the picture's; 0 is the picture's own size.
        generator: as in diffusers; the noise of a member does not depend on batch_size. One from
        the CPU gives the same noise on every device. latents: the initial noise itself, of
        `latent_shape`. batch_size: members at once; None is what fits, and halves where it does
        not. timestep_spacing: None is "trailing"; "leading" is for comparison with old results.

        callback: called with a `Progress` after each step and each decoded member. It cancels the
        run by raising `Cancelled`, or anything else, which comes out of here as it is.

        Raises MarigoldError for bad input, a picture that does not fit in memory, and a result
        that is not finite.
        """
        return self._predictions(
            read_image(image), {}, num_inference_steps, ensemble_size, processing_resolution,
            generator, latents, batch_size, timestep_spacing, callback,
        )  # fmt: skip

    def _predictions(
        self,
        picture: NDArray[np.float32],
        seconds: dict[str, float],
        num_inference_steps: int | None,
        ensemble_size: int | None,
        processing_resolution: int | None,
        generator: Generator | None,
        latents: Tensor | None,
        batch_size: int | None,
        timestep_spacing: str | None,
        callback: Callback | None,
    ) -> Tensor:
        table = self._sampler(num_inference_steps, timestep_spacing)
        if latents is not None and not isinstance(latents, Tensor):
            raise MarigoldError(f"latents are a torch tensor, not {type(latents).__name__}.")
        if ensemble_size is None:
            ensemble_size = self.ensemble_size if latents is None else len(latents)
        members = positive("ensemble_size", ensemble_size)
        resolution = self._resolution(processing_resolution)
        height, width = processing_size(picture.shape[0], picture.shape[1], resolution)
        shape = self.latent_shape(height, width, processing_resolution=0, ensemble_size=members)
        latents = self._initial(latents, shape, generator)
        if batch_size is not None:
            positive("batch_size", batch_size)
        total = members * len(table.timesteps)
        report = Reporter(callback, total + members, self.device) if callback else None

        with timed(seconds, "encode", self.device):
            image_latent = self.encode(to_pixels(picture, (height, width), self.vae_factor))
        with timed(seconds, "denoise", self.device):
            latents = self._denoise(image_latent, latents, table, generator, batch_size, report)
        if report:
            report.before = total
        with timed(seconds, "decode", self.device):
            # A tensor made in inference mode could not be changed in place by its owner.
            return self._decode(latents, report)[:, :height, :width].clone()

    def _resolution(self, resolution: int | None) -> int:
        return self.processing_resolution if resolution is None else resolution

    def _initial(
        self, latents: Tensor | None, shape: tuple[int, ...], generator: Generator | None
    ) -> Tensor:
        """The latents to start from, float32 (N, 4, h, w)."""
        check_generator(generator, shape[0], self.device)
        if latents is not None:
            if tuple(latents.shape) != shape:
                raise MarigoldError(
                    f"latents have the shape {tuple(latents.shape)}; this picture, resolution and "
                    f"ensemble size need {shape}."
                )
            return latents
        if self.family != "e2e":
            return randn_tensor(shape, generator, self.device, torch.float32)
        if shape[0] > 1:
            warnings.warn(
                "This checkpoint starts from zeros instead of noise, so that all members of its "
                "ensemble are the same; use ensemble_size=1.",
                stacklevel=4,
            )
        return torch.zeros(shape, device=self.device)


def merge_predictions(
    predictions: Tensor,
    size: tuple[int, int],
    *,
    mask: NDArray[np.bool_] | None = None,
    match_input_resolution: bool = True,
    ensemble_method: str = "closed_form",
    reduction: str = "median",
    scale_invariant: bool = True,
    shift_invariant: bool = True,
    seconds: dict[str, float] | None = None,
) -> DepthMap:
    """What `predict` gives, (N, h, w), to one depth map: `ensemble_depth`, then the picture's size.

    size: (H, W) of the picture, or, with match_input_resolution False, not used. mask: bool of that
    size. The invariances are the checkpoint's. seconds: takes what ensemble and resize took.
    Raises MarigoldError as `ensemble_depth` does.
    """
    seconds = {} if seconds is None else seconds
    device = predictions.device
    small_size = predictions.shape[1], predictions.shape[2]
    small_mask = None if mask is None else resize_mask(mask, small_size)
    with timed(seconds, "ensemble", device):
        depth, uncertainty = ensemble_depth(
            predictions,
            method=ensemble_method,
            reduction=reduction,
            scale_invariant=scale_invariant,
            shift_invariant=shift_invariant,
            mask=None if small_mask is None else small_mask.to(device),
        )
    with timed(seconds, "resize", device):
        if small_mask is not None and not match_input_resolution:
            mask = small_mask.numpy()
        size = size if match_input_resolution else small_size
        # Masked pixels can fall outside the range that the others were aligned to.
        depth = resize_map(depth, size).clamp(0, 1 if shift_invariant else None)
        if uncertainty is not None:
            uncertainty = resize_map(uncertainty, size)
    return DepthMap(
        depth.numpy(),
        None if uncertainty is None else uncertainty.numpy(),
        mask=mask,
        scale_invariant=scale_invariant,
        shift_invariant=shift_invariant,
        seconds=seconds,
    )


@contextmanager
def timed(seconds: dict[str, float], stage: str, device: torch.device) -> Iterator[None]:
    """Note what the block took, its work on the device included."""
    began = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    seconds[stage] = time.perf_counter() - began


def default_device() -> torch.device:
    """CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def check_generator(generator: Generator | None, members: int, device: torch.device) -> None:
    """Refuse what diffusers' `randn_tensor` would fail on in words about something else."""
    if generator is None:
        return
    each = generator if isinstance(generator, list) else [generator]
    if not all(isinstance(one, torch.Generator) for one in each):
        raise MarigoldError(
            "generator is a torch.Generator, such as torch.Generator().manual_seed(2024), "
            "or a list of them."
        )
    if isinstance(generator, list) and len(generator) != members:
        raise MarigoldError(f"There are {len(generator)} generators for {members} members.")
    if any(one.device.type not in ("cpu", device.type) for one in each):
        raise MarigoldError(
            f"The generator is on {each[0].device} and the networks are on {device}; "
            "use a generator of the same device or of the CPU."
        )


def checked_mask(mask: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask of the picture's size with something in it."""
    checked = read_mask(mask)
    if checked.shape != size:
        raise MarigoldError(
            f"The mask is {checked.shape[1]} x {checked.shape[0]} pixels and the picture is "
            f"{size[1]} x {size[0]}; they must have the same size."
        )
    if not checked.any():
        raise MarigoldError("The mask excludes every pixel; leave some to estimate the depth of.")
    return checked
