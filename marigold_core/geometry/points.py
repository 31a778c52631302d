"""Depth into space: the camera, its points and normals.

Needs numpy alone, so that Blender and ComfyUI run this very code. Axes are OpenCV's: x right,
y down, z forward. A pixel in row i, column j has its centre at (u, v) = (j + 0.5, i + 0.5), so
that a picture spans [0, width] x [0, height], its middle is the principal point, and Blender's
matching camera is lens = f * 36 / max(width, height) on a 36 mm sensor with no shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import MarigoldError
from .mesh import PointCloud

FOV_DEGREES = 50.0
NEAR = 1.0
FAR = 5.0
MAX_VERTICES = 1024 * 1024
# A face turned further than this from the camera counts as an edge: a floor survives out to 19
# times the camera's height, and on sensor and rendered depth about 1 to 3 % of the faces go.
STEEPEST_DEGREES = 87.0
_DIAGONAL_35MM = math.hypot(36, 24)
# EXIF's FocalPlaneResolutionUnit -> millimetres: inch, centimetre, millimetre, micrometre.
_RESOLUTION_UNITS = {2.0: 25.4, 3.0: 10.0, 4.0: 1.0, 5.0: 1e-3}

Floats = NDArray[np.floating[Any]]


def intrinsics(height: int, width: int, fov_degrees: float = FOV_DEGREES) -> NDArray[np.float64]:
    """The camera matrix K, (3, 3) float64, in pixels.

    `fov_degrees` spans the longer side, in (0, 180). Square pixels, principal point in the middle
    of the picture, pixel centres at integer + 0.5. Raises MarigoldError.
    """
    if height < 1 or width < 1:
        raise MarigoldError(f"A picture of {width}x{height} pixels has no camera.")
    if not 0 < fov_degrees < 180:
        raise MarigoldError(
            f"The field of view is {fov_degrees} degrees; choose one between 0 and 180."
        )
    focal = max(height, width) / 2 / math.tan(math.radians(fov_degrees) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=np.float64)


class FieldOfView(NamedTuple):
    """An angle in degrees across the picture's longer side, and where it is from: "user", "EXIF",
    "estimate" or "default"."""

    degrees: float
    source: str


def field_of_view(
    height: int,
    width: int,
    *,
    user: float | None = None,
    exif: Mapping[str, float] | None = None,
    estimate: float | None = None,
) -> FieldOfView:
    """The field of view to use for a picture of that size, and its source.

    The first of these that is there: `user`, what the user stated for this picture; `exif`, the
    camera's own record (see `images.read_exif`), where it fits the picture; `estimate`, a
    network's; else the default of 50 degrees. All in degrees across the longer side.

    exif: numbers by their EXIF names. FocalLengthIn35mmFilm counts along the diagonal (43.27 mm),
    which is how cameras fill it in; without it, FocalLength (mm) with FocalPlaneXResolution,
    FocalPlaneResolutionUnit and ExifImageWidth, ExifImageHeight (the picture as it was taken). A
    picture of another shape than the one taken was cropped, and its EXIF angle is not used.
    Raises MarigoldError for a user's or an estimated angle outside (0, 180).
    """
    intrinsics(height, width, FOV_DEGREES if user is None else user)
    if user is not None:
        return FieldOfView(float(user), "user")
    recorded = _exif_degrees(height, width, exif or {})
    if recorded is not None:
        return FieldOfView(recorded, "EXIF")
    if estimate is not None:
        intrinsics(height, width, estimate)
        return FieldOfView(float(estimate), "estimate")
    return FieldOfView(FOV_DEGREES, "default")


def unproject(
    depth: Floats,
    *,
    fov_degrees: float = FOV_DEGREES,
    near: float | None = NEAR,
    far: float | None = FAR,
) -> NDArray[np.float32]:
    """Depth map (H, W), 0 = near and 1 = far -> camera points (H, W, 3) float32.

    z = near + depth * (far - near), in the units of `near` and `far`; with both None the map holds
    z itself. Point = z * ray with
    ray = ((u - cx) / f, (v - cy) / f, 1). Non-finite depth gives non-finite points.
    Raises MarigoldError.
    """
    depth = depth_array(depth)
    v, u = np.arange(depth.shape[0]) + 0.5, np.arange(depth.shape[1]) + 0.5
    return points_at(distances(depth, near, far), v, u, depth.shape, fov_degrees)


def project(
    points: Floats, height: int, width: int, *, fov_degrees: float = FOV_DEGREES
) -> NDArray[np.float64]:
    """Camera points (..., 3) -> picture positions (u, v), (..., 2) float64, in pixels.

    The inverse of `unproject`; a point on the optical centre's plane (z = 0) gives inf or nan.
    """
    k = intrinsics(height, width, fov_degrees)
    points = np.asarray(points, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return points[..., :2] / points[..., 2:] * k[0, 0] + k[:2, 2]


def default_tear_ratio(
    height: int, width: int, fov_degrees: float = FOV_DEGREES, stride: float = 1.0
) -> float:
    """The tear ratio that cuts faces turned more than 87 degrees away from the camera.

    Across a pixel, a surface at incidence t changes its distance by the factor 1 + tan(t) / f.
    A fixed ratio therefore means another slope in every resolution: 1.1 tears a floor in a
    thumbnail and misses the edges, a few pixels soft, of a large map. A fixed slope tears the
    same places in all of them. The bounds keep thumbnails tearing at all, and the 1.6 % steps
    of an 8-bit depth file at the default near and far whole.
    """
    focal = intrinsics(height, width, fov_degrees)[0, 0]
    ratio = 1 + math.tan(math.radians(STEEPEST_DEGREES)) * stride / focal
    return float(min(max(ratio, 1.02), 1.25))


def depth_to_points(
    depth: Floats,
    *,
    image: NDArray[Any] | None = None,
    fov_degrees: float = FOV_DEGREES,
    near: float | None = NEAR,
    far: float | None = FAR,
    mask: NDArray[np.bool_] | None = None,
) -> PointCloud:
    """Depth map (H, W) -> the points of its usable pixels, row by row; see `grid.depth_to_mesh`.

    Raises MarigoldError where no pixel is usable, and for values outside its ranges.
    """
    depth = depth_array(depth)
    z = distances(depth, near, far)
    usable = np.isfinite(z) & (z > 0)
    if mask is not None:
        usable &= checked_mask(mask, depth.shape)
    if not usable.any():
        raise MarigoldError("No point is left: every pixel is masked or has no depth.")
    height, width = depth.shape
    colors = None
    if image is not None:
        texture = checked_picture(image, height, width)
        rows = (np.arange(height) + 0.5) * texture.shape[0] / height
        columns = (np.arange(width) + 0.5) * texture.shape[1] / width
        colors = texture[np.ix_(rows.astype(np.int64), columns.astype(np.int64))][usable]
    points = unproject(depth, fov_degrees=fov_degrees, near=near, far=far)[usable]
    return PointCloud(points, colors)


def depth_to_normals(
    depth: Floats,
    *,
    fov_degrees: float = FOV_DEGREES,
    near: float | None = NEAR,
    far: float | None = FAR,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Depth map (H, W) -> unit normals (H, W, 3) float32 of its surface, towards the camera.

    Axes as Marigold's normals: x right, y up, z towards the viewer. near, far: as in `unproject`.
    The tangents are the differences of the camera points to both neighbours, so that a plane gets
    its exact normal; a neighbour across an edge (`default_tear_ratio`), outside the mask (bool
    (H, W)) or not finite is left out, and a pixel without any faces the camera. Raises
    MarigoldError.
    """
    depth = depth_array(depth)
    z = distances(depth, near, far)
    usable = np.isfinite(z) & (z > 0)
    if mask is not None:
        usable &= checked_mask(mask, depth.shape)
    height, width = depth.shape
    z = np.where(usable, z, np.float32(1))
    v, u = np.arange(height) + 0.5, np.arange(width) + 0.5
    points = points_at(z, v, u, depth.shape, fov_degrees)
    ratio = np.float32(default_tear_ratio(height, width, fov_degrees))
    down, right = (_tangents(points, usable, ratio, axis) for axis in (0, 1))
    # Towards the camera in OpenCV's axes; then y and z turn round.
    normals = np.cross(down, right)
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    # Scaled before it is compared: the tangents of a thumbnail and of a large map differ a lot.
    faces = length > 1e-6 * np.linalg.norm(down, axis=2, keepdims=True) * np.linalg.norm(
        right, axis=2, keepdims=True
    )
    towards = -points / np.linalg.norm(points, axis=2, keepdims=True)
    normals = np.where(faces, normals / np.where(faces, length, 1), towards)
    return (normals * (1, -1, -1)).astype(np.float32)


def _tangents(
    points: NDArray[np.float32], usable: NDArray[np.bool_], ratio: np.float32, axis: int
) -> NDArray[np.float64]:
    """The mean difference of each point to its neighbours along an axis, 0 where there is none."""
    before, after = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
    near, far = points[before][..., 2], points[after][..., 2]
    joined = usable[before] & usable[after]
    joined &= np.maximum(near, far) <= np.minimum(near, far) * ratio
    step = np.diff(points.astype(np.float64), axis=axis) * joined[..., None]
    total = np.zeros(points.shape)
    total[before] += step
    total[after] += step
    return total


def _exif_degrees(height: int, width: int, exif: Mapping[str, float]) -> float | None:
    longer, shorter = max(height, width), min(height, width)
    # A turned picture keeps its longer side, so that orientation does not matter here.
    taken = sorted((exif.get("ExifImageWidth", 0.0), exif.get("ExifImageHeight", 0.0)))
    known = min(taken) > 0
    if known and abs(taken[0] / taken[1] - shorter / longer) > 0.02 * shorter / longer:
        return None
    focal = exif.get("FocalLengthIn35mmFilm", 0.0) * math.hypot(longer, shorter) / _DIAGONAL_35MM
    if not focal > 0 and known:
        unit = _RESOLUTION_UNITS.get(exif.get("FocalPlaneResolutionUnit", 2.0), 0.0)
        per_unit = exif.get("FocalLength", 0.0) * exif.get("FocalPlaneXResolution", 0.0)
        focal = per_unit / unit * longer / taken[1] if unit else 0.0
    if not 0 < focal < math.inf:
        return None
    degrees = math.degrees(2 * math.atan(longer / 2 / focal))
    # Beyond any lens that a picture of this projection is taken with: a wrong record.
    return degrees if 1 <= degrees <= 150 else None


def depth_array(depth: Floats) -> NDArray[np.float32]:
    depth = np.asarray(depth)
    if depth.ndim != 2 or depth.dtype.kind != "f":
        raise MarigoldError(
            f"A depth map is a float array (H, W) with 0 = near and 1 = far, not {depth.dtype}"
            f" {depth.shape}."
        )
    return depth.astype(np.float32, copy=False)


def distances(
    depth: NDArray[np.float32], near: float | None, far: float | None
) -> NDArray[np.float32]:
    if near is None and far is None:
        return depth
    if near is None or far is None or not (0 < near < far < math.inf):
        raise MarigoldError(
            f"Near is {near} and far is {far}; near must be above 0 and far beyond near."
        )
    return np.float32(near) + depth * np.float32(far - near)


def checked_mask(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.asarray(mask)
    if mask.shape != shape or mask.dtype != bool:
        raise MarigoldError(f"The mask is {mask.dtype} {mask.shape}; it must be bool {shape}.")
    return mask


def points_at(
    z: NDArray[np.float32],
    v: Floats,
    u: Floats,
    size: tuple[int, ...],
    fov_degrees: float,
) -> NDArray[np.float32]:
    """z at the crossings of `grid_coordinates` in a map of `size` -> points (..., 3)."""
    k = intrinsics(size[0], size[1], fov_degrees)
    points = np.empty((*z.shape, 3), dtype=np.float32)
    with np.errstate(invalid="ignore"):  # infinite depth, which no face uses, times 0
        points[..., 0] = z * ((u - k[0, 2]) / k[0, 0]).astype(np.float32)
        points[..., 1] = z * ((v - k[1, 2]) / k[1, 1]).astype(np.float32)[:, None]
    points[..., 2] = z
    return points


def checked_picture(image: NDArray[Any], height: int, width: int) -> NDArray[np.uint8]:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise MarigoldError(f"The picture has shape {image.shape}; it must be (H, W, 3), RGB.")
    # The processing size is rounded to whole pixels, hence the tolerance; more is another picture.
    expected = image.shape[0] / image.shape[1] * width
    if abs(expected - height) > 1 + 0.02 * height:
        raise MarigoldError(
            f"The picture is {image.shape[1]}x{image.shape[0]} and the depth map {width}x{height}:"
            " their shapes differ, so they do not belong together."
        )
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f":
        raise MarigoldError(f"The picture is {image.dtype}; it must be uint8, or float in [0, 1].")
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
