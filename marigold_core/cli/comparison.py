"""An estimated depth map beside the true one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..colormaps import colorize
from ..depth import normalize_depth
from ..errors import MarigoldError

# Of the range of the true depth: what the error panel shows as white.
WHITE_ERROR = 0.25


def scale_and_shift(x: NDArray[Any], y: NDArray[Any]) -> tuple[float, float]:
    """(s, t) of the least squared error of s x + t - y, as the paper fits (section 4.1).

    x, y: (P,) of any float dtype, computed in float64. Of a constant x, s is 0 and t is y's mean.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    centred = x - x.mean()
    energy = centred @ centred
    # Rounding leaves a constant map a little energy.
    flat = energy <= 1e-20 * max(1.0, float(x @ x))
    scale = 0.0 if flat else float(centred @ y / energy)
    return scale, float(y.mean() - scale * x.mean())


def mean_relative_error(
    depth: NDArray[Any], truth: NDArray[Any], valid: NDArray[np.bool_]
) -> float:
    """AbsRel: mean |p - g| / g over the valid pixels, p the fitted depth clipped to g's range."""
    g = _known(depth, truth, valid)
    scale, shift = scale_and_shift(depth[valid], g)
    p = (depth[valid].astype(np.float64) * scale + shift).clip(g.min(), g.max())
    return float(np.mean(np.abs(p - g) / g))


def side_by_side(
    picture: NDArray[np.float32],
    depth: NDArray[Any],
    truth: NDArray[Any],
    valid: NDArray[np.bool_],
    uncertainty: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Picture, true depth, estimate after the affine fit, error, uncertainty: (H, 4 or 5 W, 3).

    picture: (H, W, 3) in [0, 1]. depth, truth: (H, W), truth above 0 where valid. In the depths
    red is near, both over the truth's 2 % to 98 % range; a white error is a quarter of that range,
    a white uncertainty its own largest. What is not valid is black.
    Raises MarigoldError where the sizes differ or nothing is valid.
    """
    _known(depth, truth, valid)
    shown = normalize_depth(truth, mode="percentile", mask=valid)
    scale, shift = scale_and_shift(depth[valid], shown[valid])
    guess = (depth * scale + shift).clip(0, 1).astype(np.float32)
    error = (np.abs(guess - shown) / WHITE_ERROR).clip(0, 1)
    panels = [
        np.rint(picture.clip(0, 1) * 255).astype(np.uint8),
        colorize(np.where(valid, shown, np.nan)),
        colorize(guess),
        colorize(np.where(valid, error, 0).astype(np.float32), "gray"),
    ]
    if uncertainty is not None:
        largest = max(float(uncertainty.max()), 1e-6)
        panels.append(colorize((uncertainty / largest).astype(np.float32), "gray"))
    return np.concatenate(panels, axis=1)


def _known(depth: NDArray[Any], truth: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
    if not depth.shape == truth.shape == valid.shape:
        sizes = [f"{a.shape[1]}x{a.shape[0]}" for a in (truth, depth)]
        raise MarigoldError(
            f"The true depth is {sizes[0]} and the picture {sizes[1]}; make them the same size."
        )
    if not valid.any():
        raise MarigoldError("The true depth has no value above 0.")
    return truth[valid].astype(np.float64)
