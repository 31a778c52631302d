# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames of depth on disk, for the live shape to read frame by frame."""

from __future__ import annotations

import re
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ..backend.engine_parts import MarigoldError, atomic_path
from .exr_file import exr_bytes

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
