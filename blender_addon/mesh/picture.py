# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures as Blender images, upright and packed or linked."""

from __future__ import annotations

import math
from pathlib import Path

import bpy
import imbuf
import numpy as np

from ..backend.engine_parts import MarigoldError, field_of_view
from .exif import read_exif

# A custom property of an image that was turned upright: the file that it is from.
TURNED = "marigold_turned"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".tga", ".jp2")


def load_picture(path: str, *, pack: bool) -> bpy.types.Image:
    """The picture as an image datablock; raises MarigoldError where Blender cannot read it.

    The engine turns a photograph as its camera was held, Blender does not; a picture on its side
    is therefore turned here and packed, since no file holds it like that.
    """
    name = Path(path).name
    known = bpy.data.images.get(name)
    if known is not None and known.get(TURNED) == path:
        return known
    try:
        image = bpy.data.images.load(path, check_existing=True)
    except RuntimeError as error:
        raise MarigoldError(f"{name} cannot be read as a picture.") from error
    if not image.has_data and not len(image.pixels):
        bpy.data.images.remove(image)
        raise MarigoldError(f"{name} cannot be read as a picture.")
    turn = int(read_exif(Path(path)).get("Orientation", 1))
    if 2 <= turn <= 8:
        return _upright(image, turn)
    if pack and image.packed_file is None:
        image.pack()
    return image


def picture_size(path: str) -> tuple[int, int] | None:
    """(width, height) of a picture's file; None where Blender cannot read it."""
    try:
        return tuple(imbuf.load(path).size) if Path(path).is_file() else None
    except OSError:
        return None


def is_twice_as_wide(width: int, height: int) -> bool:
    """As an equirectangular panorama is, but for rounding."""
    return height > 1 and abs(width - 2 * height) <= 1


def image_pixels(image: bpy.types.Image) -> np.ndarray:
    """(H, W, 3) uint8, display-encoded, as the `pixels` of a byte image are."""
    width, height = image.size
    pixels = np.empty(width * height * image.channels, dtype=np.float32)
    image.pixels.foreach_get(pixels)
    if image.is_float:
        pixels = display_encoded(pixels.clip(0, 1))
    levels = (pixels * 255 + 0.5).astype(np.uint8).reshape(height, width, -1)[::-1]
    return levels[..., :3] if image.channels >= 3 else np.repeat(levels[..., :1], 3, axis=2)


def field_of_view_of(image: bpy.types.Image, estimate: float | None = None) -> float:
    """Radians across the longer side: of the picture's EXIF record, or the estimate in degrees, or
    the default."""
    source = image.get(TURNED) or image.filepath
    record = read_exif(Path(bpy.path.abspath(source))) if source else {}
    width, height = image.size if image.size[0] else (1, 1)  # a clip has no size until it is shown
    return math.radians(field_of_view(height, width, exif=record, estimate=estimate).degrees)


def mask_pixels(mask: bpy.types.Image, size: tuple[int, int]) -> np.ndarray:
    """(height, width) uint8, 1 where an image of any size is light: those pixels are used."""
    light = image_pixels(mask).max(axis=2) > 127
    width, height = size
    down = (np.arange(height) + 0.5) * light.shape[0] / height
    across = (np.arange(width) + 0.5) * light.shape[1] / width
    return light[np.ix_(down.astype(int), across.astype(int))].astype(np.uint8)


def display_encoded(linear: np.ndarray) -> np.ndarray:
    """Linear light, 0 or more, with the curve of sRGB."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def background_image(name: str, colours: np.ndarray | None) -> bpy.types.Image | None:
    """A packed image of (H, W, 3) uint8, display-encoded."""
    return None if colours is None else packed_image(name, colours / np.float32(255))


def packed_image(
    name: str, values: np.ndarray, *, data: bool = False, floats: bool = False
) -> bpy.types.Image:
    """A new packed image of (H, W, 3) or (H, W) with 8 bits a channel, display-encoded.

    data: values that are no display-encoded colours, Non-Color. floats: of 32 bits; only as data,
    since Blender packs others encoded, and they would change with the saved file.
    """
    height, width = values.shape[:2]
    rgba = np.ones((height, width, 4), dtype=np.float32)
    rgba[..., :3] = (values if values.ndim == 3 else values[..., None])[::-1]
    image = bpy.data.images.new(name, width, height, float_buffer=floats, is_data=data)
    image.pixels.foreach_set(rgba.ravel())
    image.update()
    image.pack()
    return image


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
    image.name = f"{name} as stored"  # the upright one gets the name
    upright = bpy.data.images.new(name, grid.shape[1], grid.shape[0])
    upright.pixels.foreach_set(np.ascontiguousarray(rgba[::-1]).ravel())
    upright.update()
    upright.pack()
    upright[TURNED] = image.filepath
    if not image.users:
        bpy.data.images.remove(image)
    return upright
