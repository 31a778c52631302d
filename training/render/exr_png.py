"""OpenEXR and PNG files by numpy and zlib alone, because a Blender's Python has no more.

Only what a renderer of RGB-D samples needs: single-part scanline EXR files, uncompressed or ZIP,
and 8-bit PNG files. Any program reads what is written here; `read_png` reads these files only.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"\x76\x2f\x31\x01\x02\x00\x00\x00"
LONG_NAMES = 0x04
PIXEL_TYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
# Number of lines a chunk holds, by the compression's number: none, and zlib over 16 lines.
CHUNK_LINES = {0: 1, 3: 16}
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def write_whole(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename: a kill leaves the old file, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_exr(path: Path, channels: Mapping[str, np.ndarray]) -> None:
    """Channels (H, W) float16 or float32 of one size, by name, as a ZIP-compressed EXR file."""
    names = sorted(channels)  # the format wants them in alphabetical order
    planes = [
        channels[n].astype("<f2" if channels[n].dtype == np.float16 else "<f4") for n in names
    ]
    height, width = planes[0].shape
    described = b"".join(
        name.encode() + struct.pack("<xiB3xii", 1 if plane.dtype.itemsize == 2 else 2, 0, 1, 1)
        for name, plane in zip(names, planes, strict=True)
    )
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = MAGIC + b"".join(
        f"{name}\0{kind}\0".encode() + struct.pack("<i", len(value)) + value
        for name, kind, value in (
            ("channels", "chlist", described + b"\0"),
            ("compression", "compression", b"\x03"),
            ("dataWindow", "box2i", box),
            ("displayWindow", "box2i", box),
            ("lineOrder", "lineOrder", b"\0"),
            ("pixelAspectRatio", "float", struct.pack("<f", 1)),
            ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
            ("screenWindowWidth", "float", struct.pack("<f", 1)),
        )
    )
    chunks = []
    for top in range(0, height, CHUNK_LINES[3]):
        lines = range(top, min(height, top + CHUNK_LINES[3]))
        raw = b"".join(plane[y].tobytes() for y in lines for plane in planes)
        packed = deflate(raw)
        chunks.append(struct.pack("<ii", top, len(packed)) + packed)
    table_end = len(header) + 1 + 8 * len(chunks)
    starts = np.cumsum([table_end] + [len(chunk) for chunk in chunks[:-1]], dtype="<u8")
    write_whole(path, header + b"\0" + starts.tobytes() + b"".join(chunks))


def deflate(raw: bytes) -> bytes:
    """OpenEXR's ZIP: even bytes, then odd ones, as differences, by zlib; raw if not smaller."""
    data = np.frombuffer(raw, np.uint8)
    split = np.concatenate([data[0::2], data[1::2]])
    delta = split.copy()
    delta[1:] = split[1:] - split[:-1] + np.uint8(128)
    packed = zlib.compress(delta.tobytes(), 6)
    return packed if len(packed) < len(raw) else raw


def inflate(packed: bytes, size: int) -> bytes:
    if len(packed) == size:
        return packed
    delta = np.frombuffer(zlib.decompress(packed), np.uint8).astype(np.int64)
    delta[1:] -= 128
    split = (np.cumsum(delta) & 255).astype(np.uint8)
    raw = np.empty(size, np.uint8)
    half = (size + 1) // 2
    raw[0::2], raw[1::2] = split[:half], split[half:]
    return raw.tobytes()


def read_exr(path: Path) -> dict[str, np.ndarray]:
    """Channels (H, W) by name, in the file's own types; ValueError for other kinds of EXR."""
    data = path.read_bytes()
    # Of the flags after the version, only "long names" leaves a single-part scanline file.
    if data[:5] != MAGIC[:5] or int.from_bytes(data[5:8], "little") & ~LONG_NAMES:
        raise ValueError(f"{path.name} is not a single-part scanline EXR file.")
    header, at = {}, len(MAGIC)
    while data[at]:
        name_end = data.index(0, at)
        kind_end = data.index(0, name_end + 1)
        (size,) = struct.unpack_from("<i", data, kind_end + 1)
        header[data[at:name_end].decode()] = data[kind_end + 5 : kind_end + 5 + size]
        at = kind_end + 5 + size
    compression = header["compression"][0]
    if compression not in CHUNK_LINES:
        raise ValueError(f"{path.name} is compressed in another way than ZIP.")
    left, first, right, last = struct.unpack("<4i", header["dataWindow"])
    width, height = right - left + 1, last - first + 1
    types, chlist, place = {}, header["channels"], 0
    while chlist[place]:
        end = chlist.index(0, place)
        types[chlist[place:end].decode()] = PIXEL_TYPES[chlist[end + 1]]
        place = end + 17
    planes = {name: np.empty((height, width), dtype) for name, dtype in types.items()}
    line_bytes = width * sum(dtype.itemsize for dtype in types.values())
    count = -(-height // CHUNK_LINES[compression])
    for start in np.frombuffer(data, "<u8", count, at + 1):
        top, size = struct.unpack_from("<ii", data, int(start))
        top -= first
        lines = min(CHUNK_LINES[compression], height - top)
        raw = inflate(data[int(start) + 8 : int(start) + 8 + size], lines * line_bytes)
        offset = 0
        for y in range(top, top + lines):
            for name, dtype in types.items():
                planes[name][y] = np.frombuffer(raw, dtype, width, offset)
                offset += width * dtype.itemsize
    return planes


def write_png(path: Path, picture: np.ndarray) -> None:
    """uint8 (H, W) grey or (H, W, 3) RGB."""
    height, width = picture.shape[:2]
    colour = 2 if picture.ndim == 3 else 0
    rows = picture.reshape(height, -1)
    delta = rows.copy()
    delta[1:] -= rows[:-1]
    # Every line starts with its filter: 2, the difference to the line above.
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), delta], axis=1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 6)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    write_whole(path, PNG_MAGIC + b"".join(chunks))


def read_png(path: Path) -> np.ndarray:
    """A picture that `write_png` wrote."""
    data = path.read_bytes()
    width, height, _, colour = struct.unpack_from(">IIBB", data, 16)
    (size,) = struct.unpack_from(">I", data, 33)
    bands = 3 if colour == 2 else 1
    lines = np.frombuffer(zlib.decompress(data[41 : 41 + size]), np.uint8)
    lines = lines.reshape(height, 1 + width * bands)
    if (lines[:, 0] != 2).any():
        raise ValueError(f"{path.name} was written by another program.")
    rows = np.cumsum(lines[:, 1:], axis=0, dtype=np.uint64).astype(np.uint8)
    return rows.reshape((height, width, 3) if bands == 3 else (height, width))
