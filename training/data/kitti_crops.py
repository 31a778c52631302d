"""KITTI's crops: what the benchmark keeps of a frame, and which part of it is evaluated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 352, 1216

# Rows and columns that count, as shares of the cropped frame. Eigen et al. 2014 and Garg et al.
# 2016, as in bts_eval.py of BTS, which the authors of Marigold follow.
EVALUATED = {
    "eigen": ((0.3324324, 0.91351351), (0.0359477, 0.96405229)),
    "garg": ((0.40810811, 0.99189189), (0.03594771, 0.96405229)),
}


def benchmark_crop(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the KITTI benchmark's 352 x 1216: the bottom rows, the middle columns.

    Raises ValueError where the frame is smaller.
    """
    if height < HEIGHT or width < WIDTH:
        raise ValueError(f"a KITTI frame is at least {WIDTH} x {HEIGHT}, not {width} x {height}.")
    left = int((width - WIDTH) / 2)
    return slice(height - HEIGHT, height), slice(left, left + WIDTH)


def evaluated_part(height: int, width: int, kind: str) -> NDArray[np.bool_]:
    """bool (H, W), True where a cropped frame is evaluated; kind "eigen" or "garg"."""
    (top, bottom), (left, right) = EVALUATED[kind]
    part = np.zeros((height, width), bool)
    part[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    return part
