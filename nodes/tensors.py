"""Converts ComfyUI's tensors to the engine's arrays and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import comfy.model_management
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..marigold_core import DepthMap, MarigoldError
from .sockets import DepthBatch

LOAD_IMAGE_WITHOUT_ALPHA = (64, 64)


def pictures(image: Tensor) -> list[NDArray[np.float32]]:
    """IMAGE (B, H, W, C) of any float type -> B arrays (H, W, 3); an alpha channel is left out."""
    if image.ndim != 4 or not image.numel():
        raise MarigoldError(
            f"The image has the shape {tuple(image.shape)}; connect an IMAGE with some pixels."
        )
    rgb = image[..., :3].float().cpu()
    if rgb.shape[-1] < 3:
        rgb = rgb[..., :1].expand(*rgb.shape[:-1], 3)
    if not rgb.isfinite().all():
        raise MarigoldError(
            "The image contains NaN or infinity; check the node before this one. A common cause is "
            "a VAE that overflows in half precision (start ComfyUI with --fp32-vae)."
        )
    return list(rgb.numpy())


def masks(
    mask: Tensor | None, images: Sequence[NDArray[np.float32]], invert: bool = False
) -> list[NDArray[np.bool_]]:
    """MASK (B, H, W), or one for all -> for each image bool (H, W), True = use this pixel.

    An empty list without a mask, and for the empty mask that Load Image gives where the file has
    no alpha channel. invert: black pixels are the used ones.
    """
    if mask is None:
        return []
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or not mask.numel():
        raise MarigoldError(
            f"The mask has the shape {tuple(mask.shape)}, so it has no pixels; connect a mask of "
            "the image's size, or none."
        )
    if mask.shape[1:] == LOAD_IMAGE_WITHOUT_ALPHA and not mask.any():
        return []
    if len(mask) not in (1, len(images)):
        raise MarigoldError(
            f"There are {len(mask)} masks for {len(images)} images; connect one, or one each."
        )
    used = list(((mask.float().cpu() > 0.5) != invert).numpy())
    used = used * len(images) if len(used) == 1 else used
    for number, (picture, one) in enumerate(zip(images, used, strict=True), 1):
        if one.shape != picture.shape[:2]:
            raise MarigoldError(
                f"The mask is {one.shape[1]} x {one.shape[0]} and the image "
                f"{picture.shape[1]} x {picture.shape[0]}; resize one of them."
            )
        if not one.any():
            raise MarigoldError(
                f"The mask of image {number} is {'white' if invert else 'black'}, so no pixel is "
                f"used; switch invert_mask {'off' if invert else 'on'} if it is meant the other "
                "way round."
            )
    return used


def mask_of(maps: Iterable[NDArray[np.float32]]) -> Tensor:
    """Maps (H, W) of one size -> MASK (B, H, W)."""
    stacked = torch.from_numpy(np.stack(list(maps)))
    return stacked.to(comfy.model_management.intermediate_device())


def image_of(maps: Iterable[NDArray[np.generic]]) -> Tensor:
    """Grey maps (H, W) or pictures (H, W, 3) in [0, 1], or uint8 ones -> IMAGE (B, H, W, 3)."""
    stacked = np.stack(list(maps))
    if stacked.dtype == np.uint8:
        stacked = stacked.astype(np.float32) / 255
    image = torch.from_numpy(np.ascontiguousarray(stacked, dtype=np.float32))
    if image.ndim == 3:
        image = image[..., None].repeat(1, 1, 1, 3)
    return image.to(comfy.model_management.intermediate_device())


def eight_bit(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A picture in [0, 1] as bytes."""
    return np.rint(picture.clip(0, 1) * 255).astype(np.uint8)


def same_size(depths: DepthBatch) -> tuple[int, int]:
    """The (H, W) that all depth maps of a batch share. Raises MarigoldError where they differ."""
    sizes = {depth.depth.shape for depth in depths}
    if len(sizes) > 1:
        shown = ", ".join(sorted(f"{width} x {height}" for height, width in sizes))
        raise MarigoldError(
            f"The depth maps have different sizes ({shown}); an IMAGE batch needs one size."
        )
    height, width = next(iter(sizes))
    return height, width


def valid_masks(depths: DepthBatch) -> NDArray[np.bool_] | None:
    """bool (B, H, W) of the masks that came with the depth maps; None where none did."""
    if all(depth.mask is None for depth in depths):
        return None
    return np.stack([full(depth) for depth in depths])


def full(depth: DepthMap) -> NDArray[np.bool_]:
    """The map's mask, bool (H, W); all True where it has none."""
    return np.ones(depth.depth.shape, bool) if depth.mask is None else depth.mask


def in_unit_range(depth: DepthMap) -> NDArray[np.float32]:
    """(H, W) in [0, 1], to be shown: relative depth as it is, metric depth over its range."""
    inside = depth.depth[full(depth)]
    low, high = float(inside.min()), float(inside.max())
    if depth.scale_invariant and low >= 0 and high <= 1:
        return depth.depth.clip(0, 1)
    return ((depth.depth - low) / max(high - low, 1e-6)).clip(0, 1)
