# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth files read by Blender itself, without the engine."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import MarigoldError
from .depth_units import AUTO, DepthFile, depth_of_numbers
from .exr_file import MAX_PIXELS, ExrProblem, exr_channels, exr_depth_channel, read_exr_channel

SUFFIXES = (".exr", ".png", ".tif", ".tiff", ".npy")
# Channels of a grey picture differ by compression alone.
COLOURED = 0.04


def read_depth_file(
    path: str, *, unit: str = AUTO, near: float = 1.0, far: float = 5.0
) -> DepthFile:
    """An EXR (a renderer's Z before a picture's Y or R), PNG, TIFF or NPY file.

    unit, near, far: as in `depth_of_numbers`. Raises MarigoldError with the file's name.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        raise MarigoldError(f"{file.name}: depth files are {', '.join(SUFFIXES)}.")
    if not file.is_file():
        raise MarigoldError(f"{file.name}: there is no such depth file.")
    read = _read_npy if file.suffix.lower() == ".npy" else _read_image
    values, greatest, warning = read(file)
    try:
        found = depth_of_numbers(values, unit, near=near, far=far, greatest=greatest)
    except MarigoldError as error:
        raise MarigoldError(f"{file.name}: {error}") from error
    return replace(found, warning=warning)


def _read_npy(file: Path) -> tuple[NDArray[np.float32], float | None, str]:
    try:
        # Mapped: a header that claims more than the file has takes no memory.
        values = np.load(file, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise MarigoldError(f"{file.name} cannot be read as an array: {error}") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
        raise MarigoldError(f"{file.name}: a depth array has numbers and the shape (H, W).")
    if values.size > MAX_PIXELS:
        raise MarigoldError(f"{file.name} has more than {MAX_PIXELS:,} pixels.")
    greatest = None if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    return values.astype(np.float32), greatest, ""


def _read_image(file: Path) -> tuple[NDArray[np.float32], float | None, str]:
    """The numbers of the file, the greatest that its integers can hold, and a warning."""
    if file.suffix.lower() == ".exr":
        names = exr_channels(file)
        channel = exr_depth_channel(names)
        if channel is not None:
            return _read_z(file, channel), None, ""
        if not {"Y", "R"} & set(names):
            raise MarigoldError(
                f"{file.name} has no depth channel (Z, or a layer's Depth.Z) and no channel Y or R,"
                " which Blender reads as a picture; save the depth in one of them."
            )
    pixels, is_float = file_pixels(file)
    values, warning = pixels[..., 0].copy(), ""
    if pixels.shape[2] >= 3 and np.ptp(pixels[..., :3], axis=2).max() > COLOURED:
        warning = (
            f"{file.name} is a colour picture: its red channel is used as depth; choose a grey"
            " depth map."
        )
    if file.suffix.lower() == ".exr":
        return values, None, warning
    greatest = _greatest(file, is_float)
    if greatest is not None:
        values = np.rint(values * np.float32(greatest))
    return values, greatest, warning


def _read_z(file: Path, channel: str) -> NDArray[np.float32]:
    try:
        return read_exr_channel(file, channel)
    except ExrProblem as error:
        raise MarigoldError(
            f"{file.name}: its depth channel {channel} {error}; save it as a scan-line OpenEXR"
            " file with ZIP compression."
        ) from error


def file_pixels(file: Path) -> tuple[NDArray[np.float32], bool]:
    """(H, W, C), integers scaled to [0, 1]; whether Blender keeps them as floats."""
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
        is_float = image.is_float
    finally:
        bpy.data.images.remove(image)
    # Blender's rows run from the bottom up.
    return pixels.reshape(height, width, -1)[::-1], is_float


def _greatest(file: Path, is_float: bool) -> float | None:
    """The greatest integer of a PNG or TIFF file's pixels; None where they are floats."""
    if not is_float:
        return 255.0
    if file.suffix.lower() == ".png":
        return 65535.0
    with file.open("rb") as stream:
        head = stream.read(8)
        order = ">" if head.startswith(b"MM") else "<"
        (place,) = struct.unpack_from(order + "I", head, 4)
        stream.seek(place)
        table = stream.read(1 << 16)
    count = struct.unpack_from(order + "H", table)[0] if len(table) > 1 else 0
    for k in range(min(count, (len(table) - 2) // 12)):
        tag, _, _, value = struct.unpack_from(order + "HHIH", table, 2 + 12 * k)
        if tag == 0x0153 and value == 3:  # SampleFormat: floating
            return None
    return 65535.0
