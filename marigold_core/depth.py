"""Depth maps: normalisation as a stage of its own, what a run returns, and files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .colormaps import COLORMAPS, colorize
from .depth_files import read_array, to_16_bit, write_array, write_picture, write_uncertainty
from .errors import MarigoldError
from .geometry.grid import depth_to_mesh
from .geometry.mesh import Mesh, PointCloud
from .geometry.points import (
    FAR,
    FOV_DEGREES,
    MAX_VERTICES,
    NEAR,
    depth_to_normals,
    depth_to_points,
)
from .images import read_image
from .normals import NormalMap

if TYPE_CHECKING:
    from .metric.fit import MetricFit

__all__ = ["COLORMAPS", "DepthMap", "colorize", "normalize_depth", "read_depth"]

MODES = ("minmax", "percentile", "fixed", "inverse")

Floats = NDArray[np.floating[Any]]


def normalize_depth(
    depth: Floats,
    *,
    mode: str = "minmax",
    percentiles: Sequence[float] = (2.0, 98.0),
    near: float | None = None,
    far: float | None = None,
    invert: bool = False,
    gamma: float = 1.0,
    mask: NDArray[np.bool_] | None = None,
    clip: bool = True,
) -> NDArray[np.float32]:
    """A depth map (H, W), or (B, H, W) with one range for them all, -> float32 of that shape.

    mode: what becomes 0 and 1.
        "minmax": the least and the greatest value.
        "percentile": the values at the two `percentiles`. The training normalisation of the paper
            (eq. 4) is 2 x - 1 of this, with the valid pixels as the mask.
        "fixed": the values `near` and `far` of the map itself, such as 0.5 and 10 metres; near
            above far turns it round.
        "inverse": disparity, as ControlNet's depth models were trained on. A map in [0, 1] is
            placed at z = near + depth * (far - near), 0 < near < far, and becomes
            (1/z - 1/far) / (1/near - 1/far): near is 1, far is 0. This is not 1 - depth.
    invert, gamma: then x -> 1 - x, and after that x -> x ** gamma.
    mask: bool (H, W) or the map's shape; pixels outside it are ignored for the range, are put
        through the same formula, and count as furthest away where they are not finite.
    clip: to [0, 1]; False leaves values outside the range there (not with a gamma).

    `near` and `far` are used by "fixed" and "inverse" alone. Raises MarigoldError for a constant
    map or an empty mask (there is no range), non-finite pixels inside the mask, and arguments
    outside the above.
    """
    depth = _checked(depth, mode, gamma, clip)
    low, high = _limits(depth, mode, percentiles, near, far, mask)
    x = _position(depth, low, high, clip)
    return _curve(x, mode, near, far, invert, gamma).astype(np.float32)


@dataclass(frozen=True, eq=False)
class DepthMap:
    """The depth of one picture.

    depth: float32 (H, W), 0 = near, 1 = far, unless normalised otherwise.
    uncertainty: float32 (H, W) >= 0 in the units of depth, the spread of the ensemble; None when
        there was one member.
    mask: bool (H, W), True = use this pixel; None = all.
    scale_invariant, shift_invariant: both True: known up to a scale and a shift; scale alone: up
        to a scale; both False: metric, distances along the camera's axis in metres.
    fit: how `fit_metric` made it metric; None otherwise.
    seconds: stage -> seconds it took.

    Other float types are converted. Raises MarigoldError where shapes or types disagree.
    """

    depth: NDArray[np.float32]
    uncertainty: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None
    scale_invariant: bool = True
    shift_invariant: bool = True
    seconds: dict[str, float] = field(default_factory=dict)
    fit: MetricFit | None = None

    def __post_init__(self) -> None:
        depth = np.asarray(self.depth)
        if depth.ndim != 2 or not depth.size or depth.dtype.kind != "f":
            raise MarigoldError(
                f"A depth map is a float array (H, W), not {depth.dtype} of shape {depth.shape}."
            )
        object.__setattr__(self, "depth", depth.astype(np.float32, copy=False))
        if self.uncertainty is not None:
            uncertainty = np.asarray(self.uncertainty)
            if uncertainty.shape != depth.shape or uncertainty.dtype.kind != "f":
                raise MarigoldError(
                    f"The uncertainty is {uncertainty.dtype} of shape {uncertainty.shape}; it must"
                    f" be a float array of the depth's shape {depth.shape}."
                )
            object.__setattr__(self, "uncertainty", uncertainty.astype(np.float32, copy=False))
        if self.mask is not None:
            _check_mask(self.mask, depth.shape)

    def normalize(
        self,
        *,
        mode: str = "minmax",
        percentiles: Sequence[float] = (2.0, 98.0),
        near: float | None = None,
        far: float | None = None,
        invert: bool = False,
        gamma: float = 1.0,
        clip: bool = True,
    ) -> DepthMap:
        """The same picture with `normalize_depth` applied, under this map's mask.

        The uncertainty follows: divided by the range, then times the slope of the curve (inverse,
        gamma) over the part of [0, 1] that it spans. The result's own units are gone, so it
        counts as affine-invariant.
        """
        depth = _checked(self.depth, mode, gamma, clip)
        low, high = _limits(depth, mode, percentiles, near, far, self.mask)
        x = _position(depth, low, high, clip)
        uncertainty = None
        if self.uncertainty is not None:
            spread = self.uncertainty / abs(high - low)
            floor, ceiling = (x - spread).clip(0, 1), (x + spread).clip(0, 1)
            bounds = (_curve(end, mode, near, far, invert, gamma) for end in (floor, ceiling))
            change = abs(np.subtract(*bounds))
            spanned = ceiling - floor
            slope = np.divide(change, spanned, out=np.ones_like(spanned), where=spanned > 0)
            uncertainty = (spread * slope).astype(np.float32)
        return replace(
            self,
            depth=_curve(x, mode, near, far, invert, gamma).astype(np.float32),
            uncertainty=uncertainty,
            scale_invariant=True,
            shift_invariant=True,
            fit=None,
        )

    @property
    def is_metric(self) -> bool:
        """Whether depth is in metres."""
        return not self.scale_invariant and not self.shift_invariant

    def colorize(self, colormap: str = "Spectral") -> NDArray[np.uint8]:
        """uint8 (H, W, 3), RGB; see `colormaps.colorize`. Depth outside [0, 1] is clipped."""
        return colorize(self.depth, colormap)

    def save(
        self,
        path: str | os.PathLike[str],
        colormap: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write the depth; the suffix is the format.

        .png: 16-bit grey, 65535 = 1; of a metric map millimetres, 0 outside the mask.
        .tif, .tiff, .exr (channel Y), .npy: float32 as it is.
        With a `colormap`: an 8-bit colour .png, .jpg, .jpeg or .webp.
        metadata: name -> ASCII text, kept in .png and .exr.
        Raises MarigoldError for another suffix, for depth outside [0, 1] (65.535 m) in the formats
        that cannot hold it, and where .exr finds no OpenEXR; OSError as the file system does.
        """
        if colormap is not None:
            write_picture(path, colorize(_unit_values(self.depth), colormap), metadata)
        elif _suffix(path) == ".png":
            grey = self._millimetres() if self.is_metric else to_16_bit(_unit_values(self.depth))
            write_picture(path, grey, metadata)
        else:
            write_array(path, self.depth, metadata)

    def save_uncertainty(
        self, path: str | os.PathLike[str], colormap: str | None = None, scale: float | None = None
    ) -> float:
        """Write the uncertainty, 0 = sure, in the formats of `save`; returns the scale used.

        In pictures `scale` is the uncertainty that becomes white (or the end of the colour map)
        and all above it; None = the 98th percentile over the mask, so that a few torn edges do
        not blacken the rest, or the greatest where that is 0. Name one to compare pictures.
        Float formats hold it unscaled (scale 1). Raises MarigoldError where there is none.
        """
        if self.uncertainty is None:
            raise MarigoldError(
                "This depth map has no uncertainty; it takes an ensemble of two or more."
            )
        return write_uncertainty(path, self.uncertainty, self.mask, colormap, scale)

    def mesh(
        self,
        image: Any = None,
        *,
        fov_degrees: float = FOV_DEGREES,
        near: float | None = None,
        far: float | None = None,
        tear_ratio: float | None = None,
        max_vertices: int | None = MAX_VERTICES,
        fill: bool = False,
    ) -> Mesh:
        """The depth as a mesh under its mask, with `image` (as for `read_image`) as its texture.

        near, far: the distances of depth 0 and 1; None = 1 and 5. A map whose shift is known has
        its distances in it and takes neither. fill: with a background layer behind the tears, and
        as large as the picture. The rest as in `geometry.grid.depth_to_mesh`.
        """
        near, far = self._near_and_far(near, far)
        return depth_to_mesh(
            self.depth,
            image=None if image is None else read_image(image),
            fov_degrees=fov_degrees,
            near=near,
            far=far,
            tear_ratio=tear_ratio,
            mask=self.mask,
            max_vertices=max_vertices,
            fill=fill,
        )

    def points(
        self,
        image: Any = None,
        *,
        fov_degrees: float = FOV_DEGREES,
        near: float | None = None,
        far: float | None = None,
    ) -> PointCloud:
        """The pixels as points of the camera's space, those of the mask and finite depth alone,
        coloured by `image` (as for `read_image`). near, far: as in `mesh`.

        Raises MarigoldError where no pixel is left, and for a picture of another shape.
        """
        near, far = self._near_and_far(near, far)
        return depth_to_points(
            self.depth,
            image=None if image is None else read_image(image),
            fov_degrees=fov_degrees,
            near=near,
            far=far,
            mask=self.mask,
        )

    def normals(
        self,
        *,
        fov_degrees: float = FOV_DEGREES,
        near: float | None = None,
        far: float | None = None,
    ) -> NormalMap:
        """The normals of the surface that the depth describes, under its mask. near, far: as in
        `mesh`; the rest as in `geometry.depth_to_normals`."""
        near, far = self._near_and_far(near, far)
        normals = depth_to_normals(
            self.depth, fov_degrees=fov_degrees, near=near, far=far, mask=self.mask
        )
        return NormalMap(normals, mask=self.mask)

    def _near_and_far(
        self, near: float | None, far: float | None
    ) -> tuple[float | None, float | None]:
        if self.shift_invariant:
            return NEAR if near is None else near, FAR if far is None else far
        if near is not None or far is not None:
            raise MarigoldError(
                "This depth map holds distances, so near and far are not needed; leave them out."
            )
        return None, None

    def _millimetres(self) -> NDArray[np.uint16]:
        used = np.isfinite(self.depth) & (True if self.mask is None else self.mask)
        farthest = float(self.depth[used].max()) if used.any() else 0.0
        if not farthest < 65.5355:
            raise MarigoldError(
                f"The depth map reaches {farthest:.4g} m, and 16 bits of millimetres end at"
                " 65.535 m; save it as EXR, TIFF or NPY."
            )
        millimetres = np.where(used, self.depth.astype(np.float64) * 1000, 0).clip(0)
        return np.rint(millimetres).astype(np.uint16)


def read_depth(path: str | os.PathLike[str]) -> DepthMap:
    """A file of `DepthMap.save` -> DepthMap; non-finite pixels are left out by its mask.

    .png: grey, 16-bit (65535 = 1) or 8-bit (255 = 1). .tif, .tiff: float32, or grey as in PNG.
    .exr: channel Y, else Z, else R. .npy: a float array (H, W).
    Raises MarigoldError, with the file's name, for all else.
    """
    depth = read_array(path)
    finite = np.isfinite(depth)
    return DepthMap(depth, mask=None if finite.all() else finite)


def _checked(depth: Floats, mode: str, gamma: float, clip: bool) -> NDArray[np.float64]:
    depth = np.asarray(depth)
    if depth.ndim not in (2, 3) or not depth.size or depth.dtype.kind not in "fui":
        raise MarigoldError(
            f"A depth map to normalise is (H, W) or (B, H, W) numbers, not {depth.dtype} of shape"
            f" {depth.shape}."
        )
    if mode not in MODES:
        raise MarigoldError(f"There is no normalisation {mode!r}; choose from {', '.join(MODES)}.")
    if not 0 < gamma < np.inf:
        raise MarigoldError(f"Gamma is {gamma}; it must be above 0.")
    if not clip and (gamma != 1 or mode == "inverse"):
        raise MarigoldError("Gamma and inverse depth are defined on [0, 1] alone; leave clip on.")
    return depth.astype(np.float64)


def _limits(
    depth: NDArray[np.float64],
    mode: str,
    percentiles: Sequence[float],
    near: float | None,
    far: float | None,
    mask: NDArray[np.bool_] | None,
) -> tuple[float, float]:
    """The values of the map that become 0 and 1; checks the pixels that the mask counts."""
    if mask is not None:
        _check_mask(mask, depth.shape)
        values = depth[np.broadcast_to(mask, depth.shape)]
    else:
        values = depth
    if not values.size:
        raise MarigoldError("The mask leaves no pixel of the depth map, so it has no range.")
    if not np.isfinite(values).all():
        raise MarigoldError("The depth map has values that are NaN or infinite; mask them out.")

    if mode in ("fixed", "inverse"):
        if near is None or far is None or not np.isfinite([near, far]).all() or near == far:
            raise MarigoldError(
                f"Mode {mode!r} needs two different numbers near and far, not {near} and {far}."
            )
        if mode == "fixed":
            return float(near), float(far)
        if not 0 < near < far:
            raise MarigoldError(
                f"Inverse depth needs 0 < near < far in metres, not {near} and {far}."
            )
        _unit_values(values)
        return 0.0, 1.0
    if mode == "minmax":
        low, high = values.min(), values.max()
    else:
        if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise MarigoldError(f"Percentiles are 0 <= low < high <= 100, not {percentiles}.")
        low, high = np.percentile(values, percentiles)
    if not high > low:
        raise MarigoldError(
            f"The depth map is constant ({low:g}) over the range asked for, so it cannot be"
            " normalised; choose a fixed range."
        )
    return float(low), float(high)


def _position(
    depth: NDArray[np.float64], low: float, high: float, clip: bool
) -> NDArray[np.float64]:
    # Within the mask all is finite; outside it a hole (sky, no return) counts as far.
    x = (np.where(np.isfinite(depth), depth, high) - low) / (high - low)
    return x.clip(0, 1) if clip else x


def _curve(
    x: NDArray[np.float64],
    mode: str,
    near: float | None,
    far: float | None,
    invert: bool,
    gamma: float,
) -> NDArray[np.float64]:
    if mode == "inverse" and near is not None and far is not None:
        # (1/z - 1/far) / (1/near - 1/far) with z = near + x (far - near), without cancellation.
        x = near * (1 - x) / (near + x * (far - near))
    if invert:
        x = 1 - x
    return x if gamma == 1 else x**gamma


def _check_mask(mask: Any, shape: tuple[int, ...]) -> None:
    mask = np.asarray(mask)
    if mask.dtype != np.bool_ or mask.shape not in (shape, shape[-2:]):
        raise MarigoldError(
            f"The mask is {mask.dtype} of shape {mask.shape}; it must be bool {shape[-2:]}."
        )


def _unit_values(depth: Floats) -> NDArray[np.float32]:
    """Clip the last rounding off; refuse what [0, 1] does not hold."""
    low, high = float(depth.min()), float(depth.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise MarigoldError(
            f"The depth map has values from {low:g} to {high:g}, not in [0, 1]; normalise it first"
            " (or save it as EXR, TIFF or NPY, which hold any number)."
        )
    return depth.clip(0, 1).astype(np.float32)


def _suffix(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(path)[1].lower()
