"""A depth map as a grid mesh, torn at the edges of objects, with the layer behind them.

Needs only numpy. The camera and its axes are those of `points`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MarigoldError
from .fill import CORNERS, background_layer, sharpen_edges
from .mesh import Mesh
from .points import (
    FAR,
    FOV_DEGREES,
    MAX_VERTICES,
    NEAR,
    checked_mask,
    checked_picture,
    default_tear_ratio,
    depth_array,
    distances,
    points_at,
)  # fmt: skip

# Pixels between the picture and the filled one in a texture of both.
GUTTER = 4

Floats = NDArray[np.floating[Any]]


def grid_quads(height: int, width: int) -> NDArray[np.int32]:
    """The quads of a pixel grid, ((H - 1) * (W - 1), 4) int32 indices into its rows.

    Corners: top left, bottom left, bottom right, top right, which is counter-clockwise for the
    camera, so that its side is the front.
    """
    vertices = np.arange(height * width, dtype=np.int32).reshape(height, width)
    return np.stack([vertices[corner] for corner in CORNERS], axis=-1).reshape(-1, 4)


def grid_lines(
    height: int, width: int, max_vertices: int | None = MAX_VERTICES
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows and columns of a map that `depth_to_mesh` keeps, two int64 vectors.

    Evenly spread, first and last among them; all where the map has no more than `max_vertices`
    pixels or that is None. Raises MarigoldError for fewer than 4.
    """
    n_rows, n_columns = height, width
    if max_vertices is not None and height * width > max_vertices:
        if max_vertices < 4:
            raise MarigoldError(f"A mesh of {max_vertices} vertices has no face; allow 4 or more.")
        stride = math.sqrt(height * width / max_vertices)
        n_rows = max(2, int(height / stride))
        n_columns = max(2, min(int(width / stride), max_vertices // n_rows))
        n_rows = min(n_rows, max_vertices // n_columns)
    rows = np.rint(np.linspace(0, height - 1, n_rows)).astype(np.int64)
    columns = np.rint(np.linspace(0, width - 1, n_columns)).astype(np.int64)
    return rows, columns


def grid_coordinates(lines: NDArray[np.int64], pixels: int, *, border: bool = False) -> Floats:
    """Where `lines` of a picture of so many pixels lie, in pixels from its edge: at the pixels'
    centres; with `border` the first and the last at the picture's edges, so that a mesh is as
    large as the picture."""
    coordinates = lines + 0.5
    if border:
        coordinates[0], coordinates[-1] = 0, pixels
    return coordinates


def grid_stride(rows: int, columns: int, height: int, width: int) -> float:
    """How many pixels of a map lie between two of the lines that `grid_lines` keeps."""
    return max((height - 1) / (rows - 1), (width - 1) / (columns - 1))


def grid_uvs(v: Floats, u: Floats, height: int, width: int) -> NDArray[np.float32]:
    """(rows, columns, 2) float32 in [0, 1] at the crossings of `grid_coordinates`, v upwards."""
    uvs = np.empty((len(v), len(u), 2), dtype=np.float32)
    uvs[..., 0], uvs[..., 1] = u / width, (1 - v / height)[:, None]
    return uvs


def at_lines(
    picture: NDArray[np.uint8],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    height: int,
    width: int,
) -> NDArray[np.uint8]:
    """The pixels (rows, columns, 3) of a picture, of any size, at the lines of a map of
    (height, width)."""
    down = ((rows + 0.5) * picture.shape[0] / height).astype(np.int64)
    across = ((columns + 0.5) * picture.shape[1] / width).astype(np.int64)
    return picture[np.ix_(down, across)]


def depth_to_mesh(
    depth: Floats,
    *,
    image: NDArray[Any] | None = None,
    fov_degrees: float = FOV_DEGREES,
    near: float | None = NEAR,
    far: float | None = FAR,
    tear_ratio: float | None = None,
    mask: NDArray[np.bool_] | None = None,
    max_vertices: int | None = MAX_VERTICES,
    border: bool = False,
    fill: bool = False,
) -> Mesh:
    """Depth map (H, W), 0 = near and 1 = far -> Mesh, one vertex a pixel.

    image: (h, w, 3) uint8 or float in [0, 1], the texture; any size of the same shape.
    near, far: the distances of depth 0 and 1, 0 < near < far; both None: depth is distance, along
        the camera's axis.
    tear_ratio: a face whose furthest corner is more than this many times as far as its nearest
        is left out; None = `default_tear_ratio`, infinity = never.
    mask: (H, W) bool, True = use this pixel. Faces at unused or non-finite pixels are left out.
    max_vertices: a larger map is thinned to every n-th pixel, its borders kept (picked, not
        averaged: an average across an edge hangs in the air); None = never.
    border: the mesh ends at the picture's edges, not at the centres of its outer pixels.
    fill: the picture's own camera sees no hole. Depth edges are sharpened, guided by the image;
        behind each tear a background layer continues the far side, in depth and colour (see
        `fill.background_layer`), with faces and vertices after the others; and `border` holds.
        The texture is the image and, mirrored below or beside it, the image with the filled
        colours.

    Raises MarigoldError for maps under 2x2, for values outside these ranges, and when no face
    is left.
    """
    depth = depth_array(depth)
    height, width = depth.shape
    if height < 2 or width < 2:
        raise MarigoldError(
            f"A depth map of {width}x{height} pixels has no faces; a mesh needs at least 2x2."
        )
    rows, columns = grid_lines(height, width, max_vertices)
    stride = grid_stride(len(rows), len(columns), height, width)
    if tear_ratio is None:
        tear_ratio = default_tear_ratio(height, width, fov_degrees, stride)
    if not tear_ratio > 1:
        raise MarigoldError(f"The tear ratio is {tear_ratio}; it must be greater than 1.")

    lines = np.ix_(rows, columns)
    z = distances(depth[lines], near, far)
    usable = np.isfinite(z) & (z > 0)
    if mask is not None:
        usable &= checked_mask(mask, depth.shape)[lines]
    picture = None if image is None else checked_picture(image, height, width)
    layer = None
    if fill:
        colours = None if picture is None else at_lines(picture, rows, columns, height, width)
        z = sharpen_edges(np.where(usable, z, np.float32(np.nan)), tear_ratio, colours)
        layer = background_layer(z, tear_ratio, colours, fov_degrees=fov_degrees)
        layer = layer if layer.torn.any() else None

    v = grid_coordinates(rows, height, border=border or fill)
    u = grid_coordinates(columns, width, border=border or fill)
    uvs = grid_uvs(v, u, height, width).reshape(-1, 2)
    filled_uvs = uvs
    if picture is not None and layer is not None and layer.colours is not None:
        down = _nearest(v, height, picture.shape[0])
        filled = layer.colours[np.ix_(down, _nearest(u, width, picture.shape[1]))]
        picture, uvs, filled_uvs = _both_pictures(picture, filled, uvs)
    quads = grid_quads(len(rows), len(columns))
    points = points_at(z, v, u, depth.shape, fov_degrees).reshape(-1, 3)
    parts = [(quads[whole_faces(z, usable, tear_ratio).ravel()], points, uvs)]
    if layer is not None:
        behind = points_at(layer.distance, v, u, depth.shape, fov_degrees).reshape(-1, 3)
        # The quads across an edge show the picture itself, as the camera sees it.
        parts.append((quads[layer.torn.ravel()], behind, uvs))
        parts.append((quads[(layer.quads & ~layer.torn).ravel()], behind, filled_uvs))
    pixels = (rows[:, None] * width + columns).ravel()
    return textured_mesh(parts, pixels, (height, width), fov_degrees, picture)


def textured_mesh(
    parts: list[tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]],
    pixels: NDArray[np.int64],
    size: tuple[int, int],
    fov_degrees: float,
    texture: NDArray[np.uint8] | None,
) -> Mesh:
    """The mesh of some parts over the same `pixels` (V,), each with quads (Q, 4), points (V, 3)
    and texture coordinates (V, 2), and no vertices beside those of its quads. Raises MarigoldError
    where no quad is left."""
    used = [_vertices_of(corners, len(pixels)) for corners, _, _ in parts]
    if not sum(map(len, used)):
        raise MarigoldError(
            "No face is left: everything was torn or masked. Raise the tear ratio or widen the"
            " mask."
        )
    chosen = list(zip(used, parts, strict=True))
    return Mesh(
        vertices=np.concatenate([points[vertices] for vertices, (_, points, _) in chosen]),
        faces=_renumbered([corners for corners, _, _ in parts], used),
        uvs=np.concatenate([uvs[vertices] for vertices, (_, _, uvs) in chosen]),
        pixels=pixels[np.concatenate(used)],
        size=size,
        fov_degrees=float(fov_degrees),
        texture=texture,
    )


def _vertices_of(faces: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    used = np.zeros(count, dtype=bool)
    used[faces] = True
    return np.flatnonzero(used)


def _renumbered(parts: list[NDArray[np.int32]], used: list[NDArray[np.int64]]) -> NDArray[np.int32]:
    """The faces of all parts, where the vertices of each part that are `used` follow the last's."""
    faces, count = [], 0
    for corners, vertices in zip(parts, used, strict=True):
        place = np.zeros(int(vertices.max(initial=-1)) + 1, dtype=np.int32)
        place[vertices] = np.arange(count, count + len(vertices))
        faces.append(place[corners])
        count += len(vertices)
    return np.concatenate(faces)


def _nearest(coordinates: Floats, length: int, pixels: int) -> NDArray[np.intp]:
    """For each of so many pixels across `length` the number of the nearest coordinate."""
    centres = (np.arange(pixels) + 0.5) * length / pixels
    return np.searchsorted((coordinates[1:] + coordinates[:-1]) / 2, centres)


def _both_pictures(
    picture: NDArray[np.uint8], filled: NDArray[np.uint8], uvs: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """One texture with `picture` and, mirrored below it (beside a portrait), `filled`, and where
    the coordinates `uvs` of a picture lie in either. Between them each continues by a few pixels,
    so that a smaller mip level mixes no colours of the other."""
    axis = 0 if picture.shape[0] <= picture.shape[1] else 1
    gutter = [(0, 0)] * 3
    gutter[axis] = (0, GUTTER)
    first, second = (np.pad(part, gutter, mode="edge") for part in (picture, filled))
    texture = np.concatenate([first, np.flip(second, axis)], axis=axis)
    share = np.float32(picture.shape[axis] / texture.shape[axis])
    ours, theirs = uvs.copy(), uvs.copy()
    if axis == 0:  # v runs upwards
        theirs[:, 1] = (1 - uvs[:, 1]) * share
        ours[:, 1] = 1 - theirs[:, 1]
    else:
        ours[:, 0] = uvs[:, 0] * share
        theirs[:, 0] = 1 - ours[:, 0]
    return texture, ours, theirs


def whole_faces(
    z: NDArray[np.float32], usable: NDArray[np.bool_], tear_ratio: float
) -> NDArray[np.bool_]:
    """(H - 1, W - 1) bool: faces with four usable corners whose distances are within the ratio."""
    z = np.where(usable, z, np.float32(1))
    whole = np.logical_and.reduce([usable[corner] for corner in CORNERS])
    if math.isfinite(tear_ratio):
        furthest = np.maximum.reduce([z[corner] for corner in CORNERS])
        nearest = np.minimum.reduce([z[corner] for corner in CORNERS])
        whole &= furthest <= nearest * np.float32(tear_ratio)
    return whole
