"""What lies behind the foreground: sharp depth edges and a filled background layer.

A mesh of one picture is torn where the foreground ends, and each tear is a hole. `sharpen_edges`
moves every pixel of a soft edge to one of its two sides, so that a tear is one pixel wide;
`background_layer` continues the far side of each tear behind the near one, in depth and in colour,
as "Shih et al., 3D Photography using Context-aware Layered Depth Inpainting" (CVPR 2020) does,
with a diffusion fill in place of its networks. Needs only numpy, as `geometry`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .points import FOV_DEGREES, intrinsics

# The corners of all quads of a grid: top left, bottom left, bottom right, top right.
CORNERS = (np.s_[:-1, :-1], np.s_[1:, :-1], np.s_[1:, 1:], np.s_[:-1, 1:])
# The layer's longest reach in focal lengths: about the whole picture at the default field of view.
MOST_PARALLAX = 1.0
# Pixels between the neighbours that are averaged, and in how many rounds.
SMOOTHING = ((16, 2), (8, 3), (4, 3), (2, 3), (1, 3))

Floats = NDArray[np.float32]
Colours = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class BackgroundLayer:
    """A second depth map behind the first one, on the same pixels.

    distance: (H, W) float32; NaN where there is no layer. Never nearer than the map itself.
    colours: (H, W, 3) uint8, the picture with the layer's colours filled in; None without one.
    reach: (H, W) float32, 0 at the edge of the foreground to 1 at the end of the layer.
    torn: (H - 1, W - 1) bool, the quads across an edge; the layer shows the picture itself there.
    quads: (H - 1, W - 1) bool, all quads of the layer, the torn ones included.
    """

    distance: Floats
    colours: Colours | None
    reach: Floats
    torn: NDArray[np.bool_]
    quads: NDArray[np.bool_]


def torn_quads(distance: Floats, tear_ratio: float) -> NDArray[np.bool_]:
    """(H - 1, W - 1) bool: the furthest corner is more than `tear_ratio` times as far as the
    nearest. False at corners that are not finite: a hole of the map is no edge."""
    corners = [distance[corner] for corner in CORNERS]
    with np.errstate(invalid="ignore"):
        ratio = np.maximum.reduce(corners) > np.float32(tear_ratio) * np.minimum.reduce(corners)
    return ratio & np.isfinite(np.sum(corners, axis=0))


def sharpen_edges(
    distance: Floats, tear_ratio: float, colours: Colours | None = None, radius: int = 3
) -> Floats:
    """Distances (H, W) with each pixel of a soft edge on one of its two sides.

    A pixel is changed where the distances within `radius` pixels differ by more than the steepest
    surface that is not torn, where its own lies between them, and where it belongs to no surface:
    at most two of its eight neighbours are as far. It takes the mean distance of the near or of
    the far pixels around it: of the side that its distance is closer to, and its colour. Pixels
    that are not finite are left alone and ignored.
    """
    height, width = distance.shape
    padded = np.pad(distance, radius, mode="edge")
    row = padded.shape[1]
    low, high = _window(np.fmin, padded, radius), _window(np.fmax, padded, radius)
    with np.errstate(invalid="ignore"):
        share = (distance - low) / (high - low)
        soft = (high > low * (1 + 2 * radius * (tear_ratio - 1))) & (np.abs(share - 0.5) < 0.4)
    edge = np.flatnonzero(soft)
    centre = (edge // width + radius) * row + edge % width + radius
    square = np.add.outer(np.arange(-1, 2) * row, np.arange(-1, 2)).ravel()
    own, nine = distance.ravel()[edge, None], padded.ravel()[centre[:, None] + square]
    with np.errstate(invalid="ignore"):
        alone = (np.abs(nine - own) <= (tear_ratio - 1) * own).sum(axis=1) <= 3
    edge, centre = edge[alone], centre[alone]
    if not edge.size:
        return distance

    window = np.arange(-radius, radius + 1)
    places = centre[:, None] + np.add.outer(window * row, window).ravel()
    around = padded.ravel()[places]
    near, far = low.ravel()[edge, None], high.ravel()[edge, None]
    with np.errstate(invalid="ignore"):
        around_share = (around - near) / (far - near)  # 0 on the near side, 1 on the far side
    sides = [around_share < 0.25, around_share > 0.75]
    farness = share.ravel()[edge]
    if colours is not None:
        framed = np.pad(colours, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
        seen = framed.reshape(-1, 3)[places].astype(np.float32)
        mine = colours.reshape(-1, 3)[edge].astype(np.float32)
        gap = [np.abs(_mean(seen, side[..., None]) - mine).sum(axis=1) for side in sides]
        farness = farness + 0.5 * (gap[0] - gap[1]) / (gap[0] + gap[1] + 30)
    # Neighbours decide together, for a smooth outline.
    field = np.full(padded.shape, np.nan, dtype=np.float32)
    field.ravel()[centre] = farness
    agreed = np.nanmean(field.ravel()[centre[:, None] + square], axis=1)
    result = distance.copy()
    result.ravel()[edge] = np.where(agreed < 0.5, *(_mean(around, side) for side in sides))
    return result


def background_layer(
    distance: Floats,
    tear_ratio: float,
    colours: Colours | None = None,
    *,
    fov_degrees: float = FOV_DEGREES,
    orbit_degrees: float = 15.0,
) -> BackgroundLayer:
    """Continue the background behind each edge of the foreground of distances (H, W).

    fov_degrees: across the longer side of the map. orbit_degrees: the layer reaches as far as the
    edge uncovers it where the camera moves by this angle around the middle of the scene (the point
    at the median distance on its axis) or around the edge itself; see `parallax`. So a small step
    has a short layer. It also ends where the foreground meets it, as feet meet the ground, and at
    the map's border. Depth and colours are those of the nearest pixel of the far side, smoothed.
    """
    torn = torn_quads(distance, tear_ratio)
    height, width = distance.shape
    front = np.pad(distance, 1, constant_values=np.nan).ravel()
    near, far = _sides(distance, torn)
    row = width + 2
    beside = np.array([-row, row, -1, 1, -row - 1, -row + 1, row - 1, row + 1])
    given = np.zeros((front.size, 1 if colours is None else 4), dtype=np.float32)
    given[:, 0] = front
    if colours is not None:
        given[:, 1:] = np.pad(colours, ((1, 1), (1, 1), (0, 0))).reshape(-1, 3)
    seeds = _seeds(front, near, given, beside, tear_ratio)
    middle = np.float32(np.nanmedian(distance)) if near.size else np.float32(0)
    pivot = np.maximum(middle, np.sqrt(front[near] * seeds[:, 0]))
    uncovered = parallax(front[near], seeds[:, 0], pivot, orbit_degrees)
    reach = intrinsics(height, width, fov_degrees)[0, 0] * uncovered.clip(0, MOST_PARALLAX)
    # The smoothed layer is as deep as its neighbourhood, and an orbit uncovers as much of it.
    for _ in range(SMOOTHING[0][0]):
        reach = _greatest_beside(near, reach, beside, front.size)

    source, steps = _grow(front, near, seeds[:, 0], reach, beside, tear_ratio)
    inside = np.flatnonzero(steps)
    values = np.full_like(given, np.nan)
    values[far] = given[far]
    values[inside] = seeds[source[inside]]
    _smooth(values, inside, row)
    values[inside, 0] = np.maximum(values[inside, 0], front[inside] * np.float32(tear_ratio))

    kept = np.zeros(front.size, dtype=bool)
    kept[inside] = True
    kept = kept.reshape(height + 2, row)[1:-1, 1:-1]
    values = values.reshape(height + 2, row, -1)[1:-1, 1:-1]
    filled = None
    if colours is not None:
        filled = colours.copy()
        filled[kept] = np.rint(values[kept][:, 1:].clip(0, 255)).astype(np.uint8)
    whole = np.logical_and.reduce([kept[corner] for corner in CORNERS])
    share = np.zeros(front.size, dtype=np.float32)
    share[inside] = np.minimum(steps[inside] / np.maximum(reach[source[inside]], 1), 1)
    share = share.reshape(height + 2, row)[1:-1, 1:-1]
    return BackgroundLayer(values[..., 0].copy(), filled, share.copy(), torn, whole | torn)


def parallax(near: Floats, far: Floats, pivot: Floats, orbit_degrees: float) -> Floats:
    """How much of the far side of an edge an orbit uncovers, in the first camera's picture and in
    units of its focal length.

    near, far, pivot: distances of the two sides and of the point on the axis that the camera moves
    around, by `orbit_degrees`. The camera is then at c = pivot * (sin, 1 - cos) of the angle; the
    line from there through the edge (0, near) meets the distance far at x = c_x (near - far) /
    (near - c_z), which the first camera sees at x / far. Infinite where the camera passes the edge.
    """
    angle = math.radians(orbit_degrees)
    beside, ahead = pivot * math.sin(angle), pivot * (1 - math.cos(angle))
    with np.errstate(divide="ignore"):
        uncovered = beside * (1 - near / far) / np.maximum(near - ahead, 0)
    return uncovered.astype(np.float32)


def _sides(
    distance: Floats, torn: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pixels on the near side of an edge, and those that are only on its far side: indices
    into a flat array with a border of one pixel."""
    corners = [distance[corner] for corner in CORNERS]
    with np.errstate(invalid="ignore"):
        middle = np.sqrt(np.minimum.reduce(corners) * np.maximum.reduce(corners))
    is_near = np.zeros((distance.shape[0] + 2, distance.shape[1] + 2), dtype=bool)
    is_far = is_near.copy()
    for corner, z in zip(CORNERS, corners, strict=True):
        is_near[1:-1, 1:-1][corner] |= torn & (z < middle)
        is_far[1:-1, 1:-1][corner] |= torn & (z >= middle)
    return np.flatnonzero(is_near), np.flatnonzero(is_far & ~is_near)


def _greatest_beside(
    places: NDArray[np.int64], values: Floats, beside: NDArray[np.int64], size: int
) -> Floats:
    """The greatest of each place's and its neighbours' values, among `places`."""
    field = np.zeros(size, dtype=np.float32)
    field[places] = values
    return np.maximum.reduce([values, *(field[places + shift] for shift in beside)])


def _seeds(
    front: Floats,
    near: NDArray[np.int64],
    given: Floats,
    beside: NDArray[np.int64],
    tear_ratio: float,
) -> Floats:
    """For each near pixel the depth and the colour of the far side. The colour is that of two
    pixels behind the edge where that is the same surface: those at an edge are mixed."""
    total = np.zeros((len(near), given.shape[1]), dtype=np.float32)
    count = np.zeros((len(near), 1), dtype=np.float32)
    furthest = np.fmax.reduce([front[near + shift] for shift in beside])
    middle = np.sqrt(front[near] * furthest)
    for shift in beside:
        next_to = front[near + shift]
        beyond = np.clip(near + 3 * shift, 0, len(front) - 1)
        with np.errstate(invalid="ignore"):
            is_far = next_to > middle
            same = np.abs(front[beyond] - next_to) < next_to * (tear_ratio - 1)
        value = given[np.where(same, beyond, near + shift)]
        value[:, 0] = next_to
        total[is_far] += value[is_far]
        count[is_far] += 1
    return total / count


def _grow(
    front: Floats,
    near: NDArray[np.int64],
    depth: Floats,
    reach: Floats,
    beside: NDArray[np.int64],
    tear_ratio: float,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Breadth first from the near pixels: of each pixel its seed, and the steps from there on."""
    source = np.zeros(front.size, dtype=np.int64)
    steps = np.zeros(front.size, dtype=np.int32)
    visited = ~np.isfinite(front)  # the border and the holes never join
    source[near], steps[near], visited[near] = np.arange(len(near)), 1, True
    last, order = near, np.zeros(front.size, dtype=np.int64)
    for step in range(2, int(reach.max(initial=0)) + 1):
        shifts = beside[: 4 if step % 2 else 8]  # alternating, the reach is nearly round
        places = (last[:, None] + shifts).ravel()
        seed = np.repeat(source[last], len(shifts))
        free = ~visited[places] & (reach[seed] >= step)
        free &= front[places] * np.float32(tear_ratio) < depth[seed]
        places, seed = places[free], seed[free]
        numbers = np.arange(len(places))
        order[places] = numbers
        once = order[places] == numbers
        last = places[once]
        source[last], steps[last], visited[last] = seed[once], step, True
        if not last.size:
            break
    return source, steps


def _smooth(values: Floats, places: NDArray[np.int64], width: int) -> None:
    """Means of four neighbours, first distant ones, then close ones; unknown ones have no part."""
    known = np.isfinite(values[:, 0])
    filled = np.where(known[:, None], values, 0)
    # Large arrays, made once: their memory takes longer to get than to fill.
    total, other = (np.empty((len(places), values.shape[1]), dtype="f4") for _ in range(2))
    row = f"V{total.itemsize * total.shape[1]}"  # stored as one item, 4 x as quick
    for distance, rounds in SMOOTHING:
        shifts = (-width * distance, width * distance, -distance, distance)
        around = [places + shift for shift in shifts]
        count = np.sum([known.take(there, mode="clip") for there in around], axis=0, dtype="f4")
        weight = np.repeat(1 / (1 + count), values.shape[1]).reshape(total.shape)
        for _ in range(rounds):
            filled.take(places, axis=0, out=total, mode="clip")
            for there in around:
                total += filled.take(there, axis=0, out=other, mode="clip")
            total *= weight
            filled.view(row)[places] = total.view(row)
    values[places] = total


def _window(extreme: Any, padded: Floats, radius: int) -> Floats:
    """fmin or fmax over a square of 2 * radius + 1 pixels."""
    size = 2 * radius
    rows = padded[: padded.shape[0] - size]
    for k in range(1, size + 1):
        rows = extreme(rows, padded[k : padded.shape[0] - size + k])
    result = rows[:, : padded.shape[1] - size]
    for k in range(1, size + 1):
        result = extreme(result, rows[:, k : padded.shape[1] - size + k])
    return result


def _mean(values: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """Over the second axis, of the chosen ones; there is at least one."""
    total = np.where(chosen, values, 0).sum(axis=1)
    return (total / np.maximum(chosen.sum(axis=1), 1)).astype(np.float32)
