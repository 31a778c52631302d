# SPDX-License-Identifier: GPL-3.0-or-later
"""The EXIF record of JPEG, WebP, PNG and TIFF files, which Blender does not read. No bpy."""

from __future__ import annotations

import struct
from pathlib import Path

NAMES = {
    0x0112: "Orientation",
    0x920A: "FocalLength",
    0xA002: "ExifImageWidth",
    0xA003: "ExifImageHeight",
    0xA20E: "FocalPlaneXResolution",
    0xA210: "FocalPlaneResolutionUnit",
    0xA405: "FocalLengthIn35mmFilm",
}
EXIF_IFD = 0x8769
KINDS = (3, 4, 5, 13)  # short, long, rational, IFD: the types of these tags
MAX_TAGS = 1000
MAX_BYTES = 1 << 20
TIFF = (b"II*\0", b"MM\0*")


def read_exif(path: Path) -> dict[str, float]:
    """The numbers of NAMES that a picture has, as `geometry.field_of_view` takes them.

    Empty where there are none, or where the record is damaged.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(MAX_BYTES)
            if head[:4] in TIFF:  # its table may lie behind the pixels
                head += stream.read(256 * MAX_BYTES)
    except OSError:
        return {}
    try:
        return _tags(_record(head))
    except (struct.error, ValueError):
        return {}


def _record(data: bytes) -> bytes:
    """The part of a file that has the structure of a TIFF file."""
    if data[:4] in TIFF:
        return data
    if data.startswith(b"\xff\xd8"):
        start = data.find(b"Exif\0\0", 0, 1 << 17)
        return data[start + 6 :] if start >= 0 else b""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _chunk(data, 8, b"eXIf", ">I", name_first=False)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        record = _chunk(data, 12, b"EXIF", "<I", name_first=True)
        return record.removeprefix(b"Exif\0\0")
    return b""


def _chunk(data: bytes, place: int, wanted: bytes, number: str, *, name_first: bool) -> bytes:
    """A chunk of a PNG or a RIFF file, which may lie behind the pixels: only where it is near."""
    while place + 8 <= len(data):
        name, size = (
            (data[place : place + 4], struct.unpack_from(number, data, place + 4)[0])
            if name_first
            else (data[place + 4 : place + 8], struct.unpack_from(number, data, place)[0])
        )
        if name == wanted:
            return data[place + 8 : place + 8 + size]
        place += 8 + (size + size % 2 if name_first else size + 4)
    return b""


def _tags(data: bytes) -> dict[str, float]:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return {}
    found: dict[str, float] = {}
    (first,) = struct.unpack_from(order + "I", data, 4)
    tables, done = [first], 0
    while tables and done < 2:
        place, done = tables.pop(), done + 1
        (count,) = struct.unpack_from(order + "H", data, place)
        for k in range(min(count, MAX_TAGS)):
            entry = place + 2 + 12 * k
            tag, kind, length = struct.unpack_from(order + "HHI", data, entry)
            if (tag not in NAMES and tag != EXIF_IFD) or kind not in KINDS or length != 1:
                continue
            value = _value(data, entry + 8, kind, order)
            if tag == EXIF_IFD:
                tables.append(int(value))
            else:
                found[NAMES[tag]] = value
    return found


def _value(data: bytes, place: int, kind: int, order: str) -> float:
    if kind == 5:
        (place,) = struct.unpack_from(order + "I", data, place)
        above, below = struct.unpack_from(order + "II", data, place)
        return above / below if below else 0.0
    return float(struct.unpack_from(order + ("H" if kind == 3 else "I"), data, place)[0])
