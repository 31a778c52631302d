"""What a checkpoint can estimate, one entry for each kind: how its latents become a result.

Depth is the only kind today. Another one is a function that makes its `Target`, and a result class
in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from einops import reduce
from numpy.typing import NDArray
from torch import Tensor

from .depth import DepthMap
from .ensemble.depth import ensemble_depth
from .progress import timed
from .resize import resize_map, resize_mask


@dataclass(frozen=True)
class Target:
    """One kind of checkpoint.

    latents: how many latents of 4 channels the U-Net denoises together. from_decoded: what the VAE
    makes of them, (N, latents, 3, H, W) about [-1, 1] -> a member's map each, (N, ..., H, W).
    merge: members (N, ..., h, w), unpadded, to the result; called as `merge_predictions` is.
    scale_invariant, shift_invariant: of depth; see `DepthMap`.
    """

    name: str
    latents: int
    from_decoded: Callable[[Tensor], Tensor]
    merge: Callable[..., Any]
    scale_invariant: bool = True
    shift_invariant: bool = True


def depth_target(scale_invariant: bool = True, shift_invariant: bool = True) -> Target:
    """Depth: one latent, the mean of the decoded channels, closed-form alignment, `DepthMap`."""
    merge = partial(
        merge_predictions, scale_invariant=scale_invariant, shift_invariant=shift_invariant
    )
    return Target("depth", 1, depth_from_decoded, merge, scale_invariant, shift_invariant)


def depth_from_decoded(decoded: Tensor) -> Tensor:
    """(N, 1, 3, H, W) about [-1, 1] -> (N, H, W) in [0, 1]: the mean channel (paper, section 3.2).

    What is not finite stays so.
    """
    return reduce(decoded, "n 1 c h w -> n h w", "mean").clamp(-1, 1).add(1).div(2)


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
    seconds = {} if seconds is None else seconds
    device = predictions.device
    small_size = predictions.shape[1], predictions.shape[2]
    small_mask = None if mask is None else resize_mask(mask, small_size)
    with timed(seconds, "ensemble", partial(synchronize, device)):
        depth, uncertainty = ensemble_depth(
            predictions,
            method=ensemble_method,
            reduction=reduction,
            scale_invariant=scale_invariant,
            shift_invariant=shift_invariant,
            mask=None if small_mask is None else small_mask.to(device),
        )
    with timed(seconds, "resize"):
        if small_mask is not None and not match_input_resolution:
            mask = small_mask.numpy()
        size = size if match_input_resolution else small_size
        # Masked pixels can fall outside the range that the others were aligned to.
        depth = resize_map(depth, size).clamp_(0, 1 if shift_invariant else None)
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


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
