# SPDX-License-Identifier: GPL-3.0-or-later
"""The little of OpenEXR that Blender's own reader and writer leave open. No bpy."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


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


def exr_channels(file: Path) -> set[str]:
    """The channel names in an OpenEXR header; empty where there is none to be read.

    Blender takes a file with a lone Z for a picture of whatever was in memory.
    """
    with file.open("rb") as stream:
        header = stream.read(1 << 16)
    start = header.find(b"channels\0chlist\0")
    if not header.startswith(b"\x76\x2f\x31\x01") or start < 0:
        return set()
    names, place = set(), start + 20
    while place < len(header) and header[place]:
        end = header.find(b"\0", place)
        if end < 0:
            break
        names.add(header[place:end].decode("utf-8", "replace"))
        place = end + 17  # a channel's type, flags and sampling
    return names
