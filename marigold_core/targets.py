"""What a checkpoint can estimate, one entry for each kind: how its latents become a result.

An entry is a function that makes its `Target`, and a result class in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor

from .checkpoints.inspection import CheckpointInfo
from .depth import DepthMap
from .ensemble.depth import ensemble_depth
from .ensemble.intrinsics import ensemble_intrinsics
from .ensemble.normals import ensemble_normals, unit
from .errors import MarigoldError
from .intrinsics import IntrinsicImages, IntrinsicMap
from .normals import NormalMap
from .progress import timed
from .resize import resize_map, resize_mask

# Called with predictions (N, ..., h, w) and a mask of their size: merged (..., h, w), uncertainty.
Ensemble = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
WORDS = {"depth": "depth", "normals": "normals", "intrinsics": "intrinsic images"}


@dataclass(frozen=True)
class Target:
    """One kind of checkpoint.

    name: "depth", "normals" or "intrinsics". latents: how many latents of 4 channels the U-Net
    denoises together. from_decoded: what the VAE makes of them, (N, latents, 3, H, W) about
    [-1, 1] -> a member's maps each, (N, ..., H, W). merge: members (N, ..., h, w), unpadded, to the
    result; called as `merge_predictions` is. reductions: the words that merge knows, its default
    first. preview: one member's maps -> what to show of them, (h, w) or (3, h, w) in [0, 1].
    scale_invariant, shift_invariant: of depth; see `DepthMap`. maps: of intrinsic images, what the
    decoded pictures hold.
    """

    name: str
    latents: int
    from_decoded: Callable[[Tensor], Tensor]
    merge: Callable[..., Any]
    reductions: tuple[str, ...]
    preview: Callable[[Tensor], Tensor]
    scale_invariant: bool = True
    shift_invariant: bool = True
    maps: tuple[IntrinsicMap, ...] = ()

    def reduction(self, chosen: str | None) -> str:
        """The word for merge: the chosen one, None is the target's own. Raises MarigoldError."""
        if chosen is not None and chosen not in self.reductions:
            raise MarigoldError(
                f"reduction is {chosen!r}; for {WORDS[self.name]} use one of "
                f"{', '.join(self.reductions)}."
            )
        return chosen or self.reductions[0]


def target_of(info: CheckpointInfo) -> Target:
    """The entry for a checkpoint."""
    if info.target == "normals":
        return normals_target(info.full_z_range)
    if info.target == "intrinsics":
        return intrinsics_target(info.maps)
    return depth_target(info.scale_invariant, info.shift_invariant)


def depth_target(scale_invariant: bool = True, shift_invariant: bool = True) -> Target:
    """Depth: one latent, the mean of the decoded channels, closed-form alignment, `DepthMap`."""
    merge = partial(
        merge_predictions, scale_invariant=scale_invariant, shift_invariant=shift_invariant
    )
    return Target(
        "depth", 1, depth_from_decoded, merge, ("median", "mean"), lambda depth: depth,
        scale_invariant, shift_invariant,
    )  # fmt: skip


def normals_target(full_z_range: bool = True) -> Target:
    """Normals: one latent, the decoded channels at unit length, mean direction, `NormalMap`."""
    return Target(
        "normals", 1, partial(normals_from_decoded, full_z_range=full_z_range), merge_normals,
        ("closest", "mean"), lambda normals: normals.add(1).div(2),
    )  # fmt: skip


def intrinsics_target(maps: Sequence[IntrinsicMap]) -> Target:
    """Intrinsic images: a latent for each decoded picture, median, `IntrinsicImages`.

    maps: what the pictures hold, in the order of their latents.
    """
    first = next(one for one in maps if one.latent == 0)
    # For a preview the power is near enough to the curve of sRGB.
    power = 1 / 2.2 if first.space == "linear" else 1.0
    return Target(
        "intrinsics", maps[-1].latent + 1, intrinsics_from_decoded,
        partial(merge_intrinsics, maps=maps), ("median", "mean"), lambda images: images[0] ** power,
        maps=tuple(maps),
    )  # fmt: skip


def depth_from_decoded(decoded: Tensor) -> Tensor:
    """(N, 1, 3, H, W) about [-1, 1] -> (N, H, W) in [0, 1]: the mean channel (paper, section 3.2).

    What is not finite stays so.
    """
    return reduce(decoded, "n 1 c h w -> n h w", "mean").clamp(-1, 1).add(1).div(2)


def normals_from_decoded(decoded: Tensor, full_z_range: bool = True) -> Tensor:
    """(N, 1, 3, H, W) about [-1, 1] -> unit normals (N, 3, H, W), x right, y up, z to the viewer.

    full_z_range: False for checkpoints whose z is in [0, 1], scaled to [-1, 1] as they were
    trained. A zero vector, which has no direction, faces the viewer. What is not finite stays so.
    """
    normals = rearrange(decoded, "n 1 c h w -> n c h w").clamp(-1, 1)
    if not full_z_range:
        normals[:, 2].mul_(0.5).add_(0.5)
    return unit(normals)


def intrinsics_from_decoded(decoded: Tensor) -> Tensor:
    """(N, T, 3, H, W) about [-1, 1] -> the same in [0, 1]. What is not finite stays so."""
    return decoded.clamp(-1, 1).add(1).div(2)


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
    """Depth predictions (N, h, w) -> one depth map: `ensemble_depth`, then the picture's size.

    size: (H, W) of the picture; with match_input_resolution False it is not used. mask: bool of
    that size. The invariances are the checkpoint's. seconds: receives the time of ensemble and
    resize. Raises MarigoldError as `ensemble_depth` does.
    """

    def ensemble(members: Tensor, used: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return ensemble_depth(
            members,
            method=ensemble_method,
            reduction=reduction,
            scale_invariant=scale_invariant,
            shift_invariant=shift_invariant,
            mask=used,
        )

    merged = _merged(predictions, size, ensemble, mask, match_input_resolution, seconds)
    # Masked pixels can fall outside the range that the others were aligned to.
    depth = merged.values.clamp_(0, 1 if shift_invariant else None)
    return DepthMap(
        depth.numpy(),
        None if merged.uncertainty is None else merged.uncertainty.numpy(),
        mask=merged.mask,
        scale_invariant=scale_invariant,
        shift_invariant=shift_invariant,
        seconds=merged.seconds,
    )


def merge_normals(
    predictions: Tensor,
    size: tuple[int, int],
    *,
    mask: NDArray[np.bool_] | None = None,
    match_input_resolution: bool = True,
    ensemble_method: str = "closed_form",
    reduction: str = "closest",
    seconds: dict[str, float] | None = None,
) -> NormalMap:
    """Normals (N, 3, h, w) -> one normal map: `ensemble_normals`, then the picture's size.

    Resized normals are brought to unit length again. ensemble_method is not used: directions need
    no alignment. The rest as in `merge_predictions`.
    """

    def ensemble(members: Tensor, used: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return ensemble_normals(members, reduction=reduction)

    merged = _merged(predictions, size, ensemble, mask, match_input_resolution, seconds)
    normals = rearrange(unit(merged.values[None])[0], "c h w -> h w c")
    return NormalMap(
        normals.contiguous().numpy(),
        None if merged.uncertainty is None else merged.uncertainty.numpy(),
        mask=merged.mask,
        seconds=merged.seconds,
    )


def merge_intrinsics(
    predictions: Tensor,
    size: tuple[int, int],
    *,
    maps: Sequence[IntrinsicMap],
    mask: NDArray[np.bool_] | None = None,
    match_input_resolution: bool = True,
    ensemble_method: str = "closed_form",
    reduction: str = "median",
    seconds: dict[str, float] | None = None,
) -> IntrinsicImages:
    """Decoded pictures (N, T, 3, h, w) -> their maps: `ensemble_intrinsics`, the picture's size.

    maps: what the T pictures hold. The members of maps known up to a scale are aligned.
    ensemble_method is not used: there is only the closed form. The rest as in `merge_predictions`.
    """
    loose = {one.latent for one in maps if one.up_to_scale}

    def ensemble(members: Tensor, used: Tensor | None) -> tuple[Tensor, Tensor | None]:
        up_to_scale = [latent in loose for latent in range(members.shape[1])]
        return ensemble_intrinsics(members, reduction=reduction, up_to_scale=up_to_scale, mask=used)

    def named(pictures: Tensor) -> dict[str, NDArray[np.float32]]:
        return {
            one.name: (
                rearrange(pictures[one.latent], "c h w -> h w c").contiguous().numpy()
                if one.channel is None
                else pictures[one.latent, one.channel].clone().numpy()
            )
            for one in maps
        }

    merged = _merged(predictions, size, ensemble, mask, match_input_resolution, seconds)
    return IntrinsicImages(
        named(merged.values),
        {one.name: one.space for one in maps},
        None if merged.uncertainty is None else named(merged.uncertainty),
        up_to_scale=frozenset(one.name for one in maps if one.up_to_scale),
        mask=merged.mask,
        seconds=merged.seconds,
    )


class _Merged(NamedTuple):
    """values, uncertainty: float32 (..., H, W) on the CPU; mask: of that size."""

    values: Tensor
    uncertainty: Tensor | None
    mask: NDArray[np.bool_] | None
    seconds: dict[str, float]


def _merged(
    predictions: Tensor,
    size: tuple[int, int],
    ensemble: Ensemble,
    mask: NDArray[np.bool_] | None,
    match_input_resolution: bool,
    seconds: dict[str, float] | None,
) -> _Merged:
    seconds = {} if seconds is None else seconds
    device = predictions.device
    small_size = predictions.shape[-2], predictions.shape[-1]
    small_mask = None if mask is None else resize_mask(mask, small_size)
    with timed(seconds, "ensemble", partial(synchronize, device)):
        values, uncertainty = ensemble(
            predictions, None if small_mask is None else small_mask.to(device)
        )
    with timed(seconds, "resize"):
        if small_mask is not None and not match_input_resolution:
            mask = small_mask.numpy()
        size = size if match_input_resolution else small_size
        values = resize_map(values, size)
        if uncertainty is not None:
            uncertainty = resize_map(uncertainty, size)
    return _Merged(values, uncertainty, mask, seconds)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
