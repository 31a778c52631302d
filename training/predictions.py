"""Predictions of a checkpoint over many settings, kept on disk so that a run can be continued.

A file is named by what it depends on: the weights, the setting, the resolution and the picture's
own pixels. So a checkpoint that was trained further, or a picture that was changed, under the same
name is predicted again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from data.sample import Sample
from einops import rearrange
from numpy.typing import NDArray
from objective import multi_resolution_noise
from targets import TARGETS
from torch import Tensor

from marigold_core import (
    Marigold,
    MarigoldError,
    ensemble_depth,
    ensemble_intrinsics,
    ensemble_normals,
)
from marigold_core.denoising import decode, encode, vae_factor
from marigold_core.depth_files import write_npy
from marigold_core.resize import processing_size, to_pixels

NOISES = ("gaussian", "zeros", "multiresolution")
METHODS = ("closed_form", "paper")
REDUCTIONS = ("median", "mean")


class Setting(NamedTuple):
    """steps, members: of the sampler and the ensemble. method, reduction: see `ensemble_depth`.
    noise: what the latents start from. seed: set again for every picture, as the authors do.
    spacing: of the timesteps, see `Marigold.predict`."""

    steps: int
    members: int
    method: str = "closed_form"
    reduction: str = "median"
    noise: str = "gaussian"
    seed: int = 1234
    spacing: str = "trailing"

    @classmethod
    def parse(cls, text: str) -> Setting:
        """ "4x10": four steps, ten members. Raises MarigoldError."""
        steps, x, members = text.partition("x")
        if not (x and steps.isdecimal() and members.isdecimal() and int(steps) and int(members)):
            raise MarigoldError(f"A setting is STEPSxMEMBERS such as 4x10, not {text!r}.")
        return cls(int(steps), int(members))

    def __str__(self) -> str:
        words = [f"{self.steps} steps x {self.members}"]
        if self.members > 1:
            words += [
                w for w in (self.method, self.reduction) if w not in ("closed_form", "median")
            ]
        others = ((self.noise, "gaussian"), (self.spacing, "trailing"))
        return ", ".join(words + [word for word, usual in others if word != usual])


class Predictor:
    """What one checkpoint estimates, as the engine's results.

    folder: where they are kept; None keeps nothing. processing_resolution: as in `Marigold`. The
    members of an ensemble are the first of a larger one with the same seed, so that a sweep over
    sizes costs what its largest ensemble costs.
    """

    def __init__(
        self, marigold: Marigold, folder: Path | None, processing_resolution: int | None = None
    ) -> None:
        self.marigold = marigold
        if processing_resolution is None:
            processing_resolution = marigold.processing_resolution
        self.resolution = processing_resolution
        self.folder = folder and folder / fingerprint(marigold)

    def results(self, picture: NDArray[np.float32], settings: Sequence[Setting]) -> list[Any]:
        """The engine's result at the picture's size for each setting; picture: (H, W, 3) in [0, 1].

        Raises MarigoldError as `Marigold.predict` does.
        """
        size = picture.shape[0], picture.shape[1]
        name = hashlib.sha256(picture.tobytes()).hexdigest()[:24]
        together = defaultdict(list)
        for setting in dict.fromkeys(settings):
            # Latent consistency draws new noise at each step for all members at once.
            alone = self.marigold.family == "lcm" and setting.steps > 1
            key = setting if alone else setting._replace(members=0, method="", reduction="")
            together[key].append(setting)
        done: dict[Setting, NDArray[np.float32]] = {}
        for group in together.values():
            kept = {setting: self._read(setting, name) for setting in group}
            members = None
            for setting, depth in kept.items():
                if depth is None:
                    # As many as the largest needs: the size of a batch changes the last digits.
                    if members is None:
                        members = self._members(picture, max(group, key=lambda s: s.members))
                    depth = self._merge(members, setting)
                    self._write(setting, name, depth)
                done[setting] = depth
        merge = self.marigold.target.merge
        return [merge(torch.from_numpy(done[s])[None], size) for s in settings]

    def through_vae(self, sample: Sample, target: str) -> Any:
        """The truth as the training's pictures, encoded, decoded and at its size again.

        target: of `targets.TARGETS`. A U-Net without any error would predict this. Invalid pixels
        of depth count as far, so it needs dense truth.
        """
        pictures = TARGETS[target].pictures(sample, "far").add(1).div(2)
        height, width = pictures.shape[-2:]
        h, w = processing_size(height, width, self.resolution)
        vae, device = self.marigold.vae, self.marigold.device
        sides = (rearrange(picture, "c h w -> h w c").numpy() for picture in pictures)
        pixels = [to_pixels(side, (h, w), vae_factor(vae)) for side in sides]
        decoded = [decode(vae, encode(vae, one, device))[..., :h, :w] for one in pixels]
        engine = TARGETS[target].engine()
        return engine.merge(engine.from_decoded(torch.stack(decoded, 1)), (height, width))

    def _members(self, picture: NDArray[np.float32], setting: Setting) -> Tensor:
        """Not yet aligned, (N, h, w); member j starts from the j-th draw of the seed."""
        generator = torch.Generator().manual_seed(setting.seed)
        count, latents = setting.members, None
        if self.marigold.family == "e2e":
            count = 1  # It starts from zeros: all members are one.
        else:
            height, width = picture.shape[:2]
            shape = self.marigold.latent_shape(height, width, processing_resolution=self.resolution)
            draws = [initial_noise(shape, setting.noise, generator) for _ in range(count)]
            latents = torch.cat(draws)
        return self.marigold.predict(
            picture,
            num_inference_steps=setting.steps,
            ensemble_size=count,
            processing_resolution=self.resolution,
            generator=generator,
            latents=latents,
            # None: a checkpoint with timesteps of its own (LCM) takes no other.
            timestep_spacing=None if setting.spacing == "trailing" else setting.spacing,
        )

    def _merge(self, members: Tensor, setting: Setting) -> NDArray[np.float32]:
        """(h, w), (3, h, w) or (T, 3, h, w), at the size of the members."""
        used, target = members[: setting.members], self.marigold.target
        if target.name == "depth":
            merged, _ = ensemble_depth(
                used,
                method=setting.method,
                reduction=setting.reduction,
                scale_invariant=target.scale_invariant,
                shift_invariant=target.shift_invariant,
            )
        elif target.name == "normals":
            merged, _ = ensemble_normals(used)
        else:
            loose = {one.latent for one in target.maps if one.up_to_scale}
            up_to_scale = [latent in loose for latent in range(target.latents)]
            merged, _ = ensemble_intrinsics(used, up_to_scale=up_to_scale)
        return np.asarray(merged.float().cpu().numpy())

    def _path(self, setting: Setting, name: str) -> Path | None:
        if self.folder is None:
            return None
        words = [f"{setting.steps}x{setting.members}", *map(str, setting[2:]), str(self.resolution)]
        words = [word for word in words if word != "trailing"]
        return self.folder / "_".join(words) / f"{name}.npy"

    def _read(self, setting: Setting, name: str) -> NDArray[np.float32] | None:
        path = self._path(setting, name)
        if path is None or not path.is_file():
            return None
        try:
            depth = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None  # A broken file is predicted again.
        maps = {"depth": 2, "normals": 3}.get(self.marigold.target.name, 4)
        return depth if depth.ndim == maps and depth.dtype == np.float32 else None

    def _write(self, setting: Setting, name: str, depth: NDArray[np.float32]) -> None:
        path = self._path(setting, name)
        if path is None:
            return
        try:
            write_npy(path, depth)
        except OSError as error:
            warnings.warn(f"Predictions are no longer kept: {error}.", stacklevel=2)
            self.folder = None


def initial_noise(shape: tuple[int, ...], kind: str, generator: torch.Generator) -> Tensor:
    """Latents (1, 4, h, w) to start from; "multiresolution" is the paper's training noise."""
    if kind == "zeros":
        return torch.zeros(shape)
    if kind == "multiresolution":
        return multi_resolution_noise(shape, torch.tensor([999]), generator=generator)
    if kind != "gaussian":
        raise MarigoldError(f"There is no noise {kind!r}; choose from {', '.join(NOISES)}.")
    return torch.randn(shape, generator=generator)


def fingerprint(marigold: Marigold) -> str:
    """Twelve letters that differ where a checkpoint's predictions could."""
    digest = hashlib.sha256(
        json.dumps(dict(marigold.scheduler_config), sort_keys=True, default=str).encode()
    )
    digest.update(
        f"{marigold.family} {marigold.scale_invariant} {marigold.shift_invariant}".encode()
    )
    tensors = {"text": marigold.text_embedding}
    for part in ("unet", "vae"):
        state = getattr(marigold, part).state_dict()
        tensors.update({f"{part}.{name}": tensor for name, tensor in state.items()})
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:12]
