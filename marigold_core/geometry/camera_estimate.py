"""The camera from affine-invariant depth alone: planes stay planes, right angles stay right.

Depth that is known up to a scale and a shift, z = a (d + c), leaves two numbers of the picture's
geometry open: c, which is the relief (how many times farther the far end is than the near one),
and the focal length f. Both follow from what rooms and streets are made of:

- On a plane 1 / z is linear in the pixel's position, whatever f is. A wrong c bends it, so c is the
  one under which most of the picture is planar.
- With 1 / z = A u + B v + C the plane's normal is (A f, B f, C). f is the one under which most
  pairs of planes stand at a right angle, as in single-view calibration (Caprile and Torre 1990).

Either shows only in a picture that has it, and in depth that is good enough: `docs/metric.md` has
what it wins and where it keeps still. Needs numpy alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .points import FAR, NEAR, Floats, depth_array

# Far over near, and degrees across the longer side, that are tried.
_RELIEFS = np.geomspace(1.15, 30, 28)
_FOVS = np.arange(25.0, 111.0)
_PIXELS = 128
_SIZES = 16, 28, 48, 80  # of the square windows, in those pixels
_SAMPLES = 8
# A window is planar if its residual is below this part of its own relief, plus the noise that
# even rendered depth has after rounding, in parts of the picture's relief.
_PLANAR, _NOISE = 0.06, 0.004
# By how much the mean logarithm of the residuals has to rise towards both ends of the reliefs.
# On rendered rooms, and on true depth of cameras, no estimate above it was off by more than half.
_CLEAR_RELIEF = 0.25
# Which part of all pairs of planes, by area, has to stand at a right angle; and how exactly.
_CLEAR_ANGLES, _RIGHT_ANGLE = 0.25, 0.06


class CameraEstimate(NamedTuple):
    """relief: the distance of depth 1 over that of depth 0; fov_degrees: across the longer side.
    None where the depth does not show it."""

    relief: float | None
    fov_degrees: float | None

    @property
    def near_far(self) -> tuple[float, float]:
        """Distances of depth 0 and 1 with this relief, in the usual units; the default without."""
        return (NEAR, FAR) if self.relief is None else (NEAR, NEAR * self.relief)


NOTHING = CameraEstimate(None, None)


def estimate_camera(depth: Floats, mask: NDArray[np.bool_] | None = None) -> CameraEstimate:
    """Affine-invariant depth (H, W), 0 = near and 1 = far -> the camera that it was seen by.

    mask: (H, W) bool, True = use. Takes about 0.2 s. The relief is given only where a clear
    majority of the picture is planar and slanted, the field of view only with the relief and
    where many planes meet at right angles. Raises MarigoldError for an array that is no map.
    """
    depth = depth_array(depth)
    values = np.where(np.isfinite(depth) & (True if mask is None else mask), depth, np.nan)
    if min(depth.shape) < _SAMPLES or not np.isfinite(values).any():
        return NOTHING
    # A few pixels at the ends, such as a sky, must not set the range.
    low, high = np.nanpercentile(values, [0.5, 99.5])
    if not high > low:
        return NOTHING
    d, u, v, area = _windows(*_sampled((values - low) / (high - low)))
    if not len(d):
        return NOTHING
    residuals = np.array([_planes(d, u, v, 1 / (relief - 1))[1] for relief in _RELIEFS])
    spread = np.nanstd(d, axis=1)
    weights = area * (residuals.min(axis=0) < _PLANAR * spread + _NOISE)
    if not weights.any():
        return NOTHING
    cost = np.log(residuals + _NOISE) @ weights / weights.sum()
    best = int(np.argmin(cost))
    if min(cost[0], cost[-1]) - cost[best] < _CLEAR_RELIEF:
        return NOTHING
    offset = 1 / (_refined(np.log(_RELIEFS), cost, best, np.exp) - 1)
    # From the percentiles' range to that of depth 0 and 1.
    near = offset - low / (high - low)
    far = offset + (1 - low) / (high - low)
    if not 0 < near < far:
        return NOTHING
    planes, residual = _planes(d, u, v, offset)
    planar = area * (residual < _PLANAR * spread + _NOISE)
    return CameraEstimate(float(far / near), _field_of_view(planes, planar))


def _sampled(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A map of at most _PIXELS across, each the median of 3x3, with its columns and rows in halves
    of the longer side from the middle."""
    height, width = values.shape
    stride = max(height, width, _PIXELS) / _PIXELS
    rows = ((np.arange(int(height / stride)) + 0.5) * stride).astype(int)
    columns = ((np.arange(int(width / stride)) + 0.5) * stride).astype(int)
    around = [
        values[np.ix_((rows + i).clip(0, height - 1), (columns + j).clip(0, width - 1))]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    half = max(height, width) / 2
    u, v = (columns + 0.5 - width / 2) / half, (rows + 0.5 - height / 2) / half
    return np.median(around, axis=0), u, v


def _windows(
    values: NDArray[Any], u: NDArray[Any], v: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(K, P) depth, columns and rows of K overlapping windows, and their areas (K,)."""
    found: list[tuple[Any, ...]] = []
    height, width = values.shape
    across, down = np.meshgrid(u, v)
    for size in _SIZES:
        for top in range(0, height - size + 1, size // 2):
            for left in range(0, width - size + 1, size // 2):
                steps = np.linspace(0, size - 1, _SAMPLES).astype(int)
                spots = np.ix_(top + steps, left + steps)
                d = values[spots].ravel()
                if np.isfinite(d).mean() > 0.8:
                    found.append((d, across[spots].ravel(), down[spots].ravel(), float(size**2)))
    if not found:
        nothing = np.empty((0, _SAMPLES**2))
        return nothing, nothing, nothing, np.empty(0)
    d, us, vs, areas = zip(*found, strict=True)
    return np.array(d), np.array(us), np.array(vs), np.array(areas)


def _planes(
    d: NDArray[Any], u: NDArray[Any], v: NDArray[Any], offset: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The planes 1 / (d + offset) = A u + B v + C of the windows: (K, 3), and their residuals in
    units of d, (K,): medians, after one reweighting."""
    known = np.isfinite(d)
    z = np.where(known, d, 0) + offset
    z = np.maximum(z, 1e-3)
    x = np.stack([u, v, np.ones_like(u)], axis=-1)
    weights = np.where(known, z**2, 0)  # a residual of 1 / z, times z^2, is one of z
    for first in (True, False):
        weighted = (x * (weights**2)[..., None]).transpose(0, 2, 1)
        square = weighted @ x + 1e-12 * np.eye(3)
        planes = np.linalg.solve(square, weighted @ (1 / z)[..., None])
        errors = np.where(known, z**2 * ((x @ planes)[..., 0] - 1 / z), np.nan)
        residual = 1.4826 * np.nanmedian(np.abs(errors), axis=1)
        if first:
            within = np.nan_to_num(errors / (2.5 * residual + 1e-6)[:, None])
            weights = weights / np.sqrt(1 + within**2)
    return planes[..., 0], residual


def _field_of_view(planes: NDArray[Any], weights: NDArray[Any]) -> float | None:
    shares = []
    for fov in _FOVS:
        focal = 1 / math.tan(math.radians(fov / 2))
        normals = planes * (focal, focal, 1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
        upright = np.exp(-((normals @ normals.T) ** 2) / (2 * _RIGHT_ANGLE**2))
        shares.append(float(weights @ upright @ weights) / weights.sum() ** 2)
    best = int(np.argmax(shares))
    if shares[best] < _CLEAR_ANGLES or best in (0, len(_FOVS) - 1):
        return None
    return float(_FOVS[best])


def _refined(places: NDArray[Any], cost: NDArray[Any], best: int, back: Any) -> float:
    """The least point of the parabola through the lowest of `cost` and its neighbours."""
    before, here, after = cost[best - 1 : best + 2]
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend > 1e-12 else 0.0
    return float(back(places[best] + float(np.clip(shift, -0.5, 0.5)) * (places[1] - places[0])))
