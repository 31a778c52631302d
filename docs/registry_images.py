"""Draw the ComfyUI registry's icon and banner: docs/images/icon.png and banner.png.

    python docs/registry_images.py

A marigold of a formula: as a depth map in Marigold's own colours (red near, blue far), and in the
banner also as a picture, which is that depth map lit from the upper left.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from marigold_core.depth import colorize

ROOT = Path(__file__).parents[1]
ICON = 400  # pixels; the registry shows at most 400 x 400
BANNER = 1260, 540  # width, height: the registry wants 21 : 9
SUPERSAMPLING = 3
DARK = 20, 18, 34


def marigold_depth(size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A flower of six rings of petals: depth (size, size) in [0, 1], and where it is."""
    y, x = np.mgrid[0:size, 0:size] / (size - 1) * 2 - 1
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    depth = np.ones((size, size))
    inside = np.zeros((size, size), bool)
    rings, outer = 6, 0.95
    for ring in range(rings):
        reach = outer * (1 - ring / rings)  # outermost first: nearer rings cover it
        count = 15 - 2 * ring
        # Every other ring is turned by half a petal, as petals grow.
        petal = np.abs(np.cos((angle * count + ring * np.pi) / 2))
        edge = reach * (0.86 + 0.14 * petal**0.6)
        covered = radius < edge
        height = ring / rings + 0.30 / rings * petal + 0.65 / rings * (radius / edge)
        depth[covered] = 0.86 - 0.86 * height[covered]
        inside |= covered
    return depth.astype(np.float32), inside


def draw_depth(size: int) -> Image.Image:
    depth, inside = marigold_depth(size * SUPERSAMPLING)
    return cut_out(colorize(depth), inside, size)


def draw_picture(size: int) -> Image.Image:
    """The flower in its own colours, lit (Lambert) from the upper left."""
    depth, inside = marigold_depth(size * SUPERSAMPLING)
    down, right = np.gradient(-depth.astype(np.float64) * size)
    # The steps between rings would be black walls.
    down, right = np.clip(down, -0.9, 0.9), np.clip(right, -0.9, 0.9)
    light = (1.0 + 0.5 * right + 0.5 * down) / np.sqrt(1 + right**2 + down**2)
    colour = np.array([255, 122, 0]) * depth[..., None] + np.array([255, 205, 40]) * (
        1 - depth[..., None]
    )
    picture = np.rint((colour * np.clip(light, 0.4, 1.2)[..., None]).clip(0, 255))
    return cut_out(picture.astype(np.uint8), inside, size)


def cut_out(picture: NDArray[np.uint8], inside: NDArray[np.bool_], size: int) -> Image.Image:
    rgba = np.dstack([picture, np.where(inside, 255, 0).astype(np.uint8)])
    return Image.fromarray(rgba).resize((size, size), Image.Resampling.LANCZOS)


def draw_banner() -> Image.Image:
    width, height = BANNER
    size, centre = 640, 930
    corner = centre - size // 2, (height - size) // 2
    banner = Image.new("RGB", BANNER, DARK)
    picture, depth = draw_picture(size), draw_depth(size)
    banner.paste(picture, corner, picture)
    half = depth.crop((size // 2, 0, size, size))
    banner.paste(half, (centre, corner[1]), half)
    draw = ImageDraw.Draw(banner)
    draw.line((centre, 0, centre, height), "white", 3)
    draw.text((64, 176), "Marigold Kit", "white", ImageFont.load_default(84))
    lines = "Depth from one picture:\nensembles, uncertainty,\ntextured meshes"
    draw.text((68, 290), lines, (225, 222, 235), ImageFont.load_default(34), spacing=10)
    return banner


def main() -> None:
    folder = ROOT / "docs" / "images"
    for name, picture in (("icon.png", draw_depth(ICON)), ("banner.png", draw_banner())):
        picture.save(folder / name, optimize=True)
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()
