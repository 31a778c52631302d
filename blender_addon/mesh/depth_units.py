# SPDX-License-Identifier: GPL-3.0-or-later
"""What the numbers of a depth file mean, and depth and distances from them. No bpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import MarigoldError
from .calibration import placed

AUTO, RELATIVE, INVERTED, DISPARITY = "AUTO", "RELATIVE", "INVERTED", "DISPARITY"
METRES, MILLIMETRES, FIVE_THOUSANDTHS = "METRES", "MILLIMETRES", "FIVE_THOUSANDTHS"
PER_METRE = {METRES: 1.0, MILLIMETRES: 1000.0, FIVE_THOUSANDTHS: 5000.0}
# Renderers write 1e10 or 65504 where there is nothing.
NOTHING = 6.5e4
LONGEST_MILLIMETRES = 12_000


@dataclass(frozen=True, eq=False)
class DepthFile:
    """depth: (H, W) float32, 0 = near and 1 = far; NaN is a hole. near, far: its distances in
    metres where the file holds distances, else None. warning: what the user should check."""

    depth: NDArray[np.float32]
    near: float | None = None
    far: float | None = None
    warning: str = ""


def depth_of_numbers(
    values: NDArray[np.float32],
    unit: str = AUTO,
    *,
    near: float = 1.0,
    far: float = 5.0,
    greatest: float | None = None,
) -> DepthFile:
    """The depth that a file's numbers (H, W) mean; `unit` is one of this module's.

    greatest: the largest number that the file's integers can hold, None for floating numbers. near,
    far: the distances of the range of a disparity map, which has none. Without a unit (AUTO), an
    integer file that a depth camera wrote is known by its small numbers or its zeros: millimetres
    (Kinect, RealSense, NYU) or 1/5000 m (TUM); floating numbers above 1 are metres; the rest is
    relative depth. Raises MarigoldError where nothing is left.
    """
    values = values.astype(np.float32)
    if unit == AUTO:
        unit = _guess(values, greatest)
    if unit in PER_METRE:
        finite = np.isfinite(values) & (values > 0) & (values < NOTHING * PER_METRE[unit])
        if not finite.any():
            raise MarigoldError("nothing in this depth file is in front of the camera.")
        metres = np.where(finite, values / np.float32(PER_METRE[unit]), np.float32(np.nan))
        return DepthFile(*placed(metres, 0, 0, scale_invariant=False, shift_invariant=False))
    finite = np.isfinite(values)
    if not finite.any():
        raise MarigoldError("no pixel of this depth file is a number.")
    if greatest is not None:
        values = values / np.float32(greatest)
    elif values[finite].max() > 1 + 1e-3 or values[finite].min() < -1e-3:
        low, high = values[finite].min(), values[finite].max()
        values = (values - low) / max(high - low, np.float32(1e-30))
    if unit == INVERTED:
        values = 1 - values
    elif unit == DISPARITY:
        distance = 1 / (1 / far + values * (1 / near - 1 / far))
        values = ((distance - near) / (far - near)).astype(np.float32)
    return DepthFile(values)


def _guess(values: NDArray[np.float32], greatest: float | None) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return RELATIVE
    high = float(finite.max())
    if greatest is None:
        return METRES if high > 1 + 1e-3 and finite.min() > -1e-3 else RELATIVE
    if greatest <= 255:
        return RELATIVE
    if high <= LONGEST_MILLIMETRES:
        return MILLIMETRES
    has_holes = (finite == 0).mean() > 1e-3
    return FIVE_THOUSANDTHS if has_holes and high < 0.92 * greatest else RELATIVE
