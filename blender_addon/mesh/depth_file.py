# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth files read by Blender itself: the door that needs no worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import MarigoldError
from .calibration import placed
from .exr_file import ExrProblem, exr_channels, exr_depth_channel, read_exr_channel

SUFFIXES = (".exr", ".png", ".tif", ".tiff", ".npy")


@dataclass(frozen=True, eq=False)
class DepthFile:
    """depth: (H, W) float32, 0 = near and 1 = far; near, far: its distances where the file holds
    distances, else None."""

    depth: NDArray[np.float32]
    near: float | None = None
    far: float | None = None


def read_depth_file(path: str, *, invert: bool = False) -> DepthFile:
    """An EXR (a renderer's Z before a picture's Y or R), 16-bit or 8-bit PNG, TIFF or NPY file.

    Values in [0, 1] are depth, 0 = near, or disparity's way round with `invert`. Values above 1
    are taken as distances and brought to [0, 1]; not finite and not above 0 is a hole then.
    Raises MarigoldError with the file's name.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise MarigoldError(f"{file.name}: depth files are {', '.join(SUFFIXES)}.")
    if not file.is_file():
        raise MarigoldError(f"{file.name}: there is no such depth file.")
    values = _read_npy(file) if file.suffix.lower() == ".npy" else _read_image(file)
    finite = np.isfinite(values)
    if not finite.any():
        raise MarigoldError(f"{file.name}: no pixel of this depth file is a number.")
    if values[finite].min() >= -1e-3 and values[finite].max() <= 1 + 1e-3:
        return DepthFile(1 - values if invert else values)
    # Distances: renderers write 0 or 1e10 where there is nothing.
    finite &= (values > 0) & (values < 1e9)
    if not finite.any():
        raise MarigoldError(f"{file.name}: nothing in this depth file is in front of the camera.")
    values = np.where(finite, values, np.float32(np.nan))
    return DepthFile(*placed(values, 0, 0, scale_invariant=False, shift_invariant=False))


def _read_npy(file: Path) -> NDArray[np.float32]:
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MarigoldError(f"{file.name} cannot be read as an array: {error}") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        raise MarigoldError(f"{file.name}: a depth array is floating and has the shape (H, W).")
    return values.astype(np.float32)


def _read_z(file: Path, channel: str) -> NDArray[np.float32]:
    try:
        return read_exr_channel(file, channel)
    except ExrProblem as error:
        raise MarigoldError(
            f"{file.name}: its depth channel {channel} {error}; save it as a scan-line OpenEXR"
            " file with ZIP compression."
        ) from error


def _read_image(file: Path) -> NDArray[np.float32]:
    if file.suffix.lower() == ".exr":
        names = exr_channels(file)
        channel = exr_depth_channel(names)
        if channel is not None:
            return _read_z(file, channel)
        if not {"Y", "R"} & set(names):
            raise MarigoldError(
                f"{file.name} has no depth channel (Z, or a layer's Depth.Z) and no channel Y or R,"
                " which Blender reads as a picture; save the depth in one of them."
            )
    try:
        image = bpy.data.images.load(str(file), check_existing=False)
    except RuntimeError as error:
        raise MarigoldError(f"{file.name} cannot be read as a picture.") from error
    try:
        image.colorspace_settings.name = "Non-Color"
        image.alpha_mode = "CHANNEL_PACKED"
        width, height = image.size
        if not (width and height and len(image.pixels)):
            raise MarigoldError(
                f"{file.name} cannot be read as one picture; an EXR file may have one layer."
            )
        pixels = np.empty(width * height * image.channels, dtype=np.float32)
        image.pixels.foreach_get(pixels)
    finally:
        bpy.data.images.remove(image)
    # Blender's rows run from the bottom up.
    return pixels.reshape(height, width, -1)[::-1, :, 0].copy()
