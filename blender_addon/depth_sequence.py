# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames of depth on disk, for the live shape to read frame by frame."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from .engine_parts import MarigoldError, atomic_path

_NUMBERED = re.compile(r"^(.*?)(\d+)$")


def numbered_frames(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The one numbered image sequence in a folder, in order.

    Blender plays files that differ in one unbroken number; raises MarigoldError for less.
    """
    runs: dict[tuple[str, str], dict[int, Path]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NUMBERED.match(path.stem)
        if match and path.suffix.lower() in suffixes:
            runs.setdefault((match[1], path.suffix), {})[int(match[2])] = path
    frames = max(runs.values(), key=len, default={})
    if len(frames) < 2:
        raise MarigoldError(
            f"The folder {folder.name} has no image sequence: files such as frame_0001.png,"
            " frame_0002.png."
        )
    numbers = sorted(frames)
    for number, following in zip(numbers, numbers[1:], strict=False):
        if following != number + 1:
            raise MarigoldError(
                f"The image sequence in {folder.name} has a gap between {number} and {following}."
            )
    return [frames[number] for number in numbers]


def frame_number(path: Path) -> int:
    match = _NUMBERED.match(path.stem)
    return int(match[2]) if match else 1


def write_depth_frames(frames: NDArray[np.float32], folder: Path) -> Path:
    """(T, H, W) -> folder/depth_0001.exr and on; returns the first. Raises OSError."""
    for k, frame in enumerate(frames, start=1):
        with atomic_path(folder / f"depth_{k:04d}.exr") as temporary:
            temporary.write_bytes(exr_bytes(frame))
    return folder / "depth_0001.exr"


def load_sequence(first: Path, length: int, *, data: bool) -> bpy.types.Image:
    """The files from `first` on as one image; `data`: numbers, not colours."""
    image = bpy.data.images.load(str(first), check_existing=False)
    image.source = "SEQUENCE"
    if data:
        image.colorspace_settings.name = "Non-Color"
    return image


def exr_bytes(values: NDArray[np.float32]) -> bytes:
    """(H, W) float32 as an uncompressed OpenEXR picture with one channel Y.

    The file layout of openexr.com, "OpenEXR File Layout": Blender's own writer makes 16-bit
    floats of a picture that no render made, and three copies of it.
    """
    height, width = values.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"Y\0" + struct.pack("<iB3xii", 2, 0, 1, 1) + b"\0"
    attributes = [
        (b"channels", b"chlist", channels),
        (b"compression", b"compression", b"\0"),
        (b"dataWindow", b"box2i", window),
        (b"displayWindow", b"box2i", window),
        (b"lineOrder", b"lineOrder", b"\0"),
        (b"pixelAspectRatio", b"float", struct.pack("<f", 1.0)),
        (b"screenWindowCenter", b"v2f", struct.pack("<2f", 0.0, 0.0)),
        (b"screenWindowWidth", b"float", struct.pack("<f", 1.0)),
    ]
    header = struct.pack("<II", 20000630, 2)
    for name, kind, value in attributes:
        header += name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value
    header += b"\0"
    line = np.dtype([("y", "<i4"), ("size", "<i4"), ("values", "<f4", width)])
    lines = np.empty(height, dtype=line)
    lines["y"], lines["size"], lines["values"] = np.arange(height), 4 * width, values
    start = len(header) + 8 * height
    offsets = (start + line.itemsize * np.arange(height)).astype("<u8")
    return header + offsets.tobytes() + lines.tobytes()
