"""Distances between two pixels and the camera's height above the ground, as hints. numpy alone.

For depth that is known up to a scale, z = a (d + c), lengths and heights grow with a. In
logarithms a is then a plain offset: for each candidate c it is the median of the hints' log
ratios, and c is the one about which they agree best.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import MarigoldError
from .hints import KnownDepths, rays
from .robust import biweight, weighted_median

Floats = NDArray[np.float64]
# Of the lower quarter of the picture, where no ground pixels are given.
_GROUND_GRID = 24, 48


class Measures:
    """The known lengths and the camera's height, in a depth map (H, W) of finite `values`."""

    def __init__(
        self, values: Floats, known: KnownDepths, size: tuple[int, int], fov_degrees: float
    ) -> None:
        assert known.lengths is not None
        assert known.ground is not None
        ends = known.lengths[:, :4].reshape(-1, 2)
        self._ends = rays(ends, size, fov_degrees)
        self._end_values = values[known.pixels(values.shape, ends)]  # type: ignore[arg-type]
        self.known_metres = known.lengths[:, 4]
        self.names = [f"Known length {number}" for number in range(1, len(known.lengths) + 1)]
        self._has_height = known.camera_height is not None
        if known.camera_height is not None:
            self.known_metres = np.append(self.known_metres, known.camera_height)
            self.names.append("The camera's height")
            ground = known.ground if len(known.ground) else _lower_quarter(size)
            found = values[known.pixels(values.shape, ground)]  # type: ignore[arg-type]
            usable = np.isfinite(found)
            if usable.sum() < 3:
                raise MarigoldError("The ground pixels lie where the depth map has no depth.")
            self._ground = rays(ground[usable], size, fov_degrees)
            self._ground_values = found[usable]
        if not np.isfinite(self._end_values).all():
            raise MarigoldError("An end of a known length lies where the depth map has no depth.")

    def __len__(self) -> int:
        return len(self.known_metres)

    def measured(self, depth: Callable[[Floats], Floats]) -> Floats:
        """(M,): the lengths and the height, where `depth` takes the map's values to distances."""
        ends = self._ends * depth(self._end_values)[:, None]
        lengths = np.linalg.norm(ends[0::2] - ends[1::2], axis=1)
        if self._has_height:
            points = self._ground * depth(self._ground_values)[:, None]
            lengths = np.append(lengths, _distance_of_plane(points))
        return lengths

    def log_ratios(self, depth: Callable[[Floats], Floats]) -> Floats:
        """(M,): log(measured / known)."""
        return np.log(np.maximum(self.measured(depth), 1e-12) / self.known_metres)


def scale_and_offset(
    x: Floats,
    y: Floats,
    weights: Floats,
    measures: Measures,
    span: tuple[float, float],
    usual: float,
) -> tuple[float, float]:
    """(a, c) of z = a (d + c), from points at map values x and depths y, and from measures.

    span: the map's least and greatest value. usual: the c to prefer where several fit equally,
    as lengths that all lie at one depth leave it open. All log ratios count by their distance to
    their median (least absolute deviations), which bears some that are wrong.
    """
    all_weights = np.concatenate([weights / weights.mean() if len(x) else weights,
                                  np.ones(len(measures))])  # fmt: skip

    def ratios(c: float) -> Floats:
        points = np.log(np.maximum(x + c, 1e-12) / y)
        return np.concatenate([points, measures.log_ratios(lambda d: np.maximum(d + c, 1e-12))])

    def cost(log_gap: float) -> float:
        found = ratios(np.exp(log_gap) - span[0])
        deviation = all_weights * np.abs(found - weighted_median(found, all_weights))
        return float(deviation.mean() + 1e-3 * abs(log_gap - np.log(usual + span[0])))

    # c = gap - least value: the nearest pixel is then a * gap away, from 1 % of the relief on.
    relief = span[1] - span[0]
    gaps = np.log(relief) + np.linspace(np.log(0.01), np.log(100), 81)
    costs = [cost(gap) for gap in gaps]
    best = int(np.argmin(costs))
    low, high = gaps[max(best - 1, 0)], gaps[min(best + 1, len(gaps) - 1)]
    for _ in range(30):  # golden section
        left, right = high - 0.618 * (high - low), low + 0.618 * (high - low)
        if cost(left) < cost(right):
            high = right
        else:
            low = left
    c = float(np.exp((low + high) / 2) - span[0])
    return float(np.exp(-weighted_median(ratios(c), all_weights))), c


def _lower_quarter(size: tuple[int, int]) -> Floats:
    height, width = size
    rows = height * (0.75 + 0.25 * (np.arange(_GROUND_GRID[0]) + 0.5) / _GROUND_GRID[0])
    columns = width * (np.arange(_GROUND_GRID[1]) + 0.5) / _GROUND_GRID[1]
    grid = np.meshgrid(columns, rows)
    return np.stack(grid, axis=-1).reshape(-1, 2)


def _distance_of_plane(points: Floats) -> float:
    """The camera's distance from the plane that most of the points (K, 3) lie in.

    A plane is m . p = 1 with 1 / |m| its distance, linear in m; points off it, such as feet and
    furniture, lose their weight.
    """
    w = np.ones(len(points))
    m = np.zeros(3)
    for _ in range(15):
        weighted = points * w[:, None]
        # The ridge holds where the given pixels are on a line.
        m = np.linalg.solve(
            weighted.T @ points + 1e-9 * np.trace(weighted.T @ points) * np.eye(3),
            weighted.sum(axis=0),
        )
        r = points @ m - 1
        w = biweight(r, max(1.4826 * float(np.median(np.abs(r))), 1e-4)) + 1e-6
    return 1 / max(float(np.linalg.norm(m)), 1e-12)
