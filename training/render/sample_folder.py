"""A folder of rendered RGB-D samples: its manifest, what is done, and its contact sheet."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .exr_png import read_exr, read_png, write_exr, write_png, write_whole

MANIFEST = "manifest.jsonl"
# One folder each; the last six only with --passes.
KINDS = (
    "images", "depth", "mask", "normals",
    "albedo", "shading", "residual", "base_colour", "roughness", "metallicity",
)  # fmt: skip


class Sample(NamedTuple):
    """image uint8 (H, W, 3) sRGB; depth float32 (H, W) planar metres, inf where there is none;
    normals float32 (H, W, 3) unit, OpenCV camera axes, 0 where there is no depth; facts for the
    manifest; maps: intrinsic images by kind, float16 (H, W, 3) or (H, W)."""

    image: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    facts: dict[str, Any]
    maps: Mapping[str, np.ndarray] = {}


def write_sample(folder: Path, index: int, sample: Sample) -> dict[str, Any]:
    """Write the sample's files, each whole or not at all, and return its line of the manifest.

    The depth keeps 16 bits after the binary point of its mantissa: an error of at most 8e-6 of
    itself, for files that are a third smaller.
    """
    name = f"{index:06d}"
    line = {
        "image": f"images/{name}.png",
        "depth": f"depth/{name}.exr",
        "mask": f"mask/{name}.png",
        "normals": f"normals/{name}.exr",
        "unit_m": 1.0,
        "index": index,
        **{kind: f"{kind}/{name}.exr" for kind in sample.maps},
        **sample.facts,
    }
    valid = np.isfinite(sample.depth)
    bits = np.where(valid, sample.depth, 0).astype(np.float32).view(np.uint32)
    depth = ((bits + np.uint32(0x40)) & np.uint32(0xFFFFFF80)).view(np.float32)
    normals = sample.normals.astype(np.float16)
    write_png(folder / line["image"], sample.image)
    write_exr(folder / line["depth"], {"Z": np.where(valid, depth, np.float32(np.inf))})
    write_png(folder / line["mask"], np.where(valid, 255, 0).astype(np.uint8))
    write_exr(folder / line["normals"], dict(zip("XYZ", np.moveaxis(normals, 2, 0), strict=True)))
    for kind, values in sample.maps.items():
        colours = (
            dict(zip("RGB", np.moveaxis(values, 2, 0), strict=True)) if values.ndim == 3 else {}
        )
        write_exr(folder / line[kind], colours or {"Y": values})
    return line


def read_manifest(folder: Path) -> dict[int, dict[str, Any]]:
    """Lines by sample index. A last line that a kill tore off does not count."""
    path = folder / MANIFEST
    done = {}
    if path.exists():
        for text in path.read_bytes().split(b"\n")[:-1]:
            line = json.loads(text)
            done[line["index"]] = line
    return done


def write_manifest(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """All lines at once, in order of their index."""
    ordered = sorted(lines, key=lambda line: line["index"])
    text = "".join(json.dumps(line) + "\n" for line in ordered)
    write_whole(folder / MANIFEST, text.encode())


def append_manifest(folder: Path, line: dict[str, Any]) -> None:
    """One line, on the disk when this returns: it says that the sample's files are complete."""
    with (folder / MANIFEST).open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def write_contact_sheet(folder: Path, path: Path, limit: int = 48, cell: int = 160) -> int:
    """Pictures with their depth below, near bright, evenly picked; returns how many."""
    done = sorted(read_manifest(folder).values(), key=lambda line: line["index"])
    picks = [done[i * len(done) // min(limit, len(done))] for i in range(min(limit, len(done)))]
    if not picks:
        return 0
    columns = min(8, len(picks))
    rows = math.ceil(len(picks) / columns)
    sheet = np.full((rows * 2 * cell, columns * cell, 3), 24, np.uint8)
    for number, line in enumerate(picks):
        picture = read_png(folder / line["image"])
        depth = read_exr(folder / line["depth"])["Z"]
        y, x = number // columns * 2 * cell, number % columns * cell
        paste(sheet, picture, y, x, cell)
        paste(sheet, np.repeat(shade(depth)[..., None], 3, axis=2), y + cell, x, cell)
    write_png(path, sheet)
    return len(picks)


def shade(depth: np.ndarray) -> np.ndarray:
    """Depth (H, W) as uint8: 255 the nearest, 40 the farthest, logarithmic; 0 without depth."""
    valid = np.isfinite(depth) & (depth > 0)
    if not valid.any():
        return np.zeros(depth.shape, np.uint8)
    logs = np.log(np.where(valid, depth, depth[valid].min()))
    near, far = np.percentile(logs[valid], (1, 99))
    grey = 255 - 215 * np.clip((logs - near) / max(far - near, 1e-6), 0, 1)
    return np.where(valid, grey, 0).astype(np.uint8)


def paste(sheet: np.ndarray, picture: np.ndarray, y: int, x: int, cell: int) -> None:
    """The picture into a square cell, centred, by its nearest pixels."""
    height, width = picture.shape[:2]
    scale = (cell - 4) / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    rows = np.minimum((np.arange(h) + 0.5) / scale, height - 1).astype(int)
    cols = np.minimum((np.arange(w) + 0.5) / scale, width - 1).astype(int)
    top, left = y + (cell - h) // 2, x + (cell - w) // 2
    sheet[top : top + h, left : left + w] = picture[rows][:, cols]
