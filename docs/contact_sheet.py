"""Draw the README's contact sheet: scenes the bundled checkpoint never saw, and what it says.

    PYTHONPATH=training python docs/contact_sheet.py runs/heldback 3 17 42

The folder is one that `training/render_dataset.py` wrote with a seed of its own, the numbers are
those of its samples. Columns: picture, true depth, nano's depth (4 steps, 5 members, after
the affine fit), absolute error (white = a quarter of the depth range), uncertainty (white =
unsure).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from data.registry import open_dataset
from PIL import Image

from marigold_core import Marigold
from marigold_core.cli.comparison import side_by_side

WIDTH, HEIGHT = 240, 180


def main(folder: str, *numbers: str) -> None:
    marigold = Marigold.from_pretrained("nano")
    dataset = open_dataset(f"folder:{folder}", "all", (HEIGHT, WIDTH), farthest=80)
    rows = []
    for number in map(int, numbers):
        sample = dataset[number]
        rgb = sample.image.permute(1, 2, 0).numpy()
        generator = torch.Generator().manual_seed(0)
        result = marigold(rgb, num_inference_steps=4, ensemble_size=5, generator=generator)
        truth, valid = sample.depth.numpy(), sample.valid.numpy()
        rows.append(side_by_side(rgb, result.depth, truth, valid, result.uncertainty))
    path = Path(__file__).parent / "images" / "contact_sheet.jpg"
    Image.fromarray(np.concatenate(rows)).save(path, quality=88)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
