"""Draw the README's contact sheet: scenes the bundled checkpoint never saw, and what it says.

    PYTHONPATH=training python docs/contact_sheet.py

Columns: picture, true depth, nano's depth (4 steps, 5 members, after the affine fit), absolute
error (white = a quarter of the depth range), uncertainty (white = unsure).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from data.procedural import render_scenes
from metrics import align_least_squares
from PIL import Image

from marigold_core import Marigold, normalize_depth
from marigold_core.depth import colorize

SEEDS = (106, 116, 120, 104, 112)
HEIGHT, WIDTH = 150, 200


def row(marigold: Marigold, seed: int) -> np.ndarray:
    scene = render_scenes(1, HEIGHT, WIDTH, torch.Generator().manual_seed(seed))
    rgb = scene.rgb[0].permute(1, 2, 0).numpy()
    valid = scene.valid[0].numpy()
    truth = normalize_depth(scene.depth[0].numpy(), mode="percentile", mask=valid)
    result = marigold(rgb, ensemble_size=5, generator=torch.Generator().manual_seed(0))
    fitted = align_least_squares(result.depth, truth, valid).clip(0, 1).astype(np.float32)
    error = np.clip(np.abs(fitted - truth) * 4, 0, 1) * valid
    assert result.uncertainty is not None
    unsure = result.uncertainty / max(float(result.uncertainty.max()), 1e-6)
    panels = [
        np.rint(rgb * 255).astype(np.uint8),
        colorize(truth),
        colorize(fitted),
        colorize(error.astype(np.float32), "gray"),
        colorize(unsure, "gray"),
    ]
    return np.concatenate(panels, axis=1)


def main() -> None:
    marigold = Marigold.from_pretrained("nano")
    sheet = np.concatenate([row(marigold, seed) for seed in SEEDS])
    path = Path(__file__).parent / "images" / "contact_sheet.jpg"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(sheet).save(path, quality=88)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
