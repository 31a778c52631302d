# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures as Blender images, upright and packed or linked."""

from __future__ import annotations

import struct
from pathlib import Path

import bpy
import numpy as np

from ..backend.engine_parts import MarigoldError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".tga", ".jp2")


def load_picture(path: str, *, pack: bool) -> bpy.types.Image:
    """The picture as an image datablock; raises MarigoldError where Blender cannot read it.

    The engine turns a photograph as its camera was held, Blender does not; a picture on its side
    is therefore turned here and packed, since no file holds it like that.
    """
    name = Path(path).name
    try:
        image = bpy.data.images.load(path, check_existing=True)
    except RuntimeError as error:
        raise MarigoldError(f"{name} cannot be read as a picture.") from error
    if not image.has_data and not len(image.pixels):
        bpy.data.images.remove(image)
        raise MarigoldError(f"{name} cannot be read as a picture.")
    turn = exif_orientation(Path(path))
    if turn != 1:
        return _upright(image, turn)
    if pack and image.packed_file is None:
        image.pack()
    return image


def image_pixels(image: bpy.types.Image) -> np.ndarray:
    """(H, W, 3) uint8, display-encoded, as the `pixels` of a byte image are."""
    width, height = image.size
    pixels = np.empty(width * height * image.channels, dtype=np.float32)
    image.pixels.foreach_get(pixels)
    grid = pixels.reshape(height, width, image.channels)[::-1]
    if image.is_float:
        linear = grid.clip(0, 1)
        grid = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb = grid[..., :3] if image.channels >= 3 else np.repeat(grid[..., :1], 3, axis=2)
    return np.rint(rgb.clip(0, 1) * 255).astype(np.uint8)


def background_image(name: str, colours: np.ndarray | None) -> bpy.types.Image | None:
    """A packed image of (H, W, 3) uint8, display-encoded."""
    if colours is None:
        return None
    height, width = colours.shape[:2]
    rgba = np.ones((height, width, 4), dtype=np.float32)
    rgba[..., :3] = colours[::-1] / np.float32(255)
    image = bpy.data.images.new(name, width, height)
    image.pixels.foreach_set(rgba.ravel())
    image.update()
    image.pack()
    return image


def exif_orientation(path: Path) -> int:
    """1 to 8 from a JPEG's EXIF data; 1, upright, where it says nothing."""
    with path.open("rb") as stream:
        data = stream.read(1 << 16)
    start = data.find(b"Exif\0\0")
    if not data.startswith(b"\xff\xd8") or start < 0:
        return 1
    tiff = data[start + 6 :]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is None:
            return 1
        (offset,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, offset)
        for k in range(count):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, offset + 2 + 12 * k)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _upright(image: bpy.types.Image, turn: int) -> bpy.types.Image:
    width, height = image.size
    pixels = np.empty(width * height * image.channels, dtype=np.float32)
    image.pixels.foreach_get(pixels)
    grid = pixels.reshape(height, width, image.channels)[::-1]  # from the top down, as EXIF says
    if turn >= 5:
        grid = grid.transpose(1, 0, 2)
    if turn in (3, 4, 7, 8):
        grid = grid[::-1]
    if turn in (2, 3, 6, 7):
        grid = grid[:, ::-1]
    rgba = np.ones((*grid.shape[:2], 4), dtype=np.float32)
    rgba[..., : grid.shape[2]] = grid
    name = Path(image.filepath).name
    upright = bpy.data.images.new(name, grid.shape[1], grid.shape[0])
    upright.pixels.foreach_set(np.ascontiguousarray(rgba[::-1]).ravel())
    upright.update()
    upright.pack()
    if not image.users:
        bpy.data.images.remove(image)
    return upright
