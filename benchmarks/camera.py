"""The camera that `estimate_camera` finds in depth, against the one that took the picture.

    python -m benchmarks.camera                        # 80 rendered scenes, true depth
    python -m benchmarks.camera --checkpoint nano        # a checkpoint's own depth of them
    python -m benchmarks.camera --frames FOLDER [--checkpoint nano]
    python -m benchmarks.camera --renders FOLDER [--checkpoint nano]

Scenes are those of `training/render` (rooms, streets, table tops, portraits; 38 to 90 degrees),
256 x 192. FOLDER holds one folder a frame, with a meta.json that names the picture, the depth file
and the intrinsics, as benchmarks/metric.py takes it; or of --renders, what
`training/render_dataset.py` writes. True depth is made affine-invariant: its 0.5
and 99.5 percentiles become 0 and 1. A checkpoint's depth has no true relief of its own, so it is
measured against that of the robust fit of scale and shift to the true depth.

A row: how many were estimated, and over those the mean error of the estimate and of the default.
The relief's error is |ln(estimate / true)|, of the median frame. Writes Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.metric import read_truth
from marigold_core import Marigold, read_image
from marigold_core.depth_files import read_array
from marigold_core.geometry.camera_estimate import estimate_camera
from marigold_core.geometry.points import FAR, FOV_DEGREES, NEAR
from training.render.procedural import render_scene
from training.render.worlds import random_world

SEED = 1000
Case = tuple[NDArray[Any], NDArray[Any], float]


def scenes(count: int) -> Iterator[Case]:
    """Picture, depth with NaN where there is none, field of view in degrees."""
    for seed in range(SEED, SEED + count):
        fov = math.degrees(random_world(torch.Generator().manual_seed(seed)).fov)
        generator = torch.Generator().manual_seed(seed)
        picture, depth, valid = render_scene(192, 256, generator, "cpu")
        yield picture.permute(1, 2, 0).numpy(), np.where(valid, depth, np.nan), fov


def frames(folder: Path) -> Iterator[Case]:
    for file in sorted(folder.glob("*/meta.json")):
        meta = json.loads(file.read_text(encoding="utf-8"))
        camera = meta.get("intrinsics") or {}
        focal = camera.get("fx") or camera.get("K", [0])[0]
        usable = meta.get("depth_kind") == "metric" and meta.get("distance") == "z_plane"
        if not (usable and focal and str(meta["depth_file"]).endswith(".png")):
            continue
        depth = read_truth(file.parent, meta)
        if "decode" in meta or np.isfinite(depth).mean() < 0.15:
            continue
        fov = 2 * math.degrees(math.atan(max(depth.shape) / 2 / focal))
        yield read_image(file.parent / meta["rgb_file"]), depth, fov


def renders(folder: Path) -> Iterator[Case]:
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        depth = read_array(folder / row["depth"]) * row["unit_m"]
        valid = np.asarray(Image.open(folder / row["mask"])) > 0
        fov = 2 * math.degrees(math.atan(max(depth.shape) / 2 / row["intrinsics"][0]))
        yield read_image(folder / row["image"]), np.where(valid, depth, np.nan), fov


def affine_invariant(depth: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """Depth with 0 and 1 at its percentiles, and its relief."""
    low, high = np.nanpercentile(depth, [0.5, 99.5])
    d = (depth - low) / (high - low)
    d[(d < 0) | (d > 1)] = np.nan
    return d.astype(np.float32), high / low


def fitted_relief(prediction: NDArray[Any], depth: NDArray[Any]) -> float:
    """Far over near of a prediction's 0 and 1, by iteratively reweighted least squares."""
    known = np.isfinite(depth)
    x, y = prediction[known].astype(np.float64), depth[known]
    weights = 1 / y
    for _ in range(10):
        scale, shift = np.polyfit(x, y, 1, w=weights)
        relative = np.abs(scale * x + shift - y) / y
        weights = 1 / y / np.sqrt(1 + (relative / (2 * np.median(relative) + 1e-9)) ** 2)
    return (scale + shift) / shift if scale > 0 < shift else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--frames", type=Path, metavar="FOLDER")
    parser.add_argument("--renders", type=Path, metavar="FOLDER")
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--checkpoint")
    arguments = parser.parse_args()
    marigold = Marigold.from_pretrained(arguments.checkpoint) if arguments.checkpoint else None
    cases, name = scenes(arguments.scenes), "rendered scenes"
    if arguments.frames or arguments.renders:
        read = frames if arguments.frames else renders
        folder = arguments.frames or arguments.renders
        cases, name = read(folder), folder.name
    count, angles, reliefs, seconds = 0, [], [], []
    for picture, depth, fov in cases:
        if marigold is None:
            d, relief = affine_invariant(depth)
        else:
            options = {"num_inference_steps": 4, "ensemble_size": 3, "seed": 0}
            d = marigold(picture, **options).depth
            relief = fitted_relief(d, depth)
        started = time.perf_counter()
        found = estimate_camera(d)
        seconds.append(time.perf_counter() - started)
        count += 1
        if found.relief is not None and relief > 1:
            reliefs.append([abs(math.log(one / relief)) for one in (found.relief, FAR / NEAR)])
        if found.fov_degrees is not None:
            angles.append([abs(one - fov) for one in (found.fov_degrees, FOV_DEGREES)])
    columns = ("data", "depth", "relief estimated", "its error", "of 5", "angle estimated",
               "its error", "of 50°")  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    of_relief = " | "
    if reliefs:
        of_relief = " | ".join(f"{error:.2f}" for error in np.median(reliefs, axis=0))
    of_angle = " | "
    if angles:
        of_angle = " | ".join(f"{error:.1f}°" for error in np.mean(angles, axis=0))
    print(
        f"| {name} | {arguments.checkpoint or 'true'} | {len(reliefs)} of {count} |"
        f" {of_relief} | {len(angles)} of {count} | {of_angle} |"
    )
    print(f"\n{np.median(seconds):.2f} s each")


if __name__ == "__main__":
    main()
