"""What a user knows of a scene's distances, in one type. Needs numpy alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MarigoldError
from ..geometry.points import intrinsics

# More is a dense depth map of 8 megapixels; no fit needs that many.
MAX_POINTS = 8_000_000
_NO_POINTS = np.empty((0, 2))
_NO_LENGTHS = np.empty((0, 5))


@dataclass(frozen=True, eq=False)
class KnownDepths:
    """Known distances in one picture, for `fit_metric` and guided sampling.

    positions: (N, 2) float64, (x, y) in picture pixels: the picture spans [0, width] x
        [0, height], so that both a pixel's column and row and a position within it (COLMAP's,
        centres at + 0.5) name that pixel.
    metres: (N,) float64 > 0, depth along the camera's axis (z), not along the ray; a distance
        from the camera is turned into it by `along_rays`.
    weights: (N,) float64 > 0, how much to trust each, as 1 / variance up to a common factor;
        None = equally.
    size: (height, width) of the picture; None = the depth map's.
    lengths: (M, 5) float64, (x1, y1, x2, y2, metres): the distance in space between two pixels.
    camera_height: metres above the ground, or None.
    ground: (K, 2) float64, K >= 3: pixels on the ground, for `camera_height`; empty = the lower
        quarter of the picture.
    fov_degrees: the camera's field of view across the longer side, where the source knows it.
    in_metres: False for a reconstruction without a scale, whose `metres` are its own units;
        known lengths and the camera's height stay in metres.

    Raises MarigoldError, one clear message, for other shapes, positions outside the picture,
    distances that are not above 0 or not finite, and too many points.
    """

    positions: NDArray[np.float64]
    metres: NDArray[np.float64]
    weights: NDArray[np.float64] | None = None
    size: tuple[int, int] | None = None
    lengths: NDArray[np.float64] | None = None
    camera_height: float | None = None
    ground: NDArray[np.float64] | None = None
    fov_degrees: float | None = None
    in_metres: bool = True

    def __post_init__(self) -> None:
        positions = _floats("positions", self.positions, 2)
        metres = _floats("distances", self.metres, None)
        weights = _floats("weights", np.ones(len(metres)) if self.weights is None else self.weights)
        lengths = _floats("known lengths", _NO_LENGTHS if self.lengths is None else self.lengths, 5)
        ground = _floats("ground pixels", _NO_POINTS if self.ground is None else self.ground, 2)
        if not len(positions) == len(metres) == len(weights):
            raise MarigoldError(
                f"There are {len(positions)} positions, {len(metres)} distances and {len(weights)}"
                " weights; each known point has one of each."
            )
        if len(metres) > MAX_POINTS:
            raise MarigoldError(
                f"There are {len(metres)} known points, more than the {MAX_POINTS} allowed; leave"
                " some out."
            )
        behind = "Known point {} is at {:g}, behind the camera; a distance is above 0"
        _check_all(metres >= 0, metres, behind)
        for values, name in ((metres, "known point"), (lengths[:, 4], "known length")):
            _check_all(values > 0, values, f"{name} {{}} is at {{:g}}; a distance is above 0")
        _check_all(weights > 0, weights, "Known point {} has the weight {:g}; weights are above 0")
        if self.camera_height is not None and not 0 < self.camera_height < math.inf:
            raise MarigoldError(
                f"The camera's height is {self.camera_height}; give metres above the ground."
            )
        if 0 < len(ground) < 3:
            raise MarigoldError(
                f"There are {len(ground)} ground pixels; a plane takes three or more, or none for"
                " the lower quarter of the picture."
            )
        if self.size is not None:
            for name, points in (
                ("Known point", positions),
                ("An end of known length", lengths[:, :2]),
                ("An end of known length", lengths[:, 2:4]),
                ("Ground pixel", ground),
            ):
                _check_inside(points, self.size, name)
        for field, value in (
            ("positions", positions),
            ("metres", metres),
            ("weights", weights),
            ("lengths", lengths),
            ("ground", ground),
        ):
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        """The number of known points."""
        return len(self.metres)

    @classmethod
    def along_rays(
        cls,
        positions: ArrayLike,
        distances: ArrayLike,
        size: tuple[int, int],
        fov_degrees: float,
        **others: Any,
    ) -> KnownDepths:
        """Distances from the camera itself, as a tape or a laser measures them.

        The arguments of KnownDepths, but `distances` (N,) run along the rays of a camera of
        `fov_degrees` across the longer side of a picture of `size` (height, width).
        """
        places = _floats("positions", positions, 2)
        along = _floats("distances", distances)
        if len(places) != len(along):
            raise MarigoldError(f"There are {len(places)} positions and {len(along)} distances.")
        depth = along / np.linalg.norm(rays(places, size, fov_degrees), axis=1)
        return cls(places, depth, size=size, fov_degrees=fov_degrees, **others)

    def scaled(self, factor: float) -> KnownDepths:
        """The points' distances times `factor`, metres per unit; from then on in metres."""
        if not 0 < factor < math.inf:
            raise MarigoldError(f"The scale of the known points is {factor}; it must be above 0.")
        return replace(self, metres=self.metres * factor, in_metres=True)

    def pixels(
        self, shape: tuple[int, int], positions: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(rows, columns) in a depth map of `shape` at `positions` (None = the points' own).

        The map may have another size than the picture, not another shape. Raises MarigoldError
        for another shape, and for positions outside it where `size` is None.
        """
        height, width = shape if self.size is None else self.size
        expected = height / width * shape[1]
        if abs(expected - shape[0]) > 1 + 0.02 * shape[0]:
            raise MarigoldError(
                f"The known depths are of a picture of {width}x{height} and the depth map has"
                f" {shape[1]}x{shape[0]}: their shapes differ, so they do not belong together."
            )
        if positions is None:
            positions = self.positions
        _check_inside(positions, (height, width), "Known point")
        columns = np.minimum(positions[:, 0] / width * shape[1], shape[1] - 1).astype(np.int64)
        rows = np.minimum(positions[:, 1] / height * shape[0], shape[0] - 1).astype(np.int64)
        return rows, columns


def rays(
    positions: NDArray[np.float64], size: tuple[int, int], fov_degrees: float
) -> NDArray[np.float64]:
    """(N, 2) picture positions -> (N, 3) rays (x, y, 1), so that a camera point is z * ray."""
    k = intrinsics(*size, fov_degrees)
    return np.column_stack([(positions - k[:2, 2]) / k[0, 0], np.ones(len(positions))])


def _floats(name: str, values: Any, columns: int | None = None) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise MarigoldError(f"The {name} are not numbers.") from None
    if columns is not None and not array.size:
        array = array.reshape(0, columns)
    wanted = 1 if columns is None else 2
    if array.ndim != wanted or (columns is not None and array.shape[1] != columns):
        shape = "(N,)" if columns is None else f"(N, {columns})"
        raise MarigoldError(f"The {name} have the shape {array.shape}; it must be {shape}.")
    if not np.isfinite(array).all():
        raise MarigoldError(f"The {name} have values that are NaN or infinite; leave those out.")
    return array


def _check_all(good: NDArray[np.bool_], values: NDArray[np.float64], message: str) -> None:
    """Name the first that is not good, counted from 1 as a user counts."""
    if not good.all():
        first = int(np.argmin(good))
        text = message.format(first + 1, values[first])
        raise MarigoldError(text[0].upper() + text[1:] + ".")


def _check_inside(points: NDArray[np.float64], size: tuple[int, int], name: str) -> None:
    height, width = size
    inside = ((points >= 0) & (points <= (width, height))).all(axis=1)
    if not inside.all():
        first = int(np.argmin(inside))
        x, y = points[first]
        others = int((~inside).sum()) - 1
        more = f" (and {others} more)" if others else ""
        raise MarigoldError(
            f"{name} {first + 1} at x = {x:g}, y = {y:g} lies outside the picture of"
            f" {width}x{height} pixels{more}."
        )
