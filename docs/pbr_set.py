"""Draw the README's PBR set: a rendered scene's picture and the maps of its surfaces.

    PYTHONPATH=training python docs/pbr_set.py runs/passes 2

The folder is one that `training/render_dataset.py --passes` wrote, the number is that of its
sample. From the left: picture, albedo, normals (OpenGL colours), roughness, metallic. The maps are
the renderer's own true ones; no checkpoint is run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from render.exr_png import read_exr
from render.sample_folder import read_manifest

from marigold_core.intrinsics import linear_to_srgb
from marigold_core.normals import NormalMap

# From the renderer's axes (OpenCV) to those of a normal map.
TO_OPENGL = np.array((1, -1, -1), dtype=np.float32)


def main(folder: str, number: str) -> None:
    line = read_manifest(Path(folder))[int(number)]

    def plane(kind: str, channels: str) -> np.ndarray:
        found = read_exr(Path(folder) / line[kind])
        return np.stack([found[c] for c in channels], axis=2).astype(np.float32)

    maps = [
        linear_to_srgb(plane("base_colour", "RGB")),
        NormalMap(plane("normals", "XYZ") * TO_OPENGL).encoded(),
        plane("roughness", "YYY"),
        plane("metallicity", "YYY"),
    ]
    shown = [np.rint(one.clip(0, 1) * 255).astype(np.uint8) for one in maps]
    picture = np.asarray(Image.open(Path(folder) / line["image"]))
    path = Path(__file__).parent / "images" / "pbr_set.jpg"
    Image.fromarray(np.concatenate([picture, *shown], axis=1)).save(path, quality=85)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
