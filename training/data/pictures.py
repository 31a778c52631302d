"""Square windows of pictures without depth: what an autoencoder learns photographs from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import OpenEXR
import torch
import torch.nn.functional as F
from PIL import Image
from render.develop import develop
from torch import Tensor

from .augment import photographed
from .sample import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
# Longer sides of the whole picture that a window is cut from, in pixels.
WHOLE = (224, 512)
# Larger pictures are kept at this size: none is shown larger.
STORED = 1024
EXPOSURE_STOPS = 0.7
BRIGHTEST = 6e4


class Pictures:
    """Random windows of all pictures in some folders, and of environment maps (`.exr`).

    Environment maps are equirectangular, in linear light; windows are perspective views of them,
    exposed as a camera would. Each folder is drawn from equally often, whatever its number of
    files. Raises DataError for a folder without pictures and for a file that cannot be read.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [[read(file) for file in picture_files(folder)] for folder in folders]

    def window(self, side: int, random: np.random.Generator) -> Tensor:
        """(3, side, side) in [0, 1]."""
        folder = self.folders[random.integers(len(self.folders))]
        stored = folder[random.integers(len(folder))]
        if stored.dtype == np.uint8:
            picture = cut(torch.from_numpy(stored).permute(2, 0, 1).float() / 255, side, random)
        else:
            view = perspective(torch.from_numpy(stored), side, random)
            developed, _ = develop(view.permute(1, 2, 0).numpy(), EXPOSURE_STOPS, random)
            picture = torch.from_numpy(developed).permute(2, 0, 1).float() / 255
        if random.random() < 0.5:
            picture = picture.flip(-1)
        return photographed(picture, random) if random.random() < 0.5 else picture


def picture_files(folder: Path) -> list[Path]:
    files = [f for f in sorted(folder.rglob("*")) if f.suffix.lower() in (*SUFFIXES, ".exr")]
    if not files:
        raise DataError(folder, "there is no picture and no environment map in it.")
    return files


def read(file: Path) -> np.ndarray:
    """uint8 (H, W, 3) sRGB, or float32 (H, W, 3) linear of an environment map."""
    try:
        if file.suffix.lower() == ".exr":
            with OpenEXR.File(str(file), separate_channels=True) as opened:
                channels = opened.channels()
                planes = [channels[name].pixels for name in "RGB"]
            # 16-bit maps have infinite suns in them.
            return np.nan_to_num(np.stack(planes, 2).astype(np.float32), posinf=BRIGHTEST)
        with Image.open(file) as opened:
            picture = opened.convert("RGBA")
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise DataError(file, f"it cannot be read as a picture ({error}).") from error
    # What shows through holes of a texture is grey.
    whole = Image.new("RGBA", picture.size, (128, 128, 128, 255))
    whole.alpha_composite(picture)
    whole.thumbnail((STORED, STORED), Image.Resampling.LANCZOS)
    return np.array(whole.convert("RGB"))


def cut(picture: Tensor, side: int, random: np.random.Generator) -> Tensor:
    """A square of a picture (3, H, W) that was scaled to a random size, never up more than 1.5
    times unless it is smaller than the square."""
    height, width = picture.shape[-2:]
    longer = math.exp(random.uniform(*np.log(WHOLE)))
    scale = min(longer / max(height, width), 1.5)
    scale = max(scale, side / min(height, width))
    size = max(side, round(height * scale)), max(side, round(width * scale))
    scaled = F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    top, left = (int(random.integers(n - side + 1)) for n in size)
    return scaled[:, top : top + side, left : left + side]


def perspective(environment: Tensor, side: int, random: np.random.Generator) -> Tensor:
    """A view (3, side, side) of an equirectangular map (H, W, 3), about as sharp as the map is:
    any direction along the horizon, up or down by N(0, 20) degrees, rolled by N(0, 4)."""
    width = environment.shape[1]
    focal = width / (2 * math.pi) * math.exp(random.uniform(math.log(0.6), math.log(1.3)))
    pitch, roll = np.radians(random.normal(0, (20, 4)))
    turn = random.uniform(0, 2 * math.pi)
    offsets = (torch.arange(side) + 0.5 - side / 2) / focal
    y, x = torch.meshgrid(-offsets, offsets, indexing="ij")
    x, y = x * math.cos(roll) - y * math.sin(roll), x * math.sin(roll) + y * math.cos(roll)
    up = y * math.cos(pitch) + math.sin(pitch)
    ahead = math.cos(pitch) - y * math.sin(pitch)
    azimuth = torch.atan2(x, ahead) + turn
    elevation = torch.atan2(up, torch.hypot(x, ahead))
    # One column more on both sides: the map closes in itself.
    closed = torch.cat([environment[:, -1:], environment, environment[:, :1]], 1)
    column = (azimuth / (2 * math.pi)) % 1 * width + 1
    grid = torch.stack([column / (width + 2) * 2 - 1, -elevation / (math.pi / 2)], -1)
    source = closed.permute(2, 0, 1)[None]
    return F.grid_sample(source, grid[None].float(), padding_mode="border", align_corners=False)[0]
