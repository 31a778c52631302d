# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenEXR where Blender's own reader and writer fall short: a float Y, a renderer's Z. No bpy."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def exr_bytes(values: NDArray[np.float32]) -> bytes:
    """(H, W) float32 as an uncompressed OpenEXR picture with one channel Y.

    The file layout of openexr.com, "OpenEXR File Layout": Blender's own writer makes 16-bit
    floats of a picture that is no render result, and takes three copies of it.
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
    """Why a channel cannot be read; the text continues a message after the channel's name."""


@dataclass(frozen=True)
class _Part:
    """One header. channels: name -> numpy's name of its type, in the order of the file. window:
    left, top, right, bottom, all inclusive. plain: no tiles, deep or subsampled pixels."""

    channels: dict[str, str]
    compression: int
    window: tuple[int, int, int, int]
    plain: bool

    @property
    def width(self) -> int:
        return self.window[2] - self.window[0] + 1

    @property
    def height(self) -> int:
        return self.window[3] - self.window[1] + 1

    @property
    def lines(self) -> int:
        """Lines in a chunk."""
        return 16 if self.compression == 3 else 1

    @property
    def chunks(self) -> int:
        return -(-self.height // self.lines)


TYPES = {0: "<u4", 1: "<f2", 2: "<f4"}
COMPRESSIONS = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
READ = (0, 2, 3)  # of COMPRESSIONS
MAX_PIXELS = 200_000_000
MAX_CHUNK = 1 << 28  # bytes: 16 lines of 50 float channels, each of 80,000 pixels
DEFLATE_RATIO = 1032  # zlib packs no better, so a short file cannot hold a large picture
Bytes = bytes | mmap.mmap


def exr_channels(file: Path) -> list[str]:
    """The channel names of all parts; empty where the header cannot be read."""
    try:
        with _mapped(file) as data:
            return [name for part in _headers(data)[0] for name in part.channels]
    except ExrProblem:
        return []


def exr_depth_channel(names: list[str]) -> str | None:
    """The one that a renderer writes distances to: Z, Depth.Z, ViewLayer.Depth.Z, Depth.V.

    Blender reads a file with only a Z as a picture of uninitialised memory, and does not show a Z
    beside colours.
    """
    ends = ("depth.z", "depth.v", ".depth")  # not Normal.Z
    for name in names:
        if name.lower() in ("z", "depth") or name.lower().endswith(ends):
            return name
    return None


def read_exr_channel(file: Path, channel: str) -> NDArray[np.float32]:
    """(H, W) float32 of a scan-line file, in one part or several, plain or with ZIP or ZIPS.

    Lines that the file does not have are NaN. A file from a stranger takes time and memory in
    proportion to its size. Raises ExrProblem with the reason.
    """
    with _mapped(file) as data:
        parts, place, several = _headers(data)
        number = next((k for k, part in enumerate(parts) if channel in part.channels), None)
        if number is None:
            raise ExrProblem("is not in the file")
        part = parts[number]
        if not part.plain:
            raise ExrProblem("is tiled, deep or subsampled")
        if part.compression not in READ:
            known = part.compression < len(COMPRESSIONS)
            name = COMPRESSIONS[part.compression] if known else "an unknown method"
            raise ExrProblem(f"is compressed with {name}")
        first = place + 8 * sum(one.chunks for one in parts[:number])
        return _read_lines(data, part, channel, first, 4 * several)


def _read_lines(
    data: Bytes, part: _Part, channel: str, first: int, skip: int
) -> NDArray[np.float32]:
    """first: where the part's table of chunks begins; skip: bytes before a chunk's line number."""
    top, bottom = part.window[1], part.window[3]
    line_bytes = part.width * sum(np.dtype(kind).itemsize for kind in part.channels.values())
    if part.width * part.height > MAX_PIXELS or line_bytes * part.lines > MAX_CHUNK:
        raise ExrProblem("is too large")
    if line_bytes * part.height > DEFLATE_RATIO * len(data) or first + 8 * part.chunks > len(data):
        raise ExrProblem("is broken: the file is too short")
    line = np.dtype([(name, kind, (part.width,)) for name, kind in part.channels.items()])
    values = np.full((part.height, part.width), np.nan, dtype=np.float32)
    for offset in struct.unpack_from(f"<{part.chunks}Q", data, first):
        start = offset + skip + 8
        if start > len(data):
            raise ExrProblem("is broken: the file is too short")
        y, size = struct.unpack_from("<ii", data, start - 8)
        if not top <= y <= bottom or (y - top) % part.lines or not 0 <= size <= len(data) - start:
            raise ExrProblem("is broken: a chunk lies outside the picture")
        count = min(part.lines, bottom + 1 - y)
        packed = data[start : start + size]
        raw = packed if size == count * line_bytes else _unzipped(packed, count * line_bytes)
        values[y - top : y - top + count] = np.frombuffer(raw, line, count)[channel]
    return values


def _unzipped(packed: bytes, size: int) -> bytes:
    """zlib, then the differences between bytes, then the even bytes before the odd ones."""
    try:
        plain = zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as error:
        raise ExrProblem("is broken") from error
    if len(plain) != size:
        raise ExrProblem("is broken: a chunk has a wrong length")
    steps = np.frombuffer(plain, np.uint8).copy()
    steps[1:] -= 128
    added = np.cumsum(steps, dtype=np.uint8)
    raw = np.empty_like(added)
    half = (len(added) + 1) // 2
    raw[::2], raw[1::2] = added[:half], added[half:]
    return raw.tobytes()


@contextmanager
def _mapped(file: Path) -> Iterator[Bytes]:
    try:
        with file.open("rb") as stream:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
    except OSError as error:
        raise ExrProblem("cannot be read") from error
    except ValueError as error:
        raise ExrProblem("is broken: the file is empty") from error


def _headers(data: Bytes) -> tuple[list[_Part], int, bool]:
    """The parts, where their tables of chunks begin, and whether the file has several parts."""
    try:
        magic, version = struct.unpack_from("<II", data, 0)
        if magic != 20000630:
            raise ExrProblem("is not in an OpenEXR file")
        several = bool(version & 0x1000)
        parts, place = [], 8
        while not parts or (several and data[place]):
            attributes, place = _attributes(data, place)
            parts.append(_part(attributes, deep=bool(version & 0x800), tiled=bool(version & 0x200)))
        return parts, place + several, several
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise ExrProblem("is broken") from error


def _attributes(data: Bytes, place: int) -> tuple[dict[bytes, bytes], int]:
    """The attributes of the header at `place`, by name, and where it ends."""
    found: dict[bytes, bytes] = {}
    while data[place]:
        name, kind, _ = data[place : place + 600].split(b"\0", 2)
        place += len(name) + len(kind) + 2
        (size,) = struct.unpack_from("<i", data, place)
        if not 0 <= size <= len(data) - place - 4:
            raise ValueError(f"an attribute of {size} bytes")
        found[name] = data[place + 4 : place + 4 + size]
        place += 4 + size
    return found, place + 1


def _part(attributes: dict[bytes, bytes], *, deep: bool, tiled: bool) -> _Part:
    channels, sampled = _channel_list(attributes[b"channels"])
    plain = not (deep or tiled or b"tiles" in attributes or sampled)
    plain &= attributes.get(b"type", b"scanlineimage") == b"scanlineimage"
    left, top, right, bottom = struct.unpack("<4i", attributes[b"dataWindow"])
    if not channels or right < left or bottom < top:
        raise ValueError("a header without pixels")
    window = (left, top, right, bottom)
    return _Part(channels, attributes[b"compression"][0], window, plain)


def _channel_list(data: bytes) -> tuple[dict[str, str], bool]:
    channels: dict[str, str] = {}
    sampled, place = False, 0
    while data[place]:
        end = data.index(b"\0", place)
        kind, across, down = struct.unpack_from("<i4xii", data, end + 1)
        name = data[place:end].decode("utf-8", "replace")
        if name in channels:
            raise ValueError(f"two channels {name}")
        channels[name] = TYPES[kind]
        sampled |= (across, down) != (1, 1)
        place = end + 17
    return channels, sampled
