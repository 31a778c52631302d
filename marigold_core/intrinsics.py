"""Intrinsic images of a picture (albedo, roughness, shading, ...): what a run returns, and files.

Marigold's checkpoints for them: appearance (albedo, roughness, metallicity) and lighting (albedo,
diffuse shading, residual; albedo * shading + residual is the picture in linear light).
Ke et al. 2025 (arXiv 2505.09358).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .depth_files import to_16_bit, write_array, write_exr, write_npy, write_picture
from .errors import MarigoldError

SPACES = ("linear", "srgb")
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class IntrinsicMap:
    """One map of a checkpoint, as its model_index.json describes it.

    latent: which of the decoded pictures holds it. channel: which of that picture's three; None is
    all, a colour map. space: of its values, "linear" or "srgb". up_to_scale: known up to a factor.
    """

    name: str
    latent: int
    channel: int | None = None
    space: str = "linear"
    up_to_scale: bool = False


@dataclass(frozen=True, eq=False)
class IntrinsicImages:
    """The intrinsic images of one picture.

    maps: name -> float32 in [0, 1], (H, W, 3) for colours, (H, W) for grey maps such as roughness,
        in the checkpoint's order, as the checkpoint has them: in the colour space of `spaces`.
        Roughness and metallicity are linear by model_index.json, and are returned as that says and
        as diffusers returns them. The authors' appearance checkpoint was trained on them at the
        power 1 / 2.2, though: `maps["roughness"] ** 2.2` is its estimate of a material's roughness.
    uncertainty: name -> float32 >= 0 of the same shape, the spread of the ensemble; None when there
        was one member.
    spaces: name -> "linear" or "srgb". up_to_scale: the names of maps known up to a factor.
    mask: bool (H, W), True = use this pixel; None = all.
    seconds: stage -> seconds it took.

    Raises MarigoldError where shapes, types or names disagree.
    """

    maps: dict[str, NDArray[np.float32]]
    spaces: dict[str, str]
    uncertainty: dict[str, NDArray[np.float32]] | None = None
    up_to_scale: frozenset[str] = frozenset()
    mask: NDArray[np.bool_] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.maps or self.spaces.keys() != self.maps.keys():
            raise MarigoldError(
                f"The maps are {', '.join(self.maps) or 'none'} and the spaces of "
                f"{', '.join(self.spaces) or 'none'} are given; give a space for each map."
            )
        size = self.size
        for name, values in self.maps.items():
            if values.dtype != np.float32 or values.shape not in (size, (*size, 3)):
                raise MarigoldError(
                    f"The map {name} is {values.dtype} of shape {values.shape}; it must be float32 "
                    f"{(*size, 3)} or {size}."
                )
            if self.spaces[name] not in SPACES:
                raise MarigoldError(
                    f"The space of {name} is {self.spaces[name]!r}; use one of {', '.join(SPACES)}."
                )
        if self.mask is not None and (self.mask.dtype != bool or self.mask.shape != size):
            raise MarigoldError(
                f"The mask is {self.mask.dtype} of shape {self.mask.shape}; it must be bool {size}."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        first = next(iter(self.maps.values()))
        return first.shape[0], first.shape[1]

    def linear(self, name: str) -> NDArray[np.float32]:
        """A map in linear light, as renderers and EXR files have it.

        Grey maps are data and have no curve: they are the same in both spaces.
        """
        return self._in(name, "linear")

    def srgb(self, name: str) -> NDArray[np.float32]:
        """A map with the curve of sRGB, as 8-bit and 16-bit pictures of colours have it.

        The curve is that of IEC 61966-2-1, which programs apply when they read a picture. The
        authors' training data has the power 1 / 2.2 in its place, at most 0.034 away.
        """
        return self._in(name, "srgb")

    def picture(self, name: str) -> NDArray[np.float32]:
        """A map to look at, (H, W, 3) or (H, W) in [0, 1].

        Colours in sRGB, and grey maps, which are data, as they are. A map known up to a scale is
        divided by its largest value under the mask first.
        """
        values = self._map(name)
        if values.ndim == 2:
            return values.clip(0, 1)
        if name in self.up_to_scale:
            light = self.linear(name)
            light = light / max(
                float(light.max() if self.mask is None else light[self.mask].max()), 1e-6
            )
            return linear_to_srgb(light.clip(0, 1))
        return self.srgb(name).clip(0, 1)

    def save(
        self,
        path: str | os.PathLike[str],
        space: str = "linear",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write all maps into one multi-layer .exr: albedo.R, albedo.G, albedo.B, roughness.V, ...

        The uncertainty, where there is one, is in layers of its own: albedo_uncertainty.R, ...
        space: of the values, "linear" as programs expect of EXR, or "srgb"; the header's text
        `colorSpace` names it. Grey maps are data, the same in both. metadata: name -> ASCII text
        for the header. Raises MarigoldError for another suffix or space, and where OpenEXR is
        missing; OSError as the file system does.
        """
        if Path(path).suffix.lower() != ".exr":
            raise MarigoldError(
                f"{Path(path).name}: only .exr holds several maps; use save_map for one of them."
            )
        channels: dict[str, NDArray[np.float32]] = {}
        layers = {name: self._in(name, space) for name in self.maps}
        for name, values in (self.uncertainty or {}).items():
            layers[f"{name}_uncertainty"] = values
        for name, values in layers.items():
            if values.ndim == 2:
                channels[f"{name}.V"] = values
            else:
                channels |= {f"{name}.{c}": values[..., i] for i, c in enumerate("RGB")}
        write_exr(path, channels, {**(metadata or {}), "colorSpace": space})

    def save_map(
        self,
        name: str,
        path: str | os.PathLike[str],
        space: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write one map; the suffix is the format.

        .png: 16-bit, colours in sRGB unless `space` names another. .exr (channels R, G, B, or Y),
        .npy and, for grey maps, .tif and .tiff: float32, linear unless `space` names another. Grey
        maps are data, the same in both. Values are clipped to [0, 1] in .png alone. metadata: name
        -> ASCII text, kept in .png and .exr. Raises MarigoldError for another name, suffix or
        space, and where .exr finds no OpenEXR; OSError as the file system does.
        """
        suffix = Path(path).suffix.lower()
        is_grey = self._map(name).ndim == 2
        if space is None:
            space = "srgb" if suffix == ".png" and not is_grey else "linear"
        values = self._in(name, space)
        _write(path, values, suffix, is_grey, metadata)

    def save_uncertainty(self, name: str, path: str | os.PathLike[str]) -> None:
        """Write one map's uncertainty, 0 = sure, in the formats of `save_map`, unscaled."""
        if self.uncertainty is None:
            raise MarigoldError(
                "These maps have no uncertainty; it takes an ensemble of two or more."
            )
        self._map(name)
        values = self.uncertainty[name]
        _write(path, values, Path(path).suffix.lower(), values.ndim == 2, None)

    def _map(self, name: str) -> NDArray[np.float32]:
        if name not in self.maps:
            raise MarigoldError(f"There is no map {name!r}; there are {', '.join(self.maps)}.")
        return self.maps[name]

    def _in(self, name: str, space: str) -> NDArray[np.float32]:
        values = self._map(name)
        if space not in SPACES:
            raise MarigoldError(f"The space is {space!r}; use one of {', '.join(SPACES)}.")
        if space == self.spaces[name] or values.ndim == 2:  # grey maps are data
            return values
        return srgb_to_linear(values) if space == "linear" else linear_to_srgb(values)


def srgb_to_linear(values: Floats) -> NDArray[np.float32]:
    """The curve of sRGB (IEC 61966-2-1) removed, for values of any shape, 0 or more."""
    values = np.maximum(values, 0)
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


def linear_to_srgb(values: Floats) -> NDArray[np.float32]:
    """The inverse of `srgb_to_linear`."""
    values = np.maximum(values, 0)
    curved = np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)
    return curved.astype(np.float32)


def _write(
    path: str | os.PathLike[str],
    values: NDArray[np.float32],
    suffix: str,
    is_grey: bool,
    metadata: Mapping[str, str] | None,
) -> None:
    writers: dict[str, Callable[[], None]] = {
        ".png": lambda: write_picture(path, to_16_bit(values.clip(0, 1)), metadata),
        ".exr": lambda: write_exr(path, {"Y" if is_grey else "RGB": values}, metadata),
        ".npy": lambda: write_npy(path, values),
    }
    if is_grey:
        writers |= dict.fromkeys((".tif", ".tiff"), lambda: write_array(path, values))
    if suffix not in writers:
        raise MarigoldError(f"{Path(path).name}: this map is written as {', '.join(writers)}.")
    writers[suffix]()
