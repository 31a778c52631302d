"""Between the picture's size and the network's: scaling, padding, and the way back.

Everything here runs on the host. A picture of 100 megapixels is 1.2 GB as float32, more than a
small card can spare, while the network sees at most a few megapixels of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .errors import MarigoldError
from .images import read_mask, unit_range


def processing_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """(h, w) with the longer side equal to `resolution`, smaller or larger than it was.

    0 keeps the size. Rounded down as diffusers does, but never below one pixel.
    """
    if resolution < 0:
        raise MarigoldError(
            f"The processing resolution is {resolution}; use 0 for the picture's own size, "
            "or the number of pixels of the longer side."
        )
    if resolution == 0:
        return height, width
    longest = max(height, width)
    return max(1, height * resolution // longest), max(1, width * resolution // longest)


def to_pixels(image: np.ndarray, size: tuple[int, int], multiple: int) -> Tensor:
    """(H, W, 3) as from `read_samples` -> (1, 3, h, w) float32 in [-1, 1], a new tensor.

    image: uint8, uint16, or float32 in [0, 1]. Bilinear with antialiasing to `size`, then edge
    pixels repeated to the right and below until both sides are multiples of `multiple`. One channel
    at a time is float32 at the picture's size.
    """
    channels = []
    for channel in range(3):
        plane = torch.from_numpy(unit_range(image[..., channel]))[None, None]
        if plane.shape[-2:] != size:
            plane = F.interpolate(plane, size, mode="bilinear", antialias=True)
        channels.append(plane)
    # Resampling weights sum to one, so the range may change after it, on the smaller tensor.
    pixels = torch.cat(channels, 1) * 2 - 1
    return F.pad(pixels, (0, -size[1] % multiple, 0, -size[0] % multiple), mode="replicate")


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., h, w) float -> (..., H, W) float32 on the CPU.

    Bilinear without antialiasing, as diffusers.
    """
    values = values.float().cpu()
    if values.shape[-2:] == size:
        return values
    flat = values.reshape(1, -1, *values.shape[-2:])
    resized = F.interpolate(flat, size, mode="bilinear")
    return resized.reshape(*values.shape[:-2], *size)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(H, W) bool -> (h, w) bool on the CPU: a cell counts if most of its pixels do.

    Where no cell has that many (a sparse mask), a cell counts if any of its pixels does.
    """
    full = torch.from_numpy(np.ascontiguousarray(mask))
    if full.shape == size:
        return full
    share = F.interpolate(full[None, None].float(), size, mode="area")[0, 0]
    mostly = share > 0.5
    return mostly if mostly.any() else share > 0


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
