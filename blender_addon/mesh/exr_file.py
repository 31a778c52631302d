# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender's own reader and writer leave open of OpenEXR: a float Y, a renderer's Z. No bpy."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
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


class ExrProblem(Exception):
    """Why a channel cannot be read, to stand behind its name."""


@dataclass(frozen=True)
class _Part:
    """One header. channels: name -> numpy's word for its type, in the order of the file."""

    channels: dict[str, str]
    compression: int
    window: tuple[int, int, int, int]
    plain: bool  # neither tiles nor deep pixels nor subsampled channels

    @property
    def lines(self) -> int:
        return 16 if self.compression == 3 else 1

    @property
    def chunks(self) -> int:
        return -(-(self.window[3] - self.window[1] + 1) // self.lines)


TYPES = {0: "<u4", 1: "<f2", 2: "<f4"}
COMPRESSIONS = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
BROKEN = (struct.error, ValueError, KeyError, IndexError)
READ = (0, 2, 3)  # of COMPRESSIONS


def exr_channels(file: Path) -> list[str]:
    """The channel names of all parts; empty where there is no header to be read."""
    try:
        with file.open("rb") as stream:
            return [name for part in _headers(stream.read(1 << 20))[0] for name in part.channels]
    except BROKEN:
        return []


def exr_depth_channel(names: list[str]) -> str | None:
    """The one that a renderer writes distances to: Z, Depth.Z, ViewLayer.Depth.Z, Depth.V.

    Blender takes a file with a lone Z for a picture of whatever was in memory, and a Z beside
    colours it does not show.
    """
    ends = ("depth.z", "depth.v", ".depth")  # Normal.Z is another thing
    for name in names:
        if name.lower() in ("z", "depth") or name.lower().endswith(ends):
            return name
    return None


def read_exr_channel(file: Path, channel: str) -> NDArray[np.float32]:
    """(H, W) float32 of a scan-line file, in one part or several, plain or with ZIP or ZIPS.

    Raises ExrProblem, which says what else it is.
    """
    data = file.read_bytes()
    try:
        parts, place, several = _headers(data)
        number = [channel in part.channels for part in parts].index(True)
        part = parts[number]
        if not part.plain:
            raise ExrProblem("is tiled, deep or subsampled")
        if part.compression not in READ:
            raise ExrProblem(f"is compressed with {COMPRESSIONS[part.compression]}")
        first = place + 8 * sum(one.chunks for one in parts[:number])
        offsets = struct.unpack_from(f"<{part.chunks}Q", data, first)
        left, top, right, bottom = part.window
        line = np.dtype([(name, kind, (right - left + 1,)) for name, kind in part.channels.items()])
        values = np.empty((bottom - top + 1, right - left + 1), dtype=np.float32)
        for offset in offsets:
            y, size = struct.unpack_from("<ii", data, offset + 4 * several)
            start = offset + 4 * several + 8
            count = min(part.lines, bottom + 1 - y)
            packed = data[start : start + size]
            raw = packed if size == count * line.itemsize else _unzipped(packed)
            values[y - top : y - top + count] = np.frombuffer(raw, line, count)[channel]
    except (*BROKEN, zlib.error, MemoryError) as error:
        raise ExrProblem("is broken") from error
    return values


def _unzipped(packed: bytes) -> bytes:
    """zlib, then the differences between bytes, then the even bytes before the odd ones."""
    steps = np.frombuffer(zlib.decompress(packed), np.uint8).copy()
    steps[1:] -= 128
    added = np.cumsum(steps, dtype=np.uint8)
    raw = np.empty_like(added)
    half = (len(added) + 1) // 2
    raw[::2], raw[1::2] = added[:half], added[half:]
    return raw.tobytes()


def _headers(data: bytes) -> tuple[list[_Part], int, bool]:
    """The parts, where their tables of chunks begin, and whether the file is of several parts."""
    magic, version = struct.unpack_from("<II", data, 0)
    if magic != 20000630:
        raise ValueError("is no OpenEXR file")
    several = bool(version & 0x1000)
    parts, place = [], 8
    while not parts or (several and data[place]):
        found: dict[bytes, bytes] = {}
        while data[place]:
            name, kind, rest = data[place : place + 600].split(b"\0", 2)
            place += len(name) + len(kind) + 2
            (size,) = struct.unpack_from("<i", data, place)
            found[name] = data[place + 4 : place + 4 + size]
            place += 4 + size
        place += 1
        channels, sampled = _channel_list(found[b"channels"])
        plain = not (version & 0x200 or b"tiles" in found or sampled)
        plain &= found.get(b"type", b"scanlineimage") == b"scanlineimage"
        window = struct.unpack("<4i", found[b"dataWindow"])
        part = _Part(channels, found[b"compression"][0], window, plain)
        parts.append(part)
    return parts, place + several, several


def _channel_list(data: bytes) -> tuple[dict[str, str], bool]:
    channels, sampled, place = {}, False, 0
    while data[place]:
        end = data.index(b"\0", place)
        kind, across, down = struct.unpack_from("<i4xii", data, end + 1)
        channels[data[place:end].decode("utf-8", "replace")] = TYPES[kind]
        sampled |= (across, down) != (1, 1)
        place = end + 17
    return channels, sampled
